"""Dictionaries larger than memory: simulated, matched and forgotten shard by shard."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from icobench.fitting.dictionary import (
    SIMULATED,
    Candidates,
    Dictionary,
    DictionaryOptions,
    best_apart,
    dictionary_card,
    polar_patterns,
    sample,
    whole_half_space,
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
    """Candidates of N images from a dictionary that is gone.

    Attributes:
        candidates: the best, as :meth:`~icobench.fitting.dictionary.Dictionary.match` gives them.
        patterns: how many were simulated.
        simulation_seconds, match_seconds: of all patterns; of all images with all patterns.
    """

    candidates: Candidates
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
    progress: Callable[[float], None] = lambda share: None,
) -> Matched:
    """The best stored patterns of a dictionary of any size, in bounded memory.

    Every shard gives its own best candidates, of which the best that are apart are kept; a candidate can be
    missed only where several better ones of its shard are apart from each other and it is apart from none.

    Args:
        simulator: whose physics, body and device to use.
        options: what would be stored.
        images, mask, kind, experiment, count: as for ``Dictionary.match``; tensors on the device of the
            matching.
        shard: patterns at once.
        progress: called with the finished share.
    """
    radius, quaternion = sample(options, simulator.body)
    whole = whole_half_space(simulator)
    together = SIMULATED if simulator.device.type == "cpu" else ON_GPU
    spent = [0.0, 0.0]
    found: list[Candidates] = []
    for rows in torch.arange(len(radius)).split(shard):
        begin = time.perf_counter()
        parts = [polar_patterns(whole, radius[some], quaternion[some]) for some in rows.split(together)]
        # On the way to the CPU all work on a device is waited for.
        patterns = torch.cat([part.cpu() for part in parts])
        middle = time.perf_counter()
        own = Dictionary(
            radius[rows], quaternion[rows], patterns, dictionary_card(simulator, options, len(rows), begin)
        )
        found.append(own.match(images, mask, kind, experiment, count))
        end = time.perf_counter()
        spent = [spent[0] + middle - begin, spent[1] + end - middle]
        progress(float(rows[-1] + 1) / len(radius))
    every = Candidates(*(torch.cat(part, 1) for part in zip(*found, strict=True)))
    return Matched(best_apart(every, count), len(radius), *spent)
