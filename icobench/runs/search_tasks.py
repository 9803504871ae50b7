"""What a search tries: settings of the simplex or training recipes, on the same images in every trial."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from icobench.answer import SOLVED_DEG, SOLVED_NM, solved
from icobench.images.image_set import ImageSet
from icobench.methods import Problem, find_method
from icobench.network.architectures import Network
from icobench.network.checkpoint import TrainedNetwork
from icobench.network.recipe import Recipe
from icobench.network.selection import Networks, predict
from icobench.network.training import train
from icobench.runs.scoring import errors
from icobench.sets.patterns import generate_patterns
from icobench.sets.test_sets import find_test_set
from icobench.simulator.compiled import prepare_kernel
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from icobench.stopwatch import Stopwatch

if TYPE_CHECKING:
    import optuna

__all__ = ["BLOCK", "RUNGS", "NetworkTask", "SimplexTask", "simplex_options"]

BLOCK = 8
"""Images of a simplex trial that are fitted together; a trial may be pruned after each block."""

RACE_TOLERANCE_DEG = 0.02
"""As in the method simplex-race; the paper's simplices do all their iterations."""

RUNGS = 9
"""Parts of the training budget after which a network is judged: Hyperband's unit of resource."""

JUDGED_ON = {"clean": "clean", "counts": "counting", "realistic": "realistic", "augmented": "realistic"}
"""Test set by the images that a recipe trains on."""

VALIDATION_SEED = 10**6
"""Added to the seed of the training for that of the validation images."""

Report = Callable[[int, float], None]
"""Called with a step and its value; may raise ``optuna.TrialPruned``."""

Note = Callable[[dict[str, float]], None]


def _costs(watch: Stopwatch, simulations: int) -> dict[str, float]:
    """What a trial has cost so far."""
    return dict(zip(("seconds", "core_seconds"), watch.read(), strict=True)) | {"simulations": simulations}


@lru_cache(maxsize=1)
def _test_images(name: str, count: int, experiment: Experiment, seed: int, device: str) -> ImageSet:
    prepare_kernel(torch.device(device))
    return generate_patterns(find_test_set(name).options(count), experiment, seed, device)


def simplex_options(values: dict[str, Any], budget: int) -> dict[str, Any]:
    """The options of the method simplex-race that a trial's values mean.

    Every round, and the iterations after the last one, get an equal part of the budget.

    Args:
        values: starts, rounds, keep, rotation_deg, radius_nm; and budget, if the search varies it.
        budget: Nelder-Mead iterations for an image, of all its simplices together.
    """
    count, part = int(values["starts"]), values.get("budget", budget) / (values["rounds"] + 1)
    rounds = []
    for _ in range(values["rounds"]):
        iterations = max(1, round(part / count))
        count = max(1, round(count * values["keep"]))
        rounds.append((iterations, count))
    return {
        "starts": int(values["starts"]), "rounds": tuple(rounds), "iterations": max(1, round(part / count)),
        "rotation_deg": values["rotation_deg"], "radius_nm": values["radius_nm"],
        "angle_tolerance_deg": RACE_TOLERANCE_DEG if rounds else 0.0,
    }  # fmt: skip


