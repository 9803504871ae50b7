"""Raw frames in files, read a few at a time: CXI / HDF5, NumPy, TIFF, PNG.

Opening a file reads only its description and raises :class:`~icobench.errors.InputError` if the file cannot
be used at all. A problem of a single frame shows when that frame is read.
"""

import logging
import zipfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from icobench.errors import InputError

__all__ = [
    "DATA_PATH", "HDF5_SUFFIXES", "IMAGE_SUFFIXES", "MASK_PATH", "Frames", "array_frames", "first_line",
    "open_frames", "open_mask",
]  # fmt: skip

DATA_PATH = "/entry_1/data_1/data"
MASK_PATH = "/entry_1/data_1/mask"

HDF5_SUFFIXES = (".cxi", ".h5", ".hdf5", ".hdf", ".nxs")

CACHE_BYTES = 64 << 20
"""A compressed chunk that holds more frames than are read at once is unpacked once if it fits in here."""

NAMED = 6
"""Datasets that a message lists at most."""


@dataclass(frozen=True)
class Frames:
    """The frames of one file or dataset.

    Attributes:
        where: file and dataset, for messages.
        shape: (N, H, W); another rank where the file holds something else.
        dtype: as stored.
        read: frames ``start`` to ``stop`` as (stop - start, H, W); any exception where they cannot be read.
        note: a problem of the file that does not keep frames from being read, empty if there is none.
    """

    where: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[int, int], np.ndarray]
    note: str = ""


class _NoDatasetError(InputError):
    """A file without the dataset that was looked for."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _stacked(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, *shape) if len(shape) == 2 else shape


def array_frames(where: str, array: np.ndarray) -> Frames:
    """The frames of an array in memory."""
    array = array.reshape(_stacked(array.shape))
    return Frames(where, array.shape, array.dtype, lambda start, stop: array[start:stop])


def _plain_frames(
    where: str, stream: IO[bytes], offset: int, dtype: np.dtype, shape: tuple[int, ...], note: str = ""
) -> Frames:
    """Frames that lie one after the other in a stream.

    They are not mapped into memory, since the process would crash if another program shortens a mapped file.
    """
    shape = _stacked(shape)
    size = int(np.prod(shape[1:])) * dtype.itemsize

    def read(start: int, stop: int) -> np.ndarray:
        stream.seek(offset + start * size)
        content = stream.read((stop - start) * size)
        if len(content) < (stop - start) * size:
            raise EOFError("the file is cut short")
        return np.frombuffer(content, dtype).reshape(stop - start, *shape[1:])

    return Frames(where, shape, dtype, read, note)


def _hdf5(path: Path, names: Sequence[str], sole: bool, files: ExitStack) -> Frames:
    import h5py

    stream = files.enter_context(h5py.File(path, "r", rdcc_nbytes=CACHE_BYTES))
    name = next((name for name in names if isinstance(stream.get(name), h5py.Dataset)), None)
    if name is None:
        present: list[str] = []

        def visit(name: str, item: Any) -> bool | None:
            if isinstance(item, h5py.Dataset) and item.ndim >= 2:
                present.append(f"/{name}")
            return True if len(present) > NAMED else None  # True ends the visit

        stream.visititems(visit)
        if not sole or len(present) != 1:
            listed = ", ".join(present[:NAMED]) + (", ..." if len(present) > NAMED else "") or "none"
            raise _NoDatasetError(f"{path}: no dataset {names[0]} (two-dimensional or more are: {listed})")
        name = present[0]
    dataset = stream[name]
    shape = dataset.shape or ()

    def read(start: int, stop: int) -> np.ndarray:
        return dataset[start:stop] if len(shape) == 3 else dataset[()][None]

    return Frames(f"{path}, {name}", _stacked(shape), dataset.dtype, read)


def _npy(path: Path, names: Sequence[str], sole: bool, files: ExitStack) -> Frames:
    stream = files.enter_context(path.open("rb"))
    return _numpy_frames(str(path), stream, lambda: np.load(path, mmap_mode="r"))


def _npz(path: Path, names: Sequence[str], sole: bool, files: ExitStack) -> Frames:
    archive = files.enter_context(zipfile.ZipFile(path))
    present = [name.removesuffix(".npy") for name in archive.namelist()]
    name = next((name for name in names if name in present), None)
    if name is None:
        if not sole or len(present) != 1:
            listed = ", ".join(present) or "none"
            raise _NoDatasetError(f"{path}: no array named {' or '.join(names)} (there are: {listed})")
        name = present[0]
    stream = files.enter_context(archive.open(f"{name}.npy"))
    return _numpy_frames(f"{path}, {name}", stream, lambda: np.load(path)[name])


def _numpy_frames(where: str, stream: IO[bytes], load: Callable[[], np.ndarray]) -> Frames:
    """The array at the stream's start; ``load`` is for one in Fortran order, whose frames are scattered."""
    major, _ = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(stream)
    if fortran and not dtype.hasobject:
        return array_frames(where, load())
    return _plain_frames(where, stream, stream.tell(), dtype, shape)


