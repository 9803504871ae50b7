"""A user's own file as test images, with or without truth."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from icobench.errors import InputError
from icobench.geometry.orientation import to_fundamental_domain
from icobench.images.formats import IMAGE_SUFFIXES
from icobench.images.image_set import ImageSet
from icobench.images.resample import on_grid
from icobench.images.source import open_images
from icobench.simulator.experiment import Experiment

__all__ = ["FIT_SIN_THETA", "file_digest", "is_image_file", "read_own_images"]

FIT_SIN_THETA = 0.8
"""Sine of the largest scattering angle that is fitted by default. Beyond it the simulators disagree most
(the multi-slice method on voxels by 7 to 20 % of the mean intensity, which shifts fits by several standard
deviations), and few detectors reach that far."""

TRUTH_COLUMNS = ("radius_nm", "q_w", "q_x", "q_y", "q_z")


def is_image_file(name: str) -> bool:
    """Whether a name is that of a file of images, by its ending."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def file_digest(path: Path) -> str:
    """SHA-256 of the content, 16 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def read_own_images(
    path: Path, experiment: Experiment, images: int | None = None, truth: Path | None = None
) -> ImageSet:
    """The first images of a file, brought to a grid as ``icobench reconstruct`` does it.

    Pixels beyond :data:`FIT_SIN_THETA` are masked. If no table of the truth is given, the truth stored by
    ``icobench generate`` or ``simulate`` is taken; unknown radii and orientations are NaN.

    Args:
        path: CXI / HDF5, .npy, .npz, TIFF or PNG.
        experiment: what the user believes about it; the set's own experiment has the file's number of pixels.
        images: largest number of images.
        truth: table (.csv or .parquet) with the columns radius_nm, q_w, q_x, q_y, q_z and, if its rows are
            not in the order of the images, index.

    Raises:
        InputError: images or truth that cannot be used.
    """
    with open_images(path) as opened:
        source, grid = on_grid(opened, experiment)
        count = len(source) if images is None else min(images, len(source))
        frames = source.read(range(count))
        for number, problem in sorted(frames.problems.items()):
            raise InputError(f"{source.where}: image {number}: {problem}")
    radius, quaternion = _stored_truth(path, count) if truth is None else _truth_table(truth, count)
    mask = frames.mask & grid.valid() & (grid.sin_theta() <= FIT_SIN_THETA + 1e-9)
    pixels = torch.where(mask, frames.images, 0.0)
    for number, has_signal in enumerate((pixels > 0).flatten(1).any(1).tolist()):
        if not has_signal:
            raise InputError(f"{path}: image {number}: no signal at usable pixels of the fitted range")
    return replace(frames, images=pixels, mask=mask, experiment=grid, radius_nm=radius, quaternion=quaternion)


def _stored_truth(path: Path, count: int) -> tuple[Tensor, Tensor]:
    """Radii (N,) and orientations (N, 4) in a file of this package, NaN in others."""
    import h5py

    radius = torch.full((count,), torch.nan, dtype=torch.float64)
    quaternion = torch.full((count, 4), torch.nan, dtype=torch.float64)
    if h5py.is_hdf5(path):
        with h5py.File(path, "r") as stream:
            stored = stream.get("icobench")
            if isinstance(stored, h5py.Group) and {"radius_nm", "quaternion"} <= set(stored):
                radii, turns = (np.asarray(stored[name][:count]) for name in ("radius_nm", "quaternion"))
                if radii.shape == (count,) and turns.shape == (count, 4):
                    return torch.as_tensor(radii), torch.as_tensor(turns)
    return radius, quaternion


def _truth_table(path: Path, count: int) -> tuple[Tensor, Tensor]:
    """Radii (N,) and orientations (N, 4) in a table, NaN where a value is missing."""
    import pandas as pd

    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except Exception as error:  # pandas and pyarrow raise many kinds
        raise InputError(f"{path}: not a readable table ({error})") from error
    if missing := [name for name in TRUTH_COLUMNS if name not in table]:
        raise InputError(f"{path}: no column {', '.join(missing)}")
    if "index" in table:
        table = table.set_index("index")
        if table.index.duplicated().any():
            raise InputError(f"{path}: an index occurs twice")
        table = table.reindex(range(count))
    elif len(table) < count:
        raise InputError(f"{path}: {len(table)} rows for {count} images")
    try:
        values = torch.tensor(table[list(TRUTH_COLUMNS)].to_numpy(dtype=float)[:count])
    except ValueError as error:
        raise InputError(f"{path}: wrong values ({error})") from error
    complete = torch.isfinite(values).all(1)
    turns = values[complete, 1:]
    if (values[complete, 0] <= 0).any() or (turns.norm(dim=1) < 1e-6).any():
        raise InputError(f"{path}: a radius that is not positive, or a quaternion of zeros")
    values[~complete] = torch.nan
    values[complete, 1:] = to_fundamental_domain(turns / turns.norm(dim=1, keepdim=True))
    return values[:, 0], values[:, 1:]
