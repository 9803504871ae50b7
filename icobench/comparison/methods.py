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
from icobench.fitting.counter import CountingSimulator
from icobench.fitting.objectives import LogImageError, Objective, PoissonDeviance
from icobench.fitting.result import FitResult, Trace
from icobench.fitting.simplex import SimplexOptions, monte_carlo_simplex
from icobench.fitting.uncertainty import cramer_rao, poor_fit
from icobench.fitting.warm_start import warm_lm, warm_simplex
from icobench.network.predict import NetworkAnswer
from icobench.network.selection import Networks, predict
from icobench.simulator.simulator import Simulator

__all__ = ["METHODS", "Method", "Outcome", "Problem", "find_method"]

Progress = Callable[[float], None]


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
    """

    images: Tensor
    mask: Tensor
    kind: str
    simulator: Simulator
    network: Networks | None = None
    seed: int = 0
    numbers: Tensor | None = None
    budget: int | None = None

    def objective(self) -> Objective:
        """A fresh objective with a counter at zero: log error for log images, Poisson deviance else."""
        counter = CountingSimulator(self.simulator, len(self.images), self.budget)
        chosen = LogImageError if self.kind == "log" else PoissonDeviance
        return chosen(self.images, self.mask, counter)

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
        status: N words: ok, poor-fit, ambiguous or not-converged.
        trace: course of the fit, for curves.
        seconds: wall time of the method for all N images.
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


def _fitted(objective: Objective, fit: FitResult, poor: Tensor) -> Outcome:
    """Attach error bars (one Jacobian per image, counted) and words."""
    radius_std, turn_std = cramer_rao(objective, fit.radius_nm, fit.quaternion)
    status = [
        "poor-fit" if bad else "ok" if done else "not-converged"
        for bad, done in zip(poor.tolist(), fit.converged.tolist(), strict=True)
    ]
    return Outcome(
        fit.radius_nm, fit.quaternion, fit.objective, objective.simulator.evaluations.clone(),
        radius_std, turn_std, status, fit.trace,
    )  # fmt: skip


def _simplex(problem: Problem, progress: Progress) -> Outcome:
    objective = problem.objective()
    fit = monte_carlo_simplex(objective, SimplexOptions(), problem.seed, problem.numbers, progress)
    return _fitted(objective, fit, poor_fit(objective, fit.radius_nm, fit.quaternion))


def _network_simplex(problem: Problem, progress: Progress) -> Outcome:
    answer = problem.ask_network()
    objective = problem.objective()
    fit, poor = warm_simplex(objective, answer.radius_nm, answer.quaternion, progress=progress)
    return _fitted(objective, fit, poor)


def _network_lm(problem: Problem, progress: Progress) -> Outcome:
    answer = problem.ask_network()
    objective = problem.objective()
    fit, poor = warm_lm(objective, answer.radius_nm, answer.quaternion, progress=progress)
    return _fitted(objective, fit, poor)


@dataclass(frozen=True)
class Method:
    """One way to reconstruct.

    Attributes:
        name: as on the command line.
        summary: one line for help and reports.
        needs_network: whether it asks the trained network.
        function: does the work.
    """

    name: str
    summary: str
    needs_network: bool
    function: Callable[[Problem, Progress], Outcome]

    def run(self, problem: Problem, progress: Progress = lambda share: None) -> Outcome:
        """Reconstruct all images of the problem and take the time."""
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
        Method("network+simplex", "Nelder-Mead from the network's answer", True, _network_simplex),
        Method("network+lm", "Levenberg-Marquardt from the network's answer", True, _network_lm),
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
