"""What a reconstruction method is: a function from a problem and its options to an answer.

A method is a value. :meth:`Method.with_options` gives the same method with other options, so that sweeps,
searches, TOML files and plug-ins vary methods without building fits of their own. Every simulation goes
through the objective, which counts.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icobench.answer import Answer, Hypotheses, Progress
from icobench.errors import InputError
from icobench.fitting.objectives import Objective, objective_for
from icobench.fitting.warm_start import checked, fit_propagated
from icobench.images.image_set import ImageSet
from icobench.network.selection import SHIPPED, Networks, load_network, predict
from icobench.simulator.simulator import Simulator
from icobench.stopwatch import Stopwatch

__all__ = ["Method", "Problem"]


@dataclass(frozen=True)
class Problem:
    """Images to reconstruct, and what a method may use.

    Attributes:
        images: with masks; a method must not look at their truth. Their ``numbers`` decide random starts.
        simulator: of the experiment that the user believes in.
        networks: trained networks, those of :meth:`Method.load_networks`; None for a method without.
        seed: of the run.
        nuisance: names of :data:`~icobench.fitting.nuisance.NUISANCES` to fit along, by methods that can.
        network_mask: (N, H, W) what the network sees, the images' masks by default.
        starts: where fits from stored patterns start instead; the stored patterns by default.
        share: (N,) where the nuisance parameter "shape" starts.

    Example:
        >>> problem = icobench.Problem(icobench.simulate(60.0, photons=1e5), icobench.Simulator())
        >>> icobench.methods()["dictionary+lm"].run(problem).status
        ['ok']
    """

    images: ImageSet
    simulator: Simulator
    networks: Networks | None = None
    seed: int = 0
    nuisance: tuple[str, ...] = ()
    network_mask: Tensor | None = None
    starts: Hypotheses | None = None
    share: Tensor | None = None

    def objective(self) -> Objective:
        """A fresh objective with a counter at zero, which simulates by straight rays.

        It is the Poisson deviance for photon counts, the error of square roots for noise-free intensities and
        the error of logarithms for log images.
        """
        return objective_for(self.images, self.simulator.with_method("exact"), self.nuisance)

    def ask_network(self, versions: int = 1) -> Answer:
        """The networks' answer for all images, with hypotheses.

        Args:
            versions: turned and mirrored versions of an image that are averaged, 1 to 8.

        Raises:
            InputError: there is no network, or it was made for another experiment.
        """
        if self.networks is None:
            raise InputError("this method needs a trained network")
        seen = self.seen()
        return predict(self.networks, seen, seen.mask, versions=versions)

    def seen(self) -> ImageSet:
        """The images as networks see them: with their mask and the simulator's experiment."""
        mask = self.images.mask if self.network_mask is None else self.network_mask
        return replace(self.images, mask=mask, experiment=self.simulator.experiment)


