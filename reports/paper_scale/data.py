"""Stage 2: the paper's data set, timed."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from icobench.datasets.generation import PRESETS, generate_to_file
from icobench.datasets.patterns import PatternOptions, generate_patterns
from paper_scale.stage import Run, Stage

__all__ = ["data", "data_set", "paper_options"]


def paper_options(run: Run) -> PatternOptions:
    """The paper's set at this run's scale."""
    splits = run.scale.splits
    return replace(PRESETS["paper"], images=sum(count for _, count in splits), splits=splits)


def data_set(stage: Stage) -> Path:
    """The set's file, generated if this machine does not have it (any more).

    Raises:
        OutOfTime: the stage's minutes are spent; finished blocks are kept.
    """
    run = stage.run
    run.work.mkdir(parents=True, exist_ok=True)
    path = run.work / f"{run.scale.name}.h5"
    generate_to_file(
        path, paper_options(run), run.experiment, run.seed, run.device, progress=stage.check_clock
    )
    return path


def _timed(stage: Stage) -> dict[str, Any]:
    path = stage.run.work / f"{stage.run.scale.name}.h5"
    if path.exists():  # made for another stage: its time is not known
        path.unlink()
    images, made = paper_options(stage.run).images, 0
    begin = time.perf_counter()
    parts = path.with_name(path.name + ".parts")
    before = len(list(parts.glob("0*.h5"))) if parts.exists() else 0
    data_set(stage)
    seconds = time.perf_counter() - begin
    made = images - min(images, before * 128)
    return {
        "images": images,
        "made_in_one_go": made == images,
        "seconds": seconds * images / max(1, made),
        "ms_per_image": 1000 * seconds / max(1, made),
        "file_MiB": path.stat().st_size / 2**20,
    }


def _sliced(stage: Stage) -> dict[str, Any]:
    """Images of the same set by the paper's own algorithm on this device."""
    run = stage.run
    options = replace(paper_options(run), images=run.scale.sliced_images, splits=(), method="sliced")
    begin = time.perf_counter()
    generate_patterns(options, run.experiment, run.seed, run.device, stage.check_clock)
    seconds = time.perf_counter() - begin
    return {"images": options.images, "ms_per_image": 1000 * seconds / options.images}


def data(stage: Stage) -> None:
    """The whole set by the exact method; some of it by the paper's algorithm."""
    stage.piece("paper set", lambda: _timed(stage))
    stage.piece("sliced", lambda: _sliced(stage))
