"""Maximum likelihood: least squares into the basin, then Fisher scoring on the Poisson deviance."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from icobench.fitting.levenberg_marquardt import LevenbergMarquardtOptions, levenberg_marquardt
from icobench.fitting.nuisance import Nuisance
from icobench.fitting.objectives import Objective, PoissonDeviance, SquareRootError
from icobench.fitting.result import FitResult

__all__ = ["maximum_likelihood"]

Progress = Callable[[float], None]

COARSE = LevenbergMarquardtOptions(iterations=12, angle_tolerance_deg=0.05, radius_tolerance_nm=0.02)
"""Into the basin: well within the bound at 1e5 photons, where the polish takes over."""


def maximum_likelihood(
    objective: Objective,
    radius_nm: Tensor,
    quaternion: Tensor,
    options: LevenbergMarquardtOptions | None = None,
    image: Tensor | None = None,
    progress: Progress = lambda share: None,
    nuisance: Nuisance | None = None,
) -> FitResult:
    """Most likely parameters of photon counts, from a start within some degrees and nanometres.

    Least squares of square roots converge from farther away than the deviance, but are biased where counts
    are faint: they lead into the basin only. For other objectives than the Poisson deviance this is
    :func:`levenberg_marquardt` itself.

    Args:
        objective: images, masks and counting simulator.
        radius_nm, quaternion: (N,) and (N, 4) starts.
        options: of the polish.
        image: (N,) indices of the objective's images, all by default.
        progress: called with the finished share.
        nuisance: starts (N, P) of further parameters to fit.
    """
    if not isinstance(objective, PoissonDeviance):
        return levenberg_marquardt(objective, radius_nm, quaternion, options, image, progress, nuisance)
    options = options or LevenbergMarquardtOptions(damping=1e-4)
    chosen = torch.arange(len(radius_nm)) if image is None else image.cpu()
    coarse = levenberg_marquardt(
        SquareRootError(objective.images, objective.mask, objective.simulator), radius_nm, quaternion,
        replace(COARSE, radius_range_nm=options.radius_range_nm), chosen,
        lambda share: progress(0.7 * share), nuisance,
    )  # fmt: skip
    fine = levenberg_marquardt(
        objective, coarse.radius_nm, coarse.quaternion, options, chosen,
        lambda share: progress(0.7 + 0.3 * share), coarse.nuisance,
    )  # fmt: skip
    first = coarse.trace
    # The two stages minimise different things: only the polish's values are the objective's.
    for name in ("evaluations", "radius_nm", "quaternion"):
        setattr(fine.trace, name, getattr(first, name) + getattr(fine.trace, name))
    fine.trace.objective = [
        torch.full_like(value, torch.nan) for value in first.objective
    ] + fine.trace.objective
    return fine
