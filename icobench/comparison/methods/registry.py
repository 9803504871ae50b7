"""Methods by name: those of the package, those of other packages, and a user's own file."""

import hashlib
import importlib.util
from importlib.metadata import entry_points
from pathlib import Path

from icobench.comparison.methods.base import Method
from icobench.comparison.methods.cma_es import CMA_ES
from icobench.comparison.methods.hybrids import HYBRIDS
from icobench.comparison.methods.network import NETWORK
from icobench.comparison.methods.race import SIMPLEX_RACE
from icobench.comparison.methods.simplex import SIMPLEX
from icobench.errors import InputError

__all__ = ["ENTRY_POINTS", "METHODS", "add_method_file", "available_methods", "find_method"]

ENTRY_POINTS = "icobench.methods"
"""Group of entry points by which other packages offer a :class:`Method`."""

METHODS: dict[str, Method] = {
    method.name: method for method in (NETWORK, SIMPLEX, SIMPLEX_RACE, CMA_ES, *HYBRIDS)
}
"""Of this package, and of files that were added."""

ALLOWED = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-_")


def _checked(method: object, where: str) -> Method:
    if not isinstance(method, Method):
        raise InputError(f"{where}: expected an icobench Method, got {type(method).__name__}")
    if not method.name or set(method.name) - ALLOWED:
        raise InputError(f"{where}: {method.name!r} is no name for a method; use letters, digits, +, - and _")
    return method


def add_method_file(path: Path | str) -> list[str]:
    """Run a Python file and add every :class:`Method` it defines; their names.

    A method of the same name as one of the package's is refused.

    Raises:
        InputError: no such file, an error while running it, or no method in it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    name = f"icobench_method_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything
        line = (str(error).strip().splitlines() or [""])[0]
        raise InputError(f"{path}: {type(error).__name__}: {line}") from error
    found = [value for value in vars(module).values() if isinstance(value, Method)]
    found = [method for method in found if METHODS.get(method.name) is not method]  # imported, not defined
    if not found:
        raise InputError(f"{path}: defines no icobench Method")
    for method in found:
        if _checked(method, str(path)).name in METHODS:
            raise InputError(f"{path}: there is a method {method.name} already")
    METHODS.update({method.name: method for method in found})
    return [method.name for method in found]


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
        known.setdefault(_checked(method, f"entry point {point.name}").name, method)
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
