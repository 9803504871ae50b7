"""Methods held against each other where nobody knows the truth."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from icobench.geometry.orientation import disorientation
from icobench.reporting.page import Headers
from icobench.reporting.quantiles import error_quantile
from icobench.reporting.tables import number

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["agreement_table", "differences"]

ANSWER = ["radius_nm", "q_w", "q_x", "q_y", "q_z"]

SAME_DEG, SAME_NM = 1.0, 1.0


def differences(results: "DataFrame") -> "DataFrame":
    """The results with each answer's distance from the one with the image's lowest objective.

    Args:
        results: one row per image and method, as in ``results.parquet``.

    Returns:
        the same rows with ``angle_deg`` and ``size_nm``; infinite for an image without an answer, NaN for
        images that no method has an objective for.
    """
    known = results[results["objective"].notna() & results[ANSWER].notna().all(axis=1)]
    best = known.loc[known.groupby("image")["objective"].idxmin(), ["image", *ANSWER]]
    joined = results.merge(best, on="image", how="left", suffixes=("", "_best"), validate="many_to_one")
    own, other = (
        torch.tensor(joined[[f"{name}{end}" for name in ANSWER]].to_numpy(dtype=float))
        for end in ("", "_best")
    )
    angle = torch.full((len(own),), torch.nan, dtype=torch.float64)
    both = torch.isfinite(own).all(1) & torch.isfinite(other).all(1)
    angle[both] = disorientation(own[both, 1:], other[both, 1:])
    size = (own[:, 0] - other[:, 0]).abs()
    unanswered = ~torch.isfinite(own).all(1) & torch.isfinite(other).all(1)
    angle[unanswered] = size[unanswered] = torch.inf
    return joined.assign(angle_deg=angle.numpy(), size_nm=size.numpy())


def agreement_table(results: "DataFrame") -> tuple[Headers, list[list[str]]]:
    """Per method: status, objective, agreement with the best answer, cost."""
    headers = [
        ("method", ""), ("images", ""), ("status ok", "%"), ("objective", "median"),
        ("the best answer", "%"), ("differs by", "deg"), ("differs by", "nm"), ("simulations", "per image"),
        ("time", "s per image"),
    ]  # fmt: skip
    rows = []
    for method, own in differences(results).groupby("method", sort=False):
        same = (own["angle_deg"] < SAME_DEG) & (own["size_nm"] < SAME_NM)
        apart = (
            " / ".join(number(float(error_quantile(own[name].to_numpy(), part))) for part in (0.5, 0.9))
            for name in ("angle_deg", "size_nm")
        )
        objective = own["objective"].to_numpy(dtype=float)
        rows.append(
            [
                str(method),
                str(len(own)),
                f"{100 * own['status'].str.startswith('ok').mean():.1f}",
                number(float(np.nanmedian(objective))) if np.isfinite(objective).any() else "-",
                f"{100 * same.mean():.1f}",
                *apart,
                number(own["evaluations"].mean()),
                number(own["seconds"].mean()),
            ]
        )
    return headers, rows
