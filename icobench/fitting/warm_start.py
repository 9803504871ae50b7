"""From hypotheses, such as a network's or a dictionary's, to a fit with a verdict.

The best hypothesis is refined; where that does not explain the image the next one is, and where none does,
other starts may be asked for. The near twin of every solution, half a turn about the beam away
and nearly the same image at small angles, is looked at before it is dismissed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from icobench.fitting.goodness import poor_fit
from icobench.fitting.nuisance import Nuisance
from icobench.fitting.objectives import Objective, PoissonDeviance
from icobench.fitting.result import FitResult
from icobench.fitting.simplex import SimplexOptions, refine_simplex
from icobench.geometry.orientation import disorientation
from icobench.geometry.rotations import rotate_about_beam

__all__ = [
    "AMBIGUOUS", "NOT_CONVERGED", "OK", "POOR", "RESCUED", "WARM_SIMPLEX", "Refine", "Verdict", "judge",
    "refine_warm_simplex",
]  # fmt: skip

Progress = Callable[[float], None]
Refine = Callable[[Objective, Tensor, Tensor, Any, Tensor, Progress, Nuisance | None], FitResult]
"""As :func:`~icobench.fitting.levenberg_marquardt.levenberg_marquardt`: from objective, radii (N,),
orientations (N, 4), options (None for its own), image indices (N,), progress and nuisance parameters."""

OK, RESCUED, POOR, AMBIGUOUS, NOT_CONVERGED = "ok", "ok-race", "poor-fit", "ambiguous", "not-converged"
"""What a status says: explained; explained, but only by the rescuing race; not explained; two orientations
explain it; the fit ran out of iterations."""

WARM_SIMPLEX = SimplexOptions(iterations=150, rotation_deg=3.0, radius_nm=2.0, angle_tolerance_deg=0.02)
"""A simplex the size of the network's error, run until it has shrunk to a fraction of the bound."""

TWIN_WORTH_A_FIT = 40.0
"""Twice the log likelihood that a twin may lack before it is fitted."""

AMBIGUOUS_ODDS = 2 * math.log(100)
"""Twice the log likelihood that must speak for one of two orientations: odds of 100 to 1."""

SAME_DEG = 1.0
"""Orientations nearer than this are one."""


@dataclass
class Verdict:
    """Fits and what they are worth.

    Attributes:
        fit: the best of N images.
        status: N words.
    """

    fit: FitResult
    status: list[str]


def refine_warm_simplex(
    objective: Objective,
    radius: Tensor,
    quaternion: Tensor,
    options: SimplexOptions | None,
    image: Tensor,
    progress: Progress,
    nuisance: Nuisance | None = None,
) -> FitResult:
    """Nelder-Mead, which has no nuisance parameters but the scale."""
    return refine_simplex(
        objective, radius[:, None], quaternion[:, None], options or WARM_SIMPLEX, image, progress
    )


def _ranked(objective: Objective, radius: Tensor, quaternion: Tensor) -> tuple[Tensor, Tensor]:
    """Hypotheses sorted by the objective, best first; an evaluation each."""
    count, hypotheses = radius.shape
    device = objective.simulator.device
    image = torch.arange(count, device=device).repeat_interleave(hypotheses)
    values = objective.value(image, radius.to(device).flatten(), quaternion.to(device).flatten(0, 1))
    order = (
        values.nan_to_num(nan=torch.inf).unflatten(0, (count, hypotheses)).argsort(dim=1, stable=True).cpu()
    )
    return radius.gather(1, order), torch.take_along_dim(quaternion, order.unsqueeze(-1), 1)


def _replace(result: FitResult, rows: Tensor, other: FitResult, where: Tensor) -> None:
    """Let ``other``, fits of the images ``rows``, stand where ``where``."""
    into = rows[where]
    for name in ("radius_nm", "quaternion", "objective", "converged"):
        values = getattr(result, name).clone()
        values[into] = getattr(other, name)[where].to(values)
        setattr(result, name, values)
    if result.nuisance is not None and other.nuisance is not None:
        result.nuisance.values[into] = other.nuisance.values[where]


def _gap(objective: Objective, value: Tensor, other: Tensor, rows: Tensor) -> Tensor:
    """Twice the log likelihood by which ``value`` is better than ``other``: (N,).

    The deviance says so itself; for other objectives the residuals' own variance stands for the noise.
    """
    pixels = objective.usable[rows.to(objective.usable.device)].cpu().double()
    if isinstance(objective, PoissonDeviance):
        return pixels * (other - value)
    return pixels * (other / value.clamp_min(1e-30) - 1)


