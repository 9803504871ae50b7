"""How much it costs to reach a target: runtime distributions and expected running time.

After the COCO platform (Hansen et al., Optim. Methods Softw. 36, 114, 2021): a pair of image and target is
solved when a method's estimate first meets the target, and stays unsolved if it never does.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["ANGLES_DEG", "RADII_NM", "TARGETS", "expected_running_time", "first_hits"]

ANGLES_DEG = (10.0, 3.0, 1.0, 0.3, 0.1)
RADII_NM = (3.0, 1.0, 0.3, 0.1)

TARGETS = tuple((angle, radius) for angle in ANGLES_DEG for radius in RADII_NM)
"""Both errors must be at most these."""

ERRORS = ["disorientation_deg", "radius_error_nm"]


def first_hits(
    curves: "DataFrame", results: "DataFrame", method: str, targets: tuple = TARGETS
) -> tuple[np.ndarray, np.ndarray]:
    """When a method first met each target, and what it spent in all.

    Args:
        curves: one row per method, image and step.
        results: one row per method and image. The final answer counts as reached at the image's whole cost.
        method: name of the method.
        targets: pairs of degrees and nanometres.

    Returns:
        evaluations (images, targets), infinite where a target was never met; total evaluations (images,).
    """
    answers = results[results["method"] == method].sort_values("image")
    total = answers["evaluations"].to_numpy(dtype=float)
    limits = np.array(targets)
    rows = {image: row for row, image in enumerate(answers["image"])}
    hits = np.full((len(answers), len(limits)), np.inf)
    steps = curves[(curves["method"] == method) & curves["image"].isin(rows)]
    for table in (steps, answers):
        met = (table[ERRORS].to_numpy(dtype=float)[:, None] <= limits).all(-1)
        spent = table["evaluations"].to_numpy(dtype=float)[:, None]
        np.minimum.at(hits, table["image"].map(rows).to_numpy(dtype=int), np.where(met, spent, np.inf))
    return hits, total


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
    images_solved = met.sum(0)
    return np.where(images_solved > 0, spent / np.maximum(images_solved, 1), np.inf)
