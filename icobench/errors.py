"""Errors that the command line tells in one line."""

__all__ = ["InputError", "NotYetError", "WorkerDiedError"]


class InputError(ValueError):
    """Bad input: one line that says what is wrong and where. Exit code 2 on the command line.

    Example:
        >>> try:
        ...     icobench.Experiment(), icobench.read_images("missing.h5")
        ... except icobench.InputError as error:
        ...     print(error)
        missing.h5: no such file
    """


class NotYetError(InputError):
    """A file that another program has just begun, or is writing: later it can be read."""


class WorkerDiedError(RuntimeError):
    """A job's worker died as often as it was tried; what is finished is kept."""
