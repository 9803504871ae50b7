"""From hypotheses, such as a network's or a dictionary's, to a fit with a status.

The best hypothesis is refined; where that does not explain the image, the next one is, and where none does,
the caller may provide further starts. Half a turn about the beam makes the near twin of a solution, whose
image is nearly the same at small angles; every solution is compared with its twin.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from icobench.answer import (
    AMBIGUOUS,
    NOT_CONVERGED,
    OK,
    OUTSIDE,
    POOR,
    RADII_NM,
    RESCUED,
    UNTRAINED,
    Answer,
    Hypotheses,
    Progress,
    at_the_end,
)
from icobench.fitting.least_squares import (
    LevenbergMarquardtOptions,
    levenberg_marquardt,
    with_error_bars,
)
from icobench.fitting.nuisance import Nuisance
from icobench.fitting.objective import Objective
from icobench.fitting.simplex import SimplexOptions
from icobench.geometry.orientation import disorientation
from icobench.geometry.rotations import rotate_about_beam

__all__ = ["WARM_SIMPLEX", "Refine", "checked", "fit_propagated", "judge", "judged", "lm_race"]

Refine = Callable[..., Answer]
"""As :func:`~icobench.fitting.least_squares.levenberg_marquardt`: from objective, radii (N,),
orientations (N, 4) and the keywords ``image`` (N,), ``progress`` and ``nuisance`` (N, P). Settings are bound
by ``functools.partial``."""

WARM_SIMPLEX = SimplexOptions(iterations=150, rotation_deg=3.0, radius_nm=2.0, angle_tolerance_deg=0.02)
"""Run until the simplex has shrunk to a fraction of the bound; large for a start of unknown error."""

LM_ROUNDS = ((2, 3), (5, 1))
"""Levenberg-Marquardt steps of a round, and how many fits of every image go on after it."""

PROPAGATED = LevenbergMarquardtOptions(
    iterations=10, damping=1e-4, angle_tolerance_deg=0.01, radius_tolerance_nm=0.005, value_tolerance=2e-5
)
"""Of fits with propagated images, each of which takes as long as some twenty by straight rays. As derivatives
are good to a few per cent, steps at the end are a fifth of the bound."""

TWIN_WORTH_A_FIT = 40.0
"""Twice the log likelihood that a twin may lack before it is fitted."""

AMBIGUOUS_ODDS = 2 * math.log(100)
"""Twice the log likelihood that must speak for one of two orientations: odds of 100 to 1."""

IN_BARS = 0.02
"""Of a deviance that noise does not explain: the squared error of an answer, in units of its bars, that may
have caused it. A straight-ray answer to propagated waves is then about one bar off, at any photon number."""

SAME_DEG = 1.0
"""Orientations nearer than this count as the same."""


def _best_first(values: Tensor, radius: Tensor, quaternion: Tensor) -> tuple[Tensor, Tensor]:
    """Radii (N, K) and orientations (N, K, 4) sorted by values (N, K), lowest first, NaN last."""
    order = values.nan_to_num(nan=torch.inf).argsort(dim=1, stable=True).cpu()
    return radius.gather(1, order), torch.take_along_dim(quaternion, order.unsqueeze(-1), 1)


def lm_race(
    objective: Objective, radius_nm: Tensor, quaternion: Tensor, image: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The best of starts (N, K) and (N, K, 4) after some Levenberg-Marquardt steps: radii (N,), orientations.

    The indices ``image`` (N,) are those of all images by default.
    """
    chosen = torch.arange(len(radius_nm)) if image is None else image.cpu()
    for steps, survivors in LM_ROUNDS:
        shape = radius_nm.shape
        fit = levenberg_marquardt(
            objective, radius_nm.flatten(), quaternion.flatten(0, 1),
            LevenbergMarquardtOptions(iterations=steps), chosen.repeat_interleave(shape[1]),
        )  # fmt: skip
        values, radius_nm, quaternion = (
            part.unflatten(0, shape) for part in (fit.objective, fit.radius_nm, fit.quaternion)
        )
        radius_nm, quaternion = _best_first(values, radius_nm, quaternion)
        radius_nm, quaternion = radius_nm[:, :survivors], quaternion[:, :survivors]
    return radius_nm[:, 0], quaternion[:, 0]


