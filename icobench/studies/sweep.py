"""Sweeps: accuracy against one thing that costs simulations.

Every point is one file, written whole or not at all; a rerun computes only what is missing.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from icobench.comparison.methods import Problem
from icobench.datasets.patterns import PatternOptions, PatternSet, generate_patterns
from icobench.errors import InputError
from icobench.fitting.simplex import SimplexOptions, monte_carlo_simplex
from icobench.geometry.orientation import disorientation
from icobench.images.files import atomic_path
from icobench.network.checkpoint import TrainedNetwork
from icobench.network.recipe import Recipe
from icobench.network.selection import Networks, predict
from icobench.network.training import train
from icobench.provenance import provenance
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["AXES", "Sweep"]

AXES: dict[str, tuple[int, ...]] = {
    "dataset": (64, 256, 1024, 4096),
    "starts": (1, 2, 5, 10, 25, 50),
    "iterations": (10, 20, 30, 40, 50),
}
"""Default points: simulated training images, simplex starts, simplex iterations."""

Progress = Callable[[float, str], None]


class Sweep:
    """Points along one axis in a folder.

    Args:
        folder: made if missing.
        axis: a key of :data:`AXES`.
        experiment: physics and grid.
        images: test images per point, the same for all.
        seeds: repetitions of every point.
        recipe: of the networks (axis "dataset" only).
        device: where to work.

    Raises:
        InputError: unknown axis.
    """

    def __init__(
        self,
        folder: Path,
        axis: str,
        experiment: Experiment,
        images: int,
        seeds: int,
        recipe: Recipe,
        device: torch.device,
    ) -> None:
        if axis not in AXES:
            raise InputError(f"unknown axis {axis!r}; choose from {', '.join(AXES)}")
        self.folder, self.axis, self.experiment = Path(folder), axis, experiment
        self.images, self.seeds, self.recipe, self.device = images, seeds, recipe, device
        self.simulator = Simulator(experiment, device=device)
        self.test_set: PatternSet | None = None

    def _tests(self) -> PatternSet:
        if self.test_set is None:
            self.test_set = generate_patterns(
                PatternOptions(self.images), self.experiment, 10**6, self.device
            )
        return self.test_set

    def _file(self, point: int, seed: int) -> Path:
        return self.folder / f"{self.axis}-{point}-images{self.images}-seed{seed}.json"

    def run(self, points: Sequence[int], progress: Progress = lambda share, text: None) -> "pd.DataFrame":
        """Compute missing points and return all of this axis as a table, one row per point and seed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        jobs = [(point, seed) for point in points for seed in range(self.seeds)]
        for number, (point, seed) in enumerate(jobs):
            label = f"{self.axis} {point}, seed {seed}"
            progress(number / len(jobs), label)
            path = self._file(point, seed)
            if path.exists():
                continue

            def inner(share: float, number: int = number, label: str = label) -> None:
                progress((number + share) / len(jobs), label)

            row = self._network(point, seed, inner) if self.axis == "dataset" else self._simplex(
                point, seed, inner
            )  # fmt: skip
            row = {"axis": self.axis, "point": point, "seed": seed, **row}
            with atomic_path(path) as temporary:
                described = {**provenance(seed, self.device, self.experiment), "row": row}
                temporary.write_text(json.dumps(described, indent=1) + "\n")
        return self.collect(points)

    def collect(self, points: Sequence[int]) -> "pd.DataFrame":
        """Table of the stored points."""
        import pandas as pd

        paths = [self._file(point, seed) for point in points for seed in range(self.seeds)]
        rows = [json.loads(path.read_text())["row"] for path in paths if path.exists()]
        return pd.DataFrame(rows)

    def _scores(self, radius: torch.Tensor, quaternion: torch.Tensor) -> dict[str, Any]:
        tests = self._tests()
        angle = disorientation(quaternion.double(), tests.quaternion)
        miss = (radius.double() - tests.radius_nm).abs()
        return {
            "images": len(tests),
            "disorientation_median_deg": float(angle.median()),
            "disorientation_90_deg": float(angle.quantile(0.9)),
            "radius_median_nm": float(miss.median()),
            "success_rate": float(((angle < 1) & (miss < 1)).double().mean()),
        }

    def _simplex(self, point: int, seed: int, progress: Callable[[float], None]) -> dict[str, Any]:
        default = SimplexOptions()
        if self.axis == "starts":
            options = replace(default, starts=point)
        else:
            options = replace(default, iterations=point)
        tests = self._tests()
        problem = Problem(tests.images, tests.mask, tests.kind, self.simulator, seed=seed)
        fit = monte_carlo_simplex(problem.objective(), options, seed, progress=progress)
        return {
            "simulations": float(fit.evaluations.double().mean()),
            **self._scores(fit.radius_nm, fit.quaternion),
        }

    def _network(self, point: int, seed: int, progress: Callable[[float], None]) -> dict[str, Any]:
        recipe = replace(self.recipe, pool=point)
        result = train(
            recipe,
            self.experiment,
            self.folder / f"train-{point}-seed{seed}",
            seed,
            self.device,
            progress=lambda step, steps, loss: progress(step / steps),
        )
        card = {"experiment": self.experiment.to_dict()}
        trained = Networks((TrainedNetwork(result.network, card, recipe, "sweep"),))
        tests = self._tests()
        answer = predict(trained, tests.images, tests.mask, self.experiment, tests.kind)
        return {
            "simulations": point,
            "training_seconds": result.seconds,
            **self._scores(answer.radius_nm, answer.quaternion[:, 0]),
        }
