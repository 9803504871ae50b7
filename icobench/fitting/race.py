"""Races: many short runs, of which the best few go on (Jamieson and Talwalkar, AISTATS 2016)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from icobench.fitting.levenberg_marquardt import LevenbergMarquardtOptions, levenberg_marquardt
from icobench.fitting.objectives import Objective
from icobench.fitting.result import FitResult, Trace
from icobench.fitting.simplex import Progress, SimplexFits, SimplexOptions, random_starts

__all__ = ["RaceOptions", "lm_race", "simplex_race"]

LM_ROUNDS = ((2, 3), (5, 1))
"""Levenberg-Marquardt steps of a round, and how many fits of every image go on after it."""


@dataclass(frozen=True)
class RaceOptions:
    """Successive halving with Nelder-Mead as the runner.

    Attributes:
        simplex: size of the first simplices, bounds, tolerance, and the number of random starts.
        rounds: iterations of a round, and how many simplices of every image go on after it.
        iterations: most iterations of those that are left after the rounds.
    """

    simplex: SimplexOptions = field(
        default_factory=lambda: SimplexOptions(starts=60, angle_tolerance_deg=0.02)
    )
    rounds: tuple[tuple[int, int], ...] = ((6, 20), (10, 6), (15, 2))
    iterations: int = 90


def simplex_race(
    objective: Objective,
    options: RaceOptions,
    seed: int,
    numbers: Tensor | None = None,
    progress: Progress = lambda share: None,
) -> FitResult:
    """Forward fit from random starts at a third of the evaluations of 50 x 50.

    Args:
        objective: images, masks and counting simulator.
        options: how many run how far.
        seed: of the random starts.
        numbers: (N,) numbers of the images within their set, so that blocks draw the same starts.
        progress: called with the finished share.
    """
    chosen = torch.arange(len(objective.images))
    radius, quaternion = random_starts(len(chosen), options.simplex, seed, numbers)
    fits = SimplexFits(objective, chosen, radius, quaternion, options.simplex)
    trace = Trace()
    trace.add(objective.simulator.evaluations[chosen], *fits.best())
    plan = [*options.rounds, (options.iterations, 1)]
    total, done = sum(steps for steps, _ in plan), 0
    for steps, survivors in plan:
        for _ in range(steps):
            moving = fits.step()
            trace.add(objective.simulator.evaluations[chosen], *fits.best())
            done += 1
            progress(done / total)
            if not moving:
                break
        fits.keep(survivors)
    return fits.result(chosen, trace, fits.stopped & fits.best()[2].isfinite())


def lm_race(
    objective: Objective, radius_nm: Tensor, quaternion: Tensor, image: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The best of several starts after some Levenberg-Marquardt steps: radii (N,) and orientations (N, 4).

    Args:
        objective: images, masks and counting simulator.
        radius_nm: (N, K) starts.
        quaternion: (N, K, 4) starts.
        image: (N,) indices of the objective's images, all by default.
    """
    chosen = torch.arange(len(radius_nm)) if image is None else image.cpu()
    for steps, survivors in LM_ROUNDS:
        count = radius_nm.shape[1]
        fit = levenberg_marquardt(
            objective, radius_nm.flatten(), quaternion.flatten(0, 1),
            LevenbergMarquardtOptions(iterations=steps), chosen.repeat_interleave(count),
        )  # fmt: skip
        order = fit.objective.nan_to_num(nan=torch.inf).unflatten(0, (-1, count)).argsort(dim=1, stable=True)
        order = order[:, :survivors]
        radius_nm = fit.radius_nm.unflatten(0, (-1, count)).gather(1, order)
        quaternion = torch.take_along_dim(fit.quaternion.unflatten(0, (-1, count)), order.unsqueeze(-1), 1)
    return radius_nm[:, 0], quaternion[:, 0]