def judged(objective: Objective, answer: Answer) -> Answer:
    """The answer of a fit to all images of an objective with its status; one evaluation per image."""
    misfit = objective.misfit(answer.radius_nm, answer.quaternion, None, Nuisance.from_answer(answer))
    columns = (at_the_end(answer.radius_nm), misfit.poor, answer.converged)
    status = [
        OUTSIDE if outside else POOR if poor else OK if converged else NOT_CONVERGED
        for outside, poor, converged in zip(*(column.tolist() for column in columns), strict=True)
    ]
    return replace(answer, status=status, evaluations=objective.simulator.evaluations)


def checked(objective: Objective, answer: Answer) -> Answer:
    """An answer that simulated nothing, a network's, with its objective; one evaluation per image.

    It is "poor-fit" where the body does not explain the image: a network is as sure of a shifted image, or of
    another material's, as of its own kind. "outside-training" says why it does not, so it stays. Whatever
    noise does not explain widens the error bars: :data:`IN_BARS` of it may come from a wrong answer.
    """
    values, misfit = objective.explained(answer.radius_nm.clamp(*RADII_NM), answer.quaternion)
    wider = (1 + IN_BARS * torch.as_tensor(misfit.excess).nan_to_num()).sqrt()
    status = [
        POOR if bad and word != UNTRAINED else word
        for bad, word in zip(misfit.poor.tolist(), answer.status, strict=True)
    ]
    return replace(
        answer, objective=values, status=status, evaluations=objective.simulator.evaluations,
        radius_std_nm=answer.radius_std_nm * wider, orientation_std_deg=answer.orientation_std_deg * wider,
    )  # fmt: skip


@dataclass
class _Fits:
    """The best fits so far of all N images of an objective; ``poor`` (N,) where they do not explain it."""

    objective: Objective
    refine: Refine
    nuisance: Nuisance
    best: Answer

    def __post_init__(self) -> None:
        self.poor = self._is_poor(torch.arange(len(self.best)))

    def _is_poor(self, image: Tensor) -> Tensor:
        nuisance = Nuisance.from_answer(self.best).take(image)
        radius, quaternion = self.best.radius_nm[image], self.best.quaternion[image]
        return self.objective.misfit(radius, quaternion, image, nuisance).poor

    def attempt(self, image: Tensor, radius_nm: Tensor, quaternion: Tensor) -> tuple[Answer, Tensor]:
        """Fit the images with indices (M,) from other starts: the fits, and which (M,) are better."""
        nuisance = self.nuisance.take(image)
        fit = self.refine(
            self.objective, radius_nm, quaternion, image=image, progress=lambda share: None, nuisance=nuisance
        )
        present = self.best.objective[image]
        better = ((fit.objective < present) | ~present.isfinite()) & fit.objective.isfinite()
        changed = image[better]
        for name in ("radius_nm", "quaternion", "objective", "converged"):
            values = getattr(self.best, name).clone()
            values[changed] = getattr(fit, name)[better].to(values)
            setattr(self.best, name, values)
        for column, values in self.best.nuisance.items():
            values[changed] = fit.nuisance[column][better]
        if len(changed):
            self.poor[changed] = self._is_poor(changed)
        return fit, better

    def ambiguous(self) -> Tensor:
        """Fit the near twins that may be as good; True (N,) where the image does not tell them apart."""
        best, gap = self.best, self.objective.likelihood_gap
        image = (~self.poor).nonzero()[:, 0]
        orientation = best.quaternion[image]
        twin = rotate_about_beam(orientation, orientation.new_full((len(image),), math.pi))
        nuisance = Nuisance.from_answer(best).take(image)
        value = self.objective.value(image, best.radius_nm[image], twin, nuisance).double().cpu()
        close = gap(best.objective[image], value, image) < TWIN_WORTH_A_FIT
        close &= disorientation(twin, orientation, self.objective.simulator.body) > SAME_DEG
        image, orientation, first = image[close], orientation[close], best.objective[image[close]]
        ambiguous = torch.zeros(len(best), dtype=torch.bool)
        if len(image):
            fit, _ = self.attempt(image, best.radius_nm[image], twin[close])
            better, worse = torch.minimum(first, fit.objective), torch.maximum(first, fit.objective)
            tied = gap(better, worse, image) < AMBIGUOUS_ODDS
            apart = disorientation(orientation, fit.quaternion, self.objective.simulator.body) > SAME_DEG
            ambiguous[image] = tied & apart
        return ambiguous


