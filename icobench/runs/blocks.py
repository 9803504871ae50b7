"""Blocks of images, fitted: what becomes of the images of a file or of a stream, wherever that happens."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from icobench.answer import COSTS, MISS, POOR, UNKNOWN, WORDS, Answer, Hypotheses, Progress
from icobench.errors import InputError
from icobench.fitting.dictionary import dictionary_for
from icobench.fitting.facets import FACETS, FacetOptions
from icobench.fitting.objectives import objective_for
from icobench.fitting.posterior import sample_posterior, starts_of
from icobench.images.image_set import ImageSet
from icobench.images.image_source import ImageSource
from icobench.methods import Method, Problem
from icobench.methods.registry import find_method
from icobench.methods.shapes import ChosenShape, Fit, chosen_shape, free_facets
from icobench.network.classifier import Classifier, load_classifier
from icobench.network.selection import Networks
from icobench.runs.calibrate import Bench, misses_of, problem_of
from icobench.simulator.compiled import prepare_kernel
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from icobench.stopwatch import Stopwatch
from icobench.storage import PieceStore

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ICOSAHEDRON", "Fitting", "answer_of_table", "read_answer", "store_answer", "table_of_answer"]

WARM_RADII_NM, WARM_IMAGES = (28.0, 164.0), 32
"""Simulated beforehand: close enough to need every table of that range."""

ICOSAHEDRON = "icosahedron"

STORED_STARTS = 4
"""Stored patterns at which modes of a posterior are searched, beside the fit, its twin and the network."""


@dataclass(frozen=True)
class Fitting:
    """A method with all that it needs to answer images on a grid; other processes can take it over.

    Attributes:
        method: that answers.
        experiment: of the images.
        device: where to work.
        model, seed, fit_sin_theta, nuisance, auto_physics, posterior, sort, shape, facets: as for
            :func:`~icobench.runs.reconstruct.reconstruct`.
    """

    method: Method
    experiment: Experiment
    device: str = "cpu"
    model: Path | str | None = None
    seed: int = 0
    fit_sin_theta: float = 1.0
    nuisance: tuple[str, ...] = ()
    auto_physics: bool = False
    posterior: int = 0
    sort: bool = False
    shape: str = ICOSAHEDRON
    facets: str = FACETS[0]

    @cached_property
    def networks(self) -> Networks | None:
        """The networks that the method asks."""
        return self.method.load_networks(self.model, self.device)

    @cached_property
    def _classifier(self) -> Classifier | None:
        return load_classifier(device=self.device) if self.sort else None

    @property
    def wanted(self) -> ChosenShape:
        """The shapes that are fitted."""
        return chosen_shape(self.shape)

    @property
    def _fit(self) -> Fit:
        return self.wanted.fitting(self.method)

    @cached_property
    def simulator(self) -> Simulator:
        """Of the experiment and the body."""
        return Simulator(self.experiment, device=self.device, body=self.wanted.body)

    @cached_property
    def _propagated(self) -> Simulator | None:
        return self.simulator.with_physics("propagated") if self.auto_physics else None

    @property
    def can_travel(self) -> bool:
        """Whether another process knows the method by its name."""
        try:
            return find_method(self.method.name).function is self.method.function
        except InputError:
            return False

    def __getstate__(self) -> dict[str, Any]:
        # Solvers among a method's options may be functions without a name.
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**values, "method": (self.method.name, self.method.settings["options"])}

    def __setstate__(self, values: dict[str, Any]) -> None:
        name, options = values.pop("method")
        self.__dict__.update(values, method=find_method(name).with_recorded(options))

    def prepare(self) -> None:
        """Make what is made once, so that the first images do not wait for it."""
        prepare_kernel(torch.device(self.device))
        _ = self.networks
        radius = torch.linspace(*WARM_RADII_NM, WARM_IMAGES, dtype=torch.float64, device=self.device)
        upright = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64, device=self.device)
        for simulator in filter(None, (self.simulator, self._propagated)):
            simulator.intensity(radius, upright.expand(len(radius), 4))
        if self.method.needs_dictionary:
            dictionary_for(self.simulator)

    def bench(self, grid: ImageSource) -> Bench:
        """The same for the first images of a source, under changing beliefs."""
        device = torch.device(self.device)
        body = self.wanted.body
        bench = Bench(grid, self.method, device, self.networks, self.seed, self.fit_sin_theta, body)
        bench.classifier = self._classifier
        return bench

    def answer(
        self, block: ImageSet, report: Progress = lambda share: None
    ) -> tuple[list[Answer], Problem | None]:
        """The answers for a block, and what its good images were given to the method as."""
        problem = problem_of(block, self.simulator, self.networks, self.seed, self.fit_sin_theta)
        lit = (block.images.numpy() > 0) & problem.images.mask.numpy()
        dark = torch.from_numpy(~lit.reshape(len(block), -1).any(1))
        problems = dict(block.problems)
        for number in block.numbers[dark].tolist():
            problems.setdefault(number, "no signal at usable pixels of the fitted detector range")
        found = misses_of(problem, self._classifier)
        misses = {number: words for number, words in found.items() if number not in problems}
        seen = problem.images.mask if problem.network_mask is None else problem.network_mask
        good = torch.tensor([number not in problems | misses for number in block.numbers.tolist()])
        answers, usable = [], None
        if good.any():
            usable = replace(problem, network_mask=seen, nuisance=self.nuisance)
            if not good.all():  # else no copy
                usable = replace(usable, images=problem.images.subset(good), network_mask=seen[good])
            answers.append(self._fit(usable, report))
            if self._propagated is not None:
                _improve_poor(answers[-1], self._propagated, self._fit, usable)
            if self.facets != FACETS[0]:
                free_facets(answers[-1], usable, FacetOptions(directions=self.facets == FACETS[2]))
            if self.posterior:
                _add_posterior(answers[-1], usable, self._propagated, self.posterior)
            if usable.images.gain is not None:
                answers[-1].nuisance["gain"] = usable.images.gain.clone()
        if misses:
            answers.append(Answer.failed(misses, MISS))
        if problems:
            answers.append(Answer.failed(problems))
        return answers, usable


def _add_posterior(answer: Answer, problem: Problem, propagated: Simulator | None, samples: int) -> None:
    """Sample the posteriors of all images, each with the physics that fitted it, and charge for it."""
    words = answer.physics or [""] * len(answer)
    drawn: list[dict[str, torch.Tensor]] = []
    for word in dict.fromkeys(words):
        rows = torch.tensor([other == word for other in words]).nonzero()[:, 0]
        simulator = propagated if propagated is not None and word == "propagated" else problem.simulator
        images, watch = problem.images.subset(rows), Stopwatch(simulator.device)
        objective = objective_for(images, simulator)
        place = torch.arange(len(images))
        nearest = dictionary_for(simulator).match(
            objective.images[place], objective.mask[place], images.kind, simulator.experiment, STORED_STARTS,
            simulator.body,
        )  # fmt: skip
        fits = Answer(answer.radius_nm[rows], answer.quaternion[rows])
        if answer.hypotheses is not None:
            fits.hypotheses = Hypotheses(*(part[rows] for part in answer.hypotheses))
        found = sample_posterior(objective, starts_of(fits, nearest), samples, problem.seed, images.numbers)
        numbers = images.numbers.repeat_interleave(samples)
        drawn.append({"index": numbers, **found.samples})
        for name, values in found.columns.items():
            column = torch.full((len(answer),), torch.nan, dtype=torch.float64)
            answer.nuisance.setdefault(name, column)[rows] = values
        answer.evaluations[rows] += objective.simulator.evaluations
        spent = [seconds / len(images) for seconds in watch.read()]
        answer.seconds[rows] += spent[0]
        answer.core_seconds[rows] += spent[1]
    answer.samples = {name: torch.cat([part[name] for part in drawn]) for name in drawn[0]}


def _improve_poor(answer: Answer, propagated: Simulator, fit: Fit, problem: Problem) -> None:
    """Fit the images of poor fits by straight rays with propagated waves, and keep what is better.

    Both fits are charged.
    """
    answer.physics = ["straight"] * len(answer)
    rows = torch.tensor([word in (POOR, UNKNOWN) for word in answer.status]).nonzero()[:, 0]
    if not len(rows):
        return
    seen = problem.images.mask if problem.network_mask is None else problem.network_mask
    poor = replace(problem, images=problem.images.subset(rows), simulator=propagated, network_mask=seen[rows])
    other = fit(poor, lambda share: None)
    for name in COSTS:
        getattr(answer, name)[rows] += getattr(other, name)
    taken = (other.objective < answer.objective[rows]).nonzero()[:, 0]
    answer.replace_rows(rows[taken], other, taken)
    for row in rows[taken].tolist():
        answer.physics[row] = "propagated"


def table_of_answer(answer: Answer) -> "pd.DataFrame":
    """All that is kept of an answer: its table, and two columns that users do not see."""
    return answer.to_frame().assign(
        converged=answer.converged.numpy(), core_seconds=answer.core_seconds.double().numpy()
    )


COLUMNS = (
    "index", "radius_nm", "q_w", "q_x", "q_y", "q_z", "radius_std_nm", "orientation_std_deg", "objective",
    "evaluations", "seconds", "status", "converged", "core_seconds", *WORDS,
)  # fmt: skip


def answer_of_table(table: "pd.DataFrame") -> Answer:
    """The answer that :func:`table_of_answer` made the table of."""

    def column(name: Any) -> torch.Tensor:
        return torch.from_numpy(table[name].to_numpy(copy=True))

    quaternion = column([f"q_{axis}" for axis in "wxyz"])
    names = ("radius_std_nm", "orientation_std_deg", "objective", "evaluations", "seconds", "index")
    values: dict[str, Any] = {name: column(name) for name in (*names, "converged", "core_seconds")}
    words = {name: table[name].tolist() for name in WORDS if name in table}
    nuisance = {str(name): column(name) for name in table if name not in COLUMNS}
    return Answer(
        column("radius_nm"), quaternion, **values, **words, nuisance=nuisance,
    )  # fmt: skip


def store_answer(store: PieceStore, name: str, answer: Answer) -> None:
    """Store an answer as the piece ``name``.parquet; its samples first, so that a piece is complete."""
    import pandas as pd

    if answer.samples:
        with store.writing(f"{name}.samples") as path:
            pd.DataFrame({key: values.numpy() for key, values in answer.samples.items()}).to_parquet(path)
    with store.writing(f"{name}.parquet") as path:
        table_of_answer(answer).to_parquet(path)


def read_answer(store: PieceStore, name: str) -> Answer:
    """A stored answer."""
    import pandas as pd

    answer = answer_of_table(pd.read_parquet(store.path(f"{name}.parquet")))
    if store.has(f"{name}.samples"):
        samples = pd.read_parquet(store.path(f"{name}.samples"))
        answer.samples = {str(key): torch.from_numpy(samples[key].to_numpy(copy=True)) for key in samples}
    return answer
