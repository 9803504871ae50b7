"""A catalogue of convex bodies by name: Platonic and Archimedean solids, decahedra, prisms, a sphere.

The size of every body is its circumradius, 1 here. Body frames: cubic bodies have their four-fold axes on x,
y and z, tetrahedral and icosahedral ones two-fold axes; of decahedra and hexagonal prisms the five- or
six-fold axis is z, and x points to an upright edge, or to a corner of the ring.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.spatial.transform import Rotation

from icobench.geometry.convex import ConvexBody, icosahedron

__all__ = ["SHAPES", "Shape", "shape", "shape_of", "sphere"]

AXES = np.vstack((np.eye(3), -np.eye(3)))
DIAGONALS = np.array(list(itertools.product((1.0, -1.0), repeat=3)))
TETRAHEDRAL = DIAGONALS[DIAGONALS.prod(1) > 0] / math.sqrt(3)
EDGE_DIRECTIONS = np.array(
    [np.roll((a, b, 0.0), shift) for shift in range(3) for a in (1.0, -1.0) for b in (1.0, -1.0)]
) / math.sqrt(2)

GROOVE = 0.85
"""Distance of the facets that a Marks decahedron has instead of its upright edges, over that of the edges."""


def _group(name: str) -> np.ndarray:
    """SciPy's rotation group with its axes on x, y, z: (G, 4) quaternions (w, x, y, z), identity first."""
    group = Rotation.create_group(name).as_quat(canonical=True, scalar_first=True)
    return group[np.argsort(-group[:, 0], kind="stable")]


def _body(name: str, group: np.ndarray | None, *families: tuple[np.ndarray, float]) -> ConvexBody:
    """Families of facets: normals (F, 3), all at one distance from the origin."""
    normals, distances = zip(*families, strict=True)
    offsets = np.repeat(distances, [len(rows) for rows in normals])
    return ConvexBody.from_halfspaces(name, np.vstack(normals), offsets, group)


def _cubic(name: str, axes: float | None, diagonals: float | None) -> ConvexBody:
    """Half-spaces at the given distances from the origin, four-fold axes on x, y and z."""
    families = ((AXES, axes), (DIAGONALS / math.sqrt(3), diagonals))
    return _body(name, _group("O"), *((normals, distance) for normals, distance in families if distance))


def _truncated_cube(name: str, truncation: float) -> ConvexBody:
    """Of every edge half the truncation is cut off at either end; 0 is the cube, 1 the cuboctahedron."""
    return _cubic(name, 1.0, (3 - truncation) / math.sqrt(3))


def _truncated_icosahedron(name: str, truncation: float) -> ConvexBody:
    """Of every edge half the truncation is cut off at either end; 0 is the icosahedron, 2/3 has regular
    facets, 1 is the icosidodecahedron."""
    body = icosahedron()
    middle = (1 + 1 / math.sqrt(5)) / 2  # height of an edge's middle below its vertex, at 1
    cut = 1 - truncation * (1 - middle)
    return _body(name, body.group, (body.normals, body.inradius), (body.vertices, cut))


def _around(folds: int, turn: float = 0.0) -> np.ndarray:
    """(folds, 3) horizontal unit vectors, the first ``turn`` steps from x."""
    angle = (np.arange(folds) + turn) * (2 * math.pi / folds)
    return np.stack((np.cos(angle), np.sin(angle), np.zeros(folds)), 1)


def _decahedron(name: str, height: float = 0.0, edge: float = math.inf) -> ConvexBody:
    """Two pentagonal pyramids of equilateral triangles of edge 1, with a prism of that height between them,
    whose upright edges are cut at this distance from the axis, over that of the edges."""
    ring = 0.5 / math.sin(math.pi / 5)
    inner, tip = ring * math.cos(math.pi / 5), math.sqrt(1 - ring**2)
    sides = _around(5, 0.5)
    up = np.array((0.0, 0.0, 1.0))
    slanted = np.vstack([sides * tip + sign * up * inner for sign in (1, -1)]) / math.hypot(tip, inner)
    families = [(slanted, (tip + height / 2) * inner / math.hypot(tip, inner))]
    if height:
        families.append((sides, inner))
    if edge < 1:
        families.append((_around(5), edge * ring))
    return _body(name, None, *families)


def _prism(name: str, aspect_ratio: float) -> ConvexBody:
    """Hexagonal prism; the aspect ratio is the height over the hexagon's diameter across corners."""
    ends = np.array(((0.0, 0.0, 1.0), (0.0, 0.0, -1.0)))
    return _body(name, None, (_around(6, 0.5), math.sqrt(0.75)), (ends, aspect_ratio))


