"""Stage 3: the paper's network to its plateau, the compact one, and the largest that pays off."""

import csv
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from icobench.sets.training_data import read_training_set

from icobench.network.architectures import build_network
from icobench.network.bodies import AHEAD
from icobench.network.checkpoint import load_trained, read_weights, save_network
from icobench.network.recipe import Recipe
from icobench.network.selection import Networks
from icobench.network.training import TrainingResult, train
from icobench.reporting.evaluation import write_evaluation
from icobench.runs.evaluation import evaluate, evaluation_set, speed, summarise
from icobench.sets.pattern_file import read_patterns
from icobench.sets.patterns import PatternSet
from icobench.simulator.compiled import prepare_kernel
from paper_scale.data import data_set
from paper_scale.stage import OutOfTime, Part, Run, Stage

__all__ = ["compact_network", "exported", "larger_network", "paced", "paper_network"]

TEST_SEED = 40_000
LIMIT_MIB = 12.0
PAYS_OFF = 0.95
"""A larger network pays off if its median disorientation is at most this share of the next smaller one's."""

CHECKPOINT_MINUTES = 1.5


def weights_of(stage: Stage, name: str) -> Path:
    """Where a network's weights lie while this machine has them."""
    return stage.work / f"train-{name}" / "network.safetensors"


def exported(run: Run, name: str) -> Path:
    """Where a network's exported weights lie."""
    return (run.out if run.scale.export else run.work) / f"{name}.safetensors"


def paced(stage: Stage, recipe: Recipe, minutes: float, name: str, data: Any = None) -> Recipe:
    """The recipe with as many steps as the device does in the given minutes; measured once, then stored."""

    def probe() -> dict[str, Any]:
        times: list[float] = []
        folder = stage.work / f"probe-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        # One step, then four blocks of those whose bodies are simulated together. The first block compiles,
        # the second is timed; from the third on it settles, which compiles again, and the fourth is timed.
        steps = 1 + 4 * AHEAD
        short = replace(recipe, steps=steps, settle_share=2 * AHEAD / steps, patience=None)
        train(short, stage.run.experiment, folder, stage.run.seed, stage.run.device, data=data,
              progress=lambda *_: times.append(time.perf_counter()))  # fmt: skip
        step = (times[2 * AHEAD] - times[AHEAD]) / AHEAD
        late = (times[-1] - times[-1 - AHEAD]) / AHEAD
        mean = (1 - recipe.settle_share) * step + recipe.settle_share * late
        return {"seconds_per_step": mean, "steps": max(20, int(60 * minutes / mean))}

    found = stage.piece(f"pace {name}", probe)
    if found is None:
        raise OutOfTime
    return replace(recipe, steps=found["steps"])


def _trained(stage: Stage, name: str, result: TrainingResult, recipe: Recipe) -> dict[str, Any]:
    with (weights_of(stage, name).parent / "training.csv").open() as stream:
        course = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(stream)]
    return {
        "finished": result.finished,
        "steps": result.steps,
        "images_seen": result.steps * recipe.batch,
        "training_seconds": result.seconds,
        "training_simulations": result.simulations,
        "parameters": sum(one.numel() for one in result.network.parameters()),
        "recipe": recipe.to_dict(),
        "course": course[-1] if course else {},
    }


def _owes_export(stage: Stage, piece: str, name: str) -> bool:
    """Whether the network that was judged last is not exported."""
    judged, known = stage.store.get(f"evaluation {name}") or {}, stage.store.get(piece)
    return known is None or known.get("source") != judged.get("digest")


def _lacks_training(stage: Stage, name: str, export: str | None = None) -> bool:
    """Whether to train: for the first time, or again where a lent machine took the weights with it before the
    network was judged or, in a piece of that name, exported."""
    if stage.store.get(f"training {name}") is None:
        return True
    owed = stage.store.get(f"evaluation {name}") is None
    owed |= export is not None and _owes_export(stage, export, name)
    return owed and not weights_of(stage, name).exists()


def training(
    stage: Stage, name: str, recipe: Recipe, data: Any = None, held_out: Any = None
) -> dict[str, Any] | None:
    """A piece that trains until the recipe is done, over as many calls as it takes."""

    def work() -> Any:
        run = stage.run
        result = train(
            recipe, run.experiment, weights_of(stage, name).parent, run.seed, run.device,
            max_minutes=max(0.05, stage.minutes_left - 0.3), checkpoint_minutes=CHECKPOINT_MINUTES,
            data=data, held_out=held_out,
        )  # fmt: skip
        row = _trained(stage, name, result, recipe)
        return row if result.finished else Part(row)

    return stage.piece(f"training {name}", work, again=not weights_of(stage, name).exists())


