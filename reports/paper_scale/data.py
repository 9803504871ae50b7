"""Stage 2: the paper's data set, timed."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from icobench.sets.generation import PRESETS, SetGeneration
from icobench.sets.patterns import PatternOptions, generate_patterns
from paper_scale.stage import Piece, Run, Stage

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
    _generate(stage)
    return _path(stage.run)


def _path(run: Run) -> Path:
    return run.work / f"{run.scale.name}.h5"


def _generate(stage: Stage) -> int:
    """How many images this call simulated."""
    run = stage.run
    run.work.mkdir(parents=True, exist_ok=True)
    work = SetGeneration(_path(run), paper_options(run), run.experiment, run.seed, device=str(run.device))
    return work.run(stage.check_clock)


def _timed(stage: Stage) -> dict[str, Any]:
    path, images, made = _path(stage.run), paper_options(stage.run).images, 0
    while not made:
        # Made for another stage, or stopped after its last block and only joined now: its time is not known.
        path.unlink(missing_ok=True)
        begin = time.perf_counter()
        made = _generate(stage)
        seconds = time.perf_counter() - begin
    return {
        "images": images,
        "made_in_one_go": made == images,
        "seconds": seconds * images / made,
        "ms_per_image": 1000 * seconds / made,
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


def data(stage: Stage) -> list[Piece]:
    """The whole set by the exact method; some of it by the paper's algorithm."""
    return [Piece("paper set", lambda: _timed(stage)), Piece("sliced", lambda: _sliced(stage))]
