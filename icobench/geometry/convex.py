"""Convex polyhedra given by their half-spaces and their rotation group."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.spatial import ConvexHull, HalfspaceIntersection, QhullError
from scipy.spatial.transform import Rotation

__all__ = ["ConvexBody", "icosahedron", "rotation_group"]

SAME = 1e-7
"""Normals and distances nearer than this are those of one facet."""


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
        group: (G, 4) rotations (w, x, y, z) that map the body onto itself, identity first.
        round: the body is a sphere, and the half-spaces only touch it; no orientation differs from another.

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
    round: bool = False

    @classmethod
    def from_halfspaces(
        cls, name: str, normals: np.ndarray, offsets: np.ndarray, group: np.ndarray | None = None,
        round: bool = False,
    ) -> "ConvexBody":  # fmt: skip
        """Build a body from its half-spaces ``normals @ r <= offsets``, scaled to circumradius 1.

        Args:
            name, round: as the attributes.
            normals: (F, 3) outward normals, any length.
            offsets: (F,) positive; the origin lies inside.
            group: as the attribute; found from the half-spaces (:func:`rotation_group`) if not given.

        Raises:
            ValueError: the half-spaces do not bound a body, one carries no facet, or the rotations do not map
                the body onto itself.
        """
        normals, offsets = np.asarray(normals, dtype=float), np.asarray(offsets, dtype=float)
        if normals.ndim != 2 or normals.shape[1:] != (3,) or offsets.shape != normals.shape[:1]:
            raise ValueError(f"{name}: expected normals of shape (F, 3) and offsets of shape (F,)")
        length = np.linalg.norm(normals, axis=1)
        if not (np.isfinite(normals).all() and np.isfinite(offsets).all() and (length > 0).all()):
            raise ValueError(f"{name}: normals must be finite and not zero, offsets finite")
        offsets = offsets / length
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
        shared = on_facet[:, None] & on_facet[None]
        edge_facets = np.argwhere(np.triu(shared.sum(2) == 2, 1))
        edges = np.argwhere(shared[tuple(edge_facets.T)])[:, 1].reshape(-1, 2)
        start, stop = vertices[edges[:, 0]], vertices[edges[:, 1]]
        first = edge_facets[:, 0]
        middle = on_facet @ vertices / on_facet.sum(1, keepdims=True)
        leftward = (np.cross(normals[first], stop - start) * (middle[first] - start)).sum(1) > 0
        edges = np.where(leftward[:, None], edges, edges[:, ::-1])
        group = rotation_group(normals, offsets) if group is None else np.asarray(group, dtype=float)
        if not _maps_onto_itself(group, normals, offsets).all():
            raise ValueError(f"{name}: its rotations do not map the body onto itself")
        return cls(name, normals, offsets, vertices, edges, edge_facets, group, round)

    @property
    def volume(self) -> float:
        """Volume for circumradius 1."""
        return float(ConvexHull(self.vertices).volume)

    @property
    def equivalent_radius(self) -> float:
        """Radius of the sphere that has the body's volume, for circumradius 1."""
        return 1.0 if self.round else (3 * self.volume / (4 * math.pi)) ** (1 / 3)

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


def _maps_onto_itself(group: np.ndarray, normals: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(G,) whether rotations (G, 4) take every facet, unit normals (F, 3) at offsets (F,), to a facet."""
    matrices = Rotation.from_quat(group, scalar_first=True).as_matrix()
    planes = np.c_[normals, offsets]
    turned = np.concatenate(
        (
            normals @ matrices.transpose(0, 2, 1),
            np.broadcast_to(offsets, (len(group), len(offsets)))[..., None],
        ),
        2,
    )
    return np.array([
        (np.abs(one[:, None] - planes).max(2).min(1) < 10 * SAME).all() for one in turned
    ])  # fmt: skip


def rotation_group(normals: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """All rotations that map a body onto itself: (G, 4), scalar first, ``w >= 0``, identity first.

    Two facets that are not parallel fix a rotation; every pair of facets at the same distances and the same
    angle as these is tried as their image.

    Args:
        normals: (F, 3) outward unit normals.
        offsets: (F,) distances of the facets from the origin.

    Example:
        >>> from icobench.geometry.convex import icosahedron
        >>> body = icosahedron()
        >>> rotation_group(body.normals, body.offsets).shape
        (60, 4)
    """
    cosines = normals @ normals.T
    # The facets of the rarest distance leave the fewest pairs to try.
    alike = (np.abs(offsets[:, None] - offsets) < SAME).sum(1)
    one = int(alike.argmin())
    slanted = np.flatnonzero(np.abs(cosines[one]) < 1 - 1e-6)
    other = int(slanted[alike[slanted].argmin()])

    def frames(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        aside = np.cross(first, second)
        aside /= np.linalg.norm(aside, axis=-1, keepdims=True)
        return np.stack((first, aside, np.cross(first, aside)), -1)

    fits = (np.abs(offsets - offsets[one]) < SAME)[:, None] & (np.abs(offsets - offsets[other]) < SAME)
    fits &= np.abs(cosines - cosines[one, other]) < SAME
    images = frames(*(normals[place] for place in np.nonzero(fits)))
    rotations = Rotation.from_matrix(images @ frames(normals[one], normals[other]).T)
    group = rotations.as_quat(canonical=True, scalar_first=True)
    return _sorted(group[_maps_onto_itself(group, normals, offsets)])


def _sorted(group: np.ndarray) -> np.ndarray:
    """Quaternions (G, 4) of one sign, the identity first, then by rotation angle; ties in a fixed order."""
    group = np.where(np.abs(group) < 1e-12, 0.0, group)
    group *= np.where(group[:, :1] < 0, -1.0, 1.0)
    return group[np.lexsort((*np.round(group[:, 1:], 9).T, -np.round(group[:, 0], 9)))]


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
    return _sorted((frame * standard * frame.inv()).as_quat(scalar_first=True))
