"""Sets of patterns as HDF5 files in the CXI layout.

Images are at ``/entry_1/data_1/data`` (int32 counts, uint8 log images or float32 numbers), the mask at
``/entry_1/data_1/mask`` (non-zero = bad), truth, experiment and origin in ``/icobench``.
"""

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from icobench.errors import InputError
from icobench.images.formats import DATA_PATH, MASK_PATH
from icobench.images.image_set import ImageSet
from icobench.simulator.experiment import Experiment
from icobench.storage import atomic_path

if TYPE_CHECKING:
    import h5py

__all__ = [
    "CHUNK_IMAGES", "TRUTH_GROUP", "PatternWriter", "read_patterns", "stored_settings", "write_patterns",
]  # fmt: skip

TRUTH_GROUP = "/icobench"
WAVELENGTH_PATH = "/entry_1/instrument_1/source_1/wavelength"
CXI_VERSION = 150

CHUNK_IMAGES = 16
"""Images compressed together."""

DTYPES = {"counts": np.int32, "log": np.uint8, "intensity": np.float32}


class PatternWriter:
    """An open file that takes blocks of a set in any order.

    Args:
        stream: an empty HDF5 file, open for writing.
        images: number of images.
        experiment, kind: of the set.
        attributes: for the group of the truth; dictionaries become JSON.
        exact: store float32 numbers, whatever the kind, as needed for images that were not made here.
    """

    def __init__(
        self,
        stream: "h5py.File",
        images: int,
        experiment: Experiment,
        kind: str,
        attributes: dict[str, Any],
        exact: bool = False,
    ) -> None:
        pixels = experiment.pixels
        packed: dict[str, Any] = {"compression": "gzip", "compression_opts": 1}
        packed["chunks"] = (min(images, CHUNK_IMAGES), pixels, pixels)
        shape, dtype = (images, pixels, pixels), np.float32 if exact else DTYPES[kind]
        stream["cxi_version"] = CXI_VERSION
        self.data = stream.create_dataset(DATA_PATH, shape, dtype, shuffle=dtype != np.uint8, **packed)
        self.mask = stream.create_dataset(MASK_PATH, shape, np.uint32, shuffle=True, **packed)
        stream[WAVELENGTH_PATH] = experiment.wavelength_nm * 1e-9
        self.truth = stream.create_group(TRUTH_GROUP)
        self.truth.create_dataset("radius_nm", (images,), np.float64)
        self.truth.create_dataset("quaternion", (images, 4), np.float64)
        self.truth.attrs["kind"] = kind
        self.truth.attrs["experiment"] = json.dumps(experiment.to_dict())
        for name, value in attributes.items():
            self.truth.attrs[name] = json.dumps(value) if isinstance(value, dict | list) else value

    def write(self, start: int, patterns: ImageSet) -> None:
        """Write a block whose first image has the number ``start``."""
        rows = slice(start, start + len(patterns))
        images, dtype = patterns.images.numpy(), self.data.dtype
        if patterns.kind == "log" and dtype == np.uint8:
            images = images * 255
        self.data[rows] = images.round().astype(dtype) if dtype.kind in "ui" else images
        self.mask[rows] = (~patterns.mask).numpy().astype(np.uint32)
        self.truth["radius_nm"][rows] = patterns.radius_nm.numpy()
        self.truth["quaternion"][rows] = patterns.quaternion.numpy()

    def copy(self, start: int, source: "h5py.File") -> None:
        """Write all images of another file, without unpacking them where the chunks of both agree."""
        count = len(source[DATA_PATH])
        rows = slice(start, start + count)
        at_the_end = start + count == len(self.data)
        for target, name in ((self.data, DATA_PATH), (self.mask, MASK_PATH)):
            dataset, size = source[name], target.chunks[0]
            whole_chunks = start % size == 0 and (at_the_end or count % size == 0)
            if dataset.chunks == target.chunks and whole_chunks:
                for first in range(0, count, size):
                    _, packed = dataset.id.read_direct_chunk((first, 0, 0))
                    target.id.write_direct_chunk((start + first, 0, 0), packed)
            else:
                for first in range(0, count, size):
                    last = min(first + size, count)
                    target[start + first : start + last] = dataset[first:last]
        for name in ("radius_nm", "quaternion"):
            self.truth[name][rows] = source[TRUTH_GROUP][name][()]