def _tiff(path: Path, names: Sequence[str], sole: bool, files: ExitStack) -> Frames:
    import tifffile

    # If the list of pages breaks off, as in a file that is cut short, tifffile only logs it.
    messages: list[logging.LogRecord] = []

    def hide(message: logging.LogRecord) -> bool:
        messages.append(message)
        return False

    logger = logging.getLogger("tifffile")
    logger.addFilter(hide)
    files.callback(logger.removeFilter, hide)
    stream = files.enter_context(tifffile.TiffFile(path))
    pages, count = stream.pages, len(stream.pages)
    first = pages.first
    if first.samplesperpixel > 1:
        raise InputError(f"{path}: not a greyscale TIFF ({first.samplesperpixel} samples a pixel)")
    series = stream.series[0]
    note = "the list of its pages breaks off; the file is damaged" if messages else ""
    if len(stream.series) == 1 and series.dataoffset is not None and series.dtype is not None:
        dtype = series.dtype.newbyteorder(stream.byteorder)
        binary = files.enter_context(path.open("rb"))
        return _plain_frames(str(path), binary, series.dataoffset, dtype, series.shape, note)
    shape, dtype = first.shape, np.dtype(first.dtype)

    def read(start: int, stop: int) -> np.ndarray:
        images = [pages[number].asarray() for number in range(start, stop)]
        for image in images:
            if image.shape != shape or image.dtype != dtype:
                raise ValueError(f"a page of {image.dtype} {image.shape}, unlike the first")
        return np.stack(images)

    return Frames(str(path), (count, *shape), dtype, read, note)


def _png(path: Path, names: Sequence[str], sole: bool, files: ExitStack) -> Frames:
    from PIL import Image

    with Image.open(path, formats=["PNG"]) as image:
        grey = image.mode in ("1", "L") or image.mode.startswith("I")
        # Pillow cuts 16 bits to 8 where there is more than one channel; the header has the true depth.
        depth = path.read_bytes()[24]
        if grey and "transparency" not in image.info:
            values = np.asarray(image)
            return array_frames(str(path), values.astype(np.uint16) if depth == 16 else values)
        if depth == 16:
            raise InputError(f"{path}: a 16-bit PNG must be greyscale without transparency")
        colour = np.asarray(image.convert("RGBA"))
    if (colour[..., 1:3] != colour[..., :1]).any() or (colour[..., 3] != 255).any():
        raise InputError(f"{path}: not a greyscale PNG (colours or transparency)")
    return array_frames(str(path), colour[..., 0])


FORMATS = (
    ("HDF5", HDF5_SUFFIXES, _hdf5),
    ("NumPy", (".npy",), _npy),
    ("NumPy", (".npz",), _npz),
    ("TIFF", (".tif", ".tiff"), _tiff),
    ("PNG", (".png",), _png),
)

IMAGE_SUFFIXES = tuple(suffix for _, suffixes, _ in FORMATS for suffix in suffixes)
"""How the names of files end that can be opened."""


def _open(path: Path, names: Sequence[str], sole: bool, files: ExitStack) -> Frames:
    """The dataset of the first of these names that a file has, or its sole one if ``sole`` allows that."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    suffix = path.suffix.lower()
    for what, suffixes, reader in FORMATS:
        if suffix in suffixes:
            try:
                return reader(path, names, sole, files)
            except InputError:
                raise
            except Exception as error:  # libraries raise many kinds for damaged files
                raise InputError(f"{path}: not a readable {what} file ({first_line(error)})") from error
    raise InputError(
        f"{path}: unknown file type {suffix or '(none)'}; use .cxi, .h5, .npy, .npz, .tif or .png"
    )


def open_frames(path: Path, dataset: str | None, files: ExitStack) -> Frames:
    """The images of a file, which ``files`` closes at the end.

    The default ``dataset`` is :data:`DATA_PATH` of an HDF5 file; "data", "images" or the only one of an npz.

    Raises:
        InputError: missing or damaged file, unknown format, no such dataset.
    """
    suffix = path.suffix.lower()
    archive = suffix == ".npz"
    if dataset is not None and path.is_file() and not archive and suffix not in HDF5_SUFFIXES:
        raise InputError(f"{path}: holds no datasets, so none can be named ({dataset})")
    default = ("data", "images") if archive else (DATA_PATH,)
    return _open(path, default if dataset is None else (dataset,), archive and dataset is None, files)


def open_mask(path: Path, mask: str | None, files: ExitStack) -> Frames | None:
    """The mask that belongs to the images of a file; None if it has none.

    ``mask`` is a file of its own, or a dataset of the images' file: by default :data:`MASK_PATH`, or "mask".

    Raises:
        InputError: a mask is named that is not there.
    """
    if mask is not None and (file := Path(mask)).is_file():
        hdf5 = file.suffix.lower() in HDF5_SUFFIXES
        return _open(file, (MASK_PATH, DATA_PATH) if hdf5 else ("mask", "data"), True, files)
    suffix = path.suffix.lower()
    if suffix not in (*HDF5_SUFFIXES, ".npz"):
        if mask is not None:
            raise InputError(f"{mask}: no such file (--mask)")
        return None
    default = "mask" if suffix == ".npz" else MASK_PATH
    try:
        return _open(path, (mask or default,), False, files)
    except _NoDatasetError:
        if mask is not None:
            raise
        return None