@dataclass(frozen=True)
class SimplexTask:
    """Images and budget of a search for settings of the simplex.

    The loss of an image is the common logarithm of its error in units of what counts as solved, the
    larger of disorientation over 1 degree and radius error over 1 nm, kept in -2 to 2.

    Attributes:
        images: in a trial.
        test_set: name of a test set.
        budget: Nelder-Mead iterations for an image where the search does not vary them.
        seed: of images and random starts.
        experiment: physics and grid.
    """

    images: int
    test_set: str
    budget: int
    seed: int
    experiment: Experiment

    kind: ClassVar = "simplex"
    accuracy: ClassVar = "mean log10 of the error over 1 deg and 1 nm"
    cost: ClassVar = "simulations per image"
    prune_every: ClassVar = BLOCK

    @property
    def identity(self) -> dict[str, Any]:
        """All that a trial's values depend on, except the search space."""
        return {**asdict(self), "experiment": self.experiment.to_dict()}

    def pruner(self) -> "optuna.pruners.BasePruner":
        """A Wilcoxon test over the images, against the best trial."""
        import optuna

        return optuna.pruners.WilcoxonPruner(p_threshold=0.1, n_startup_steps=BLOCK)

    def evaluate(
        self, values: dict[str, Any], folder: Path, device: str, report: Report, note: Note
    ) -> tuple[float, float]:
        """Mean loss and mean number of simulations per image.

        Args:
            values: of the search space.
            folder: for files of the trial; not used.
            device: where to simulate.
            report: called with every image's number and loss.
            note: called with what the trial has cost so far, and its success rate.
        """
        images = _test_images(self.test_set, self.images, self.experiment, self.seed, device)
        simulator = Simulator(self.experiment, device=device)
        method = find_method("simplex-race").with_options(**simplex_options(values, self.budget))
        watch = Stopwatch(torch.device(device))
        losses: list[float] = []
        simulations = successes = 0
        for rows in torch.arange(len(images)).split(BLOCK):
            block = images.subset(rows)
            answer = method.run(Problem(block, simulator, seed=self.seed))
            miss = errors(answer.radius_nm, answer.quaternion, block)
            turn, radius = miss["disorientation_deg"], miss["radius_error_nm"]
            block_losses = torch.maximum(turn / SOLVED_DEG, radius / SOLVED_NM).log10().clamp(-2.0, 2.0)
            losses += block_losses.tolist()
            # The simplices' own, without those of the judgement that follows.
            simulations += int(answer.trace.evaluations[-1].sum())
            successes += int(solved(turn, radius).sum())
            rates = {"success_rate": successes / len(losses), "evaluations": simulations / len(losses)}
            note({**_costs(watch, simulations), "images": len(losses), **rates})
            for number in rows.tolist():
                report(number, losses[number])
        return sum(losses) / len(losses), simulations / len(losses)

    def preset(self, values: dict[str, Any], search: dict[str, Any]) -> dict[str, Any]:
        """A file for ``icobench compare --config`` that compares the settings with the package's own."""
        return {
            "images": self.images,
            "test_sets": [self.test_set],
            "methods": ["simplex", "simplex-race", "simplex-tuned"],
            "define": {"simplex-tuned": {**simplex_options(values, self.budget), "search": search}},
        }


@dataclass(frozen=True)
class NetworkTask:
    """Validation images and training budget of a search for a recipe.

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

    kind: ClassVar = "network"
    accuracy: ClassVar = "median disorientation (deg)"
    cost: ClassVar = "training core-seconds"
    prune_every: ClassVar = 1

    @property
    def identity(self) -> dict[str, Any]:
        """All that a trial's values depend on, except the search space."""
        return {**asdict(self), "experiment": self.experiment.to_dict()}

    def pruner(self) -> "optuna.pruners.BasePruner":
        """Hyperband over the parts of the training."""
        import optuna

        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=RUNGS, reduction_factor=3)

    def varied(self, values: dict[str, Any]) -> Recipe:
        """The recipe with a trial's values, whose names an InputError refuses where a recipe lacks them."""
        recipe, options = asdict(self.recipe), {}
        for name, value in values.items():
            if name.startswith("network."):
                options[name.removeprefix("network.")] = value
            elif name != "budget_share":
                recipe[name] = value
        if recipe["architecture"] == self.recipe.architecture:
            options = {**self.recipe.network, **options}
        budget = self.recipe.steps * self.recipe.batch * values.get("budget_share", 1.0)
        steps = max(1, round(budget / recipe["batch"]))
        return Recipe.from_dict({**recipe, "network": options, "steps": steps})

    def evaluate(
        self, values: dict[str, Any], folder: Path, device: str, report: Report, note: Note
    ) -> tuple[float, float]:
        """Median disorientation in degrees, and core-seconds of training.

        Arguments as for the simplex; steps are ninths of the training, and ``folder`` is for its files.

        Raises:
            DivergedError: loss, gradient or weights became infinite or NaN.
        """
        recipe, seed = self.varied(values), self.seed + VALIDATION_SEED
        images = _test_images(JUDGED_ON[self.recipe.images], self.images, self.experiment, seed, device)
        watch_steps = max(1, recipe.steps // RUNGS)
        watch = Stopwatch(torch.device(device))

        def median_error(network: Network) -> float:
            card = {"experiment": self.experiment.to_dict()}
            networks = Networks((TrainedNetwork(network.eval(), card, recipe, "trial"),))
            answer = predict(networks, images)
            return float(errors(answer.radius_nm, answer.quaternion, images)["disorientation_deg"].median())

        def judge(step: int, loss: float, network: Network) -> None:
            if step % watch_steps:
                return
            simulations = step * recipe.batch // recipe.variants
            simulations = min(simulations, recipe.pool or simulations)
            note(_costs(watch, simulations))
            if (rung := step // watch_steps) < RUNGS:
                report(rung, median_error(network))

        try:
            result = train(recipe, self.experiment, folder, self.seed, device, report=judge)
        finally:
            (folder / "checkpoint.pt").unlink(missing_ok=True)
        error = median_error(result.network)
        note(_costs(watch, result.simulations))
        report(RUNGS, error)
        return error, result.core_seconds

    def preset(self, values: dict[str, Any], search: dict[str, Any]) -> dict[str, Any]:
        """A file for ``icobench train --config``."""
        return {**self.varied(values).to_dict(), "search": search}
