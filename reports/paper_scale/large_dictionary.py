"""Dictionaries larger than memory: simulated, matched and forgotten shard by shard."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from icobench.answer import Hypotheses, Progress
from icobench.fitting.dictionary import (
    SIMULATED,
    DictionaryOptions,
    best_apart,
    half_space_simulator,
    sample,
    simulate_dictionary,
)
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

__all__ = ["Matched", "match_in_shards"]

SHARD = 16_384
"""Patterns at once: 0.8 GB of spectra."""

ON_GPU = 4096
"""Patterns simulated at once where there is room."""


@dataclass
class Matched:
    """Best patterns for N images, from a dictionary that was not kept.

    Attributes:
        candidates: the best, as :meth:`~icobench.fitting.dictionary.Dictionary.match` gives them.
        patterns: how many were simulated.
        simulation_seconds, match_seconds: of all patterns; of all images with all patterns.
    """

    candidates: Hypotheses
    patterns: int
    simulation_seconds: float
    match_seconds: float


def match_in_shards(
    simulator: Simulator,
    options: DictionaryOptions,
    images: Tensor,
    mask: Tensor,
    kind: str,
    experiment: Experiment,
    count: int = 4,
    shard: int = SHARD,
    progress: Progress = lambda share: None,
) -> Matched:
    """The best stored patterns of a dictionary of any size, in bounded memory.

    Of the best candidates of all shards, the best that are apart from each other are kept. A candidate can be
    missed only where its shard has as many better ones that are apart.

    Args:
        simulator: its physics, body and device are used.
        options: what would be stored.
        images, mask, kind, experiment, count: as for ``Dictionary.match``; tensors on the device of the
            matching.
        shard: patterns at once.
        progress: called with the finished share.
    """
    radius, quaternion = sample(options, simulator.body)
    half_space = half_space_simulator(simulator)
    batch = SIMULATED if simulator.device.type == "cpu" else ON_GPU
    simulation_seconds = match_seconds = 0.0
    matches: list[Hypotheses] = []
    for rows in torch.arange(len(radius)).split(shard):
        begin = time.perf_counter()
        part = simulate_dictionary(half_space, options, radius[rows], quaternion[rows], batch)
        middle = time.perf_counter()
        matches.append(part.match(images, mask, kind, experiment, count))
        simulation_seconds += middle - begin
        match_seconds += time.perf_counter() - middle
        progress(float(rows[-1] + 1) / len(radius))
    every = Hypotheses(*(torch.cat(tensors, 1) for tensors in zip(*matches, strict=True)))
    return Matched(best_apart(every, count), len(radius), simulation_seconds, match_seconds)
