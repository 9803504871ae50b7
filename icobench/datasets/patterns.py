"""Test and training sets: simulated patterns with their truth, and their files."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icobench.errors import InputError
from icobench.geometry.orientation import random_orientations
from icobench.images.counts import photon_counts
from icobench.images.files import DATA_PATH, MASK_PATH, atomic_path, read_images
from icobench.images.log_image import log_image
from icobench.images.masks import usable_pixels
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

__all__ = ["PatternOptions", "PatternSet", "generate_patterns", "read_patterns", "write_patterns"]

CHUNK = 128
TRUTH_GROUP = "/icobench"


@dataclass(frozen=True)
class PatternOptions:
    """What a set consists of.

    Attributes:
        images: number of patterns.
        kind: "counts" (photon counts) or "log" (8-bit log images).
        photons: expected photons on the usable pixels; for log images 0 means noise-free.
        hole_degrees: central hole.
        radius_range_nm: uniform radii.
        decades: dynamic range of log images.
        method: simulator.
    """

    images: int
    kind: str = "counts"
    photons: float = 1e5
    hole_degrees: float = 3.0
    radius_range_nm: tuple[float, float] = (30.0, 160.0)
    decades: float = 6.0
    method: str = "exact"

    def __post_init__(self) -> None:
        if self.images < 1:
            raise InputError(f"the number of images must be positive, got {self.images}")
        if self.kind not in ("counts", "log"):
            raise InputError(f"kind must be counts or log, got {self.kind!r}")
        if (
            not math.isfinite(self.photons)
            or self.photons < 0
            or (self.kind == "counts" and self.photons == 0)
        ):
            raise InputError(f"the number of photons must be positive, got {self.photons:g}")
        low, high = self.radius_range_nm
        if not 0 < low <= high:
            raise InputError(f"the range of radii must be positive and ordered, got {low:g} to {high:g}")


@dataclass
class PatternSet:
    """Images with masks and, where known, their truth.

    Attributes:
        images: (N, H, W) float32: counts, or log images in [0, 1].
        mask: (N, H, W) bool, True where usable.
        radius_nm: (N,) float64 true radii.
        quaternion: (N, 4) float64 true orientations in the fundamental domain.
        experiment: physics and grid.
        kind: "counts", "log", or "intensity" (of a simulation, without noise).
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


def _truth(options: PatternOptions, seed: int, numbers: range) -> tuple[Tensor, Tensor]:
    low, high = options.radius_range_nm
    radii, orientations = [], []
    for number in numbers:
        generator = _generator(seed, number, 0)
        radii.append(low + (high - low) * torch.rand(1, generator=generator, dtype=torch.float64))
        orientations.append(random_orientations(1, generator))
    return torch.cat(radii), torch.cat(orientations)


def _chunks(
    options: PatternOptions, simulator: Simulator, seed: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    mask = usable_pixels(simulator.experiment, options.hole_degrees)
    for start in range(0, options.images, CHUNK):
        numbers = range(start, min(start + CHUNK, options.images))
        radius, quaternion = _truth(options, seed, numbers)
        intensity = simulator.intensity(radius.to(simulator.device), quaternion.to(simulator.device)).cpu()
        images = intensity * mask
        if options.photons > 0:
            images = torch.cat(
                [
                    photon_counts(one.unsqueeze(0), mask, options.photons, _generator(seed, n, 1))
                    for n, one in zip(numbers, intensity, strict=True)
                ]
            )
        if options.kind == "log":
            images = (log_image(images, options.decades) * 255).round() / 255
        yield images.float(), radius, quaternion


def generate_patterns(
    options: PatternOptions,
    experiment: Experiment,
    seed: int,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] = lambda done: None,
) -> PatternSet:
    """Simulate a set; image number i depends on the seed and i alone.

    Args:
        options: what to make.
        experiment: physics and grid.
        seed: of the set.
        device: where to simulate.
        progress: called with the number of images finished.
    """
    simulator = Simulator(experiment, options.method, device)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    done = 0
    for part in _chunks(options, simulator, seed):
        parts.append(part)
        done += len(part[0])
        progress(done)
    images, radius, quaternion = (torch.cat(column) for column in zip(*parts, strict=True))
    mask = usable_pixels(experiment, options.hole_degrees).expand(images.shape).clone()
    return PatternSet(images, mask, radius, quaternion, experiment, options.kind)


def write_patterns(path: Path, patterns: PatternSet, origin: dict[str, Any]) -> None:
    """Write a set as HDF5 in the CXI layout, whole or not at all.

    Images go to ``/entry_1/data_1/data`` (int32 counts, uint8 log images or float32 intensities), the mask to
    ``/entry_1/data_1/mask`` (non-zero = bad), truth, experiment and origin to ``/icobench``.

    Args:
        path: file to write.
        patterns: the set.
        origin: command, seed, versions: anything JSON can hold.
    """
    import h5py

    data = patterns.images.numpy()
    if patterns.kind == "counts":
        data = data.round().astype(np.int32)
    elif patterns.kind == "log":
        data = (data * 255).round().astype(np.uint8)
    with atomic_path(path) as temporary:
        try:
            with h5py.File(temporary, "w") as stream:
                stream["cxi_version"] = 150
                options = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
                shape = (min(len(patterns), 16), *patterns.images.shape[1:])
                stream.create_dataset(DATA_PATH, data=data, chunks=shape, **options)
                bad = (~patterns.mask).numpy().astype(np.uint32)
                stream.create_dataset(MASK_PATH, data=bad, chunks=shape, **options)
                wavelength = patterns.experiment.wavelength_nm * 1e-9
                stream["/entry_1/instrument_1/source_1/wavelength"] = wavelength
                truth = stream.create_group(TRUTH_GROUP)
                truth["radius_nm"] = patterns.radius_nm.numpy()
                truth["quaternion"] = patterns.quaternion.numpy()
                truth.attrs["kind"] = patterns.kind
                truth.attrs["experiment"] = json.dumps(patterns.experiment.to_dict())
                truth.attrs["origin"] = json.dumps(origin)
        except OSError as error:
            raise InputError(f"{path}: could not be written ({error})") from error


def read_patterns(path: Path) -> PatternSet:
    """Read a set written by :func:`write_patterns`.

    Raises:
        InputError: missing, damaged or without truth.
    """
    import h5py

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as stream:
            truth = stream[TRUTH_GROUP]
            kind = str(truth.attrs["kind"])
            experiment = Experiment.from_dict(json.loads(truth.attrs["experiment"]))
            radius = torch.as_tensor(truth["radius_nm"][()])
            quaternion = torch.as_tensor(truth["quaternion"][()])
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: not a set of patterns with truth ({error})") from error
    stack = read_images(path, kind="log" if kind == "log" else "counts")
    if stack.images.shape[1:] != (experiment.pixels, experiment.pixels):
        raise InputError(
            f"{path}: images of shape {stack.images.shape[1:]}, "
            f"but the experiment has {experiment.pixels} pixels a side"
        )
    if radius.shape != (len(stack.images),) or quaternion.shape != (len(stack.images), 4):
        raise InputError(
            f"{path}: truth of shapes {tuple(radius.shape)} and {tuple(quaternion.shape)} does not fit "
            f"{len(stack.images)} images"
        )
    return PatternSet(
        torch.from_numpy(stack.images), torch.from_numpy(stack.mask), radius, quaternion, experiment, kind
    )
