"""The reconstruction methods by name.

A method is a function from a :class:`Problem` to an :class:`Outcome`; :data:`METHODS` lists them.
Every simulation goes through the objective's counter.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from icobench.errors import InputError
from icobench.fitting.cma_es import CmaOptions, cma_es
from icobench.fitting.counter import CountingSimulator
from icobench.fitting.dictionary import dictionary_for
from icobench.fitting.goodness import poor_fit
from icobench.fitting.nuisance import Nuisance
from icobench.fitting.objectives import LogImageError, Objective, PoissonDeviance, SquareRootError
from icobench.fitting.race import RaceOptions, lm_race, simplex_race
from icobench.fitting.result import FitResult, Trace
from icobench.fitting.shift import inner_pixels
from icobench.fitting.simplex import SimplexOptions, monte_carlo_simplex
from icobench.fitting.uncertainty import cramer_rao
from icobench.fitting.warm_start import (
    NOT_CONVERGED,
    OK,
    POOR,
    Refine,
    Verdict,
    judge,
    refine_lm,
    refine_mle,
    refine_warm_simplex,
)
from icobench.network.predict import NetworkAnswer
from icobench.network.selection import Networks, predict
from icobench.simulator.simulator import Simulator

__all__ = ["METHODS", "Method", "Outcome", "Problem", "find_method"]

Progress = Callable[[float], None]

OBJECTIVES: dict[str, type[Objective]] = {
    "counts": PoissonDeviance,
    "intensity": SquareRootError,
    "log": LogImageError,
}

CANDIDATES = 4
"""Stored patterns that a dictionary's fits start from, one after the other."""

RESCUE_CANDIDATES = 12
"""Stored patterns that race for an image which no hypothesis explains."""


@dataclass
class Problem:
    """Images to reconstruct, and what a method may use.

    Attributes:
        images: (N, H, W) counts or log images.
        mask: (N, H, W) True where usable.
        kind: "counts", "log" or "intensity" (noise-free).
        simulator: of the experiment that the user believes in.
        network: trained networks, None if no method needs one.
        seed: of the run.
        numbers: (N,) numbers of the images within their set; random starts depend on them.
        budget: most evaluations per image, None for no bound.
        nuisance: names of :data:`~icobench.fitting.nuisance.NUISANCES` to fit along, by methods that can.
        rescue: whether hybrids race from the dictionary for images that no hypothesis explains; in vain, and
            at ten times the cost, where the model is wrong.
    """

    images: Tensor
    mask: Tensor
    kind: str
    simulator: Simulator
    network: Networks | None = None
    seed: int = 0
    numbers: Tensor | None = None
    budget: int | None = None
    nuisance: tuple[str, ...] = ()
    rescue: bool = True

    def objective(self) -> Objective:
        """A fresh objective with a counter at zero: Poisson deviance for counts, square roots for noise-free
        intensities, logarithms for log images."""
        counter = CountingSimulator(self.simulator, len(self.images), self.budget)
        chosen = OBJECTIVES[self.kind]
        objective = chosen(self.images, self.mask, counter)
        if "centre" not in self.nuisance:
            return objective
        # A moving beam brings in pixels from beyond the rim of the half space and the detector's edge.
        return objective.restricted(inner_pixels(self.simulator.experiment))

    def ask_network(self) -> NetworkAnswer:
        """The network's answer for all images.

        Raises:
            InputError: there is no network, or it was made for another experiment.
        """
        if self.network is None:
            raise InputError("this method needs a trained network")
        return predict(self.network, self.images, self.mask, self.simulator.experiment, self.kind)


@dataclass
class Outcome:
    """What a method returns for N images; all tensors on the CPU.

    Attributes:
        radius_nm: (N,).
        quaternion: (N, 4) in the fundamental domain.
        objective: (N,); NaN where none was evaluated.
        evaluations: (N,) simulator evaluations.
        radius_std_nm, orientation_std_deg: (N,) estimated standard deviations.
        status: N words: ok, ok-race, poor-fit, ambiguous or not-converged.
        trace: course of the fit, for curves.
        seconds: wall time of the method for all N images.
        nuisance: (N, P) fitted nuisance parameters, None if there were none.
    """

    radius_nm: Tensor
    quaternion: Tensor
    objective: Tensor
    evaluations: Tensor
    radius_std_nm: Tensor
    orientation_std_deg: Tensor
    status: list[str]
    trace: Trace = field(default_factory=Trace)
    seconds: float = 0.0
    nuisance: Nuisance | None = None


Reconstruct = Callable[[Problem, Progress], Outcome]

AMBIGUOUS_SCORE_GAP = 0.1
"""Two hypotheses whose scores are closer than this cannot be told apart by the network alone."""


def _network(problem: Problem, progress: Progress) -> Outcome:
    answer = problem.ask_network()
    count = len(problem.images)
    nothing = torch.full((count,), torch.nan, dtype=torch.float64)
    none = torch.zeros(count, dtype=torch.long)
    quaternion = answer.quaternion[:, 0]
    gap = answer.score[:, 0] - answer.score[:, 1]
    trace = Trace()
    trace.add(none, answer.radius_nm, quaternion, nothing)
    progress(1.0)
    return Outcome(
        answer.radius_nm, quaternion, nothing, none, answer.radius_std_nm,
        answer.orientation_std_deg,
        ["ambiguous" if close else "ok" for close in (gap < AMBIGUOUS_SCORE_GAP).tolist()], trace,
    )  # fmt: skip