@dataclass(frozen=True)
class Method:
    """One way to reconstruct.

    Attributes:
        name: as on the command line; letters, digits, +, - and _.
        summary: one line for help and reports.
        function: from a problem, options and a progress callback to an answer.
        options: settings, a frozen dataclass; one of its fields may be a dataclass of a solver's settings.
        needs_network: whether it asks trained networks.
        weights: name of the shipped network that it asks, "paper"; empty for those of the run, which are the
            default ones or the user's.
        needs_dictionary: whether it may ask the dictionary of stored patterns.
        fits_nuisance: whether it can fit nuisance parameters along.
        chooses_shape: whether it finds out which body it is, so that its answers have a ``shape``.
        version: raise it when the code gives other results: stored ones are then made anew.
        search: what finding the options has cost (seconds, simulations), None if nobody searched.
        physics: of :data:`~icobench.simulator.experiment.PHYSICS`, whatever the problem's; empty for the
            problem's own. The name METHOD-propagated is a method of the first name with that physics.

    Example:
        >>> from icobench.methods.registry import find_method
        >>> find_method("simplex").with_options(starts=20).options.starts
        20
    """

    name: str
    summary: str
    function: Callable[["Problem", Any, Progress], Answer]
    options: Any = None
    needs_network: bool = False
    weights: str = ""
    needs_dictionary: bool = False
    fits_nuisance: bool = False
    chooses_shape: bool = False
    version: int = 1
    search: dict[str, Any] | None = None
    physics: str = ""

    def with_options(self, **changes: Any) -> "Method":
        """The same method with some options changed.

        Args:
            changes: by name: fields of the options, or of the solver's settings among them.

        Raises:
            InputError: an option that the method does not have.
        """
        return replace(self, options=_changed(self.options, changes, self.name))

    def with_recorded(self, options: dict[str, Any]) -> "Method":
        """The same method with the options of a card, see :attr:`settings`.

        Raises:
            InputError: an option that the method does not have.
        """
        return replace(self, options=_restored(self.options, options, self.name))

    @property
    def option_names(self) -> list[str]:
        """The names that :meth:`with_options` takes."""
        return sorted(_owners(self.options))

    @property
    def settings(self) -> dict[str, Any]:
        """Version and options, as plain values."""
        options = asdict(self.options) if is_dataclass(self.options) else self.options  # type: ignore[arg-type]
        physics = {"physics": self.physics} if self.physics else {}
        return json.loads(json.dumps({"version": self.version, "options": options, **physics}))

    @property
    def card(self) -> dict[str, Any]:
        """What a run's description says of the method."""
        return {
            **self.settings, "summary": self.summary, "needs_network": self.needs_network,
            "needs_dictionary": self.needs_dictionary, "search": self.search,
            **({"chooses_shape": True} if self.chooses_shape else {}),
        }  # fmt: skip

    @property
    def digest(self) -> str:
        """Names version and options, 8 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:8]

    def load_networks(
        self, model: Path | str | None = None, device: torch.device | str = "cpu"
    ) -> Networks | None:
        """The networks that it asks, None if it asks none.

        Args:
            model: the run's weights, the default ones if None; a method with ``weights`` keeps its own.
            device: where they will run.

        Raises:
            InputError: as :func:`~icobench.network.selection.load_network`.
        """
        if not self.needs_network:
            return None
        return load_network(SHIPPED / self.weights if self.weights else model, device)

    def run(self, problem: Problem, progress: Progress = lambda share: None) -> Answer:
        """Reconstruct all images of the problem and take the time.

        An answer that simulated nothing is compared with counts and intensities by one simulation each
        (:func:`~icobench.fitting.warm_start.checked`).
        Where the simulator is the propagating one, a fit goes on from its answer by
        :func:`~icobench.fitting.warm_start.fit_propagated`.

        Raises:
            InputError: nuisance parameters for a method without, a centre along with propagated waves, or a
                network that is missing or misfit.
        """
        if problem.nuisance and not self.fits_nuisance:
            raise InputError(f"{self.name} cannot fit {', '.join(problem.nuisance)} along; lm and mle can")
        if self.physics:
            problem = replace(problem, simulator=problem.simulator.with_physics(self.physics))
        if "centre" in problem.nuisance and problem.simulator.method == "propagated":
            raise InputError("the centre cannot be fitted along with propagated waves; find it beforehand")
        watch = Stopwatch(problem.simulator.device)
        answer = self.function(problem, self.options, progress)
        unsimulated = not answer.evaluations.any()
        waves = problem.simulator.method == "propagated"
        # Log images may be distorted in ways that networks have learned and no simulation shows. A chosen
        # shape has been fitted and judged to the end, and the simulator here is of another body.
        if not self.chooses_shape and (waves or (unsimulated and problem.images.kind != "log")):
            objective = objective_for(problem.images, problem.simulator, problem.nuisance)
            if not unsimulated:
                answer = fit_propagated(objective, answer, guesses=self.needs_network)
            elif problem.images.kind != "log":
                answer = checked(objective, answer)
        if problem.simulator.device.type == "cuda":
            torch.cuda.synchronize()
        shares = (spent / max(1, len(answer)) for spent in watch.read())
        answer.seconds, answer.core_seconds = (
            torch.full((len(answer),), share, dtype=torch.float64) for share in shares
        )
        answer.index = problem.images.numbers
        return answer


def _owners(options: Any) -> dict[str, str | None]:
    """The names of all options; with each, the field whose dataclass it belongs to, None for a direct one."""
    owners: dict[str, str | None] = {}
    if not is_dataclass(options):
        return owners
    for field in fields(options):
        nested = getattr(options, field.name)
        if is_dataclass(nested):
            owners |= {inner.name: field.name for inner in fields(nested)}
    return owners | {field.name: None for field in fields(options)}


def _restored(options: Any, plain: Any, method: str) -> Any:
    """Options with the values that JSON has kept of them."""
    if isinstance(plain, list):
        return tuple(_restored(None, value, method) for value in plain)
    if not is_dataclass(options) or not isinstance(plain, dict):
        return plain
    if unknown := sorted(set(plain) - {field.name for field in fields(options)}):
        raise InputError(f"{method} has no option {unknown[0]!r} here")
    changes = {name: _restored(getattr(options, name), value, method) for name, value in plain.items()}
    return replace(options, **changes)  # type: ignore[type-var]


def _changed(options: Any, changes: dict[str, Any], method: str) -> Any:
    """A dataclass of options with changes to its fields, or to those of the dataclasses in it."""
    owners = _owners(options)
    if unknown := sorted(set(changes) - set(owners)):
        raise InputError(
            f"{method} has no option {unknown[0]!r}; it has {', '.join(sorted(owners)) or 'none'}"
        )
    changed = {name: value for name, value in changes.items() if owners[name] is None}
    for owner in filter(None, {owners[name] for name in changes}):
        inside = {name: value for name, value in changes.items() if owners[name] == owner}
        nested: Any = changed.get(owner, getattr(options, owner))
        changed[owner] = replace(nested, **inside)
    return replace(options, **changed) if changed else options
