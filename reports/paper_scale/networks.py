"""Stage 3: the paper's network to its plateau, the compact one, and the largest that pays off."""

import csv
import shutil
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from icobench.images.image_set import ImageSet
from icobench.network.architectures import build_network
from icobench.network.checkpoint import load_trained, read_weights, save_network
from icobench.network.recipe import Recipe
from icobench.network.selection import Networks
from icobench.network.stream import AHEAD
from icobench.network.training import TrainingResult, train
from icobench.reporting.evaluation import Evaluated, summarise, write_evaluation
from icobench.runs.evaluation import evaluate, speed
from icobench.runs.training_set import TrainingSet, read_training_set
from icobench.sets.pattern_file import read_patterns
from icobench.sets.patterns import generate_patterns
from icobench.sets.test_sets import find_test_set
from paper_scale.data import data_set
from paper_scale.stage import OutOfTime, Part, Piece, Run, Stage

__all__ = [
    "compact_network",
    "exported",
    "fresh_images",
    "larger_network",
    "pace",
    "paper_network",
    "summary",
]

TEST_SEED = 40_000
LIMIT_MIB = 12.0
PAYS_OFF = 0.95
"""A larger network pays off if its median disorientation is at most this share of the next smaller one's."""

CHECKPOINT_MINUTES = 1.5
LEAST_STEPS = 20
CHOICE = "largest that pays off"
EXPORTS = {"compact-network": "export compact", "larger-network": "export"}
"""Pieces that export a network, by stage."""


def weights_of(stage: Stage, name: str) -> Path:
    """Where a network's weights lie while this machine has them."""
    return stage.work / f"train-{name}" / "network.safetensors"


def exported(run: Run, name: str) -> Path:
    """Where a network's exported weights lie."""
    return (run.out if run.scale.export else run.work) / f"{name}.safetensors"


def pace(stage: Stage, recipe: Recipe, minutes: float, name: str) -> dict[str, Any]:
    """Seconds of a step on this device, and how many steps it does in the given minutes."""
    times: list[float] = []
    folder = stage.work / f"probe-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    # One step, then four blocks of those whose bodies are simulated together. The first block compiles,
    # the second is timed; from the third on it settles, which compiles again, and the fourth is timed.
    ahead = AHEAD[stage.run.device.type]
    steps = 1 + 4 * ahead
    short = replace(recipe, steps=steps, settle_share=2 * ahead / steps, patience=None)
    train(short, stage.run.experiment, folder, stage.run.seed, stage.run.device,
          report=lambda step, loss, network: times.append(time.perf_counter()))  # fmt: skip
    early = (times[2 * ahead] - times[ahead]) / ahead
    late = (times[-1] - times[-1 - ahead]) / ahead
    mean = (1 - recipe.settle_share) * early + recipe.settle_share * late
    return {"seconds_per_step": mean, "steps": max(LEAST_STEPS, int(60 * minutes / mean))}


def _trained(stage: Stage, name: str, result: TrainingResult, recipe: Recipe) -> dict[str, Any]:
    with (weights_of(stage, name).parent / "training.csv").open() as stream:
        course = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(stream)]
    return {
        "finished": result.finished,
        "steps": result.steps,
        "images_seen": result.steps * recipe.batch,
        "training_seconds": result.seconds,
        "training_simulations": result.simulations,
        "parameters": sum(weights.numel() for weights in result.network.parameters()),
        "recipe": recipe.to_dict(),
        "course": course[-1] if course else {},
    }


def _to_export(stage: Stage) -> str | None:
    """The network that the stage exports, None if it exports none, or none yet."""
    if stage.name == "compact-network":
        return "compact"
    return (stage.result(CHOICE) or {}).get("name")


def _owes_export(stage: Stage) -> bool:
    """Whether the network to export is not exported as it was judged last."""
    judged = stage.result(f"evaluation {_to_export(stage)}") or {}
    export = stage.result(EXPORTS[stage.name])
    return export is None or export.get("source") != judged.get("digest")


def _lacks_training(stage: Stage, name: str) -> bool:
    """Whether to train: for the first time, or again where a lent machine took the weights with it before the
    network was judged or exported."""
    if stage.result(f"training {name}") is None:
        return True
    owed = stage.result(f"evaluation {name}") is None or (name == _to_export(stage) and _owes_export(stage))
    return owed and not weights_of(stage, name).exists()


def _train(stage: Stage, name: str, recipe: Recipe, data: Any = None, held_out: Any = None) -> Any:
    """Train until the recipe is done, over as many calls as it takes."""
    run = stage.run
    result = train(
        recipe, run.experiment, weights_of(stage, name).parent, run.seed, run.device,
        max_minutes=max(0.05, stage.minutes_left - 0.3), checkpoint_minutes=CHECKPOINT_MINUTES,
        data=data, held_out=held_out,
    )  # fmt: skip
    row = _trained(stage, name, result, recipe)
    return row if result.finished else Part(row)


def _paced_training(stage: Stage, name: str, recipe: Recipe, minutes: float) -> list[Piece]:
    """Pieces that measure the pace of a recipe on this device, and train for the given minutes."""
    measured = f"pace {name}"

    def work() -> Any:
        return _train(stage, name, replace(recipe, steps=stage.result(measured)["steps"]))

    def lacking() -> bool:
        return _lacks_training(stage, name)

    return [
        Piece(
            measured, lambda: pace(stage, recipe, minutes, name),
            wanted=lambda: stage.result(measured) is None and lacking(),
        ),
        Piece(f"training {name}", work, needs=[measured], wanted=lacking),
    ]  # fmt: skip


