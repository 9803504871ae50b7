"""How much it costs to reach a target: runtime distributions and expected running time.

After the COCO platform (Hansen et al., Optim. Methods Softw. 36, 114, 2021): a pair of image and target is
solved when a method's estimate first meets the target, and stays unsolved if it never does.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["ANGLES_DEG", "RADII_NM", "TARGETS", "expected_running_time", "first_hits", "solved_share"]

ANGLES_DEG = (10.0, 3.0, 1.0, 0.3, 0.1)
RADII_NM = (3.0, 1.0, 0.3, 0.1)

TARGETS = tuple((angle, radius) for angle in ANGLES_DEG for radius in RADII_NM)
"""Both must be met."""


def first_hits(
    curves: "DataFrame", results: "DataFrame", method: str, targets: tuple = TARGETS
) -> tuple[np.ndarray, np.ndarray]:
    """When a method first met each target, and what it spent in all.

    Args:
        curves: one row per method, image and step.
        results: one row per method and image; an image's whole cost counts where it was never solved, and
            its final answer counts as reached at that cost.
        method: whose.
        targets: pairs of degrees and nanometres.

    Returns:
        evaluations (images, targets), infinite where never met; total evaluations (images,).
    """
    own = results[results["method"] == method].sort_values("image")
    images = own["image"].to_numpy()
    total = own["evaluations"].to_numpy(dtype=float)
    limits = np.array(targets)
    place = {image: row for row, image in enumerate(images)}
    hits = np.full((len(images), len(limits)), np.inf)

    def note(row: np.ndarray, spent: np.ndarray, turn: np.ndarray, size: np.ndarray) -> None:
        met = (turn[:, None] <= limits[:, 0]) & (size[:, None] <= limits[:, 1])
        np.minimum.at(hits, row, np.where(met, spent[:, None], np.inf))

    columns = ["disorientation_deg", "radius_error_nm"]
    course = curves[(curves["method"] == method) & curves["image"].isin(place)]
    if len(course):
        rows = course["image"].map(place).to_numpy()
        note(rows, course["evaluations"].to_numpy(dtype=float), *course[columns].to_numpy(dtype=float).T)
    note(np.arange(len(images)), total, *own[columns].to_numpy(dtype=float).T)
    return hits, total


def solved_share(hits: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Share of pairs of image and target that were solved within each budget of ``grid`` (G,): (G,)."""
    return (hits.reshape(-1, 1) <= grid).mean(0)


def expected_running_time(hits: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Expected evaluations to a target if runs are repeated until one meets it: (targets,).

    All evaluations spent, up to the hit or to the end, over the number of images solved; infinite
    where none was (Price, CEC 1997; Auger and Hansen, CEC 2005).

    Args:
        hits: (images, targets) from :func:`first_hits`.
        total: (images,).
    """
    met = np.isfinite(hits)
    spent = np.where(met, hits, total[:, None]).sum(0)
    solved = met.sum(0)
    return np.where(solved > 0, spent / np.maximum(solved, 1), np.inf)