def _fitted(problem: Problem, objective: Objective, verdict: Verdict) -> Outcome:
    """Attach error bars: one Jacobian per image, counted."""
    fit = verdict.fit
    radius_std, turn_std = cramer_rao(objective, fit.radius_nm, fit.quaternion, fit.nuisance)
    return Outcome(
        fit.radius_nm, fit.quaternion, fit.objective, objective.simulator.evaluations.clone(),
        radius_std, turn_std, verdict.status, fit.trace, nuisance=fit.nuisance,
    )  # fmt: skip


def _multi_start(problem: Problem, objective: Objective, fit: FitResult) -> Outcome:
    poor = poor_fit(objective, fit.radius_nm, fit.quaternion)
    status = [
        POOR if bad else OK if done else NOT_CONVERGED
        for bad, done in zip(poor.tolist(), fit.converged.tolist(), strict=True)
    ]
    return _fitted(problem, objective, Verdict(fit, status))


def _simplex(problem: Problem, progress: Progress) -> Outcome:
    objective = problem.objective()
    fit = monte_carlo_simplex(objective, SimplexOptions(), problem.seed, problem.numbers, progress)
    return _multi_start(problem, objective, fit)


def _race(problem: Problem, progress: Progress) -> Outcome:
    objective = problem.objective()
    fit = simplex_race(objective, RaceOptions(), problem.seed, problem.numbers, progress=progress)
    return _multi_start(problem, objective, fit)


def _cma_es(problem: Problem, progress: Progress) -> Outcome:
    objective = problem.objective()
    fit = cma_es(objective, CmaOptions(), problem.seed, problem.numbers, progress)
    return _multi_start(problem, objective, fit)


def _judged(
    problem: Problem, objective: Objective, radius: Tensor, turns: Tensor, refine: Refine, progress: Progress
) -> Outcome:
    """From hypotheses to an outcome, with the race for those that none explains."""

    def rescue(image: Tensor) -> tuple[Tensor, Tensor]:
        place = image.to(objective.images.device)
        found = dictionary_for(problem.simulator).match(
            objective.images[place], objective.mask[place], problem.kind, problem.simulator.experiment,
            RESCUE_CANDIDATES,
        )  # fmt: skip
        return lm_race(objective, found.radius_nm, found.quaternion, image)

    extra = None
    if problem.nuisance:
        extra = Nuisance.start(problem.nuisance, len(problem.images), problem.simulator.experiment)
    verdict = judge(objective, radius, turns, refine, rescue if problem.rescue else None, extra, progress)
    return _fitted(problem, objective, verdict)


def _from_network(refine: Refine) -> Reconstruct:
    def run(problem: Problem, progress: Progress) -> Outcome:
        answer = problem.ask_network()
        radius = answer.radius_nm[:, None].expand(answer.score.shape)
        return _judged(problem, problem.objective(), radius, answer.quaternion, refine, progress)

    return run


def _from_dictionary(refine: Refine) -> Reconstruct:
    def run(problem: Problem, progress: Progress) -> Outcome:
        objective = problem.objective()
        stored = dictionary_for(problem.simulator)
        found = stored.match(
            objective.images, objective.mask, problem.kind, problem.simulator.experiment, CANDIDATES
        )
        return _judged(problem, objective, found.radius_nm, found.quaternion, refine, progress)

    return run


@dataclass(frozen=True)
class Method:
    """One way to reconstruct.

    Attributes:
        name: as on the command line.
        summary: one line for help and reports.
        needs_network: whether it asks the trained network.
        function: does the work.
        fits_nuisance: whether it can fit nuisance parameters along.
    """

    name: str
    summary: str
    needs_network: bool
    function: Reconstruct
    fits_nuisance: bool = False

    def run(self, problem: Problem, progress: Progress = lambda share: None) -> Outcome:
        """Reconstruct all images of the problem and take the time.

        Raises:
            InputError: nuisance parameters for a method without, or a network that is missing or misfit.
        """
        if problem.nuisance and not self.fits_nuisance:
            able = ", ".join(one.name for one in METHODS.values() if one.fits_nuisance)
            raise InputError(f"{self.name} cannot fit {', '.join(problem.nuisance)}; choose from {able}")
        begin = time.perf_counter()
        outcome = self.function(problem, progress)
        if problem.simulator.device.type == "cuda":
            torch.cuda.synchronize()
        outcome.seconds = time.perf_counter() - begin
        return outcome


METHODS = {
    method.name: method
    for method in (
        Method("network", "trained network alone, no fit", True, _network),
        Method("simplex", "50 random starts x 50 Nelder-Mead iterations, best taken", False, _simplex),
        Method("simplex-race", "60 random starts, the best few of which go on", False, _race),
        Method("cma-es", "covariance matrix adaptation from two random starts, the control", False, _cma_es),
        *(
            Method(f"{source}+{name}", f"{words} from {origin}", source == "network", start(refine), nuisance)
            for source, origin, start in (
                ("dictionary", "the nearest of 1,000 stored patterns", _from_dictionary),
                ("network", "the network's answer", _from_network),
            )
            for name, words, refine, nuisance in (
                ("simplex", "Nelder-Mead", refine_warm_simplex, False),
                ("lm", "Levenberg-Marquardt", refine_lm, True),
                ("mle", "least squares, then maximum likelihood,", refine_mle, True),
            )
        ),
    )
}


def find_method(name: str) -> Method:
    """The method with this name.

    Raises:
        InputError: there is none.
    """
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; choose from {', '.join(METHODS)}")
    return METHODS[name]
