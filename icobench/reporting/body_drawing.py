"""A convex body in its orientation as a line drawing."""

import numpy as np
import torch

from icobench.geometry.convex import ConvexBody
from icobench.geometry.rotations import quaternion_to_matrix

__all__ = ["body_svg"]

MARGIN = 1.12
STROKE = 'stroke-width="1.2" vector-effect="non-scaling-stroke"'


def _points(corners: np.ndarray) -> str:
    # The y axis of SVG points down.
    return " ".join(f"{x:.1f},{-y:.1f}" for x, y in corners)


def _turned(body: ConvexBody, radius_nm: float, quaternion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normals (F, 3) and vertices (V, 3) in nm, in the laboratory."""
    turn = torch.as_tensor(np.asarray(quaternion, dtype=float))
    matrix = quaternion_to_matrix(turn / turn.norm()).numpy()
    return body.normals @ matrix.T, radius_nm * body.vertices @ matrix.T


def body_svg(
    body: ConvexBody,
    radius_nm: float,
    quaternion: np.ndarray,
    true_radius_nm: float | None = None,
    true_quaternion: np.ndarray | None = None,
) -> str:
    """Facets that face the detector, shaded by their slope, and the true body's edges on top, dashed.

    Seen from the detector, against the beam: x to the right, y up, as in the images.

    Args:
        body: of circumradius 1.
        radius_nm, quaternion: what is drawn; (4,) scalar first.
        true_radius_nm, true_quaternion: the truth, if known.

    Returns:
        an ``<svg>`` element; a unit of its view box is a nanometre.
    """
    from scipy.spatial import ConvexHull

    half = MARGIN * max(radius_nm, true_radius_nm or 0.0)
    normals, corners = _turned(body, radius_nm, quaternion)
    parts = []
    for facet in np.flatnonzero(normals[:, 2] > 1e-9):
        on_facet = np.abs(body.vertices @ body.normals[facet] - body.offsets[facet]) < 1e-7
        outline = corners[on_facet][:, :2]
        shade = 0.08 + 0.45 * (1 - normals[facet, 2])
        parts.append(
            f'<polygon points="{_points(outline[ConvexHull(outline).vertices])}" fill="currentColor" '
            f'fill-opacity="{shade:.2f}" stroke="currentColor" stroke-linejoin="round" {STROKE}/>'
        )
    if true_radius_nm is not None and true_quaternion is not None:
        normals, corners = _turned(body, true_radius_nm, true_quaternion)
        for ends, facets in zip(body.edges, body.edge_facets, strict=True):
            if normals[facets][:, 2].max() > 1e-9:
                parts.append(
                    f'<polyline points="{_points(corners[list(ends), :2])}" fill="none" stroke="#D55E00" '
                    f'stroke-dasharray="4 3" {STROKE}/>'
                )
    box = f"{-half:.1f} {-half:.1f} {2 * half:.1f} {2 * half:.1f}"
    return f'<svg viewBox="{box}" role="img" aria-label="{body.name}">{"".join(parts)}</svg>'
