"""What the benchmarks share: parameters, devices, and things that are made once in a process.

asv calls ``setup`` anew before every sample, so whatever takes long is kept here.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from icobench import devices
from icobench.geometry.orientation import random_orientations
from icobench.images.image_set import ImageSet
from icobench.methods.base import Problem
from icobench.network import selection
from icobench.network.selection import Networks, load_network
from icobench.sets.patterns import generate_patterns
from icobench.sets.test_sets import TEST_SETS
from icobench.simulator.compiled import prepare_kernel
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

SMALLEST = os.environ.get("ICOBENCH_BENCHMARKS") == "smallest"
"""Whether the benchmarks are only tried out: each with its first parameters and few images."""

SEED = 20_200_827
"""Of all images; another one begins another history."""

REPEAT = (4, 200, 1.0)
"""Samples of a process: at least, at most, and seconds after which no more are begun.

asv compares two commits by a rank test (p < 0.002), which finds no difference in fewer than seven samples of
each; a benchmark of times has two processes.
"""

REPEAT_SLOW = (4, 10, 2.0)
"""The same for whatever takes a tenth of a second or more."""


def grid(*values: Any) -> list[Any]:
    """Values of a parameter, the cheapest first."""
    return list(values[:1] if SMALLEST else values)


def count(usual: int, smallest: int) -> int:
    """How many images or steps."""
    return smallest if SMALLEST else usual


DEVICES = grid("cpu", "cuda")
KERNELS = grid("compiled", "eager")


def clock(device: str = "cpu") -> Callable[[], float]:
    """What times are taken with, as asv's ``timer``; leaves the benchmark out where there is no such device.

    On a CPU the seconds that the process had of it: on one thread the same as those of a watch, but others on
    the machine do not count.
    """
    if device == "cpu":
        return time.process_time
    if not torch.cuda.is_available():
        raise NotImplementedError("no CUDA device")
    return time.perf_counter


def wait(device: str) -> None:
    """Until the device has done its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def use_kernel(kernel: str, device: str = "cpu") -> None:
    """Compiled kernel or plain torch from here on, in this process."""
    os.environ["ICOBENCH_COMPILE"] = "1" if kernel == "compiled" else "0"
    prepare_kernel(torch.device(device))


@cache
def simulator(method: str = "exact", device: str = "cpu") -> Simulator:
    """Of the default experiment, with tables that are made only once."""
    small = SMALLEST and method != "exact"  # a quarter of the voxels' time
    return Simulator(Experiment(pixels=64) if small else Experiment(), method, device)


def bodies(batch: int, radius_nm: float, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Equal radii (B,), orientations (B, 4) uniform."""
    turns = random_orientations(batch, torch.Generator().manual_seed(SEED))
    return torch.full((batch,), radius_nm, dtype=torch.float64, device=device), turns.to(device)


@cache
def patterns(
    images: int, kind: str = "counts", low_nm: float = 30.0, high_nm: float = 160.0, device: str = "cpu"
) -> ImageSet:
    """Seeded images of the kind "counts" (1e5 photons), "log" or "intensity" (both without noise), or "paper"
    (log images of 8 bits over noise)."""
    use_kernel("compiled")
    test_set = TEST_SETS[{"counts": "counting", "paper": "paper"}.get(kind, "clean")]
    options = replace(test_set.options(images), radius_range_nm=(low_nm, high_nm))
    if kind == "log":
        options = replace(options, kind="log")
    made = generate_patterns(options, Experiment(), SEED)
    made.images, made.mask = made.images.to(device), made.mask.to(device)
    return made


WEIGHTS = Path(selection.__file__).parent / "weights"
PUBLISHED = ["paper, published network"] if any(WEIGHTS.glob("paper*")) else []
"""The published network's images, where its weights are shipped."""


@cache
def networks(device: str = "cpu", weights: str | None = None) -> Networks:
    """The shipped ones, or those that ``load_network`` knows by a name."""
    return load_network(weights, device)


def problem(images: ImageSet, device: str = "cpu", weights: str | None = None) -> Problem:
    """For a method, which may ask the networks."""
    return Problem(images, simulator(device=device), networks(device, weights), SEED)


def fastest(
    functions: Sequence[Callable[[], Any]], now: Callable[[], float] = time.process_time, seconds: float = 2.0
) -> list[float]:
    """Shortest time in seconds of each, called in turns so that a disturbance meets all of them."""
    for function in functions:
        function()
    times: list[list[float]] = [[] for _ in functions]
    begin = time.perf_counter()
    while not times[0] or (time.perf_counter() - begin < seconds and not SMALLEST):
        for function, samples in zip(functions, times, strict=True):
            start = now()
            function()
            samples.append(now() - start)
    return [min(samples) for samples in times]


NO_KERNELS = (
    "empty",
    "new_empty",
    "detach",
    "alias",
    "lift_fresh",
    "resolve_",
    "_unsafe_view",
    "_reshape_alias",
    "is_same",
)
"""How the names of operators begin that are no views and compute nothing."""


class _Launches(TorchDispatchMode):
    """Counts the operators by name that start work on a device: all but views and allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        name = function._schema.name.partition("::")[2]
        if not function.is_view and not name.startswith(NO_KERNELS):
            self.by_name[name] += 1
        return function(*arguments, **(keywords or {}))


def launches_by_name(call: Callable[[], Any]) -> Counter[str]:
    """Operators other than views that one call dispatches, after a first call that makes tables.

    Each is about one launch on a GPU.
    """
    call()
    counter = _Launches()
    with counter:
        call()
    return counter.by_name


def launches(call: Callable[[], Any]) -> int:
    """How many operators :func:`launches_by_name` finds."""
    return launches_by_name(call).total()


@contextmanager
def as_on_gpu() -> Iterator[None]:
    """In the block a CPU is given the few large calls that a GPU gets."""
    with mock.patch.object(devices, "on_gpu", lambda device: True):
        yield
