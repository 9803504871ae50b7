"""Fits that start from hypotheses, such as a network's."""

from collections.abc import Callable

import torch
from torch import Tensor

from icobench.fitting.levenberg_marquardt import LevenbergMarquardtOptions, levenberg_marquardt
from icobench.fitting.objectives import Objective
from icobench.fitting.result import FitResult
from icobench.fitting.simplex import SimplexOptions, refine_simplex
from icobench.fitting.uncertainty import poor_fit

__all__ = ["WARM_SIMPLEX", "best_hypothesis", "warm_lm", "warm_simplex"]

Progress = Callable[[float], None]
Refine = Callable[[Tensor, Tensor, Tensor, Progress], FitResult]

WARM_SIMPLEX = SimplexOptions(iterations=100, rotation_deg=3.0, radius_nm=2.0, angle_tolerance_deg=0.02)
"""A simplex the size of the network's error, run until it has shrunk to a fraction of the bound."""


def best_hypothesis(objective: Objective, radius_nm: Tensor, quaternion: Tensor) -> Tensor:
    """Index (N,) of the hypothesis with the best objective; one evaluation each.

    Args:
        objective: the images.
        radius_nm: (N,).
        quaternion: (N, K, 4).
    """
    device = objective.simulator.device
    count, hypotheses = quaternion.shape[:2]
    image = torch.arange(count, device=device).repeat_interleave(hypotheses)
    values = objective.value(
        image, radius_nm.to(device).repeat_interleave(hypotheses), quaternion.to(device).flatten(0, 1)
    )
    return values.unflatten(0, (count, hypotheses)).argmin(1).cpu()


def _from_hypotheses(
    objective: Objective, radius_nm: Tensor, quaternion: Tensor, refine: Refine, progress: Progress
) -> tuple[FitResult, Tensor]:
    """Refine the better hypothesis; where the fit is poor, the other one too. Result and poor flag."""
    count, hypotheses = quaternion.shape[:2]
    rows = torch.arange(count)
    first = best_hypothesis(objective, radius_nm, quaternion)
    result = refine(radius_nm, quaternion[rows, first], rows, progress)
    poor = poor_fit(objective, result.radius_nm, result.quaternion, rows)
    for turn in range(1, hypotheses):
        again = poor.nonzero()[:, 0]
        if not len(again):
            break
        other = (first[again] + turn) % hypotheses
        second = refine(radius_nm[again], quaternion[again, other], again, lambda share: None)
        better = second.objective < result.objective[again]
        for name in ("radius_nm", "quaternion", "objective", "converged"):
            values = getattr(result, name).clone()
            values[again[better]] = getattr(second, name)[better]
            setattr(result, name, values)
        poor[again[better]] = poor_fit(
            objective, result.radius_nm[again[better]], result.quaternion[again[better]], again[better]
        )
    result.evaluations = objective.simulator.evaluations.clone()
    return result, poor


def warm_simplex(
    objective: Objective,
    radius_nm: Tensor,
    quaternion: Tensor,
    options: SimplexOptions = WARM_SIMPLEX,
    progress: Progress = lambda share: None,
) -> tuple[FitResult, Tensor]:
    """Nelder-Mead from hypotheses.

    Args:
        objective: images, masks and counting simulator.
        radius_nm: (N,).
        quaternion: (N, K, 4), best first.
        options: of the simplex.
        progress: called with the finished share.

    Returns:
        the fits, and (N,) True where even the best one does not explain the image.
    """

    def refine(radius: Tensor, start: Tensor, image: Tensor, report: Progress) -> FitResult:
        return refine_simplex(objective, radius[:, None], start[:, None], options, image, report)

    return _from_hypotheses(objective, radius_nm, quaternion, refine, progress)


def warm_lm(
    objective: Objective,
    radius_nm: Tensor,
    quaternion: Tensor,
    options: LevenbergMarquardtOptions | None = None,
    progress: Progress = lambda share: None,
) -> tuple[FitResult, Tensor]:
    """Levenberg-Marquardt from hypotheses; arguments and results as in :func:`warm_simplex`."""

    def refine(radius: Tensor, start: Tensor, image: Tensor, report: Progress) -> FitResult:
        return levenberg_marquardt(objective, radius, start, options, image, report)

    return _from_hypotheses(objective, radius_nm, quaternion, refine, progress)
