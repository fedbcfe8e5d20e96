"""The one kind of error that a user sees."""


class InputError(ValueError):
    """Bad input: one line with the value, the reason and the next step. The command line exits with 2."""
