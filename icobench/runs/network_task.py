"""What a search of the network tries: one recipe at a fixed training budget, judged on the same images."""

from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from icobench.runs.evaluation import evaluation_set
from icobench.sets.patterns import PatternSet
from icobench.geometry.orientation import disorientation
from icobench.network.architectures import Network
from icobench.network.checkpoint import TrainedNetwork
from icobench.network.recipe import Recipe
from icobench.network.selection import Networks, predict
from icobench.network.training import train
from icobench.simulator.compiled import prepare_kernel
from icobench.simulator.experiment import Experiment
from icobench.runs.simplex_task import Note, Report

__all__ = ["RUNGS", "NetworkTask"]

RUNGS = 9
"""Parts of the budget after which a network is looked at: Hyperband's unit of resource."""

JUDGED_ON = {"clean": "clean", "counts": "counting", "realistic": "realistic", "augmented": "realistic"}

APART = 10**6
"""Between the seeds of training and of validation images, for readers; their streams are apart anyway."""


@lru_cache(maxsize=1)
def _tests(task: "NetworkTask", device: str) -> PatternSet:
    prepare_kernel(torch.device(device))
    name = JUDGED_ON[task.recipe.images]
    return evaluation_set(name, task.images, task.experiment, task.seed + APART, device)


@dataclass(frozen=True)
class NetworkTask:
    """A search's validation images and training budget.

    Attributes:
        images: validation images.
        recipe: what is varied; the budget is its steps times its batch, in training images.
        seed: of training and validation images.
        experiment: physics and grid.
    """

    images: int
    recipe: Recipe
    seed: int
    experiment: Experiment

    cost = "training seconds"
    accuracy = "median disorientation (deg)"

    def __hash__(self) -> int:
        return hash(repr(self))

    @property
    def identity(self) -> dict[str, Any]:
        """All that a trial's values depend on, but the search space."""
        return {**asdict(self), "experiment": self.experiment.to_dict()}

    def varied(self, values: dict[str, Any]) -> Recipe:
        """The recipe with a trial's values.

        Raises:
            InputError: a name that is no recipe's.
        """
        own = {name: value for name, value in values.items() if "." not in name and name != "budget_share"}
        options = {
            name.split(".", 1)[1]: value for name, value in values.items() if name.startswith("network.")
        }
        same = own.get("architecture", self.recipe.architecture) == self.recipe.architecture
        network = {**(self.recipe.network if same else {}), **options}
        batch = own.get("batch", self.recipe.batch)
        budget = self.recipe.steps * self.recipe.batch * values.get("budget_share", 1.0)
        return Recipe.from_dict(
            {**asdict(self.recipe), **own, "network": network, "steps": max(1, round(budget / batch))}
        )

    def evaluate(
        self, values: dict[str, Any], folder: Path, device: str, report: Report, note: Note
    ) -> tuple[float, float]:
        """Median disorientation in degrees, and training seconds.

        Args:
            values: of the search space.
            folder: for training's files.
            device: where to train.
            report: called with the number of ninths of the budget and the error then; may raise to stop.
            note: called with seconds and simulations so far.

        Raises:
            DivergedError: loss, gradient or weights became infinite or NaN.
        """
        import time

        tests = _tests(self, device)
        recipe = self.varied(values)
        watch_steps = max(1, recipe.steps // RUNGS)
        begin = time.perf_counter()

        def error_of(network: Network) -> float:
            card = {"experiment": self.experiment.to_dict()}
            trained = Networks((TrainedNetwork(network.eval(), card, recipe, "trial"),))
            answer = predict(trained, tests.images, tests.mask, self.experiment, tests.kind)
            return float(disorientation(answer.quaternion[:, 0].cpu(), tests.quaternion).median())

        def watch(step: int, network: Network) -> None:
            simulated = step * recipe.batch // recipe.variants
            note(
                {
                    "seconds": time.perf_counter() - begin,
                    "simulations": min(simulated, recipe.pool or simulated),
                }
            )
            rung = step // watch_steps
            if rung < RUNGS:
                report(rung, error_of(network))

        try:
            result = train(
                recipe, self.experiment, folder, self.seed, device, watch=watch, watch_steps=watch_steps
            )
        finally:
            (folder / "checkpoint.pt").unlink(missing_ok=True)
        note({"seconds": time.perf_counter() - begin, "simulations": result.simulations})
        value = error_of(result.network)
        report(RUNGS, value)
        return value, result.seconds

    def preset(self, values: dict[str, Any], search: dict[str, Any]) -> dict[str, Any]:
        """A file for ``icobench train --config``."""
        recipe = self.varied({**values, "budget_share": values.get("budget_share", 1.0)})
        known = {name: value for name, value in recipe.to_dict().items() if value is not None}
        return {**known, "search": search}
