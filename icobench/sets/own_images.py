"""A user's own file as test images, with or without truth."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from icobench.errors import InputError
from icobench.geometry.orientation import to_fundamental_domain
from icobench.images.facts import experiment_facts
from icobench.images.frames import first_line
from icobench.images.hdf5_probe import check_survival
from icobench.images.image_set import ImageSet
from icobench.images.prepare import prepare
from icobench.sets.pattern_file import TRUTH_GROUP, read_bodies
from icobench.simulator.experiment import Experiment

__all__ = ["FIT_SIN_THETA", "file_digest", "read_own_images"]

FIT_SIN_THETA = 0.8
"""Sine of the largest scattering angle that is fitted by default. Beyond it the simulators disagree most
(the multi-slice method on voxels by 7 to 20 % of the mean intensity, which shifts fits by several standard
deviations), and few detectors reach that far."""

TRUTH_COLUMNS = ("radius_nm", "q_w", "q_x", "q_y", "q_z")


def file_digest(path: Path) -> str:
    """SHA-256 of the content, 16 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def read_own_images(
    path: Path,
    experiment: Experiment,
    images: int | None = None,
    truth: Path | None = None,
    stated: Sequence[str] | None = None,
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
        stated: fields of the experiment that the user stated, which the file must not contradict; by default
            those that differ from an ``Experiment()``. What the file states is taken for the others.

    Raises:
        InputError: images or truth that cannot be used.
    """
    believed, standard = experiment_facts(experiment, ""), experiment_facts(Experiment(), "")
    if stated is None:
        stated = [name for name in believed if believed[name] != standard.get(name)]
    given = {name: believed[name].value for name in stated if name in believed}
    with prepare(path, experiment=given, who="the command line") as prepared:
        source, grid = prepared.grid, prepared.experiment
        if source.kind == "counts" and prepared.source.gain is None and not prepared.source.steps:
            if prepared.source.readout > 0:
                raise InputError(f"{path}: values below 0; a comparison needs counts in photons")
            prepared.source.with_noise(prepared.source.estimate_noise()[0] or None)
        count = len(source) if images is None else min(images, len(source))
        frames = source.read_usable(count)
    columns = _stored_truth(path, count) if truth is None else _truth_table(truth, count)
    mask = frames.mask & grid.valid() & (grid.sin_theta() <= FIT_SIN_THETA + 1e-9)
    pixels = torch.where(mask, frames.images, 0.0)
    for number, has_signal in enumerate((pixels > 0).flatten(1).any(1).tolist()):
        if not has_signal:
            raise InputError(f"{path}: image {number}: no signal at usable pixels of the fitted range")
    return replace(frames, images=pixels, mask=mask, experiment=grid, **columns)


def _stored_truth(path: Path, count: int) -> dict[str, Any]:
    """Radii (N,) and orientations (N, 4) in a file of this package, nothing in others."""
    import h5py

    if not h5py.is_hdf5(path):
        return {}

    def read() -> dict[str, Any]:
        with h5py.File(path, "r") as stream:
            names = [name for name in ("radius_nm", "quaternion") if f"{TRUTH_GROUP}/{name}" in stream]
            found: dict[str, Any] = {
                name: torch.as_tensor(stream[TRUTH_GROUP][name][:count]) for name in names
            }
            bodies = read_bodies(stream, slice(count)) if len(found) == 2 else None
            return found if bodies is None else found | {"bodies": bodies}

    check_survival(path, "truth", read)
    try:
        truth = read()
    except Exception as error:  # HDF5 raises many kinds for damaged files
        raise InputError(f"{path}, {TRUTH_GROUP}: the truth cannot be read ({first_line(error)})") from error
    shapes = [truth[name].shape for name in ("radius_nm", "quaternion") if name in truth]
    return truth if shapes == [(count,), (count, 4)] else {}


def _truth_table(path: Path, count: int) -> dict[str, Any]:
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
    return {"radius_nm": values[:, 0], "quaternion": values[:, 1:]}
