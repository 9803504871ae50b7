"""Radius and orientation of icosahedral clusters from single wide-angle diffraction images.

Names load when they are first used, so that ``import icobench`` is fast; ``__init__.pyi`` tells type checkers
where they come from.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Answer": "answer",
    "ComparisonResult": "api",
    "ConvexBody": "geometry.convex",
    "Experiment": "simulator.experiment",
    "FlatDetector": "simulator.experiment",
    "ImageSet": "images.image_set",
    "InputError": "errors",
    "Method": "methods.base",
    "Problem": "methods.base",
    "Reading": "images.reading",
    "Simulator": "simulator.simulator",
    "TestSet": "sets.test_sets",
    "augment": "images.augment",
    "classify": "runs.classify",
    "compare": "api",
    "disorientation": "geometry.orientation",
    "generate": "api",
    "icosahedron": "geometry.convex",
    "load_network": "network.selection",
    "read_images": "images.source",
    "reconstruct": "runs.reconstruct",
    "shape": "geometry.shapes",
    "simulate": "sets.simulate",
    "test_sets": "api",
    "to_fundamental_domain": "geometry.orientation",
    "write_mesh": "geometry.mesh",
}

__all__ = [
    "Answer", "ComparisonResult", "ConvexBody", "Experiment", "FlatDetector", "ImageSet", "InputError",
    "Method", "Problem", "Reading", "Simulator", "TestSet", "__version__", "augment", "classify", "compare",
    "disorientation", "generate", "icosahedron", "load_network", "methods", "read_images", "reconstruct",
    "shape", "simulate", "test_sets", "to_fundamental_domain", "write_mesh",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "methods":  # a package that can be called
        return import_module("icobench.methods")
    if name not in _HOMES:
        raise AttributeError(f"module 'icobench' has no attribute {name!r}")
    value = getattr(import_module(f"icobench.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
