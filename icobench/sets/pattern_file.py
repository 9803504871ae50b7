"""Sets of patterns as HDF5 files in the CXI layout.

Images are at ``/entry_1/data_1/data`` (int32 counts, uint8 log images or float32 numbers), the mask at
``/entry_1/data_1/mask`` (non-zero = bad), truth, experiment and origin in ``/icobench``; there is
``/icobench/body``, the names of the bodies, where these are not all icosahedra.

HDF5 cannot handle a full disk: a file that cannot be closed crashes the process when it ends. So small files
are made in memory, and for large ones the space is reserved first.
"""

import io
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from icobench.errors import InputError
from icobench.geometry.shapes import shape
from icobench.images.formats import DATA_PATH, MASK_PATH
from icobench.images.hdf5_probe import check_survival
from icobench.images.image_set import ImageSet
from icobench.simulator.experiment import Experiment
from icobench.storage import atomic_path

if TYPE_CHECKING:
    import h5py

__all__ = [
    "CHUNK_IMAGES", "TRUTH_GROUP", "join_files", "read_bodies", "read_patterns", "stored_settings",
    "write_patterns",
]  # fmt: skip

TRUTH_GROUP = "/icobench"
RADIUS_PATH, QUATERNION_PATH = f"{TRUTH_GROUP}/radius_nm", f"{TRUTH_GROUP}/quaternion"
BODY_PATH = f"{TRUTH_GROUP}/body"
PATHS = (DATA_PATH, MASK_PATH, RADIUS_PATH, QUATERNION_PATH)
WAVELENGTH_PATH = "/entry_1/instrument_1/source_1/wavelength"
CXI_VERSION = 150

CHUNK_IMAGES = 16
"""Images compressed together."""

LEVEL = 1
"""Of the compression: higher ones take much longer for little."""

DTYPES = {"counts": np.int32, "log": np.uint8, "intensity": np.float32}


def _create(
    stream: Any, images: int, experiment: Experiment, kind: str, dtype: Any, attributes: dict[str, Any]
) -> "list[h5py.Dataset]":
    """Make the datasets of a set, see ``PATHS``; attributes that are dictionaries or lists become JSON."""
    shape = (images, experiment.pixels, experiment.pixels)
    packed: dict[str, Any] = {"compression": "gzip", "compression_opts": LEVEL}
    packed["chunks"] = (min(images, CHUNK_IMAGES), *shape[1:])
    stream["cxi_version"] = CXI_VERSION
    data = stream.create_dataset(DATA_PATH, shape, dtype, shuffle=dtype != np.uint8, **packed)
    mask = stream.create_dataset(MASK_PATH, shape, np.uint32, shuffle=True, **packed)
    stream[WAVELENGTH_PATH] = experiment.wavelength_nm * 1e-9
    radius = stream.create_dataset(RADIUS_PATH, (images,), np.float64)
    quaternion = stream.create_dataset(QUATERNION_PATH, (images, 4), np.float64)
    attributes = {"kind": kind, "experiment": experiment.to_dict(), **attributes}
    for name, value in attributes.items():
        stream[TRUTH_GROUP].attrs[name] = json.dumps(value) if isinstance(value, dict | list) else value
    return [data, mask, radius, quaternion]


def write_patterns(
    path: Path, patterns: ImageSet, origin: dict[str, Any], exact: bool = False, reported: Path | None = None
) -> None:
    """Write a set; a failure leaves no file.

    Args:
        path: file to write.
        patterns: the set, with its experiment.
        origin: command, seed, versions: anything JSON can hold.
        exact: store float32 numbers, whatever the kind, as needed for images that were not made here. Log
            images that are not of 8 bits, and counts that are no whole numbers, are always stored so.
        reported: file that messages name, if ``path`` is a part of it.

    Raises:
        InputError: the folder does not exist or the file cannot be written.
    """
    import h5py

    images, buffer = patterns.images, io.BytesIO()
    if patterns.kind == "log":
        levels = images * 255
        exact = exact or not torch.allclose(levels, levels.round(), rtol=0, atol=1e-3)
        images = images if exact else levels
    if patterns.kind == "counts":  # readings of a detector with a response are no whole numbers
        exact = exact or not torch.equal(images, images.round())
    dtype = np.dtype(np.float32 if exact else DTYPES[patterns.kind])
    with atomic_path(path) as temporary:
        with h5py.File(buffer, "w") as stream:
            experiment, attributes = patterns.known_experiment, {"origin": origin}
            datasets = _create(stream, len(patterns), experiment, patterns.kind, dtype, attributes)
            images = images.round() if dtype.kind in "ui" else images
            columns = (images, ~patterns.mask, patterns.radius_nm, patterns.quaternion)
            for dataset, values in zip(datasets, columns, strict=True):
                if dataset.chunks is None:
                    dataset[:] = values.numpy()
                else:
                    _write_packed(dataset, values.numpy())
            if patterns.bodies is not None:
                stream[BODY_PATH] = patterns.bodies
        try:
            temporary.write_bytes(buffer.getbuffer())
        except OSError as error:
            raise InputError(f"{reported or path}: could not be written ({error.strerror})") from error


def _write_packed(dataset: "h5py.Dataset", values: np.ndarray) -> None:
    """Write images as HDF5 would, but compress the chunks, which takes most of the time, in all threads."""
    size, type_bytes = dataset.chunks[0], dataset.dtype.itemsize

    def packed(first: int) -> bytes:
        chunk = np.zeros(dataset.chunks, dataset.dtype)
        rows = values[first : first + size]
        chunk[: len(rows)] = rows
        if dataset.shuffle:  # the first bytes of all numbers, then the second ones
            chunk = chunk.view(np.uint8).reshape(-1, type_bytes).T
        return zlib.compress(np.ascontiguousarray(chunk).data, LEVEL)

    starts = range(0, len(values), size)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for first, chunk in zip(starts, pool.map(packed, starts), strict=True):
            dataset.id.write_direct_chunk((first, 0, 0), chunk)


