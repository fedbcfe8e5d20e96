"""The exercises and quizzes of each notebook."""
