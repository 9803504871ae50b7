"""Errors that are the user's to mend."""

__all__ = ["InputError"]


class InputError(ValueError):
    """Bad input: one line that says what is wrong and where. Exit code 2 on the command line.

    Example:
        >>> try:
        ...     icobench.Experiment(), icobench.read_images("missing.h5")
        ... except icobench.InputError as error:
        ...     print(error)
        missing.h5: no such file
    """
