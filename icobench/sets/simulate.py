"""Simulated patterns of given bodies."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icobench.errors import InputError
from icobench.geometry import shapes
from icobench.images.formats import HDF5_SUFFIXES
from icobench.images.image_set import ImageSet
from icobench.images.pixels import photon_counts, usable_pixels
from icobench.provenance import provenance
from icobench.seeds import Purpose, torch_generator
from icobench.sets.pattern_file import write_patterns
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from icobench.storage import atomic_path, check_output

__all__ = ["simulate"]

Numbers = float | Sequence[Any] | np.ndarray | Tensor

MOST_PHOTONS, MOST_SIDE, MOST_BYTES = 1e12, 8192, 4e9
"""Photons, pixels a side, and memory of the images that one call simulates."""

CHUNK = 64
"""Bodies simulated at once."""


def _bodies(radius_nm: Numbers, quaternion: Numbers) -> tuple[Tensor, Tensor]:
    """Radii (N,) and quaternions (N, 4), float64, from one or N of either."""
    try:
        radii = torch.as_tensor(radius_nm, dtype=torch.float64).cpu()
        turns = torch.as_tensor(quaternion, dtype=torch.float64).cpu()
    except (ValueError, TypeError) as error:
        raise InputError("give radii, and one quaternion w,x,y,z for all radii or one for each") from error
    radii, turns = radii.reshape(-1), torch.atleast_2d(turns)
    count = max(len(radii), len(turns))
    fits = all(len(table) in (1, count) for table in (radii, turns))
    if not fits or turns.shape[1:] != (4,):
        raise InputError("give one quaternion w,x,y,z for all radii or one for each")
    return radii.expand(count).clone(), turns.expand(count, 4).clone()


def simulate(
    radius_nm: Numbers,
    quaternion: Numbers = (1.0, 0.0, 0.0, 0.0),
    photons: float = 0.0,
    hole_degrees: float = 0.0,
    experiment: Experiment | None = None,
    simulator: str | None = None,
    shape: str = "icosahedron",
    seed: int = 0,
    device: torch.device | str = "cpu",
    path: Path | str | None = None,
) -> ImageSet:
    """Patterns of given bodies.

    Args:
        radius_nm: circumradius or N of them; numbers, NumPy or torch.
        quaternion: orientation (w, x, y, z) of any length but 0, or (N, 4) of them. One radius or one
            quaternion is used for all.
        photons: expected photons on the usable pixels of each image; 0 for the intensity (nm^6) itself.
        hole_degrees: central hole that is masked, scattering angle of its rim.
        experiment: physics and grid; ``Experiment()`` by default.
        simulator: "exact", "sliced" or "propagated"; that for the experiment's physics by default.
        shape: one of :data:`~icobench.geometry.shapes.SHAPES`; of those with a parameter also with its value,
            "hexagonal-prism=1.5".
        seed: of the photon noise.
        device: where to simulate.
        path: file to keep them in: ``.npy`` for the images alone, ``.h5`` or ``.cxi`` with mask, truth and
            experiment.

    Returns:
        N images of kind "counts" or "intensity", with the bodies as truth; quaternions are normalised but
        not moved to the fundamental domain, which another shape may not have.

    Raises:
        InputError: numbers that do not fit together, or that the simulator does not take; a file that cannot
            be written.

    Example:
        >>> pattern = simulate([60.0, 80.0], (1, 0, 0, 0), photons=1e5)
        >>> pattern.kind, tuple(pattern.images.shape)
        ('counts', (2, 128, 128))
    """
    if path is not None:
        path = Path(path)
        check_output(path)
        if path.suffix.lower() not in (".npy", *HDF5_SUFFIXES):
            raise InputError(f"{path}: unknown file type; use .h5, .cxi or .npy")
    if not 0 <= photons <= MOST_PHOTONS:
        raise InputError(f"the number of photons must lie in 0 to {MOST_PHOTONS:g}, got {photons:g}")
    if not 0 <= hole_degrees <= 80:
        raise InputError(f"the hole must lie in 0 to 80 degrees, got {hole_degrees:g}")
    radii, turns = _bodies(radius_nm, quaternion)
    experiment = experiment or Experiment()
    needed = len(radii) * experiment.pixels**2 * 4
    if experiment.pixels > MOST_SIDE or needed > MOST_BYTES:
        raise InputError(
            f"{len(radii):,} images of {experiment.pixels:,} pixels a side take {needed / 1e9:,.3g} GB; at "
            f"most {MOST_SIDE:,} pixels and {MOST_BYTES / 1e9:g} GB are simulated at once"
        )
    try:
        model = Simulator(experiment, simulator, device, body=shapes.shape(shape))
        parts = [
            model.intensity(radii[chunk].to(device), turns[chunk].to(device)).cpu()
            for chunk in torch.arange(len(radii)).split(CHUNK)
        ]
    except ValueError as error:
        raise InputError(str(error)) from error
    images = torch.cat(parts)
    mask = usable_pixels(experiment, hole_degrees)
    if photons > 0:
        images = photon_counts(images, mask, photons, torch_generator(seed, Purpose.SIMULATE))
    kind = "counts" if photons > 0 else "intensity"
    turns = turns / turns.norm(dim=1, keepdim=True)
    bodies = None if shape == "icosahedron" else [shape] * len(radii)
    mask = mask.expand(images.shape)
    patterns = ImageSet(images * mask, mask, kind, experiment, radii, turns, bodies=bodies)
    if path is not None and path.suffix.lower() == ".npy":
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, patterns.images.numpy())
    elif path is not None:
        origin = provenance(seed, torch.device(device), experiment)
        write_patterns(path, patterns, origin | {"shape": shape, "method": model.method})
    return patterns
