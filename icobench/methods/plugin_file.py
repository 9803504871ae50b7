"""A user's Python file that defines methods, test sets or both."""

import hashlib
import importlib.util
from pathlib import Path

from icobench.errors import InputError
from icobench.methods.base import Method
from icobench.methods.registry import METHODS, checked_method
from icobench.sets.test_sets import TEST_SETS, TestSet

__all__ = ["add_file"]


def add_file(path: Path | str) -> list[str]:
    """Run a Python file and add every :class:`Method` and :class:`TestSet` it defines; their names.

    What has the name of one of the package's is refused, and then nothing is added.

    Raises:
        InputError: no such file, an error while running it, or nothing to add in it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    name = f"icobench_file_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything
        line = (str(error).strip().splitlines() or [""])[0]
        raise InputError(f"{path}: {type(error).__name__}: {line}") from error
    # What a file imports is not what it defines.
    values = list(vars(module).values())
    methods = [one for one in values if isinstance(one, Method) and METHODS.get(one.name) is not one]
    sets = [one for one in values if isinstance(one, TestSet) and TEST_SETS.get(one.name) is not one]
    if not methods and not sets:
        raise InputError(f"{path}: defines no icobench Method and no TestSet")
    for method in methods:
        if checked_method(method, str(path)).name in METHODS:
            raise InputError(f"{path}: there is a method {method.name} already")
    for one in sets:
        if one.name in TEST_SETS:
            raise InputError(f"{path}: there is a test set {one.name} already")
    METHODS.update({method.name: method for method in methods})
    TEST_SETS.update({one.name: one for one in sets})
    return [method.name for method in methods] + [one.name for one in sets]
