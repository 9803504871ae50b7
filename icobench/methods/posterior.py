"""A trained network's posterior, without a fit."""

import math
from dataclasses import dataclass

import torch

from icobench.answer import AMBIGUOUS, OK, UNTRAINED, Answer, Hypotheses, Progress
from icobench.errors import InputError
from icobench.fitting.posterior import Posterior, check_samples
from icobench.geometry.orientation import to_fundamental_domain
from icobench.methods.base import Method, Problem
from icobench.network.amortised import amortised, with_posterior
from icobench.network.selection import within_training
from icobench.seeds import Purpose, torch_generator

__all__ = ["POSTERIOR", "PosteriorOptions"]

AMBIGUOUS_ODDS = 100.0
"""Odds that must speak for the best of two orientations, as for fits."""


@dataclass(frozen=True)
class PosteriorOptions:
    """Settings.

    Attributes:
        samples: draws of each image's posterior, 0 for none. They cost no simulation.
    """

    samples: int = 0


def _run(problem: Problem, options: PosteriorOptions, progress: Progress) -> Answer:
    """The most likely component is the answer, its standard deviations are the error bars."""
    if problem.networks is None:
        raise InputError("this method needs a trained network")
    images = problem.images
    seen = problem.seen()
    trained = with_posterior(problem.networks, seen)
    mixture = amortised(trained, seen)
    best = mixture.share.argmax(1)
    row = torch.arange(len(images))
    factor = mixture.factor[row, best]
    variance = factor.square().sum(2)
    answer = Answer(
        mixture.radius[row, best],
        mixture.quaternion[row, best],
        status=[
            UNTRAINED if not familiar else AMBIGUOUS if odds < AMBIGUOUS_ODDS else OK
            for familiar, odds in zip(
                within_training(trained.recipe, seen).tolist(),
                (mixture.share.amax(1) / mixture.share.amin(1)).tolist(),
                strict=True,
            )
        ],
        radius_std_nm=variance[:, 3].sqrt(),
        orientation_std_deg=torch.rad2deg(variance[:, :3].sum(1).sqrt()),
        hypotheses=Hypotheses(mixture.radius, mixture.quaternion, mixture.share),
        index=images.numbers,
    )
    unknown = torch.full_like(answer.radius_nm, torch.nan)
    answer.trace.add(answer.evaluations, answer.radius_nm, answer.quaternion, unknown)
    if options.samples:
        check_samples(options.samples)
        generators = [
            torch_generator(problem.seed, Purpose.POSTERIOR, number) for number in images.numbers.tolist()
        ]
        radius, quaternion = mixture.draw(options.samples, generators)
        member = mixture.log_densities(radius, quaternion)[:, :-1].argmax(1)
        even = torch.full_like(radius, 1 / options.samples)
        independent = torch.full((len(images),), float(options.samples), dtype=torch.float64)
        drawn = Posterior(
            radius, to_fundamental_domain(quaternion), even, torch.where(member == best[:, None], 0, 1),
            independent, torch.full_like(independent, -math.inf),
        )  # fmt: skip
        answer.samples = {"index": images.numbers.repeat_interleave(options.samples), **drawn.samples}
        answer.nuisance |= drawn.columns
    progress(1.0)
    return answer


POSTERIOR = Method(
    "posterior", "a trained network's posterior of photon counts, no fit", _run, PosteriorOptions(),
    needs_network=True,
)  # fmt: skip