def join_files(
    path: Path, files: Sequence[Path], images: int, attributes: dict[str, Any], reported: Path
) -> None:
    """One file of so many images from files of this module that hold them in order.

    The attributes are for the group of the truth; messages name the file that is ``reported``.

    Raises:
        InputError: a damaged file, or a full disk.
    """
    import h5py

    try:
        with path.open("wb") as binary:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(binary.fileno(), 0, sum(file.stat().st_size for file in files))
    except OSError as error:
        raise InputError(f"{reported}: could not be written ({error.strerror})") from error
    with h5py.File(files[0], "r") as first:
        dtype, truth = first[DATA_PATH].dtype, first[TRUTH_GROUP].attrs
        kind, experiment = str(truth["kind"]), Experiment.from_dict(json.loads(truth["experiment"]))
    start, bodies = 0, list[str]()
    with h5py.File(path, "w") as target:
        datasets = _create(target, images, experiment, kind, dtype, attributes)
        for file in files:
            try:
                with h5py.File(file, "r") as source:
                    start += _copy([source[name] for name in PATHS], datasets, start)
                    bodies += read_bodies(source) or ()
            except (OSError, KeyError, ValueError) as error:
                raise InputError(f"{reported}: could not be joined, at {file} ({error})") from error
        if bodies:
            target[BODY_PATH] = bodies


def read_bodies(stream: "h5py.File", rows: slice = slice(None)) -> list[str] | None:
    """The names of the true bodies in an open file; None where all are icosahedra.

    Raises:
        ValueError: a name that no body has, or not a name for each image.
    """
    if BODY_PATH not in stream:
        return None
    names = stream[BODY_PATH].asstr()[()].tolist()
    if len(names) != len(stream[RADIUS_PATH]):
        raise ValueError(f"{len(names)} names of bodies for {len(stream[RADIUS_PATH])} images")
    for name in dict.fromkeys(names):
        shape(name)
    return names[rows]


def _copy(sources: "list[h5py.Dataset]", targets: "list[h5py.Dataset]", start: int) -> int:
    """Copy all images, without unpacking them where the chunks of both files agree; their number."""
    count = len(sources[0])
    for source, target in zip(sources[:2], targets[:2], strict=True):
        size = target.chunks[0]
        whole_chunks = start % size == 0 and (count % size == 0 or start + count == len(target))
        for first in range(0, count, size):
            if whole_chunks and source.chunks == target.chunks:
                _, packed = source.id.read_direct_chunk((first, 0, 0))
                target.id.write_direct_chunk((start + first, 0, 0), packed)
            else:
                last = min(first + size, count)
                target[start + first : start + last] = source[first:last]
    for source, target in zip(sources[2:], targets[2:], strict=True):
        target[start : start + count] = source[()]
    return count


@contextmanager
def _opened(path: Path) -> Iterator["h5py.File"]:
    """A set for reading; whatever is missing in it raises an InputError."""
    import h5py

    if not path.is_file():
        raise InputError(f"{path}: no such file")

    def look() -> None:
        with h5py.File(path, "r") as stream:
            dict(stream[TRUTH_GROUP].attrs)
            for name in (*PATHS, *([BODY_PATH] if BODY_PATH in stream else [])):
                stream[name][:1]

    check_survival(path, "a set", look)
    try:
        with h5py.File(path, "r") as stream:
            yield stream
    except InputError:
        raise
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path}: not a set of patterns with truth ({error})") from error


def read_patterns(path: Path, split: str | None = None) -> ImageSet:
    """Read a set, or one of its splits.

    Args:
        path: written by :func:`write_patterns` or ``icobench generate``.
        split: "train", "validation" or "test", where the set has such parts.

    Raises:
        InputError: missing, damaged, without truth, or without that split.
    """
    path = Path(path)
    with _opened(path) as stream:
        truth = stream[TRUTH_GROUP].attrs
        kind, experiment = str(truth["kind"]), Experiment.from_dict(json.loads(truth["experiment"]))
        datasets = [stream[name] for name in PATHS]
        count = len(datasets[0])
        shape = (count, experiment.pixels, experiment.pixels)
        shapes = [dataset.shape for dataset in datasets]
        if shapes != [shape, shape, (count,), (count, 4)]:
            raise ValueError(f"images, mask and truth of shapes {shapes}")
        rows = _rows(path, json.loads(truth.get("splits", "[]")), split)
        data, bad, radius, quaternion = (dataset[rows] for dataset in datasets)
        bodies = read_bodies(stream, rows)
    images, mask = torch.from_numpy(data.astype(np.float32)), torch.from_numpy(bad == 0)
    if data.dtype == np.uint8:
        images /= 255
    return ImageSet(
        torch.where(mask, images, 0.0), mask, kind, experiment, torch.as_tensor(radius),
        torch.as_tensor(quaternion), torch.arange(count)[rows], bodies=bodies,
    )  # fmt: skip


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


def stored_settings(path: Path) -> dict[str, Any]:
    """Settings with which ``icobench generate`` made a set; empty for sets made in other ways.

    Raises:
        InputError: not a set of patterns.
    """
    with _opened(path) as stream:
        return json.loads(stream[TRUTH_GROUP].attrs.get("settings", "{}"))
