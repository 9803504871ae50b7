"""A comparison's blocks on several processes of one machine.

One thread each: on few cores that is faster than one process with several, and no sum is divided differently
where there are other cores.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from icobench.runs.campaign import Campaign
from icobench.methods import find_method
from icobench.methods.plugin_file import add_file
from icobench.runs.comparison import Comparison
from icobench.runs.settings import ComparisonSettings, read_settings
from icobench.sets.patterns import PatternOptions, PatternSet, PatternSource, join_patterns
from icobench.network.selection import Networks, load_network
from icobench.simulator.experiment import Experiment
from icobench.runs.pool import WorkerPool, default_workers

__all__ = ["Inputs", "automatic_workers", "compute_blocks"]

SIMULATED_TOGETHER = 8
"""Test images made in one go by one worker."""

MOST = 8
"""Workers at most unless more are asked for: each has its own copy of everything in memory."""


Announce = Callable[[str, int], None]


@dataclass(frozen=True)
class Inputs:
    """What a fresh process must be told before it can open the same runs.

    Attributes:
        experiment: as given for the comparison.
        model: weights; the shipped ones if None.
        config: TOML file that may define methods.
        files: Python files that define methods or test sets.
    """

    experiment: Experiment
    model: Path | None = None
    config: Path | None = None
    files: tuple[Path, ...] = ()


@lru_cache(maxsize=1)
def _networks(inputs: Inputs, device: str) -> Networks:
    return load_network(inputs.model, device)


@lru_cache(maxsize=1)
def _define(inputs: Inputs) -> None:
    if inputs.config is not None:
        read_settings(inputs.config)
    for path in inputs.files:
        add_file(path)


@lru_cache(maxsize=8)
def _opened(
    inputs: Inputs,
    folder: Path,
    settings: ComparisonSettings,
    seed: int,
    trained: bool,
    workers: int,
    device: str,
) -> Comparison:
    network = _networks(inputs, device) if trained else None
    where = torch.device(device)
    run = Comparison(folder, settings, inputs.experiment, seed, where, network, workers, helper=True)
    run.prepare()
    return run


def _compute(
    inputs: Inputs, folder: Path, settings: ComparisonSettings, seed: int, trained: bool, workers: int,
    method: str, block: int, rank: int, device: str,
) -> None:  # fmt: skip
    """One block; what failed once in this process is not tried again here."""
    _define(inputs)
    run = _opened(inputs, folder, settings, seed, trained, workers, device)
    if method not in run.failures:
        run.compute(find_method(method), block)


@lru_cache(maxsize=1)
def _source(options: PatternOptions, experiment: Experiment, seed: int, device: str) -> PatternSource:
    return PatternSource(options, experiment, seed, device)


def _simulate(
    options: PatternOptions, experiment: Experiment, seed: int, first: int, last: int, rank: int, device: str
) -> dict[str, np.ndarray]:
    """Some test images; arrays, because tensors would go through shared memory, which may be small."""
    made = _source(options, experiment, seed, device).block(range(first, last))
    return {name: getattr(made, name).numpy() for name in ("images", "mask", "radius_nm", "quaternion")}


def _simulate_test_set(run: Comparison, pool: WorkerPool, label: str, announce: Announce) -> None:
    own = (run.options, run.experiment, run.seed)
    jobs = [
        (*own, start, min(start + SIMULATED_TOGETHER, run.images))
        for start in range(0, run.images, SIMULATED_TOGETHER)
    ]
    parts = {}
    for (*_, first, _), made in pool.run(_simulate, jobs):
        tensors = {name: torch.from_numpy(values) for name, values in made.items()}
        parts[first] = PatternSet(**tensors, experiment=run.experiment, kind=run.options.stored_kind)
        announce(f"{label}{sum(map(len, parts.values()))} test images", 0)
    run.keep_test_set(join_patterns([parts[first] for first in sorted(parts)]))


def automatic_workers(device: torch.device) -> int:
    """One for each core or GPU, at most :data:`MOST`."""
    return max(1, min(default_workers(device), MOST))


def compute_blocks(
    made: Comparison | Campaign,
    inputs: Inputs,
    device: torch.device,
    announce: Announce = lambda text, finished: None,
) -> None:
    """Compute and store what is missing; what fails is left for ``run``, which notes it and collects.

    Args:
        made: one run or several, which know how many processes there are to be.
        inputs: what those were made from.
        device: where to work.
        announce: called with what is under way and the number of finished blocks.
    """
    runs = made.runs if isinstance(made, Campaign) else {"": made}
    labels = {run.folder: f"{name}: " if name else "" for name, run in runs.items()}
    slow = [run for run in runs.values() if run.lacks_images and run.options.method != "exact"]
    with WorkerPool(made.workers, device) as pool:
        for run in slow:
            _simulate_test_set(run, pool, labels[run.folder], announce)
        jobs: list[tuple] = []
        for run in runs.values():
            run.prepare()
            own = (inputs, run.folder, run.settings, run.seed, run.network is not None, run.workers)
            jobs += [(*own, method.name, block) for method, block in run.missing()]
        for finished, (job, _) in enumerate(pool.run(_compute, jobs), 1):
            folder, method = job[1], job[-2]
            announce(labels[folder] + method, finished)
