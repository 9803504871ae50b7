"""What a search of the simplex tries: one setting on the same images, with the same random starts."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from icobench.methods import Problem
from icobench.sets.test_sets import find_test_set
from icobench.sets.patterns import PatternSet, generate_patterns
from icobench.fitting.race import RaceOptions, simplex_race
from icobench.fitting.simplex import SimplexOptions
from icobench.geometry.orientation import disorientation
from icobench.simulator.compiled import prepare_kernel
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

__all__ = ["SimplexTask", "race_options"]

BLOCK = 8

LOSS_RANGE = (-2.0, 2.0)

RACE_TOLERANCE_DEG = 0.02
"""As the method simplex-race; the paper's simplices do all their iterations."""

Report = Callable[[int, float], None]
Note = Callable[[dict[str, float]], None]


def race_options(values: dict[str, Any], budget: int) -> RaceOptions:
    """The fit that a trial's values mean: every round and the end have an equal part of the budget.

    Args:
        values: starts, rounds, keep, rotation_deg, radius_nm.
        budget: Nelder-Mead iterations for an image, of all its simplices together.
    """
    count, part = int(values["starts"]), budget / (values["rounds"] + 1)
    rounds = []
    for _ in range(values["rounds"]):
        steps = max(1, round(part / count))
        count = max(1, round(count * values["keep"]))
        rounds.append((steps, count))
    simplex = SimplexOptions(
        starts=int(values["starts"]), rotation_deg=values["rotation_deg"], radius_nm=values["radius_nm"],
        angle_tolerance_deg=RACE_TOLERANCE_DEG if rounds else 0.0,
    )  # fmt: skip
    return RaceOptions(simplex, tuple(rounds), max(1, round(part / count)))


@lru_cache(maxsize=1)
def _tests(task: "SimplexTask", device: str) -> tuple[PatternSet, Simulator]:
    options = find_test_set(task.test_set).options(task.images)
    prepare_kernel(torch.device(device))
    return (
        generate_patterns(options, task.experiment, task.seed, device),
        Simulator(task.experiment, device=device),
    )


@dataclass(frozen=True)
class SimplexTask:
    """A search's images and budget.

    The loss of an image is the common logarithm of its error in units of what counts as solved, the
    larger of disorientation over 1 degree and radius error over 1 nm, kept in -2 to 2.

    Attributes:
        images: in a trial.
        test_set: a key of :data:`~icobench.sets.test_sets.TEST_SETS`.
        budget: Nelder-Mead iterations for an image where the search does not vary them.
        seed: of images and random starts.
        experiment: physics and grid.
    """

    images: int
    test_set: str
    budget: int
    seed: int
    experiment: Experiment

    cost = "simulations per image"
    accuracy = "mean log10 of the error over 1 deg and 1 nm"

    @property
    def identity(self) -> dict[str, Any]:
        """All that a trial's values depend on, but the search space."""
        return {**asdict(self), "experiment": self.experiment.to_dict()}

    def evaluate(
        self, values: dict[str, Any], folder: Path, device: str, report: Report, note: Note
    ) -> tuple[float, float]:
        """Mean loss and mean evaluations per image.

        Args:
            values: of the search space.
            folder: for files of the trial; not used.
            device: where to simulate.
            report: called with every image's number and loss; may raise to stop.
            note: called with seconds, simulations and success rate so far.
        """
        tests, simulator = _tests(self, device)
        options = race_options(values, values.get("budget", self.budget))
        begin = time.perf_counter()
        losses, spent, solved = [], 0, 0
        for rows in torch.arange(len(tests)).split(BLOCK):
            own = tests.subset(rows)
            problem = Problem(own.images, own.mask, own.kind, simulator, seed=self.seed, numbers=rows)
            fit = simplex_race(problem.objective(), options, self.seed, rows)
            turn = disorientation(fit.quaternion.double(), own.quaternion)
            worst = torch.maximum(turn, (fit.radius_nm.double() - own.radius_nm).abs())
            block = worst.log10().clamp(*LOSS_RANGE).tolist()
            losses += block
            spent += int(fit.evaluations.sum())
            solved += int((worst < 1).sum())
            note(
                {
                    "seconds": time.perf_counter() - begin, "simulations": spent, "images": len(losses),
                    "success_rate": solved / len(losses), "evaluations": spent / len(losses),
                }
            )  # fmt: skip
            for number, loss in zip(rows.tolist(), block, strict=True):
                report(number, loss)
        return sum(losses) / len(losses), spent / len(losses)

    def preset(self, values: dict[str, Any], search: dict[str, Any]) -> dict[str, Any]:
        """A file for ``icobench compare --config`` that puts the setting beside the package's own."""
        options = race_options(values, values.get("budget", self.budget))
        return {
            "images": self.images,
            "test_sets": [self.test_set],
            "methods": ["simplex", "simplex-race", "simplex-tuned"],
            "define": {
                "simplex-tuned": {
                    "starts": options.simplex.starts, "rounds": [list(one) for one in options.rounds],
                    "iterations": options.iterations, "rotation_deg": options.simplex.rotation_deg,
                    "radius_nm": options.simplex.radius_nm,
                    "angle_tolerance_deg": options.simplex.angle_tolerance_deg, "search": search,
                }
            },
        }  # fmt: skip
