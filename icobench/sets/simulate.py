"""Simulating given bodies straight to a file."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from icobench.errors import InputError
from icobench.geometry.shapes import shape
from icobench.images.counts import photon_counts
from icobench.images.files import HDF5_SUFFIXES
from icobench.images.masks import usable_pixels
from icobench.provenance import provenance
from icobench.sets.pattern_file import write_patterns
from icobench.sets.patterns import PatternSet
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from icobench.storage import atomic_path

__all__ = ["simulate_to_file"]

CHUNK = 64


def simulate_to_file(
    path: Path,
    radius_nm: Sequence[float],
    quaternion: Sequence[Sequence[float]],
    experiment: Experiment,
    method: str = "exact",
    photons: float = 0.0,
    hole_degrees: float = 0.0,
    seed: int = 0,
    device: torch.device | str = "cpu",
    shape_name: str = "icosahedron",
) -> None:
    """Simulate bodies and write their patterns.

    Args:
        path: ``.npy`` for the images alone, ``.h5`` or ``.cxi`` with mask, truth and experiment.
        radius_nm: N radii.
        quaternion: N orientations (w, x, y, z), or one for all.
        experiment, method: as for :class:`~icobench.simulator.simulator.Simulator`.
        photons: expected photons on the usable pixels; 0 writes the intensity (nm^6) itself.
        hole_degrees: central hole that is masked.
        seed: of the photon noise.
        device: where to simulate.
        shape_name: one of :data:`~icobench.geometry.shapes.SHAPES`.

    Raises:
        InputError: numbers that do not fit together, or a file that cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix != ".npy" and suffix not in HDF5_SUFFIXES:
        raise InputError(f"{path}: unknown file type; use .h5, .cxi or .npy")
    if not path.resolve().parent.is_dir():
        raise InputError(f"{path.parent}: no such folder")
    if not math.isfinite(photons) or photons < 0:
        raise InputError(f"the number of photons must be finite and not negative, got {photons:g}")
    if len(quaternion) == 1:
        quaternion = list(quaternion) * len(radius_nm)
    if len(quaternion) != len(radius_nm) or any(len(row) != 4 for row in quaternion):
        raise InputError("give one quaternion w,x,y,z for all radii or one for each")
    radii = torch.tensor(list(radius_nm), dtype=torch.float64)
    turns = torch.tensor([list(row) for row in quaternion], dtype=torch.float64)
    try:
        simulator = Simulator(experiment, method, device, body=shape(shape_name))
        pieces = [
            simulator.intensity(radii[i].to(device), turns[i].to(device)).cpu()
            for i in torch.arange(len(radii)).split(CHUNK)
        ]
    except ValueError as error:
        raise InputError(str(error)) from error
    images = torch.cat(pieces)
    mask = usable_pixels(experiment, hole_degrees)
    if photons > 0:
        state = np.random.SeedSequence(seed, spawn_key=(4,)).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
        images = photon_counts(images, mask, photons, generator)
    images = images * mask
    if suffix == ".npy":
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, images.numpy())
        return
    patterns = PatternSet(
        images, mask.expand(images.shape), radii, turns / turns.norm(dim=1, keepdim=True), experiment,
        "counts" if photons > 0 else "intensity",
    )  # fmt: skip
    origin = provenance(seed, torch.device(device), experiment) | {"shape": shape_name, "method": method}
    write_patterns(path, patterns, origin)
