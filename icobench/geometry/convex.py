"""Convex polyhedra given by their half-spaces and their rotation group."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from scipy.spatial import ConvexHull, HalfspaceIntersection, QhullError
from scipy.spatial.transform import Rotation

__all__ = ["ConvexBody", "icosahedron"]


@dataclass(frozen=True, eq=False)
class ConvexBody:
    """A convex polyhedron of circumradius 1 about the origin, in its body frame.

    Attributes:
        name: identifier stored beside results.
        normals: (F, 3) outward unit normals of the facets.
        offsets: (F,) distances of the facets; the body is ``normals @ r <= offsets``.
        vertices: (V, 3).
        edges: (E, 2) vertex indices, from first to second.
        edge_facets: (E, 2) the two facets of each edge; the first lies to the left of
            the edge when the body is looked at from outside.
        group: (G, 4) rotations (w, x, y, z) that map the body onto itself.

    Example:
        >>> icobench.shape("cube").normals.shape
        (6, 3)
    """

    name: str
    normals: np.ndarray
    offsets: np.ndarray
    vertices: np.ndarray
    edges: np.ndarray
    edge_facets: np.ndarray
    group: np.ndarray

    @classmethod
    def from_halfspaces(
        cls, name: str, normals: np.ndarray, offsets: np.ndarray, group: np.ndarray
    ) -> "ConvexBody":
        """Build a body from its half-spaces ``normals @ r <= offsets``, scaled to circumradius 1.

        Args:
            name, group: as the attributes.
            normals: (F, 3) outward normals, any length.
            offsets: (F,) positive; the origin lies inside.

        Raises:
            ValueError: the half-spaces do not bound a body, or one carries no facet.
        """
        normals, group = np.asarray(normals, dtype=float), np.asarray(group, dtype=float)
        length = np.linalg.norm(normals, axis=1)
        offsets = np.asarray(offsets, dtype=float) / length
        normals = normals / length[:, None]
        if (offsets <= 0).any():
            raise ValueError(f"{name}: the origin must lie inside every half-space")
        planes = np.c_[normals, offsets]
        if len(np.unique(np.round(planes, 9), axis=0)) < len(planes):
            raise ValueError(f"{name}: a half-space is given twice")
        try:
            with np.errstate(divide="ignore", invalid="ignore"):
                raw = HalfspaceIntersection(np.c_[normals, -offsets], np.zeros(3)).intersections
        except QhullError as error:
            raise ValueError(f"{name}: the half-spaces do not bound a body") from error
        if not np.isfinite(raw).all():
            raise ValueError(f"{name}: the half-spaces do not bound a body")
        vertices = raw[np.unique(np.round(raw, 9), axis=0, return_index=True)[1]]
        scale = np.linalg.norm(vertices, axis=1).max()
        vertices, offsets = vertices / scale, offsets / scale

        on_facet = np.abs(normals @ vertices.T - offsets[:, None]) < 1e-7
        if (on_facet.sum(1) < 3).any():
            bad = int(np.flatnonzero(on_facet.sum(1) < 3)[0])
            raise ValueError(f"{name}: half-space {bad} carries no facet")
        edges, edge_facets = [], []
        for first, second in combinations(range(len(normals)), 2):
            shared = np.flatnonzero(on_facet[first] & on_facet[second])
            if len(shared) != 2:
                continue
            start, stop = vertices[shared]
            inside = vertices[on_facet[first]].mean(0) - start
            leftward = np.dot(np.cross(normals[first], stop - start), inside) > 0
            edges.append(shared if leftward else shared[::-1])
            edge_facets.append((first, second))
        return cls(name, normals, offsets, vertices, np.array(edges), np.array(edge_facets), group)

    @property
    def volume(self) -> float:
        """Volume for circumradius 1."""
        return float(ConvexHull(self.vertices).volume)

    @property
    def inradius(self) -> float:
        """Distance of the nearest facet for circumradius 1."""
        return float(self.offsets.min())


@lru_cache(maxsize=1)
def icosahedron() -> ConvexBody:
    """The regular icosahedron with two-fold axes along x, y and z.

    Vertices are the cyclic permutations of (0, +-1, +-phi) / sqrt(1 + phi^2);
    inradius 0.7946545, volume 2.5361507 for circumradius 1.

    Example:
        >>> icobench.icosahedron().vertices.shape
        (12, 3)
    """
    phi = (1 + 5**0.5) / 2
    corners = np.array(
        [np.roll((0, a, b * phi), shift) for shift in range(3) for a in (-1, 1) for b in (-1, 1)]
    ) / np.sqrt(1 + phi**2)
    planes = ConvexHull(corners).equations
    return ConvexBody.from_halfspaces("icosahedron", planes[:, :3], -planes[:, 3], _symmetries(corners))


def _symmetries(vertices: np.ndarray) -> np.ndarray:
    """The rotations of SciPy's group "I" turned so that they permute ``vertices``: (60, 4).

    SciPy puts a five-fold axis on z; this body has two-fold axes on x, y and z.
    """
    standard = Rotation.create_group("I")
    # A five-fold axis of the standard group and a neighbouring one, mapped onto two vertices
    # at the same angle, fix the frame.
    axes = standard.as_rotvec()
    angle = np.linalg.norm(axes, axis=1)
    fivefold = axes[np.abs(angle - 2 * np.pi / 5) < 1e-6]
    fivefold = fivefold / np.linalg.norm(fivefold, axis=1, keepdims=True)

    def neighbours(points: np.ndarray) -> np.ndarray:
        return points[int(np.argsort(-points @ points[0])[1])]

    source = np.stack((fivefold[0], neighbours(fivefold)))
    target = np.stack((vertices[0], neighbours(vertices)))
    frame, _ = Rotation.align_vectors(target, source)
    group = (frame * standard * frame.inv()).as_quat(scalar_first=True)
    group[np.abs(group) < 1e-12] = 0.0
    group *= np.where(group[:, :1] < 0, -1.0, 1.0)
    # The identity first, then by rotation angle; ties in a fixed order.
    return group[np.lexsort((*np.round(group[:, 1:], 9).T, -np.round(group[:, 0], 9)))]
