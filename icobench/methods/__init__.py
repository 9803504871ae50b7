"""The reconstruction methods: a small file each, and a registry.

The package can be called: ``icobench.methods()`` are all methods by name.

Example:
    >>> import icobench
    >>> icobench.methods()["simplex"].options.starts
    50
"""

import sys
from types import ModuleType

from icobench.methods.base import Method, Problem
from icobench.methods.registry import METHODS, Catalogue, available_methods, find_method

__all__ = ["METHODS", "Catalogue", "Method", "Problem", "available_methods", "find_method"]


class _Methods(ModuleType):
    """Python binds the name ``icobench.methods`` to this package: the function of that name is its call."""

    def __call__(self) -> dict[str, Method]:
        return available_methods()


sys.modules[__name__].__class__ = _Methods
