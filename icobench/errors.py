"""Errors that are the user's to mend."""

__all__ = ["InputError"]


class InputError(ValueError):
    """Bad input: one line that says what is wrong and where. Exit code 2 on the command line."""
