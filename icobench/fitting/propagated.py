"""Fits with refraction and multiple scattering, which go on from a fit by straight rays.

A propagated image takes as long as some twenty by straight rays, and its derivatives are differences. So the
first steps use the derivatives of straight rays, scaled to the propagated image; they lead near the solution,
but their errors would stay above the bound. The last steps and the error bars use the true derivatives.
"""

from dataclasses import replace

import torch
from torch import Tensor

from icobench.answer import Answer, Hypotheses, Progress
from icobench.fitting.counter import FURTHER_COST, JACOBIAN_COST, CountingSimulator
from icobench.fitting.least_squares import LevenbergMarquardtOptions, levenberg_marquardt, with_error_bars
from icobench.fitting.nuisance import Nuisance
from icobench.fitting.objectives import Objective, ring_averages
from icobench.fitting.warm_start import judge

__all__ = ["StraightSlopes", "fit_propagated"]

APPROACH = LevenbergMarquardtOptions(iterations=6, angle_tolerance_deg=0.02, radius_tolerance_nm=0.01)
LAST = LevenbergMarquardtOptions(
    iterations=3, damping=1e-4, angle_tolerance_deg=0.01, radius_tolerance_nm=0.005
)
"""Steps with the derivatives of straight rays, and with the true ones."""

SHARE = 0.1
"""Of the average around the beam, added to both intensities before derivatives are scaled by their ratio: at
their dark fringes the ratio means nothing."""


class StraightSlopes(CountingSimulator):
    """A counter's propagated images with the derivatives of straight rays, scaled pixel by pixel.

    ``dI = dI_straight (I + s) / (I_straight + s_straight)`` with s a share of the ring's average. It counts
    into the evaluations of the counter that it is made from.
    """

    def __init__(self, counter: CountingSimulator) -> None:
        super().__init__(counter.simulator, counter.images)
        self.evaluations, self.memory = counter.evaluations, counter.memory
        self.straight = CountingSimulator(counter.simulator.straight(), counter.images)

    def intensity_jacobian(
        self, image: Tensor, radius_nm: Tensor, quaternion: Tensor, also: tuple[str, ...] = (),
        nuisance: Nuisance | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """As that of the counter; an image is charged one propagated one and the straight derivatives."""
        self.charge(image, JACOBIAN_COST + 2 * FURTHER_COST * len(also))
        intensity = self.intensity(image, radius_nm, quaternion, nuisance)
        straight, slopes = self.straight.intensity_jacobian(image, radius_nm, quaternion, also, nuisance)
        floors = (SHARE * ring_averages(values, self.experiment) for values in (intensity, straight))
        bright, straight_bright = (
            values + floor for values, floor in zip((intensity, straight), floors, strict=True)
        )
        ratio = bright / straight_bright.clamp_min(torch.finfo(straight.dtype).tiny)
        return intensity, slopes * ratio.unsqueeze(1)


def _refine(
    objective: Objective, radius_nm: Tensor, quaternion: Tensor, image: Tensor | None = None,
    progress: Progress = lambda share: None, nuisance: Nuisance | None = None,
) -> Answer:  # fmt: skip
    """As ``levenberg_marquardt``, in two stages."""
    scaled = replace(objective, simulator=StraightSlopes(objective.simulator))
    near = levenberg_marquardt(scaled, radius_nm, quaternion, APPROACH, image, nuisance=nuisance)
    progress(0.5)
    last = levenberg_marquardt(
        objective, near.radius_nm, near.quaternion, LAST, image, nuisance=Nuisance.from_answer(near)
    )
    for name in ("evaluations", "radius_nm", "quaternion", "objective"):
        setattr(last.trace, name, getattr(near.trace, name) + getattr(last.trace, name))
    return last


def fit_propagated(objective: Objective, answer: Answer, guesses: bool) -> Answer:
    """Go on from a fit by straight rays with propagated images.

    Args:
        objective: of a propagating simulator, with a counter at zero.
        answer: of a fit to all its images by straight rays.
        guesses: whether the first of the hypotheses, a network's answer, is a start as well: straight rays may
            have led away from it.

    Returns:
        the best fits with their status, error bars, and evaluations of both kinds.
    """
    objective.simulator.evaluations += answer.evaluations
    radius, quaternion = answer.radius_nm[:, None], answer.quaternion[:, None]
    if guesses and answer.hypotheses is not None:
        radius = torch.cat((radius, answer.hypotheses.radius_nm[:, :1].to(radius)), 1)
        quaternion = torch.cat((quaternion, answer.hypotheses.quaternion[:, :1].to(quaternion)), 1)
    hypotheses = Hypotheses(radius, quaternion, torch.zeros_like(radius))
    fit = judge(objective, hypotheses, _refine, None, Nuisance.from_answer(answer))
    # Straight rays minimised something else: only the values of the propagated fit are the objective's.
    for name in ("evaluations", "radius_nm", "quaternion"):
        setattr(fit.trace, name, getattr(answer.trace, name) + getattr(fit.trace, name))
    unknown = [torch.full_like(value, torch.nan) for value in answer.trace.objective]
    fit.trace.objective = unknown + fit.trace.objective
    return with_error_bars(objective, replace(fit, hypotheses=answer.hypotheses))
