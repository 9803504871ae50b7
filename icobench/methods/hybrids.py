"""Fits that start from hypotheses: a network's two, or the nearest of the dictionary's stored patterns."""

from dataclasses import dataclass

import torch
from torch import Tensor

from icobench.fitting.dictionary import Candidates, DictionaryOptions, dictionary_for
from icobench.fitting.levenberg_marquardt import levenberg_marquardt
from icobench.fitting.maximum_likelihood import maximum_likelihood
from icobench.fitting.nuisance import Nuisance
from icobench.fitting.objectives import Objective
from icobench.fitting.race import lm_race
from icobench.fitting.warm_start import Refine, judge, refine_warm_simplex
from icobench.methods.base import Method, Outcome, Problem, Progress, Reconstruct, fitted

__all__ = ["HYBRIDS"]


@dataclass(frozen=True)
class HybridOptions:
    """Settings.

    Attributes:
        dictionary: size of the stored dictionary.
        candidates: stored patterns that a dictionary's fits start from, one after the other.
        rescue_candidates: stored patterns that race for an image which no hypothesis explains.
    """

    dictionary: int = DictionaryOptions.size
    candidates: int = 4
    rescue_candidates: int = 12


OPTIONS = HybridOptions()


def _nearest(problem: Problem, objective: Objective, image: Tensor, count: int) -> Candidates:
    place = image.to(objective.images.device)
    stored = dictionary_for(problem.simulator, DictionaryOptions(OPTIONS.dictionary))
    return stored.match(
        objective.images[place], objective.mask[place], problem.kind, problem.simulator.experiment, count
    )


def _judged(
    problem: Problem, objective: Objective, radius: Tensor, turns: Tensor, refine: Refine, progress: Progress
) -> Outcome:
    """From hypotheses to an outcome, with a race from the dictionary for images that none explains."""

    def rescue(image: Tensor) -> tuple[Tensor, Tensor]:
        found = _nearest(problem, objective, image, OPTIONS.rescue_candidates)
        return lm_race(objective, found.radius_nm, found.quaternion, image)

    extra = None
    if problem.nuisance:
        extra = Nuisance.start(problem.nuisance, len(problem.images), problem.simulator.experiment)
    verdict = judge(objective, radius, turns, refine, rescue if problem.rescue else None, extra, progress)
    return fitted(objective, verdict)


def _from_network(refine: Refine) -> Reconstruct:
    def run(problem: Problem, progress: Progress) -> Outcome:
        answer = problem.ask_network()
        radius = answer.radius_nm[:, None].expand(answer.score.shape)
        return _judged(problem, problem.objective(), radius, answer.quaternion, refine, progress)

    return run


def _from_dictionary(refine: Refine) -> Reconstruct:
    def run(problem: Problem, progress: Progress) -> Outcome:
        objective = problem.objective()
        found = _nearest(problem, objective, torch.arange(len(problem.images)), OPTIONS.candidates)
        return _judged(problem, objective, found.radius_nm, found.quaternion, refine, progress)

    return run


REFINEMENTS = (
    ("simplex", "Nelder-Mead", refine_warm_simplex, False),
    ("lm", "Levenberg-Marquardt", levenberg_marquardt, True),
    ("mle", "least squares, then maximum likelihood,", maximum_likelihood, True),
)

HYBRIDS = (
    *(
        Method(
            f"dictionary+{name}", f"{words} from the nearest of 1,000 stored patterns",
            _from_dictionary(refine), needs_dictionary=True, fits_nuisance=nuisance, options=OPTIONS,
        )
        for name, words, refine, nuisance in REFINEMENTS
    ),
    *(
        Method(
            f"network+{name}", f"{words} from the network's answer", _from_network(refine),
            needs_network=True, needs_dictionary=True, fits_nuisance=nuisance, options=OPTIONS,
        )
        for name, words, refine, nuisance in REFINEMENTS
    ),
)  # fmt: skip
