"""Best, median and worst image of every method: target, reconstruction, residual and the body."""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from icobench.fitting.facets import free_body
from icobench.geometry.convex import ConvexBody, icosahedron
from icobench.geometry.rotations import quaternion_to_matrix
from icobench.geometry.shapes import shape
from icobench.images.pixels import expected_counts
from icobench.reporting.page import render
from icobench.reporting.pictures import pictures
from icobench.reporting.run_folder import RunFolder
from icobench.reporting.shapes import body_text
from icobench.reporting.statistics import ANSWER
from icobench.simulator.simulator import Simulator

if TYPE_CHECKING:
    from pandas import DataFrame, Series

__all__ = ["body_svg", "chosen_images", "examples"]

MARGIN = 1.12
"""Half the width of a body's drawing over its radius."""


def chosen_images(answers: "DataFrame", column: str) -> list[tuple[str, "Series"]]:
    """Rows of the best, the median and the worst image by this column, of one method's answers."""
    values = answers[ANSWER].to_numpy(dtype=float)
    usable = np.isfinite(values).all(1) & (values[:, 0] > 0) & (np.abs(values[:, 1:]).sum(1) > 0)
    # Answers that name another shape than the true one have no error and come last.
    ranked = answers[usable].sort_values([column, "objective"], kind="stable")
    last = len(ranked) - 1
    names: dict[int, str] = {}
    for name, place in (("best", 0), ("median", last // 2), ("worst", last)):
        names.setdefault(place, name)  # fewer than three images are not shown twice
    return [(name, ranked.iloc[place]) for place, name in names.items() if len(ranked)]


_simulator = lru_cache(maxsize=2)(Simulator)
"""One for all runs of a report: its tables take longer than the images."""


def _turned(body: ConvexBody, radius_nm: float, quaternion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normals (F, 3) and projected vertices (V, 2) in nm, in the laboratory."""
    turn = torch.as_tensor(np.asarray(quaternion, dtype=float))
    matrix = quaternion_to_matrix(turn / turn.norm()).numpy()
    return body.normals @ matrix.T, (radius_nm * body.vertices @ matrix.T)[:, :2]


def body_svg(
    body: ConvexBody, radius_nm: float, quaternion: np.ndarray,
    truth: tuple[float, np.ndarray] | None = None, true_body: ConvexBody | None = None,
) -> str:  # fmt: skip
    """Facets that face the detector, shaded by their slope, and the true body's edges on top, dashed.

    Seen from the detector, against the beam: x to the right, y up, as in the images.

    Args:
        body: of circumradius 1.
        radius_nm, quaternion: what is drawn; (4,) scalar first.
        truth: the same two, if known.
        true_body: where it is another one.

    Returns:
        an ``<svg>`` element; a unit of its view box is a nanometre.
    """
    from scipy.spatial import ConvexHull

    normals, corners = _turned(body, radius_nm, quaternion)
    facets, edges = [], []
    for facet in np.flatnonzero(normals[:, 2] > 1e-9):
        on_facet = np.abs(body.vertices @ body.normals[facet] - body.offsets[facet]) < 1e-7
        outline = corners[on_facet]
        shade = 0.08 + 0.45 * (1 - normals[facet, 2])
        facets.append((outline[ConvexHull(outline).vertices].tolist(), shade))
    if truth:
        true_body = true_body or body
        normals, corners = _turned(true_body, *truth)
        edges = [
            corners[list(ends)].tolist()
            for ends, beside in zip(true_body.edges, true_body.edge_facets, strict=True)
            if normals[beside][:, 2].max() > 1e-9
        ]
    half = MARGIN * max(radius_nm, truth[0] if truth else 0.0)
    return render("body.svg.j2", name=body.name, half=half, facets=facets, edges=edges)


def _body(run: RunFolder, row: "Series") -> ConvexBody:
    """The body of an answer, that with free facets where it has any."""
    if run.facets is not None:
        own = run.facets[(run.facets["method"] == row["method"]) & (run.facets["image"] == row["image"])]
        if len(own):
            normals = own[["normal_x", "normal_y", "normal_z"]].to_numpy()
            return free_body("free facets", normals, own["distance_nm"].to_numpy())[0]
    return shape(row["body"]) if run.has_shapes else icosahedron()


def _cards(run: RunFolder, rows: list[tuple[str, "Series"]]) -> list[dict[str, Any]]:
    """What the template shows of each named row; all of them are simulated in one batch."""
    images = run.load([int(row["image"]) for _, row in rows])
    targets = images.images.double() * images.mask
    answers = torch.tensor(np.array([row[ANSWER].to_numpy(dtype=float) for _, row in rows]))
    simulator, bodies = _simulator(run.experiment), [_body(run, row) for _, row in rows]
    with torch.no_grad():
        intensity = simulator.intensity_of(bodies, answers[:, 0], answers[:, 1:]).double()
    fitted = expected_counts(intensity, images.mask, targets.sum((-2, -1)))
    cards = []
    arrays = targets.numpy(), fitted.numpy(), images.mask.numpy()
    for (name, row), body, target, expected, usable in zip(rows, bodies, *arrays, strict=True):
        answer = row[ANSWER].to_numpy(dtype=float)
        true = row[[f"true_{name}" for name in ANSWER]].to_numpy(dtype=float)
        truth = (true[0], true[1:]) if np.isfinite(true).all() else None
        errors = row[["disorientation_deg", "radius_error_nm"]].tolist()
        named = [body_text(row["body"])] if run.has_shapes else []
        true_body = None
        if named and truth:
            true_body = shape(row["true_body"])
            named.append(body_text(row["true_body"]))
        cards.append(
            {
                **row[["image", "radius_nm", "status"]],
                "label": row["name"],
                "name": name,
                "errors": errors if np.isfinite(errors[0]) else None,
                "body": body_svg(body, answer[0], answer[1:], truth, true_body),
                "named": named,
                "pictures": pictures(target, expected, usable, run.kind),
                "pixels": run.experiment.pixels,
            }
        )
    return cards


def examples(run: RunFolder) -> dict[str, list[dict[str, Any]]]:
    """Cards of up to three images of each method, none of a method without usable answers."""
    column = "disorientation_deg" if run.truth_known else "objective"
    chosen = {
        str(method): chosen_images(answers, column)
        for method, answers in run.results.groupby("method", sort=False)
    }
    rows = [named for images in chosen.values() for named in images]
    cards = iter(_cards(run, rows) if rows else [])
    return {method: [next(cards) for _ in images] for method, images in chosen.items()}