def judge(
    objective: Objective,
    radius_nm: Tensor,
    quaternion: Tensor,
    refine: Refine,
    rescue: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
    nuisance: Nuisance | None = None,
    progress: Progress = lambda share: None,
) -> Verdict:
    """Refine hypotheses until one explains the image, and say how well.

    Args:
        objective: images, masks and counting simulator.
        radius_nm: (N, K).
        quaternion: (N, K, 4).
        refine: from one start per image to a fit.
        rescue: gives radii (M,) and orientations (M, 4) for the images with the M indices, where no
            hypothesis explains them; None to give up instead.
        nuisance: starts (N, P) of further parameters to fit.
        progress: called with the finished share.
    """
    count, hypotheses = radius_nm.shape
    rows = torch.arange(count)
    radius, turns = radius_nm.double().cpu(), quaternion.double().cpu()
    if hypotheses > 1:
        radius, turns = _ranked(objective, radius, turns)

    def fitted(index: Tensor, at: Tensor, turn: Tensor, report: Progress = lambda share: None) -> FitResult:
        own = None if nuisance is None else nuisance.take(index)
        return refine(objective, at, turn, None, index, report, own)

    def poor(index: Tensor) -> Tensor:
        extra = None if result.nuisance is None else result.nuisance.take(index)
        return poor_fit(objective, result.radius_nm[index], result.quaternion[index], index, extra)

    def attempt(index: Tensor, at: Tensor, turn: Tensor) -> tuple[FitResult, Tensor]:
        """Fit again from another start, and take it where it is better (True)."""
        other = fitted(index, at, turn)
        better = (other.objective < result.objective[index]) | ~result.objective[index].isfinite()
        better &= other.objective.isfinite()
        _replace(result, index, other, better)
        if bool(better.any()):
            bad[index[better]] = poor(index[better])
        return other, better

    result = fitted(rows, radius[:, 0], turns[:, 0], progress)
    bad = poor(rows)
    for place in range(1, hypotheses):
        again = bad.nonzero()[:, 0]
        if not len(again):
            break
        attempt(again, radius[again, place], turns[again, place])
    rescued = torch.zeros(count, dtype=torch.bool)
    if rescue is not None and bool(bad.any()):
        again = bad.nonzero()[:, 0]
        rescued[again] = attempt(again, *rescue(again))[1]
    ambiguous = _look_at_twins(objective, result, ~bad, attempt)
    result.evaluations = objective.simulator.evaluations.clone()

    def word(row: int) -> str:
        if bad[row]:
            return POOR
        if ambiguous[row]:
            return AMBIGUOUS
        if not result.converged[row]:
            return NOT_CONVERGED
        return RESCUED if rescued[row] else OK

    return Verdict(result, [word(row) for row in range(count)])


def _look_at_twins(
    objective: Objective,
    result: FitResult,
    good: Tensor,
    attempt: Callable[[Tensor, Tensor, Tensor], tuple[FitResult, Tensor]],
) -> Tensor:
    """Fit the near twins that may be as good; True (N,) where the image does not tell them apart."""
    device = objective.simulator.device
    ambiguous = torch.zeros(len(result.radius_nm), dtype=torch.bool)
    rows = good.nonzero()[:, 0]
    if not len(rows):
        return ambiguous
    half = result.quaternion.new_full((len(rows),), math.pi)
    twin = rotate_about_beam(result.quaternion[rows], half)
    extra = None if result.nuisance is None else result.nuisance.take(rows)
    if extra is not None:
        extra = Nuisance(extra.names, extra.values.to(device))
    value = objective.value(rows.to(device), result.radius_nm[rows].to(device), twin.to(device), extra)
    gap = _gap(objective, result.objective[rows], value.double().cpu(), rows)
    apart = disorientation(twin, result.quaternion[rows]) > SAME_DEG
    close = (gap < TWIN_WORTH_A_FIT) & apart
    index = rows[close]
    if not len(index):
        return ambiguous
    first, before = result.objective[index].clone(), result.quaternion[index].clone()
    other, _ = attempt(index, result.radius_nm[index], twin[close])
    better, worse = torch.minimum(first, other.objective), torch.maximum(first, other.objective)
    tied = _gap(objective, better, worse, index) < AMBIGUOUS_ODDS
    ambiguous[index] = tied & (disorientation(before, other.quaternion) > SAME_DEG)
    return ambiguous
