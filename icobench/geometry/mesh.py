"""Bodies as surfaces of triangles, for programs that draw or print them."""

from itertools import pairwise
from pathlib import Path

import numpy as np

from icobench.errors import InputError
from icobench.geometry.convex import ConvexBody
from icobench.storage import atomic_path

__all__ = ["MESHES", "outlines", "write_mesh"]

MESHES = ("obj", "stl")
"""Types of files."""


def outlines(body: ConvexBody) -> list[np.ndarray]:
    """Numbers of the vertices around every facet, counter-clockwise when the body is looked at from outside.

    Example:
        >>> import icobench
        >>> [len(outline) for outline in outlines(icobench.shape("cube"))]
        [4, 4, 4, 4, 4, 4]
    """
    on_facet = np.abs(body.vertices @ body.normals.T - body.offsets) < 1e-7
    ordered = []
    for facet, normal in enumerate(body.normals):
        places = np.flatnonzero(on_facet[:, facet])
        spokes = body.vertices[places] - body.vertices[places].mean(0)
        across = np.cross(normal, spokes[0])
        ordered.append(places[np.argsort(np.arctan2(spokes @ across, spokes @ spokes[0]))])
    return ordered


def write_mesh(path: Path | str, body: ConvexBody, radius_nm: float = 1.0) -> None:
    """Write a body, in its own frame and in nm, as Wavefront OBJ (facets) or STL text (triangles).

    Args:
        path: ends in ``.obj`` or ``.stl``.
        body: of circumradius 1.
        radius_nm: its size.

    Raises:
        InputError: another ending.

    Example:
        >>> import icobench
        >>> icobench.write_mesh("cube.stl", icobench.shape("cube"), 60.0)  # doctest: +SKIP
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in MESHES:
        raise InputError(f"{path}: a mesh ends in .obj or .stl")
    corners = radius_nm * body.vertices
    if kind == "obj":
        lines = [f"# {body.name}, nm", f"o {body.name}"]
        lines += ["v {:.9g} {:.9g} {:.9g}".format(*corner) for corner in corners]
        lines += ["f " + " ".join(str(place + 1) for place in outline) for outline in outlines(body)]
    else:
        lines = [f"solid {body.name}"]
        for normal, outline in zip(body.normals, outlines(body), strict=True):
            for second, third in pairwise(outline[1:]):
                lines.append("facet normal {:.9g} {:.9g} {:.9g}".format(*normal))
                lines.append("outer loop")
                triangle = corners[[outline[0], second, third]]
                lines += ["vertex {:.9g} {:.9g} {:.9g}".format(*corner) for corner in triangle]
                lines += ["endloop", "endfacet"]
        lines.append(f"endsolid {body.name}")
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")
