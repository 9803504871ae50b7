"""Speed and memory of the networks."""

import contextlib
import tempfile
from pathlib import Path

import torch

from benchmarks.common import (
    DEVICES,
    REPEAT,
    SEED,
    SMALLEST,
    as_on_gpu,
    clock,
    count,
    grid,
    launches,
    networks,
    patterns,
    use_kernel,
    wait,
)
from icobench.network.recipe import RECIPES, Recipe
from icobench.network.selection import predict
from icobench.network.training import train
from icobench.simulator.experiment import Experiment


class Inference:
    """From images to radius and orientation; log images ask two networks."""

    params = (DEVICES, grid("counts", "log"), grid(1, 64))
    param_names = ("device", "kind", "batch")
    repeat = REPEAT

    def setup(self, device: str, kind: str, batch: int) -> None:
        self.timer = clock(device)
        self.images = patterns(batch, kind, device=device)
        self.networks = networks(device)

    def time_predict(self, device: str, kind: str, batch: int) -> None:
        predict(self.networks, self.images)
        wait(device)

    def peakmem_predict(self, device: str, kind: str, batch: int) -> None:
        self.time_predict(device, kind, batch)


class Launches:
    """Operators, about one launch each, of a call as a GPU gets it."""

    def setup(self) -> None:
        self.images = patterns(count(1024, 8))
        self.networks = networks()

    def track_launches_network(self) -> int:
        with as_on_gpu():
            return launches(lambda: predict(self.networks, self.images))

    track_launches_network.unit = "launches"


class EnoughError(Exception):
    """Ends a training run."""


class Training:
    """Steps of ``icobench train``, with the simulation of their images: 16 steps are simulated together."""

    params = (grid("compact-counts", "compact", "paper-small"), DEVICES)
    param_names = ("recipe", "device")
    timeout = 600

    def setup(self, recipe: str, device: str) -> None:
        clock(device)
        use_kernel("compiled", device)

    def track_seconds_per_step(self, recipe: str, device: str) -> float:
        """Mean of one block, or of four steps of the large network, whose bodies are simulated beforehand."""
        steps = count(4 if recipe == "paper-small" else 16, 1)
        now = clock(device)
        ends: list[float] = []

        def note(step: int, loss: float, network: torch.nn.Module) -> None:
            wait(device)
            ends.append(now())
            if len(ends) > steps:
                raise EnoughError

        # A longer run would draw more validation images first.
        chosen = RECIPES[recipe].to_dict() | {"steps": steps + 2, "pool": None}
        if SMALLEST:
            chosen |= {"batch": 4, "network": RECIPES["smoke"].network}
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(EnoughError):
            train(Recipe.from_dict(chosen), Experiment(), Path(folder), SEED, device, report=note)
        return (ends[-1] - ends[0]) / steps

    track_seconds_per_step.unit = "s"