@lru_cache(maxsize=4)
def sphere(facets: int = 120) -> ConvexBody:
    """A sphere; its ``facets``, which all touch one sphere, are on a Fibonacci lattice of normals.

    A :class:`~icobench.simulator.simulator.Simulator` computes this polyhedron, whose circumradius is 1; the
    sphere of equal volume is somewhat smaller.

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
    return ConvexBody.from_halfspaces(f"sphere-{facets}", normals, np.ones(facets), identity, True)


@dataclass(frozen=True)
class Shape:
    """An entry of the catalogue: one body, or a family of them with a parameter.

    Attributes:
        name: as in the cluster literature.
        make: from the name of the body, and for a family the parameter's value, to the body.
        parameter: of a family: "aspect_ratio" or "truncation"; empty for one body.
        low, high, default: range and usual value of the parameter.

    Example:
        >>> from icobench.geometry.shapes import SHAPES
        >>> SHAPES["truncated-cube"].body(0.4).name
        'truncated-cube=0.4'
    """

    name: str
    make: Callable[..., ConvexBody]
    parameter: str = ""
    low: float = 0.0
    high: float = 0.0
    default: float = 0.0

    def body(self, value: float | None = None) -> ConvexBody:
        """The body, for a family with this value of its parameter, or the usual one.

        Raises:
            ValueError: a value out of range, or one for a shape without a parameter.
        """
        if value is None:
            return _made(self.name, self.default)
        if not self.parameter:
            raise ValueError(f"the {self.name} has no parameter")
        if not self.low <= value <= self.high:
            raise ValueError(
                f"the {self.parameter.replace('_', ' ')} of a {self.name} must lie in {self.low:g} to "
                f"{self.high:g}, got {value:g}"
            )
        return _made(self.name, float(value))

    def at(self, share: float) -> ConvexBody:
        """The body of a family at this share of its range, 0 to 1; a body that is alone at any."""
        if not self.parameter:
            return self.body()
        return self.body(self.low + (self.high - self.low) * min(max(share, 0.0), 1.0))


@lru_cache(maxsize=512)
def _made(name: str, value: float) -> ConvexBody:
    entry = SHAPES[name]
    return entry.make(f"{name}={value:.12g}", value) if entry.parameter else entry.make(name)


def _named(body: Callable[[], ConvexBody]) -> Callable[[str], ConvexBody]:
    return lambda name: body()


def _dodecahedron(name: str) -> ConvexBody:
    """Dual of the icosahedron: facets where that has vertices, the same rotation group."""
    return _body(name, icosahedron().group, (icosahedron().vertices, 1.0))


SHAPES: dict[str, Shape] = {
    entry.name: entry
    for entry in (
        Shape("icosahedron", _named(icosahedron)),
        Shape("cube", lambda name: _cubic(name, 1.0, None)),
        Shape("octahedron", lambda name: _cubic(name, None, 1.0)),
        # Regular facets fix the ratio of the distances of Archimedean solids.
        Shape("truncated-octahedron", lambda name: _cubic(name, math.sqrt(2), math.sqrt(1.5))),
        Shape("cuboctahedron", lambda name: _cubic(name, 1.0, 2 / math.sqrt(3))),
        Shape("dodecahedron", _dodecahedron),
        Shape("tetrahedron", lambda name: _body(name, _group("T"), (TETRAHEDRAL, 1.0))),
        Shape("sphere", _named(sphere)),
        Shape(
            "truncated-tetrahedron",
            lambda name: _body(name, _group("T"), (TETRAHEDRAL, 1.0), (-TETRAHEDRAL, 5 / 3)),
        ),
        Shape("rhombic-dodecahedron", lambda name: _body(name, _group("O"), (EDGE_DIRECTIONS, 1.0))),
        Shape("decahedron", _decahedron),
        Shape("truncated-decahedron", lambda name: _decahedron(name, 1.0)),
        Shape("marks-decahedron", lambda name: _decahedron(name, 1.0, GROOVE)),
        Shape("hexagonal-prism", _prism, "aspect_ratio", 0.5, 3.0, 1.0),
        Shape("hexagonal-plate", _prism, "aspect_ratio", 0.1, 0.5, 0.3),
        Shape("truncated-icosahedron", _truncated_icosahedron, "truncation", 0.3, 0.95, 2 / 3),
        Shape("truncated-cube", _truncated_cube, "truncation", 0.3, 0.95, 2 - math.sqrt(2)),
    )
}
"""Names for ``--shape``. Decahedra: the pentagonal bipyramid; with upright square facets (Ino); with the
edges between these cut, as the convex hull of a Marks decahedron."""


def shape_of(text: str) -> tuple[Shape, float | None]:
    """The entry of the catalogue in a text such as ``cube`` or ``hexagonal-prism=1.5``, and the value given.

    Raises:
        ValueError: an unknown name, or a value that is no number.
    """
    name, equals, number = text.partition("=")
    if name not in SHAPES:
        raise ValueError(f"unknown shape {name!r}, choose from {', '.join(SHAPES)}")
    try:
        return SHAPES[name], float(number) if equals else None
    except ValueError as error:
        raise ValueError(f"expected a number after {name}=, got {number!r}") from error


def shape(name: str) -> ConvexBody:
    """The body of that name, circumradius 1; of a family with its usual parameter, or as ``name=value``.

    Raises:
        ValueError: an unknown name, or a parameter out of range.

    Example:
        >>> icobench.shape("octahedron").vertices.shape, icobench.shape("hexagonal-prism=1.5").name
        ((6, 3), 'hexagonal-prism=1.5')
    """
    entry, value = shape_of(name)
    return entry.body(value)