def judged(
    stage: Stage, name: str, weights: Path, sets: dict[str, Callable[[], PatternSet]]
) -> dict[str, Any]:
    """Errors on test sets; every image's in a folder for figure 4a."""
    run = stage.run
    networks = Networks((load_trained(weights, run.device),))
    done = [evaluate(networks, truth(), one, run.device) for one, truth in sets.items()]
    pace = speed(networks, run.experiment, run.scale.repeats)
    write_evaluation(
        run.out / f"evaluation-{name}", done, pace, networks.cards, run.experiment, TEST_SEED, run.device
    )
    return {"digest": networks.digest, "speed": pace, **{one.name: summarise(one) for one in done}}


def _test_sets(stage: Stage, *names: str) -> dict[str, Callable[[], PatternSet]]:
    run, images = stage.run, stage.run.scale.evaluation_images
    makers = {
        "paper test": lambda: read_patterns(data_set(stage), "test"),
        "clean": lambda: evaluation_set("clean", images, run.experiment, TEST_SEED, run.device),
    }
    return {name: makers[name] for name in names}


def _judge_after(stage: Stage, name: str, *sets: str) -> dict[str, Any] | None:
    """Evaluate a network: for good once it is trained, for now as far as it is.

    The rest of a training needs this machine's checkpoint; so an unfinished network is worth a look, too. One
    that had to be trained again is judged again: it is not the same to the last bit.
    """
    weights = weights_of(stage, name)
    known = stage.store.get(f"evaluation {name}")
    if not weights.exists() or (known is not None and known.get("digest") == read_weights(weights).digest):
        return known
    finished = stage.store.get(f"training {name}") is not None

    def work() -> Any:
        result = judged(stage, name, weights, _test_sets(stage, *sets))
        return result if finished else Part(result)

    return stage.piece(f"evaluation {name}", work, again=known is not None)


def paper_network(stage: Stage) -> None:
    """The published network on the published kind of data, under the eleven filters, to its plateau."""
    run = stage.run
    prepare_kernel(run.device)
    recipe = run.scale.paper_network
    if _lacks_training(stage, "paper"):
        found = read_training_set(data_set(stage), recipe.decades)
        training(stage, "paper", found.fitting(recipe), found.known, found.held_out)
    _judge_after(stage, "paper", "paper test", "clean")


def compact_network(stage: Stage) -> None:
    """The compact network on images that stream from the simulator."""
    run = stage.run
    prepare_kernel(run.device)
    if _lacks_training(stage, "compact", "export compact"):
        recipe = paced(stage, run.scale.compact, run.scale.compact_minutes, "compact")
        training(stage, "compact", recipe)
    if _judge_after(stage, "compact", "paper test", "clean") is not None:
        _export(stage, "export compact", "compact")


def _export(stage: Stage, piece: str, name: str) -> None:
    """A piece that exports the network that was judged."""
    if not _owes_export(stage, piece, name):
        return
    if not weights_of(stage, name).exists():
        stage.left.append(piece)  # the next call trains it again
        return
    stage.piece(piece, lambda: _as_one_file(stage, name), again=True)


def _as_one_file(stage: Stage, name: str) -> dict[str, Any]:
    """Of at most 12 MiB: as it is, in half precision if it must be; its errors as exported."""
    run = stage.run
    source, target = weights_of(stage, name), exported(run, name)
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
    errors = judged(stage, f"{name}-exported", target, _test_sets(stage, "clean"))
    return {
        "source": stored.digest, "MiB": size, "half": half, "kept": run.scale.export, "clean": errors["clean"]
    }  # fmt: skip


def larger_network(stage: Stage) -> None:
    """The same minutes for networks of several sizes; the largest that is worth its size is exported."""
    run = stage.run
    prepare_kernel(run.device)
    errors: dict[str, float] = {}
    chosen = (stage.store.get("largest that pays off") or {}).get("name")
    for size, options in run.scale.sizes:
        name = size.replace(" ", "")
        if _lacks_training(stage, name, "export" if name == chosen else None):
            recipe = paced(stage, replace(run.scale.compact, network=options), run.scale.size_minutes, name)
            training(stage, name, recipe)
        found = _judge_after(stage, name, "clean")
        if found is None:
            return
        errors[name] = found["clean"]["disorientation_deg"]["median"]
    names = list(errors)
    best = names[0]
    for name in names[1:]:
        if errors[name] > PAYS_OFF * errors[best]:
            break
        best = name
    choice = {"name": best, "median_deg": errors, "pays_off": PAYS_OFF}
    known = stage.store.get("largest that pays off")
    if stage.piece("largest that pays off", lambda: choice, again=known != choice) is not None:
        _export(stage, "export", best)
