"""Convex bodies by name: Platonic and some Archimedean solids, and a sphere of many facets."""

import itertools
import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy.spatial.transform import Rotation

from icobench.geometry.convex import ConvexBody, icosahedron

__all__ = ["SHAPES", "shape", "sphere"]

AXES = np.vstack((np.eye(3), -np.eye(3)))
DIAGONALS = np.array(list(itertools.product((1.0, -1.0), repeat=3)))


def _group(name: str) -> np.ndarray:
    """SciPy's rotation group with its axes on x, y, z: (G, 4) quaternions (w, x, y, z), identity first."""
    group = Rotation.create_group(name).as_quat(canonical=True, scalar_first=True)
    return group[np.argsort(-group[:, 0], kind="stable")]


def _cubic(name: str, axes: float | None, diagonals: float | None) -> ConvexBody:
    """Half-spaces at the given distances from the origin, four-fold axes on x, y and z."""
    families = ((AXES, axes), (DIAGONALS / math.sqrt(3), diagonals))
    facets = [(normals, np.full(len(normals), distance)) for normals, distance in families if distance]
    normals, offsets = zip(*facets, strict=True)
    return ConvexBody.from_halfspaces(name, np.vstack(normals), np.concatenate(offsets), _group("O"))


def _tetrahedron() -> ConvexBody:
    normals = DIAGONALS[DIAGONALS.prod(1) > 0]
    return ConvexBody.from_halfspaces("tetrahedron", normals, np.ones(4), _group("T"))


def _dodecahedron() -> ConvexBody:
    """Dual of the icosahedron: facets where that has vertices, the same rotation group."""
    body = icosahedron()
    return ConvexBody.from_halfspaces("dodecahedron", body.vertices, np.ones(12), body.group)


@lru_cache(maxsize=4)
def sphere(facets: int = 120) -> ConvexBody:
    """A polyhedron whose ``facets`` all touch one sphere, on a Fibonacci lattice of normals.

    Like every body its size is its circumradius 1; the sphere of equal volume is somewhat smaller.

    Raises:
        ValueError: fewer than 20 facets.
    """
    if facets < 20:
        raise ValueError(f"a sphere needs at least 20 facets, got {facets}")
    height = 1 - (2 * np.arange(facets) + 1) / facets
    turn = np.arange(facets) * math.pi * (3 - math.sqrt(5))
    across = np.sqrt(1 - height**2)
    normals = np.stack((across * np.cos(turn), across * np.sin(turn), height), 1)
    identity = np.array([[1.0, 0, 0, 0]])
    return ConvexBody.from_halfspaces(f"sphere-{facets}", normals, np.ones(facets), identity)


SHAPES: dict[str, Callable[[], ConvexBody]] = {
    "icosahedron": icosahedron,
    "cube": lambda: _cubic("cube", 1.0, None),
    "octahedron": lambda: _cubic("octahedron", None, 1.0),
    # Truncated octahedron and cuboctahedron: regular facets fix the ratio of the distances.
    "truncated-octahedron": lambda: _cubic("truncated-octahedron", math.sqrt(2), math.sqrt(1.5)),
    "cuboctahedron": lambda: _cubic("cuboctahedron", 1.0, 2 / math.sqrt(3)),
    "dodecahedron": _dodecahedron,
    "tetrahedron": _tetrahedron,
    "sphere": sphere,
}
"""Names for ``icobench simulate --shape``."""


def shape(name: str) -> ConvexBody:
    """The body of that name, circumradius 1.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> icobench.shape("octahedron").vertices.shape
        (6, 3)
    """
    if name not in SHAPES:
        raise ValueError(f"unknown shape {name!r}, choose from {', '.join(SHAPES)}")
    return SHAPES[name]()
