"""Methods by name: those of the package and those of other packages."""

from importlib.metadata import entry_points

from icobench.errors import InputError
from icobench.methods.base import Method
from icobench.methods.cma_es import CMA_ES
from icobench.methods.hybrids import HYBRIDS
from icobench.methods.network import NETWORK
from icobench.methods.race import SIMPLEX_RACE
from icobench.methods.simplex import SIMPLEX

__all__ = ["ENTRY_POINTS", "METHODS", "available_methods", "checked_method", "find_method"]

ENTRY_POINTS = "icobench.methods"
"""Group of entry points by which other packages offer a :class:`Method`."""

METHODS: dict[str, Method] = {
    method.name: method for method in (NETWORK, SIMPLEX, SIMPLEX_RACE, CMA_ES, *HYBRIDS)
}
"""Of this package, and of files that were added."""

ALLOWED = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-_")


def checked_method(method: object, where: str) -> Method:
    """The same, if it is a method with a proper name.

    Raises:
        InputError: it is none; the message begins with ``where``.
    """
    if not isinstance(method, Method):
        raise InputError(f"{where}: expected an icobench Method, got {type(method).__name__}")
    if not method.name or set(method.name) - ALLOWED:
        raise InputError(f"{where}: {method.name!r} is no name for a method; use letters, digits, +, - and _")
    return method


def available_methods() -> dict[str, Method]:
    """All methods by name, those that other packages offer included.

    Raises:
        InputError: an entry point that is no method.
    """
    known = dict(METHODS)
    for point in entry_points(group=ENTRY_POINTS):
        try:
            method = point.load()
        except Exception as error:  # another package's import may raise anything
            raise InputError(f"entry point {point.name}: {type(error).__name__}: {error}") from error
        known.setdefault(checked_method(method, f"entry point {point.name}").name, method)
    return known


def find_method(name: str) -> Method:
    """The method with this name.

    Raises:
        InputError: there is none.
    """
    if name in METHODS:
        return METHODS[name]
    known = available_methods()
    if name not in known:
        raise InputError(f"unknown method {name!r}; choose from {', '.join(known)}")
    return known[name]
