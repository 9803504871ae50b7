"""Test and training sets: simulated patterns with their truth."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from icobench.errors import InputError
from icobench.geometry.orientation import to_fundamental_domain
from icobench.geometry.rotations import random_quaternions
from icobench.images.detector import DETECTORS, Detector, DetectorModel
from icobench.images.log_image import log_image
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

__all__ = ["PatternOptions", "PatternSet", "PatternSource", "generate_patterns", "join_patterns"]

CHUNK = 128


@dataclass(frozen=True)
class PatternOptions:
    """What a set consists of.

    Attributes:
        images: number of patterns.
        kind: "counts" (photon counts, or noise-free intensities from a detector without photons) or "log"
            (8-bit log images).
        detector: what records them.
        radius_range_nm: uniform radii.
        decades: dynamic range of log images.
        background: standard deviation of the noise on log images (half-normal, added before rounding).
        method: simulator.
        splits: names and numbers of images of consecutive parts, such as (("train", 800), ("test", 200)).
    """

    images: int
    kind: str = "counts"
    detector: Detector = DETECTORS["counting"]
    radius_range_nm: tuple[float, float] = (30.0, 160.0)
    decades: float = 6.0
    background: float = 0.0
    method: str = "exact"
    splits: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if self.images < 1:
            raise InputError(f"the number of images must be positive, got {self.images}")
        if self.kind not in ("counts", "log"):
            raise InputError(f"kind must be counts or log, got {self.kind!r}")
        low, high = self.radius_range_nm
        if not (0 < low <= high and math.isfinite(high)):
            raise InputError(f"the range of radii must be positive and ordered, got {low:g} to {high:g}")
        if not 0 <= self.background <= 1:
            raise InputError(f"the background must lie in 0 to 1, got {self.background:g}")
        if self.background and self.kind != "log":
            raise InputError("a background is for log images; counts have photons and read-out noise")
        if self.splits and sum(count for _, count in self.splits) != self.images:
            raise InputError(f"the splits {dict(self.splits)} do not add up to {self.images} images")

    @property
    def stored_kind(self) -> str:
        """Of the images: "counts", "log", or "intensity"."""
        return "intensity" if self.kind == "counts" and self.detector.photons == 0 else self.kind


@dataclass
class PatternSet:
    """Images with masks and, where known, their truth.

    Attributes:
        images: (N, H, W) float32: counts, or log images in [0, 1].
        mask: (N, H, W) bool, True where usable.
        radius_nm: (N,) float64 true radii.
        quaternion: (N, 4) float64 true orientations in the fundamental domain.
        experiment: physics and grid, as whoever reconstructs believes them.
        kind: "counts", "log", or "intensity" (without noise).
    """

    images: Tensor
    mask: Tensor
    radius_nm: Tensor
    quaternion: Tensor
    experiment: Experiment
    kind: str

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, index: Tensor) -> "PatternSet":
        """The images with the given indices."""
        return PatternSet(
            self.images[index], self.mask[index], self.radius_nm[index], self.quaternion[index],
            self.experiment, self.kind,
        )  # fmt: skip


def _generator(seed: int, number: int, purpose: int) -> torch.Generator:
    sequence = np.random.SeedSequence(seed, spawn_key=(3, number, purpose))
    return torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1)))


def draw_truth(radius_range_nm: tuple[float, float], seed: int, numbers: range) -> tuple[Tensor, Tensor]:
    """Radii (N,), uniform, and orientations (N, 4), Haar, of the images with these numbers; float64."""
    low, high = radius_range_nm
    share, turns = [], []
    for number in numbers:
        generator = _generator(seed, number, 0)
        share.append(torch.rand(1, generator=generator, dtype=torch.float64))
        turns.append(random_quaternions(1, generator))
    return low + (high - low) * torch.cat(share), to_fundamental_domain(torch.cat(turns))


class PatternSource:
    """Patterns by their number; number i depends on the seed and i alone.

    Args:
        options: what to make.
        experiment: physics and grid; the detector's offset of the beam comes on top.
        seed: of the set.
        device: where to simulate.
    """

    def __init__(
        self, options: PatternOptions, experiment: Experiment, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        self.options, self.experiment, self.seed = options, experiment, seed
        true = replace(experiment, centre_offset=options.detector.centre_offset)
        try:
            self.simulator = Simulator(true, options.method, device)
        except ValueError as error:
            raise InputError(str(error)) from error
        self.detector = DetectorModel(options.detector, experiment, seed)

    def block(self, numbers: range) -> PatternSet:
        """The patterns with these numbers."""
        options, seed = self.options, self.seed
        radius, quaternion = draw_truth(options.radius_range_nm, seed, numbers)
        device = self.simulator.device
        intensity = self.simulator.intensity(radius.to(device), quaternion.to(device)).cpu()
        generators = [_generator(seed, number, 1) for number in numbers]
        images, mask = self.detector.record(intensity, generators)
        if options.kind == "log":
            images = log_image(images, options.decades)
            if options.background:
                noise = [torch.randn(images.shape[1:], generator=one) for one in generators]
                images = torch.where(mask, images + options.background * torch.stack(noise).abs(), 0.0)
            images = (images.clamp(0, 1) * 255).round() / 255
        return PatternSet(images, mask, radius, quaternion, self.experiment, options.stored_kind)


def generate_patterns(
    options: PatternOptions,
    experiment: Experiment,
    seed: int,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] = lambda done: None,
) -> PatternSet:
    """A whole set in memory.

    Args:
        options: what to make.
        experiment: physics and grid.
        seed: of the set.
        device: where to simulate.
        progress: called with the number of images finished.
    """
    source = PatternSource(options, experiment, seed, device)
    parts = []
    for start in range(0, options.images, CHUNK):
        parts.append(source.block(range(start, min(start + CHUNK, options.images))))
        progress(start + len(parts[-1]))
    return join_patterns(parts)


def join_patterns(parts: Sequence[PatternSet]) -> PatternSet:
    """Consecutive parts of a set as one."""
    images, mask, radius, quaternion = (
        torch.cat([getattr(part, name) for part in parts])
        for name in ("images", "mask", "radius_nm", "quaternion")
    )
    return PatternSet(images, mask, radius, quaternion, parts[0].experiment, parts[0].kind)
