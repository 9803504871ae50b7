"""What a reconstruction method is: a function from a :class:`Problem` to an :class:`Outcome`.

Every simulation goes through the objective's counter.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any

import torch
from torch import Tensor

from icobench.errors import InputError
from icobench.fitting.counter import CountingSimulator
from icobench.fitting.goodness import poor_fit
from icobench.fitting.nuisance import Nuisance
from icobench.fitting.objectives import LogImageError, Objective, PoissonDeviance, SquareRootError
from icobench.fitting.result import FitResult, Trace
from icobench.fitting.shift import inner_pixels
from icobench.fitting.uncertainty import cramer_rao
from icobench.fitting.warm_start import NOT_CONVERGED, OK, POOR, Verdict
from icobench.network.predict import NetworkAnswer
from icobench.network.selection import Networks, predict
from icobench.simulator.simulator import Simulator

__all__ = ["Method", "Outcome", "Problem", "Progress", "Reconstruct", "fitted", "multi_start"]

Progress = Callable[[float], None]

OBJECTIVES: dict[str, type[Objective]] = {
    "counts": PoissonDeviance,
    "intensity": SquareRootError,
    "log": LogImageError,
}


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
        network_mask: (N, H, W) what the network sees, ``mask`` by default.
        versions: turned and mirrored versions of an image that the network averages, 1 to 8.
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
    network_mask: Tensor | None = None
    versions: int = 1
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
        mask = self.mask if self.network_mask is None else self.network_mask
        experiment = self.simulator.experiment
        return predict(self.network, self.images, mask, experiment, self.kind, versions=self.versions)


@dataclass
class Outcome:
    """What a method returns for N images; all tensors on the CPU.

    Attributes:
        radius_nm: (N,).
        quaternion: (N, 4) in the fundamental domain.
        objective: (N,); NaN where none was evaluated.
        evaluations: (N,) simulator evaluations.
        radius_std_nm, orientation_std_deg: (N,) estimated standard deviations.
        status: N words: ok, ok-race, poor-fit, ambiguous, not-converged or outside-training.
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


def fitted(objective: Objective, verdict: Verdict) -> Outcome:
    """An outcome with error bars from fits: one Jacobian per image, counted."""
    fit = verdict.fit
    radius_std, turn_std = cramer_rao(objective, fit.radius_nm, fit.quaternion, fit.nuisance)
    return Outcome(
        fit.radius_nm, fit.quaternion, fit.objective, objective.simulator.evaluations.clone(),
        radius_std, turn_std, verdict.status, fit.trace, nuisance=fit.nuisance,
    )  # fmt: skip


def multi_start(objective: Objective, fit: FitResult) -> Outcome:
    """The same from fits that nobody has judged yet: goodness of fit first."""
    poor = poor_fit(objective, fit.radius_nm, fit.quaternion)
    status = [
        POOR if bad else OK if done else NOT_CONVERGED
        for bad, done in zip(poor.tolist(), fit.converged.tolist(), strict=True)
    ]
    return fitted(objective, Verdict(fit, status))


@dataclass(frozen=True)
class Method:
    """One way to reconstruct.

    Attributes:
        name: as on the command line; letters, digits, +, - and _.
        summary: one line for help and reports.
        function: does the work.
        needs_network: whether it asks the trained networks.
        needs_dictionary: whether it asks, if only in need, the dictionary of stored patterns.
        fits_nuisance: whether it can fit nuisance parameters along.
        options: settings, a dataclass or plain numbers; stored with results.
        version: raise it when the code gives other results: stored ones are then made anew.
        search: what finding the options has cost (seconds, simulations), None if nobody searched.
    """

    name: str
    summary: str
    function: Reconstruct
    needs_network: bool = False
    needs_dictionary: bool = False
    fits_nuisance: bool = False
    options: Any = None
    version: int = 1
    search: dict[str, Any] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Version and options, as plain numbers."""
        options = asdict(self.options) if is_dataclass(self.options) else self.options  # type: ignore[arg-type]
        return json.loads(json.dumps({"version": self.version, "options": options}))

    @property
    def card(self) -> dict[str, Any]:
        """What a run's description says of the method."""
        return {
            **self.settings, "summary": self.summary, "needs_network": self.needs_network,
            "needs_dictionary": self.needs_dictionary, "search": self.search,
        }  # fmt: skip

    @property
    def digest(self) -> str:
        """Names version and options, 8 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:8]

    def run(self, problem: Problem, progress: Progress = lambda share: None) -> Outcome:
        """Reconstruct all images of the problem and take the time.

        Raises:
            InputError: nuisance parameters for a method without, or a network that is missing or misfit.
        """
        if problem.nuisance and not self.fits_nuisance:
            raise InputError(f"{self.name} cannot fit {', '.join(problem.nuisance)} along; lm and mle can")
        begin = time.perf_counter()
        outcome = self.function(problem, progress)
        if problem.simulator.device.type == "cuda":
            torch.cuda.synchronize()
        outcome.seconds = time.perf_counter() - begin
        return outcome
