"""Fits that start from hypotheses: two of a network, or the nearest of the dictionary's stored patterns."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icobench.answer import Answer, Hypotheses, Progress
from icobench.fitting.dictionary import DictionaryOptions, dictionary_for
from icobench.fitting.least_squares import (
    LevenbergMarquardtOptions,
    LikelihoodOptions,
    levenberg_marquardt,
    maximum_likelihood,
    with_error_bars,
)
from icobench.fitting.nuisance import Nuisance
from icobench.fitting.objectives import Objective
from icobench.fitting.simplex import predicted_edges, refine_simplex
from icobench.fitting.warm_start import WARM_SIMPLEX, Refine, judge, lm_race
from icobench.methods.base import Method, Problem

__all__ = ["HYBRIDS", "DictionaryFitOptions", "NetworkFitOptions"]


@dataclass(frozen=True)
class NetworkFitOptions:
    """Settings of a fit from the network's hypotheses.

    Attributes:
        fit: settings of the solver.
        versions: turned and mirrored versions of an image that the network averages, 1 to 8.
        rescue: whether stored patterns race for an image that no hypothesis explains; in vain, and at ten
            times the cost, where the model is wrong.
        rescue_candidates: stored patterns in that race.
        dictionary: size of the stored dictionary.
    """

    fit: Any
    versions: int = 1
    rescue: bool = True
    rescue_candidates: int = 12
    dictionary: int = DictionaryOptions.size


@dataclass(frozen=True)
class DictionaryFitOptions:
    """Settings of a fit from stored patterns.

    Attributes:
        fit: settings of the solver.
        candidates: stored patterns that the fits start from, one after the other.
        rescue, rescue_candidates, dictionary: as of :class:`NetworkFitOptions`.
    """

    fit: Any
    candidates: int = 4
    rescue: bool = True
    rescue_candidates: int = 12
    dictionary: int = DictionaryOptions.size


Options = NetworkFitOptions | DictionaryFitOptions


def _nearest(
    problem: Problem, options: Options, objective: Objective, image: Tensor, count: int
) -> Hypotheses:
    """The stored patterns nearest to the images with the given indices."""
    place = image.to(objective.images.device)
    dictionary = dictionary_for(problem.simulator, DictionaryOptions(options.dictionary))
    return dictionary.match(
        objective.images[place],
        objective.mask[place],
        problem.images.kind,
        problem.simulator.experiment,
        count,
        problem.simulator.body,
    )


def _fit(
    refine: Refine, problem: Problem, options: Options, objective: Objective, starts: Hypotheses,
    progress: Progress,
) -> Answer:  # fmt: skip
    """From hypotheses to an answer; stored patterns race for the images that none explains."""

    def rescue(image: Tensor) -> tuple[Tensor, Tensor]:
        nearest = _nearest(problem, options, objective, image, options.rescue_candidates)
        return lm_race(objective, nearest.radius_nm, nearest.quaternion, image)

    nuisance = Nuisance.start(problem.nuisance, len(problem.images), problem.simulator.experiment)
    if problem.share is not None:
        nuisance = nuisance.with_share(problem.share)
    solver = partial(refine, options=options.fit)
    # Straight rays hardly ever explain what propagated waves make.
    rescued = options.rescue and problem.simulator.method != "propagated"
    answer = judge(objective, starts, solver, rescue if rescued else None, nuisance, progress)
    return with_error_bars(objective, answer)


class _Solver(NamedTuple):
    """A way to refine a start.

    Attributes:
        words: for the summary.
        refine: the function.
        settings: its options.
        fits_nuisance: whether it fits nuisance parameters.
        keywords: of ``refine``, from a network's answer and the settings: the size of the first steps.
    """

    words: str
    refine: Refine
    settings: Any
    fits_nuisance: bool
    keywords: Callable[[Answer, Any], dict[str, Any]] = lambda guess, settings: {}


def _from_network(
    solver: _Solver, problem: Problem, options: NetworkFitOptions, progress: Progress
) -> Answer:
    guess = problem.ask_network(options.versions)
    assert guess.hypotheses is not None
    refine = partial(solver.refine, **solver.keywords(guess, options.fit))
    return _fit(refine, problem, options, problem.objective(), guess.hypotheses, progress)


def _from_dictionary(
    solver: _Solver, problem: Problem, options: DictionaryFitOptions, progress: Progress
) -> Answer:
    objective = problem.objective()
    every_image = torch.arange(len(problem.images))
    starts = problem.starts or _nearest(problem, options, objective, every_image, options.candidates)
    return _fit(solver.refine, problem, options, objective, starts, progress)


REFINEMENTS = {
    "simplex": _Solver(
        "Nelder-Mead", refine_simplex, WARM_SIMPLEX, False,
        lambda guess, settings: {"edges": predicted_edges(guess, settings)},
    ),
    "lm": _Solver("Levenberg-Marquardt", levenberg_marquardt, LevenbergMarquardtOptions(), True),
    "mle": _Solver("least squares, then maximum likelihood,", maximum_likelihood, LikelihoodOptions(), True),
}  # fmt: skip

HYBRIDS = (
    *(
        Method(
            f"dictionary+{name}", f"{solver.words} from the nearest of 1,000 stored patterns",
            partial(_from_dictionary, solver), DictionaryFitOptions(solver.settings),
            needs_dictionary=True, fits_nuisance=solver.fits_nuisance, version=2 if name == "simplex" else 1,
        )
        for name, solver in REFINEMENTS.items()
    ),
    *(
        Method(
            f"{start}+{name}", f"{solver.words} from the answer of {source}", partial(_from_network, solver),
            NetworkFitOptions(solver.settings), needs_network=True, weights=weights, needs_dictionary=True,
            fits_nuisance=solver.fits_nuisance, version=3 if name == "simplex" else 1,
        )
        for start, weights, source in (
            ("network", "", "the network"), ("paper-network", "paper", "the published network"),
        )
        for name, solver in REFINEMENTS.items()
    ),
)  # fmt: skip
