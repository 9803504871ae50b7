"""Speed of what is done to images: augmenting, generating, storing and reading them."""

from pathlib import Path

import numpy as np
import torch

from benchmarks.common import (
    DEVICES,
    REPEAT,
    REPEAT_SLOW,
    SEED,
    as_on_gpu,
    clock,
    count,
    grid,
    launches,
    patterns,
    use_kernel,
    wait,
)  # fmt: skip
from icobench.images.augment import FILTERS, augment
from icobench.images.detector import DETECTORS
from icobench.images.source import open_images
from icobench.sets.generation import SetGeneration
from icobench.sets.pattern_file import read_patterns, write_patterns
from icobench.sets.patterns import PatternOptions
from icobench.simulator.experiment import Experiment


def noise(images: int, device: str) -> torch.Tensor:
    """Any log images (N, 128, 128)."""
    return torch.rand(images, 128, 128, generator=torch.Generator().manual_seed(SEED)).to(device)


class Filter:
    """Each of the eleven filters on 16 log images."""

    params = (grid(*FILTERS), DEVICES)
    param_names = ("filter", "device")
    repeat = REPEAT

    def setup(self, which: str, device: str) -> None:
        self.timer = clock(device)
        self.images = noise(16, device)

    def time_filter(self, which: str, device: str) -> None:
        augment(self.images, which, 0)
        wait(device)


class Chain:
    """A filter drawn for each image, and the whole chain of a detector."""

    params = (grid("realistic", "random"), DEVICES, grid(1, 64))
    param_names = ("chain", "device", "batch")
    repeat = REPEAT

    def setup(self, which: str, device: str, batch: int) -> None:
        self.timer = clock(device)
        self.images = noise(batch, device)

    def time_chain(self, which: str, device: str, batch: int) -> None:
        augment(self.images, which, 0)
        wait(device)

    def peakmem_chain(self, which: str, device: str, batch: int) -> None:
        augment(self.images, which, 0)


class Launches:
    """Operators, about one launch each, of a call as a GPU gets it."""

    def setup(self) -> None:
        self.images = noise(count(256, 16), "cpu")

    def track_launches_filters(self) -> int:
        with as_on_gpu():
            return launches(lambda: augment(self.images, "random", 0))

    track_launches_filters.unit = "launches"


class Generate:
    """``icobench generate``: a set into a file, seconds for all images."""

    params = (grid("counting", "experiment", "clean"), DEVICES, grid(1, 128))
    param_names = ("detector", "device", "images")
    repeat = REPEAT_SLOW
    warmup_time = 0

    def setup(self, detector: str, device: str, images: int) -> None:
        self.timer = clock(device)
        use_kernel("compiled", device)
        self.options = PatternOptions(images, detector=DETECTORS[detector])
        self.path = Path("set.h5").resolve()
        self.path.unlink(missing_ok=True)  # a finished set would only be looked at

    def time_generate(self, detector: str, device: str, images: int) -> None:
        SetGeneration(self.path, self.options, Experiment(), SEED, device=device).run()

    def peakmem_generate(self, detector: str, device: str, images: int) -> None:
        SetGeneration(self.path, self.options, Experiment(), SEED, device=device).run()


class Read:
    """64 frames from a file: a set with its truth, and a user's own images by kind of file."""

    params = (grid("set", "cxi", "npy", "tif"),)
    param_names = ("file",)
    repeat = REPEAT

    def setup(self, file: str) -> None:
        self.timer = clock()
        self.path = Path(f"frames.{'h5' if file == 'set' else file}").resolve()
        if self.path.exists():
            return
        made = patterns(count(64, 8))
        frames = made.images.numpy().astype(np.int32)
        if file in ("set", "cxi"):
            write_patterns(self.path, made, {})
        elif file == "npy":
            np.save(self.path, frames)
        else:
            import tifffile

            tifffile.imwrite(self.path, frames.astype(np.uint16))

    def time_read(self, file: str) -> None:
        if file == "set":
            read_patterns(self.path)
            return
        with open_images(self.path) as source:
            for _ in source.blocks(32):
                pass
