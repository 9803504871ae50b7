"""The reconstruction methods: one small file each, and a registry."""

from icobench.methods.base import Method, Outcome, Problem, Progress
from icobench.methods.registry import (
    METHODS,
    available_methods,
    find_method,
)

__all__ = [
    "METHODS",
    "Method",
    "Outcome",
    "Problem",
    "Progress",
    "available_methods",
    "find_method",
]
