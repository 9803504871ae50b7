"""Maximum likelihood: least squares to come near, then Fisher scoring on the Poisson deviance."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from icobench.answer import Answer, Progress
from icobench.fitting.levenberg_marquardt import LevenbergMarquardtOptions, levenberg_marquardt
from icobench.fitting.nuisance import Nuisance
from icobench.fitting.objectives import Objective

__all__ = ["LikelihoodOptions", "maximum_likelihood"]

COARSE = LevenbergMarquardtOptions(iterations=12, angle_tolerance_deg=0.05, radius_tolerance_nm=0.02)
"""To well within the bound at 1e5 photons, where the second stage takes over."""


@dataclass(frozen=True)
class LikelihoodOptions(LevenbergMarquardtOptions):
    """Settings of the second stage, or of the only one.

    Attributes:
        near_damping: initial damping of the second stage, which starts near the solution.
    """

    near_damping: float = 1e-4


def maximum_likelihood(
    objective: Objective,
    radius_nm: Tensor,
    quaternion: Tensor,
    options: LikelihoodOptions | None = None,
    image: Tensor | None = None,
    progress: Progress = lambda share: None,
    nuisance: Nuisance | None = None,
) -> Answer:
    """Most likely parameters, from a start within some degrees and nanometres.

    Fits of :meth:`~icobench.fitting.objectives.Objective.coarse` converge from farther away, but are biased,
    so they only provide the start of the second stage: for photon counts least squares of square roots. For
    objectives without it this is :func:`levenberg_marquardt` itself.

    Arguments and answer are those of :func:`levenberg_marquardt`; the options are those of the last stage.
    """
    options, coarse = options or LikelihoodOptions(), objective.coarse()
    if coarse is None:
        return levenberg_marquardt(objective, radius_nm, quaternion, options, image, progress, nuisance)
    first = levenberg_marquardt(
        coarse, radius_nm, quaternion, replace(COARSE, radius_range_nm=options.radius_range_nm), image,
        lambda share: progress(0.7 * share), nuisance,
    )  # fmt: skip
    second = levenberg_marquardt(
        objective, first.radius_nm, first.quaternion, replace(options, damping=options.near_damping), image,
        lambda share: progress(0.7 + 0.3 * share), Nuisance.from_answer(first),
    )  # fmt: skip
    # The two stages minimise different things: only the second one's values are the objective's.
    first.trace.objective = [torch.full_like(value, torch.nan) for value in first.trace.objective]
    for name in ("evaluations", "radius_nm", "quaternion", "objective"):
        setattr(second.trace, name, getattr(first.trace, name) + getattr(second.trace, name))
    return second
