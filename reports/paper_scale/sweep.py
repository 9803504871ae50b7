"""Stage 5: how the network's errors fall with the number of simulated training images; for figure 4b."""

from dataclasses import replace
from functools import partial
from typing import Any

from icobench.network.checkpoint import load_trained
from icobench.network.selection import Networks
from icobench.network.training import train
from icobench.runs.evaluation import evaluate
from paper_scale.networks import fresh_images, pace, summary
from paper_scale.stage import Part, Piece, Stage

__all__ = ["sweep"]

TEST_SEED = 60_000
PACE = "pace sweep"


def _point(stage: Stage, size: int, seed: int) -> Any:
    run, steps = stage.run, stage.result(PACE)["steps"]
    folder = stage.work / f"{size}-{seed}"
    result = train(
        replace(run.scale.compact, pool=size, steps=steps), run.experiment, folder, seed, run.device,
        max_minutes=max(0.05, stage.minutes_left - 0.2),
    )  # fmt: skip
    row: dict[str, Any] = {
        "training_images": size, "seed": seed, "steps": result.steps, "training_seconds": result.seconds
    }  # fmt: skip
    if not result.finished:
        return Part(row)
    networks = Networks((load_trained(folder / "network.safetensors", run.device),))
    images = fresh_images(run, "clean", run.scale.sweep_images, TEST_SEED)
    return row | summary(evaluate(networks, images, "clean", run.device))


def sweep(stage: Stage) -> list[Piece]:
    """All sizes with the run's seed, then with the next: an unfinished sweep is still a curve."""
    scale = stage.run.scale
    largest = replace(scale.compact, pool=scale.sweep_sizes[-1])
    return [
        Piece(PACE, lambda: pace(stage, largest, scale.sweep_minutes, "sweep")),
        *(
            Piece(f"{size} seed {seed}", partial(_point, stage, size, seed), needs=[PACE])
            for seed in range(stage.run.seed, stage.run.seed + scale.sweep_seeds)
            for size in scale.sweep_sizes
        ),
    ]
