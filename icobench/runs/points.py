"""One point of a sweep: what is set up at this value of the axis, and how well it does on the test images."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icobench.runs.evaluation import evaluation_set
from icobench.methods import Problem, find_method
from icobench.methods.base import fitted
from icobench.methods.hybrids import OPTIONS, REFINEMENTS
from icobench.sets.test_sets import find_test_set
from icobench.sets.patterns import PatternSet, generate_patterns
from icobench.sets.training_data import training_data
from icobench.errors import InputError
from icobench.fitting.dictionary import DictionaryOptions, build_dictionary
from icobench.fitting.simplex import SimplexOptions, monte_carlo_simplex
from icobench.fitting.uncertainty import cramer_rao
from icobench.fitting.warm_start import judge
from icobench.geometry.orientation import appendix_c_errors, disorientation
from icobench.network.checkpoint import TrainedNetwork
from icobench.network.recipe import Recipe
from icobench.network.selection import Networks, load_network, predict
from icobench.network.training import train
from icobench.simulator.compiled import prepare_kernel
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

__all__ = ["SweepSettings", "measure"]

BLOCK = 8
"""Images fitted together: 50 starts each fill a machine."""

LOG_SET = "realistic"
"""The one test set of log images, under the realistic chain of flaws."""

Progress = Callable[[float], None]


@dataclass(frozen=True)
class SweepSettings:
    """All that a point's result depends on, but the point and the repetition.

    Attributes:
        axis: a key of :data:`~icobench.runs.sweep.AXES`.
        images: test images per point, the same for all points.
        test_set: a key of :data:`~icobench.sets.test_sets.TEST_SETS`, or "realistic" for log images.
        seed: of the test images; repetitions take the next ones, of images or of what is random.
        method: that is measured.
        starts, iterations: of the simplex, where the axis is not them.
        recipe: of the networks, None for other axes.
        data: set to train on portions of, None to simulate.
        experiment: physics and grid.
    """

    axis: str
    images: int
    test_set: str
    seed: int
    method: str
    starts: int
    iterations: int
    recipe: Recipe | None
    data: Path | None
    experiment: Experiment

    @property
    def identity(self) -> dict[str, Any]:
        """As JSON gives it back."""
        import json

        found = asdict(self) | {"experiment": self.experiment.to_dict()}
        found["data"] = None if self.data is None else str(self.data)
        return json.loads(json.dumps(found))

    def __hash__(self) -> int:
        return hash(repr(self))

    @property
    def fixed_images(self) -> bool:
        """Whether repetitions have the same test images: where something else is random."""
        return self.axis in ("dataset", "starts", "iterations")


@lru_cache(maxsize=2)
def _tests(settings: SweepSettings, seed: int, photons: int | None, device: str) -> PatternSet:
    if settings.test_set == LOG_SET:
        return evaluation_set(LOG_SET, settings.images, settings.experiment, seed, device)
    options = find_test_set(settings.test_set).options(settings.images, photons)
    return generate_patterns(options, settings.experiment, seed, device)


@dataclass
class _Answer:
    radius_nm: Tensor
    quaternion: Tensor
    evaluations: Tensor
    fixed_simulations: int = 0
    fixed_seconds: float = 0.0


Fit = Callable[[Problem, Progress], tuple[Tensor, Tensor, Tensor]]


def _in_blocks(tests: PatternSet, simulator: Simulator, seed: int, fit: Fit, progress: Progress,
               networks: Networks | None = None) -> _Answer:  # fmt: skip
    found = []
    for rows in torch.arange(len(tests)).split(BLOCK):
        own = tests.subset(rows)
        problem = Problem(own.images, own.mask, own.kind, simulator, networks, seed, rows)
        before, count = int(rows[0]), len(rows)

        def inner(part: float, before: int = before, count: int = count) -> None:
            progress((before + part * count) / len(tests))

        found.append(fit(problem, inner))
    radius, quaternion, evaluations = (torch.cat(part) for part in zip(*found, strict=True))
    return _Answer(radius, quaternion, evaluations)


def _simplex(settings: SweepSettings, point: int, seed: int, tests: PatternSet, simulator: Simulator,
             progress: Progress) -> _Answer:  # fmt: skip
    starts = point if settings.axis == "starts" else settings.starts
    iterations = point if settings.axis == "iterations" else settings.iterations
    options = SimplexOptions(starts=starts, iterations=iterations)

    def fit(problem: Problem, progress: Progress) -> tuple[Tensor, Tensor, Tensor]:
        done = monte_carlo_simplex(problem.objective(), options, seed, problem.numbers, progress)
        return done.radius_nm, done.quaternion, done.evaluations

    return _in_blocks(tests, simulator, seed, fit, progress)


def _dictionary(settings: SweepSettings, point: int, seed: int, tests: PatternSet, simulator: Simulator,
                progress: Progress) -> _Answer:  # fmt: skip
    """Fits from the nearest of ``point`` patterns, without the race that would hide a poor dictionary."""
    refine = {f"dictionary+{name}": function for name, _, function, _ in REFINEMENTS}[settings.method]
    stored = build_dictionary(simulator, DictionaryOptions(point), lambda share: progress(0.5 * share))

    def fit(problem: Problem, progress: Progress) -> tuple[Tensor, Tensor, Tensor]:
        objective = problem.objective()
        found = stored.match(
            objective.images, objective.mask, problem.kind, simulator.experiment, OPTIONS.candidates
        )
        verdict = judge(objective, found.radius_nm, found.quaternion, refine, progress=progress)
        done = fitted(objective, verdict)
        return done.radius_nm, done.quaternion, done.evaluations

    answer = _in_blocks(tests, simulator, seed, fit, lambda share: progress(0.5 + 0.5 * share))
    answer.fixed_simulations, answer.fixed_seconds = stored.card["simulations"], stored.card["seconds"]
    return answer


def _photons(settings: SweepSettings, point: int, seed: int, tests: PatternSet, simulator: Simulator,
             progress: Progress) -> _Answer:  # fmt: skip
    method = find_method(settings.method)
    networks = None
    if method.needs_network:
        networks = load_network(None, simulator.device).subset(settings.experiment, tests.kind)

    def fit(problem: Problem, progress: Progress) -> tuple[Tensor, Tensor, Tensor]:
        done = method.run(problem, progress)
        return done.radius_nm, done.quaternion, done.evaluations

    return _in_blocks(tests, simulator, seed, fit, progress, networks)


def _portion(data: tuple[Tensor, Tensor, Tensor], count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first ``count`` in an order of the seed alone: smaller portions lie in larger."""
    total = len(data[1])
    if count > total:
        raise InputError(f"a portion of {count} images of a training set that has {total}")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(10,)))
    rows = torch.as_tensor(rng.permutation(total)[:count])
    return data[0][rows], data[1][rows], data[2][rows]


