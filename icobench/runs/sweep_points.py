"""One point of a sweep: a method with the option that the axis varies, and its errors on the test images."""

import json
import time
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icobench.answer import Answer, Progress
from icobench.errors import InputError
from icobench.fitting.dictionary import DictionaryOptions, dictionary_for
from icobench.images.image_set import ImageSet
from icobench.methods import Method, Problem, find_method
from icobench.network.checkpoint import TrainedNetwork
from icobench.network.recipe import Recipe
from icobench.network.selection import Networks, predict
from icobench.network.training import train
from icobench.runs.scoring import bounds_at_truth, errors
from icobench.runs.training_set import read_training_set
from icobench.seeds import Purpose, random_generator
from icobench.sets.own_images import file_digest
from icobench.sets.patterns import generate_patterns
from icobench.sets.test_sets import find_test_set
from icobench.simulator.compiled import prepare_kernel
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

__all__ = ["AXES", "Axis", "SweepSettings", "measure"]

BLOCK = 8
"""Images fitted together: 50 starts each fill a machine."""


class Axis(NamedTuple):
    """What a sweep varies.

    Attributes:
        points: by default; shares of the training set for "dataset".
        seeds: repetitions by default.
        method: by default.
        fixed_images: whether repetitions have the same test images, because something else is random.
    """

    points: str
    seeds: int
    method: str
    fixed_images: bool


AXES = {
    "dataset": Axis("1/64,1/32,1/16,1/8,1/4,1/2,1", 3, "network", True),
    "dictionary": Axis("125,250,500,1000,2000,4000", 3, "dictionary+lm", False),
    "starts": Axis("1,2,5,10,25,50,100", 3, "simplex", True),
    "iterations": Axis("10,20,30,40,50,75,100", 3, "simplex", True),
    "photons": Axis("1e3,1e4,1e5,1e6,1e7", 3, "dictionary+lm", False),
}


@lru_cache(maxsize=8)
def _content(path: Path, modified: int) -> dict[str, str]:
    """Name and content of a file: the same set may lie elsewhere on another machine."""
    return {"file": path.name, "sha256": file_digest(path)}


