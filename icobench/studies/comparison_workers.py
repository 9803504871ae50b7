"""A comparison's blocks on several processes of one machine.

One thread each: on two cores that is 1.6 times as fast as one process with two, and no sum is divided
differently where there are other cores.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from icobench.comparison.campaign import Campaign
from icobench.comparison.methods import find_method
from icobench.comparison.plugin_file import add_file
from icobench.comparison.runner import Comparison
from icobench.comparison.settings import ComparisonSettings, read_settings
from icobench.network.selection import Networks, load_network
from icobench.simulator.experiment import Experiment
from icobench.studies.pool import WorkerPool, default_workers

__all__ = ["Inputs", "automatic_workers", "compute_blocks"]

MOST = 8
"""Workers at most unless more are asked for: each takes about a gigabyte of memory."""


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
    run = Comparison(folder, settings, inputs.experiment, seed, where, network, helper=True)
    run.workers = workers
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


def automatic_workers(device: torch.device, jobs: int) -> int:
    """One for each core or GPU, at most :data:`MOST`, and no more than there are jobs."""
    return max(1, min(default_workers(device), MOST, jobs))


def compute_blocks(
    made: Comparison | Campaign,
    inputs: Inputs,
    workers: int,
    device: torch.device,
    announce: Callable[[str], None] = lambda text: None,
) -> None:
    """Compute and store what is missing; what fails is left for ``run``, which notes it and collects.

    Args:
        made: one run or several.
        inputs: what those were made from.
        workers: number of processes.
        device: where they work.
        announce: called after every block with the names of run and method.
    """
    jobs: list[tuple] = []
    names: dict[Path, str] = {}
    for name, run in (made.runs if isinstance(made, Campaign) else {"": made}).items():
        run.workers = workers
        run.prepare()
        own = (inputs, run.folder, run.settings, run.seed, run.network is not None, workers)
        jobs += [(*own, method.name, block) for method, block in run.missing()]
        names[run.folder] = f"{name}: " if name else ""
    with WorkerPool(workers, device) as pool:
        for job, _ in pool.run(_compute, jobs):
            folder, method = job[1], job[-2]
            announce(names[folder] + method)