def _network(settings: SweepSettings, point: int, seed: int, tests: PatternSet, simulator: Simulator,
             progress: Progress, folder: Path) -> _Answer:  # fmt: skip
    recipe = settings.recipe
    assert recipe is not None
    data = held_out = None
    if settings.data is None:
        # The test images have the experiment's own refractive index.
        recipe = replace(recipe, pool=point, default_index_share=1.0)
    else:
        whole, held_out = training_data(settings.data, recipe.decades, settings.experiment)
        data = _portion(whole, point, seed)
    result = train(
        recipe, settings.experiment, folder, seed, simulator.device, data=data, held_out=held_out,
        progress=lambda step, steps, loss: progress(step / steps),
    )  # fmt: skip
    card = {"experiment": settings.experiment.to_dict()}
    trained = Networks((TrainedNetwork(result.network, card, recipe, "sweep"),))
    answer = predict(trained, tests.images, tests.mask, settings.experiment, tests.kind)
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    return _Answer(
        answer.radius_nm.cpu(), answer.quaternion[:, 0].cpu(), torch.zeros(len(tests)), point, result.seconds
    )


def _bounds(tests: PatternSet, simulator: Simulator) -> dict[str, list[float]]:
    """Cramer-Rao bounds at the truth; nothing where there is no photon noise."""
    if tests.kind != "counts":
        return {}
    parts = []
    for rows in torch.arange(len(tests)).split(64):
        own = tests.subset(rows)
        objective = Problem(own.images, own.mask, own.kind, simulator).objective()
        parts.append(cramer_rao(objective, own.radius_nm, own.quaternion))
    radius, turn = (torch.cat(part) for part in zip(*parts, strict=True))
    return {"bound_radius_nm": radius.tolist(), "bound_orientation_deg": turn.tolist()}


def measure(
    settings: SweepSettings,
    point: int,
    repetition: int,
    folder: Path,
    device: str = "cpu",
    progress: Progress = lambda share: None,
) -> dict[str, Any]:
    """Set up, reconstruct the test images, and score.

    Args:
        settings: of the sweep.
        point: value on the axis.
        repetition: counted from 0.
        folder: where a training keeps its checkpoint and weights.
        device: where to work.
        progress: called with the finished share.

    Returns:
        point, repetition, costs, and a list over the test images of every error, evaluations and bounds.
    """
    where = torch.device(device)
    prepare_kernel(where)
    seed = settings.seed + repetition
    images_seed = settings.seed if settings.fixed_images else seed
    photons = point if settings.axis == "photons" else None
    tests = _tests(settings, images_seed, photons, device)
    simulator = Simulator(settings.experiment, device=where)
    begin = time.perf_counter()
    if settings.axis == "dataset":
        answer = _network(settings, point, seed, tests, simulator, progress, folder)
    else:
        work = {"photons": _photons, "dictionary": _dictionary}.get(settings.axis, _simplex)
        answer = work(settings, point, seed, tests, simulator, progress)
    seconds = time.perf_counter() - begin
    radius, quaternion = answer.radius_nm.double(), answer.quaternion.double()
    mean, largest = appendix_c_errors(radius, quaternion, tests.radius_nm, tests.quaternion)
    return {
        "point": point,
        "repetition": repetition,
        "fixed_simulations": answer.fixed_simulations,
        "fixed_seconds": round(answer.fixed_seconds, 3),
        "seconds": round(seconds, 3),
        "evaluations": answer.evaluations.tolist(),
        "disorientation_deg": disorientation(quaternion, tests.quaternion).tolist(),
        "radius_error_nm": (radius - tests.radius_nm).abs().tolist(),
        "appendix_c_mean": mean.tolist(),
        "appendix_c_max": largest.tolist(),
        **_bounds(tests, simulator),
    }