def judge(
    objective: Objective,
    hypotheses: Hypotheses,
    refine: Refine,
    rescue: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
    nuisance: Nuisance | None = None,
    progress: Progress = lambda share: None,
) -> Answer:
    """Refine hypotheses until one explains the image, and say how well.

    Args:
        objective: images, masks and counting simulator.
        hypotheses: K for each of the N images; their own scores are not used.
        refine: from one start per image to a fit.
        rescue: gives radii (M,) and orientations (M, 4) for the images with the M indices, where no
            hypothesis explains them; None to give up instead.
        nuisance: starts (N, P) of further parameters to fit.

    Returns:
        the best fits, with their status: ok, ok-race, outside-range, poor-fit, ambiguous or not-converged.
    """
    count, number = hypotheses.radius_nm.shape
    radius, quaternion = hypotheses.radius_nm.double().cpu(), hypotheses.quaternion.double().cpu()
    every = torch.arange(count)
    if number > 1:
        values = objective.value(every.repeat_interleave(number), radius.flatten(), quaternion.flatten(0, 1))
        radius, quaternion = _best_first(values.unflatten(0, (count, number)), radius, quaternion)
    nuisance = nuisance or Nuisance.none(count)
    first = refine(
        objective, radius[:, 0], quaternion[:, 0], image=every, progress=progress, nuisance=nuisance
    )
    fits = _Fits(objective, refine, nuisance, first)
    for place in range(1, number):
        image = fits.poor.nonzero()[:, 0]
        if not len(image):
            break
        fits.attempt(image, radius[image, place], quaternion[image, place])
    rescued = torch.zeros(count, dtype=torch.bool)
    image = fits.poor.nonzero()[:, 0]
    if rescue is not None and len(image):
        rescued[image] = fits.attempt(image, *rescue(image))[1]
    ambiguous = fits.ambiguous()
    # The first that holds.
    words = {
        OUTSIDE: at_the_end(fits.best.radius_nm),
        POOR: fits.poor,
        AMBIGUOUS: ambiguous,
        NOT_CONVERGED: ~fits.best.converged,
        RESCUED: rescued,
    }
    holds = torch.stack((*words.values(), torch.ones(count, dtype=torch.bool)), 1)
    status = [(*words, OK)[first] for first in holds.int().argmax(1).tolist()]
    return replace(
        fits.best, status=status, evaluations=objective.simulator.evaluations,
        hypotheses=hypotheses if number > 1 else None,
    )  # fmt: skip


def fit_propagated(objective: Objective, answer: Answer, guesses: bool) -> Answer:
    """Go on from a fit by straight rays with propagated images.

    A few Levenberg-Marquardt steps with the true derivatives. Those of straight rays would cost nothing, but
    point elsewhere, so that more steps would be needed.

    Args:
        objective: of a propagating simulator, with a counter at zero.
        answer: of a fit to all its images by straight rays.
        guesses: whether the first hypothesis, a network's answer, is a start as well: straight rays may have
            led away from it.

    Returns:
        the best fits with their status, error bars, and the evaluations of both kinds.
    """
    objective.simulator.counts += answer.evaluations.to(objective.simulator.device)
    radius, quaternion = answer.radius_nm[:, None], answer.quaternion[:, None]
    if guesses and answer.hypotheses is not None:
        radius = torch.cat((radius, answer.hypotheses.radius_nm[:, :1].to(radius)), 1)
        quaternion = torch.cat((quaternion, answer.hypotheses.quaternion[:, :1].to(quaternion)), 1)
    starts = Hypotheses(radius, quaternion, torch.zeros_like(radius))
    refine = partial(levenberg_marquardt, options=PROPAGATED)
    fit = judge(objective, starts, refine, None, Nuisance.from_answer(answer))
    # Straight rays minimised something else: only the values of the propagated fit are the objective's.
    unknown = [torch.full_like(value, torch.nan) for value in answer.trace.objective]
    for name in ("evaluations", "radius_nm", "quaternion"):
        setattr(fit.trace, name, getattr(answer.trace, name) + getattr(fit.trace, name))
    fit.trace.objective = unknown + fit.trace.objective
    return with_error_bars(objective, replace(fit, hypotheses=answer.hypotheses))
