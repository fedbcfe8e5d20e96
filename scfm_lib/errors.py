"""The two kinds of errors that a user sees."""


class InputError(ValueError):
    """Bad input: one line with the value, the reason and the next step. The command line exits with 2."""


class DivergedError(ArithmeticError):
    """The loss or a weight is no longer a finite number, seen first at `step`. The command line exits with 1."""

    def __init__(self, line: str, step: int):
        super().__init__(line)
        self.step = step