@dataclass(frozen=True)
class SweepSettings:
    """All that a point's result depends on, but the point and the repetition.

    Attributes:
        axis: a key of :data:`AXES`.
        images: test images per point, the same for all points.
        test_set: name of a test set.
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
        values = asdict(self) | {"experiment": self.experiment.to_dict()}
        values["data"] = None if self.data is None else _content(self.data, self.data.stat().st_mtime_ns)
        return json.loads(json.dumps(values))

    def __hash__(self) -> int:
        return hash(repr(self))

    def varied(self, point: int) -> Method:
        """The method that is measured at a point."""
        changes: dict[str, Any] = {}
        if self.axis in ("starts", "iterations"):
            changes = {"starts": self.starts, "iterations": self.iterations, self.axis: point}
        if self.axis == "dictionary":
            # The race of stored patterns would hide a poor dictionary.
            changes = {"dictionary": point, "rescue": False}
        return find_method(self.method).with_options(**changes)


@lru_cache(maxsize=2)
def _tests(settings: SweepSettings, seed: int, photons: int | None, device: str) -> ImageSet:
    options = find_test_set(settings.test_set).options(settings.images, photons)
    return generate_patterns(options, settings.experiment, seed, device)


class _Reconstructed(NamedTuple):
    """Radii (N,), orientations (N, 4) and evaluations (N,), and what was spent before the first image."""

    radius_nm: Tensor
    quaternion: Tensor
    evaluations: Tensor
    fixed_simulations: int = 0
    fixed_seconds: float = 0.0
    fixed_core_seconds: float = 0.0


def _fit(
    settings: SweepSettings, point: int, seed: int, tests: ImageSet, simulator: Simulator, progress: Progress
) -> _Reconstructed:
    """With the method of the point, block by block."""
    method = settings.varied(point)
    networks = method.load_networks(None, simulator.device)
    if networks is not None:
        networks = networks.choose(settings.experiment, tests.kind)
    fixed: tuple[int, float, float] = (0, 0.0, 0.0)
    if settings.axis == "dictionary":
        card = dictionary_for(simulator, DictionaryOptions(point)).card
        fixed = card["simulations"], card["seconds"], card["core_seconds"]
    answers: list[Answer] = []
    for rows in torch.arange(len(tests)).split(BLOCK):

        def report(part: float, first: int = int(rows[0]), count: int = len(rows)) -> None:
            progress((first + part * count) / len(tests))

        answers.append(method.run(Problem(tests.subset(rows), simulator, networks, seed), report))
    # The axes of the simplex count its own simulations, without those of the judgement that follows.
    of_fit = settings.axis in ("starts", "iterations")
    spent = [answer.trace.evaluations[-1] if of_fit else answer.evaluations for answer in answers]
    return _Reconstructed(
        torch.cat([answer.radius_nm for answer in answers]),
        torch.cat([answer.quaternion for answer in answers]),
        torch.cat(spent), *fixed,
    )  # fmt: skip


def portion(images: ImageSet, count: int, seed: int) -> ImageSet:
    """The first ``count`` images in an order of the seed alone: smaller portions lie in larger ones.

    Raises:
        InputError: the set has fewer images.
    """
    if count > len(images):
        raise InputError(f"a portion of {count} images of a training set that has {len(images)}")
    order = random_generator(seed, Purpose.PORTION).permutation(len(images))
    return images.subset(torch.as_tensor(order[:count]))


def _train(
    settings: SweepSettings, point: int, seed: int, tests: ImageSet, simulator: Simulator,
    progress: Progress, folder: Path,
) -> _Reconstructed:  # fmt: skip
    """With a network that has learnt from ``point`` images."""
    recipe = settings.recipe
    assert recipe is not None
    data = held_out = None
    if settings.data is None:
        # The test images have the experiment's own refractive index.
        recipe = replace(recipe, pool=point, default_index_share=1.0)
    else:
        stored = read_training_set(settings.data, recipe.decades)
        stored.require(settings.experiment)
        data, held_out = portion(stored.train, point, seed), stored.held_out
    result = train(
        recipe, settings.experiment, folder, seed, simulator.device, data=data, held_out=held_out,
        progress=progress,
    )  # fmt: skip
    card = {"experiment": settings.experiment.to_dict()}
    trained = Networks((TrainedNetwork(result.network, card, recipe, "sweep"),))
    answer = predict(trained, tests)
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    nothing = torch.zeros(len(tests))
    costs = point, result.seconds, result.core_seconds
    return _Reconstructed(answer.radius_nm, answer.quaternion, nothing, *costs)


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
    prepare_kernel(torch.device(device))
    seed = settings.seed + repetition
    images_seed = settings.seed if AXES[settings.axis].fixed_images else seed
    tests = _tests(settings, images_seed, point if settings.axis == "photons" else None, device)
    simulator = Simulator(settings.experiment, device=device)
    begin = time.perf_counter()
    if settings.axis == "dataset":
        answer = _train(settings, point, seed, tests, simulator, progress, folder)
    else:
        answer = _fit(settings, point, seed, tests, simulator, progress)
    seconds = time.perf_counter() - begin
    result = {
        "point": point,
        "repetition": repetition,
        "fixed_simulations": answer.fixed_simulations,
        "fixed_seconds": round(answer.fixed_seconds, 3),
        "fixed_core_seconds": round(answer.fixed_core_seconds, 3),
        "seconds": round(seconds, 3),
        "evaluations": answer.evaluations.tolist(),
    }
    miss = errors(answer.radius_nm.cpu(), answer.quaternion.cpu(), tests)
    result |= {name: values.tolist() for name, values in miss.items()}
    if tests.kind == "counts":
        radius, turn = bounds_at_truth(tests, simulator)
        result |= {"bound_radius_nm": radius.tolist(), "bound_orientation_deg": turn.tolist()}
    return result
