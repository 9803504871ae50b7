"""Methods compared with each other where the truth is not known."""

from typing import TYPE_CHECKING

import torch

from icobench.answer import solved
from icobench.geometry.orientation import disorientation
from icobench.reporting.statistics import error_quantile
from icobench.reporting.tables import Table, number

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["ANSWER", "agreement_table", "differences"]

ANSWER = ["radius_nm", "q_w", "q_x", "q_y", "q_z"]
"""Columns of an answer."""


def differences(results: "DataFrame") -> "DataFrame":
    """The results with each answer's distance from the image's answer with the lowest objective.

    Args:
        results: one row per image and method, as in ``results.parquet``.

    Returns:
        the same rows with ``angle_deg``, ``size_nm`` and ``agrees`` (within 1 degree and 1 nm); distances are
        infinite for an image without an answer, NaN for images that no method has an objective for.
    """
    judged = results[results["objective"].notna() & results[ANSWER].notna().all(axis=1)]
    best = judged.loc[judged.groupby("image")["objective"].idxmin(), ["image", *ANSWER]]
    joined = results.merge(best, on="image", how="left", suffixes=("", "_best"), validate="many_to_one")
    answer, reference = (
        torch.tensor(joined[[f"{name}{end}" for name in ANSWER]].to_numpy(dtype=float))
        for end in ("", "_best")
    )
    answered, compared = torch.isfinite(answer).all(1), torch.isfinite(reference).all(1)
    angle = torch.full((len(answer),), torch.nan, dtype=torch.float64)
    both = answered & compared
    angle[both] = disorientation(answer[both, 1:], reference[both, 1:])
    size = (answer[:, 0] - reference[:, 0]).abs()
    angle[~answered & compared] = size[~answered & compared] = torch.inf
    agrees = solved(angle, size)
    return joined.assign(angle_deg=angle.numpy(), size_nm=size.numpy(), agrees=agrees.numpy())


def agreement_table(results: "DataFrame") -> Table:
    """Per method: status, objective, agreement with the best answer, cost."""
    headers = [
        ("method", ""), ("images", ""), ("status ok", "%"), ("objective", "median"),
        ("the best answer", "%"), ("differs by", "deg"), ("differs by", "nm"), ("simulations", "per image"),
        ("time", "s per image"),
    ]  # fmt: skip
    rows = []
    for method, answers in differences(results).groupby("method", sort=False):
        distances = (
            " / ".join(number(error_quantile(answers[name].to_numpy(), part)) for part in (0.5, 0.9))
            for name in ("angle_deg", "size_nm")
        )
        rows.append(
            [
                str(method), str(len(answers)), f"{100 * answers['status'].str.startswith('ok').mean():.1f}",
                number(answers["objective"].median()), f"{100 * answers['agrees'].mean():.1f}", *distances,
                number(answers["evaluations"].mean()), number(answers["seconds"].mean()),
            ]
        )  # fmt: skip
    return headers, rows
