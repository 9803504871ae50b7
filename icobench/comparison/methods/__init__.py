"""The reconstruction methods: one small file each, and a registry."""

from icobench.comparison.methods.base import Method, Outcome, Problem, Progress
from icobench.comparison.methods.registry import (
    METHODS,
    add_method_file,
    available_methods,
    find_method,
)

__all__ = [
    "METHODS",
    "Method",
    "Outcome",
    "Problem",
    "Progress",
    "add_method_file",
    "available_methods",
    "find_method",
]