def write_patterns(path: Path, patterns: ImageSet, origin: dict[str, Any], exact: bool = False) -> None:
    """Write a set; a failure leaves no file.

    Args:
        path: file to write.
        patterns: the set, with its experiment.
        origin: command, seed, versions: anything JSON can hold.
        exact: as for :class:`PatternWriter`. Log images that are not of 8 bits are always stored exactly.

    Raises:
        InputError: the folder does not exist or the file cannot be written.
    """
    assert patterns.experiment is not None
    if patterns.kind == "log":
        levels = patterns.images * 255
        exact = exact or not torch.allclose(levels, levels.round(), rtol=0, atol=1e-3)
    with atomic_path(path) as temporary, small_file(temporary, path) as stream:
        attributes = {"origin": origin}
        writer = PatternWriter(stream, len(patterns), patterns.experiment, patterns.kind, attributes, exact)
        writer.write(0, patterns)


# HDF5 cannot handle a full disk: a file that cannot be closed crashes the process when it ends. So small
# files are made in memory, and for large ones the space is reserved first.


@contextmanager
def small_file(path: Path, reported: Path) -> Iterator["h5py.File"]:
    """A new HDF5 file, made in memory and written at the end.

    Raises:
        InputError: the disk is full; the message names ``reported``.
    """
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as stream:
        yield stream
    try:
        path.write_bytes(buffer.getbuffer())
    except OSError as error:
        raise InputError(f"{reported}: could not be written ({error.strerror})") from error


@contextmanager
def large_file(path: Path, reported: Path, size: int) -> Iterator["h5py.File"]:
    """A new HDF5 file of at most about ``size`` bytes.

    Raises:
        InputError: the disk has no room for it; the message names ``reported``.
    """
    import h5py

    try:
        with path.open("wb") as stream:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(stream.fileno(), 0, size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise InputError(f"{reported}: could not be written ({error.strerror})") from error
    with h5py.File(path, "w") as file:
        yield file


def read_patterns(path: Path, split: str | None = None) -> ImageSet:
    """Read a set, or one of its splits.

    Args:
        path: written by :func:`write_patterns` or ``icobench generate``.
        split: "train", "validation" or "test", where the set has such parts.

    Raises:
        InputError: missing, damaged, without truth, or without that split.
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
            data, mask = stream[DATA_PATH], stream[MASK_PATH]
            radius, quaternion = truth["radius_nm"], truth["quaternion"]
            shape = (len(data), experiment.pixels, experiment.pixels)
            expected = shape, shape, shape[:1], (*shape[:1], 4)
            shapes = data.shape, mask.shape, radius.shape, quaternion.shape
            if shapes != expected:
                raise ValueError(f"images, mask and truth of shapes {shapes}")
            rows = _rows(path, json.loads(truth.attrs.get("splits", "[]")), split)
            images = torch.from_numpy(data[rows].astype(np.float32))
            if data.dtype == np.uint8:
                images /= 255
            usable = torch.from_numpy(mask[rows]) == 0
            radius, quaternion = torch.as_tensor(radius[rows]), torch.as_tensor(quaternion[rows])
    except (OSError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a set of patterns with truth ({error})") from error
    numbers = torch.arange(shape[0])[rows]
    return ImageSet(torch.where(usable, images, 0.0), usable, kind, experiment, radius, quaternion, numbers)


def stored_settings(path: Path) -> dict[str, Any]:
    """Settings with which ``icobench generate`` made a set; empty for sets made in other ways.

    Raises:
        InputError: not a set of patterns.
    """
    import h5py

    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as stream:
            return json.loads(stream[TRUTH_GROUP].attrs.get("settings", "{}"))
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a set of patterns with truth ({error})") from error


def _rows(path: Path, splits: list[list[Any]], split: str | None) -> slice:
    """The part of the images that belongs to the split."""
    if split is None:
        return slice(None)
    start = 0
    for name, count in splits:
        if name == split:
            return slice(start, start + count)
        start += count
    names = ", ".join(name for name, _ in splits) or "no splits"
    raise InputError(f"{path}: no split {split!r}, the set has {names}")
