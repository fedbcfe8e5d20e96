"""Figures, the report of an evaluation, and a model as a folder for others."""
