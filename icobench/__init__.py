"""Radius and orientation of icosahedral clusters from single wide-angle diffraction images.

Names load when they are first used, so that ``import icobench`` is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icobench.errors import InputError
    from icobench.geometry.convex import ConvexBody, icosahedron
    from icobench.geometry.orientation import disorientation, to_fundamental_domain
    from icobench.images.files import read_images
    from icobench.network.selection import load_network
    from icobench.simulator.experiment import Experiment, FlatDetector
    from icobench.simulator.simulator import Simulator

__version__ = "0.1.0"

_HOMES = {
    "ConvexBody": "icobench.geometry.convex",
    "Experiment": "icobench.simulator.experiment",
    "FlatDetector": "icobench.simulator.experiment",
    "InputError": "icobench.errors",
    "Simulator": "icobench.simulator.simulator",
    "disorientation": "icobench.geometry.orientation",
    "icosahedron": "icobench.geometry.convex",
    "load_network": "icobench.network.selection",
    "read_images": "icobench.images.files",
    "to_fundamental_domain": "icobench.geometry.orientation",
}

__all__ = [
    "ConvexBody",
    "Experiment",
    "FlatDetector",
    "InputError",
    "Simulator",
    "__version__",
    "disorientation",
    "icosahedron",
    "load_network",
    "read_images",
    "to_fundamental_domain",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'icobench' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