def judged(stage: Stage, name: str, weights: Path, *sets: str) -> dict[str, Any]:
    """Errors on test sets; every image's in a folder for figure 4a."""
    run = stage.run
    networks = Networks((load_trained(weights, run.device),))
    results = [evaluate(networks, _test_set(stage, title), title, run.device) for title in sets]
    times = speed(networks, run.experiment, run.scale.repeats)
    write_evaluation(
        run.out / f"evaluation-{name}", results, times, networks.cards, run.experiment, TEST_SEED, run.device
    )
    return {"digest": networks.digest, "speed": times, **{result.name: summary(result) for result in results}}


def summary(result: Evaluated) -> dict[str, Any]:
    """Statistics of a test set."""
    return summarise(result)


def fresh_images(run: Run, name: str, count: int, seed: int) -> ImageSet:
    """Images of a test set."""
    return generate_patterns(find_test_set(name).options(count), run.experiment, seed, run.device)


def _test_set(stage: Stage, name: str) -> ImageSet:
    if name == "paper test":
        return read_patterns(data_set(stage), "test")
    return fresh_images(stage.run, name, stage.run.scale.evaluation_images, TEST_SEED)


def _evaluation(stage: Stage, name: str, *sets: str) -> Piece:
    """A piece that judges a network: for good once it is trained, for now as far as it is.

    The rest of a training needs this machine's checkpoint; so an unfinished network is worth a look, too. One
    that had to be trained again is judged again: it is not the same to the last bit.
    """
    weights = weights_of(stage, name)

    def work() -> Any:
        result = judged(stage, name, weights, *sets)
        return Part(result) if stage.result(f"training {name}") is None else result

    def wanted() -> bool:
        earlier = stage.result(f"evaluation {name}") or {}
        return weights.exists() and earlier.get("digest") != read_weights(weights).digest

    return Piece(f"evaluation {name}", work, wanted=wanted)


def paper_network(stage: Stage) -> list[Piece]:
    """The published network on the published kind of data, under the eleven filters, to its plateau."""
    recipe = stage.run.scale.paper_network

    @cache
    def training_set() -> TrainingSet:
        return read_training_set(data_set(stage), recipe.decades)

    def work() -> Any:
        images = training_set()
        return _train(stage, "paper", images.fitting(recipe), images.train, images.held_out)

    return [
        Piece("training paper", work, wanted=lambda: _lacks_training(stage, "paper"), prepare=training_set),
        _evaluation(stage, "paper", "paper test", "clean"),
    ]


def compact_network(stage: Stage) -> list[Piece]:
    """The compact network on images that stream from the simulator."""
    scale = stage.run.scale
    return [
        *_paced_training(stage, "compact", scale.compact, scale.compact_minutes),
        _evaluation(stage, "compact", "paper test", "clean"),
        _export(stage, needs="evaluation compact"),
    ]


def _export(stage: Stage, needs: str) -> Piece:
    """A piece that exports the network that was judged."""
    return Piece(
        EXPORTS[stage.name], lambda: _as_one_file(stage, str(_to_export(stage))), [needs],
        wanted=lambda: _owes_export(stage),
    )  # fmt: skip


def _as_one_file(stage: Stage, name: str) -> dict[str, Any]:
    """Export the network that was judged, in at most 12 MiB: in half precision if it must be.

    Raises:
        OutOfTime: the weights are lost; the next call trains the network again.
    """
    run = stage.run
    source, target = weights_of(stage, name), exported(run, name)
    if not source.exists():
        raise OutOfTime
    stored = read_weights(source)
    half = source.stat().st_size > LIMIT_MIB * 2**20
    network = build_network(stored.card["architecture"], stored.card["network"])
    network.load_state_dict(stored.weights)
    if half:
        network = network.half()
    save_network(target, network, {**stored.card, "precision": "float16" if half else "float32"})
    size = target.stat().st_size / 2**20
    if size > LIMIT_MIB:
        target.unlink()
        return {"source": stored.digest, "MiB": size, "half": half, "kept": False}
    errors = judged(stage, f"{name}-exported", target, "clean")
    return {
        "source": stored.digest, "MiB": size, "half": half, "kept": run.scale.export, "clean": errors["clean"]
    }  # fmt: skip


def _choice(stage: Stage, names: list[str]) -> dict[str, Any]:
    """The largest network that pays off, from the errors of all sizes."""
    errors = {
        name: stage.result(f"evaluation {name}")["clean"]["disorientation_deg"]["median"] for name in names
    }
    best = names[0]
    for name in names[1:]:
        if errors[name] > PAYS_OFF * errors[best]:
            break
        best = name
    return {"name": best, "median_deg": errors, "pays_off": PAYS_OFF}


def larger_network(stage: Stage) -> list[Piece]:
    """The same minutes for networks of several sizes; the largest that is worth its size is exported."""
    scale, pieces = stage.run.scale, []
    names = [size.replace(" ", "") for size, _ in scale.sizes]
    for name, (_, options) in zip(names, scale.sizes, strict=True):
        pieces += _paced_training(stage, name, replace(scale.compact, network=options), scale.size_minutes)
        pieces.append(_evaluation(stage, name, "clean"))
    choice = Piece(
        CHOICE, lambda: _choice(stage, names), needs=[f"evaluation {name}" for name in names],
        wanted=lambda: _choice(stage, names) != stage.result(CHOICE),
    )  # fmt: skip
    return [*pieces, choice, _export(stage, needs=CHOICE)]
