"""Stage 5: how the network's errors fall with the number of simulated training images; for figure 4b."""

from dataclasses import replace
from typing import Any

from icobench.network.checkpoint import load_trained
from icobench.network.selection import Networks
from icobench.network.training import train
from icobench.runs.evaluation import evaluate, evaluation_set, summarise
from icobench.simulator.compiled import prepare_kernel
from paper_scale.networks import paced
from paper_scale.stage import Part, Stage

__all__ = ["sweep"]

TEST_SEED = 60_000


def _point(stage: Stage, steps: int, size: int, seed: int) -> Any:
    run = stage.run
    recipe = replace(run.scale.compact, pool=size, steps=steps)
    folder = stage.work / f"{size}-{seed}"
    result = train(
        recipe, run.experiment, folder, seed, run.device, max_minutes=max(0.05, stage.minutes_left - 0.2)
    )
    row: dict[str, Any] = {
        "training_images": size, "seed": seed, "steps": result.steps, "training_seconds": result.seconds
    }  # fmt: skip
    if not result.finished:
        return Part(row)
    networks = Networks((load_trained(folder / "network.safetensors", run.device),))
    truth = evaluation_set("clean", run.scale.sweep_images, run.experiment, TEST_SEED, run.device)
    return row | summarise(evaluate(networks, truth, "clean", run.device))


def sweep(stage: Stage) -> None:
    """All sizes with the run's seed, then with the next: an unfinished sweep is still a curve."""
    run = stage.run
    prepare_kernel(run.device)
    largest = replace(run.scale.compact, pool=run.scale.sweep_sizes[-1])
    steps = paced(stage, largest, run.scale.sweep_minutes, "sweep").steps
    for seed in range(run.seed, run.seed + run.scale.sweep_seeds):
        for size in run.scale.sweep_sizes:
            stage.piece(f"{size} seed {seed}", lambda size=size, seed=seed: _point(stage, steps, size, seed))
