"""Methods and test sets by name: those of the package, of other packages, and of a user's own files."""

import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from icobench.errors import InputError
from icobench.methods.base import Method
from icobench.methods.cma_es import CMA_ES
from icobench.methods.hybrids import HYBRIDS
from icobench.methods.network import NETWORK, PAPER_NETWORK
from icobench.methods.posterior import POSTERIOR
from icobench.methods.shapes import AUTO, FREE, freed, raced
from icobench.methods.simplex import SIMPLEX, SIMPLEX_RACE
from icobench.sets.test_sets import TEST_SETS, TestSet, available_test_sets, find_test_set

__all__ = ["ENTRY_POINTS", "METHODS", "Catalogue", "available_methods", "find_method"]

PROPAGATED = "-propagated"
"""At the end of a method's name: with refraction and multiple scattering, whatever the problem's physics."""


def _propagated(method: Method) -> Method:
    summary = f"{method.summary}; propagated waves"
    return replace(method, name=method.name + PROPAGATED, summary=summary, physics="propagated")


ENDINGS: Mapping[str, Callable[[Method], Method]] = {PROPAGATED: _propagated, AUTO: raced, FREE: freed}
"""Endings of names, and what becomes of the method of the first name."""

ENTRY_POINTS = "icobench.methods"
"""Group of entry points by which other packages offer a :class:`Method`."""

METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (NETWORK, PAPER_NETWORK, POSTERIOR, SIMPLEX, SIMPLEX_RACE, CMA_ES, *HYBRIDS)
}
"""The methods of this package."""

NOUNS = {Method: "method", TestSet: "test set"}

Named = TypeVar("Named", Method, TestSet)

ALLOWED = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-_")

DEFINED = ("starts", "rounds", "iterations", "rotation_deg", "radius_nm", "angle_tolerance_deg")
"""Options of a simplex that a TOML file may set."""


def _checked(method: object, where: str) -> Method:
    """The method, if it is one and has a proper name; the error message begins with ``where``."""
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
    methods = dict(METHODS)
    for point in entry_points(group=ENTRY_POINTS):
        try:
            offered = point.load()
        except Exception as error:  # another package's import may raise anything
            raise InputError(f"entry point {point.name}: {type(error).__name__}: {error}") from error
        methods.setdefault(_checked(offered, f"entry point {point.name}").name, offered)
    return methods


def find_method(name: str) -> Method:
    """The method with this name, of the package or of another package.

    Raises:
        InputError: there is none.
    """
    return Catalogue().method(name)


@dataclass(frozen=True)
class Catalogue:
    """The methods and test sets that a command may use; a value that can be sent to other processes.

    Attributes:
        files: Python files that define methods or test sets.
        definitions: the tables ``[define.NAME]`` of a TOML file as JSON.
        recorded: options of methods by name, as JSON, such as a run's description has them.
        methods, test_sets: further ones, from Python.

    Raises:
        InputError: when a name is looked up: a file that cannot be run, or a name that is taken.
    """

    files: tuple[Path, ...] = ()
    definitions: str = "{}"
    recorded: str = "{}"
    methods: tuple[Method, ...] = ()
    test_sets: tuple[TestSet, ...] = ()

    def _in_files(self, kind: type[Named], taken: Mapping[str, Named]) -> dict[str, Named]:
        """The methods or test sets that the files define, by name.

        Raises:
            InputError: a name that is taken.
        """
        added: dict[str, Named] = {}
        for path in self.files:
            for value in _file_values(path):
                if isinstance(value, kind):
                    if value.name in taken or value.name in added:
                        raise InputError(f"{path}: there is a {NOUNS[kind]} {value.name} already")
                    added[value.name] = value
        return added

    def _extra_methods(self) -> dict[str, Method]:
        defined = json.loads(self.definitions).items()
        return (
            self._in_files(Method, METHODS)
            | {name: defined_method(name, values) for name, values in defined}
            | {method.name: method for method in self.methods}
        )

    def available_methods(self) -> dict[str, Method]:
        """All methods by name."""
        return {name: self._recorded(method) for name, method in self._all_methods().items()}

    def _all_methods(self) -> dict[str, Method]:
        return available_methods() | self._extra_methods()

    def _recorded(self, method: Method) -> Method:
        """A method with its recorded options."""
        options = json.loads(self.recorded).get(method.name)
        return method if options is None else method.with_recorded(options)

    def method(self, name: str) -> Method:
        """The method with this name.

        Raises:
            InputError: there is none, or it has not the recorded options.
        """
        return self._recorded(self._named(name))

    def _named(self, name: str, asked: str = "") -> Method:
        """The method with this name and its own options; ``asked`` is the name with all its endings."""
        methods = dict(METHODS) | self._extra_methods()
        if name not in methods:
            methods = self._all_methods()
        if name in methods:
            return methods[name]
        for ending, change in ENDINGS.items():
            if name.endswith(ending):
                return change(self._named(name.removesuffix(ending), asked or name))
        raise InputError(f"unknown method {asked or name!r}; choose from {', '.join(methods)}")

    def _extra_test_sets(self) -> dict[str, TestSet]:
        given = {test_set.name: test_set for test_set in self.test_sets}
        return self._in_files(TestSet, TEST_SETS) | given

    def available_test_sets(self) -> dict[str, TestSet]:
        """All test sets by name."""
        return available_test_sets(self._extra_test_sets())

    def test_set(self, name: str) -> TestSet:
        """The test set with this name, or of the images in the file of this name.

        Raises:
            InputError: there is none.
        """
        return find_test_set(name, self._extra_test_sets())


@lru_cache(maxsize=32)
def _module(path: Path, modified: int) -> ModuleType:
    """A Python file, run once in a process for as long as it does not change."""
    name = f"icobench_file_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything
        line = (str(error).strip().splitlines() or [""])[0]
        raise InputError(f"{path}: {type(error).__name__}: {line}") from error
    return module


def _file_values(path: Path) -> list[Method | TestSet]:
    """The methods and test sets that a Python file defines; what it imports from this package is left out.

    Raises:
        InputError: no such file, an error while running it, or nothing in it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    registered = [*METHODS.values(), *TEST_SETS.values()]
    values = [
        value for value in vars(_module(path.resolve(), path.stat().st_mtime_ns)).values()
        if isinstance(value, Method | TestSet) and not any(value is other for other in registered)
    ]  # fmt: skip
    if not values:
        raise InputError(f"{path}: defines no icobench Method and no TestSet")
    for value in values:
        if isinstance(value, Method):
            _checked(value, str(path))
    return values


def defined_method(name: str, values: Any, where: str = "the definitions") -> Method:
    """A simplex with settings of one's own, such as a search found.

    Args:
        name: of the new method.
        values: starts and iterations (of those left at the end), and if wanted rounds (pairs: iterations of a
            round, simplices that go on), rotation_deg, radius_nm (edges of the first simplices),
            angle_tolerance_deg, and search, what finding them has cost.
        where: in front of messages.

    Raises:
        InputError: not such values, or a name that is taken.
    """
    if not name or set(name) - ALLOWED:
        raise InputError(f"{where}: {name!r} is no name for a method; use letters, digits, +, - and _")
    if name in METHODS:
        raise InputError(f"{where}: there is a method {name} already")
    where = f"{where}: define.{name}"
    if not isinstance(values, dict) or not {"starts", "iterations"} <= set(values):
        raise InputError(f"{where} needs starts and iterations")
    keys = {*DEFINED, "search"}
    if unknown := set(values) - keys:
        raise InputError(f"{where} has {sorted(unknown)[0]!r}; known are {', '.join(sorted(keys))}")
    try:
        rounds = tuple((int(steps), int(left)) for steps, left in values.get("rounds", []))
        edges = {key: float(values[key]) for key in DEFINED[3:] if key in values}
        starts, iterations = int(values["starts"]), int(values["iterations"])
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error
    if min([starts, iterations, *(number for pair in rounds for number in pair)]) < 1:
        raise InputError(f"{where}: numbers of starts, rounds and iterations must be positive")
    method = SIMPLEX.with_options(starts=starts, iterations=iterations, rounds=rounds, **edges)
    going_on = "".join(f", {left} after {steps} more iterations" for steps, left in rounds)
    summary = f"{starts} random starts{going_on}, {iterations} iterations at the end"
    version = SIMPLEX_RACE.version if method.options.angle_tolerance_deg else SIMPLEX.version
    return replace(method, name=name, summary=summary, search=values.get("search"), version=version)
