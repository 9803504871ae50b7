"""Raw frames in files, read a few at a time: CXI / HDF5, NumPy, TIFF, PNG.

Opening a file reads only its description and raises :class:`~icobench.errors.InputError` if the file cannot
be used at all. A problem of a single frame shows when that frame is read.
"""

import logging
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from icobench.errors import InputError

__all__ = [
    "DATA_PATH", "HDF5_SUFFIXES", "IMAGE_SUFFIXES", "MASK_PATH", "Frames", "first_line", "open_frames",
    "open_mask",
]  # fmt: skip

DATA_PATH = "/entry_1/data_1/data"
MASK_PATH = "/entry_1/data_1/mask"

HDF5_SUFFIXES = (".cxi", ".h5", ".hdf5", ".hdf", ".nxs")
NUMPY_SUFFIXES = (".npy", ".npz")
TIFF_SUFFIXES = (".tif", ".tiff")
IMAGE_SUFFIXES = (*HDF5_SUFFIXES, *NUMPY_SUFFIXES, *TIFF_SUFFIXES, ".png")
"""How the names of files end that can be opened."""

CACHE_BYTES = 64 << 20
"""A compressed chunk that holds more frames than are read at once is unpacked once if it fits in here."""

NAMED = 6
"""Datasets that a message lists at most."""


@dataclass(frozen=True)
class Frames:
    """The frames of one file or dataset.

    Attributes:
        shape: (N, H, W); another rank where the file holds something else.
        dtype: as stored.
        read: frames ``start`` to ``stop`` as (stop - start, H, W); any exception where they cannot be read.
        name: of the dataset or array within the file, empty if the format has none.
        note: a problem of the file that does not keep frames from being read, empty if there is none.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[int, int], np.ndarray]
    name: str = ""
    note: str = ""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def _readable(path: Path, what: str) -> Iterator[None]:
    """Turn any exception that a library raises for a damaged file into an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: not a readable {what} file ({first_line(error)})") from error


def _stacked(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, *shape) if len(shape) == 2 else shape


def _plain(
    stream: IO[bytes], offset: int, dtype: np.dtype, shape: tuple[int, ...], name: str = "", note: str = ""
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

    return Frames(shape, dtype, read, name, note)


def _hdf5(path: Path, names: Sequence[str], sole: bool, files: ExitStack) -> Frames | None:
    import h5py

    with _readable(path, "HDF5"):
        stream = files.enter_context(h5py.File(path, "r", rdcc_nbytes=CACHE_BYTES))
        name = next((name for name in names if isinstance(stream.get(name), h5py.Dataset)), None)
        if name is None and sole:
            datasets = _datasets(stream)
            name = datasets[0] if len(datasets) == 1 else None
        if name is None:
            return None
        dataset = stream[name]
        dtype, shape = dataset.dtype, dataset.shape or ()

    def read(start: int, stop: int) -> np.ndarray:
        return dataset[start:stop] if len(shape) == 3 else dataset[()][None]

    return Frames(_stacked(shape), dtype, read, name)


def _datasets(stream: Any) -> list[str]:
    """Datasets of two dimensions or more in an HDF5 file, of which at most ``NAMED + 1`` are returned."""
    import h5py

    names: list[str] = []

    def visit(name: str, item: Any) -> bool | None:
        if isinstance(item, h5py.Dataset) and item.ndim >= 2:
            names.append(f"/{name}")
        return True if len(names) > NAMED else None

    stream.visititems(visit)
    return names


def _missing(path: Path, name: str, files: ExitStack) -> InputError:
    import h5py

    with _readable(path, "HDF5"):
        datasets = _datasets(files.enter_context(h5py.File(path, "r")))
    listed = ", ".join(datasets[:NAMED]) + (", ..." if len(datasets) > NAMED else "") or "none"
    return InputError(f"{path}: no dataset {name} (two-dimensional or more are: {listed})")


def _numpy(path: Path, names: Sequence[str], sole: bool, files: ExitStack) -> Frames | None:
    with _readable(path, "NumPy"):
        if path.suffix.lower() == ".npy":
            return _array(files.enter_context(path.open("rb")), lambda: np.load(path, mmap_mode="r"))
        archive = files.enter_context(zipfile.ZipFile(path))
        arrays = _arrays(archive)
        name = next((name for name in names if name in arrays), None)
        if name is None and sole and len(arrays) == 1:
            name = arrays[0]
        if name is None:
            return None
        stream = files.enter_context(archive.open(f"{name}.npy"))
        return _array(stream, lambda: np.load(path)[name], name)


def _arrays(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in archive.namelist()]


def _array(stream: IO[bytes], load: Callable[[], np.ndarray], name: str = "") -> Frames:
    """The array at the stream's start; ``load`` is for one in Fortran order, whose frames are scattered."""
    major, _ = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(stream)
    if not fortran or dtype.hasobject:
        return _plain(stream, stream.tell(), dtype, shape, name)
    array = load()
    return Frames(
        _stacked(shape), dtype, lambda start, stop: array.reshape(_stacked(shape))[start:stop], name
    )


class _Recorder(logging.Filter):
    """Keeps a logger's messages instead of showing them."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        self.messages.append(record.getMessage())
        return False


def _tiff(path: Path, files: ExitStack) -> Frames:
    import tifffile

    # If the list of pages breaks off, as in a file that is cut short, tifffile only logs it.
    recorder = _Recorder()
    logger = logging.getLogger("tifffile")
    logger.addFilter(recorder)
    files.callback(logger.removeFilter, recorder)
    with _readable(path, "TIFF"):
        stream = files.enter_context(tifffile.TiffFile(path))
        pages, count = stream.pages, len(stream.pages)
        first = pages.first
        if first.samplesperpixel > 1:
            raise InputError(f"{path}: not a greyscale TIFF ({first.samplesperpixel} samples a pixel)")
        series = stream.series[0]
        note = "the list of its pages breaks off; the file is damaged" if recorder.messages else ""
        if len(stream.series) == 1 and series.dataoffset is not None and series.dtype is not None:
            dtype = series.dtype.newbyteorder(stream.byteorder)
            binary = files.enter_context(path.open("rb"))
            return _plain(binary, series.dataoffset, dtype, series.shape, note=note)
        shape, dtype = first.shape, np.dtype(first.dtype)

    def read(start: int, stop: int) -> np.ndarray:
        images = [pages[number].asarray() for number in range(start, stop)]
        for image in images:
            if image.shape != shape or image.dtype != dtype:
                raise ValueError(f"a page of {image.dtype} {image.shape}, unlike the first")
        return np.stack(images)

    return Frames((count, *shape), dtype, read, note=note)


def _png(path: Path) -> Frames:
    from PIL import Image

    with _readable(path, "PNG"), Image.open(path, formats=["PNG"]) as image:
        grey = image.mode in ("1", "L") or image.mode.startswith("I")
        # Pillow cuts 16 bits to 8 where there is more than one channel; the header has the true depth.
        with path.open("rb") as stream:
            depth = stream.read(25)[24]
        if grey and "transparency" not in image.info:
            values = np.asarray(image)
            values = values.astype(np.uint16) if depth == 16 else values
        elif depth == 16:
            raise InputError(f"{path}: a 16-bit PNG must be greyscale without transparency")
        else:
            colour = np.asarray(image.convert("RGBA"))
            values = colour[..., 0]
            if (colour[..., 1:3] != values[..., None]).any() or (colour[..., 3] != 255).any():
                raise InputError(f"{path}: not a greyscale PNG (colours or transparency)")
    return Frames((1, *values.shape), values.dtype, lambda start, stop: values[None])


def _open(path: Path, names: Sequence[str], sole: bool, files: ExitStack) -> Frames | None:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix in HDF5_SUFFIXES:
        return _hdf5(path, names, sole, files)
    if suffix in NUMPY_SUFFIXES:
        return _numpy(path, names, sole, files)
    if suffix in TIFF_SUFFIXES:
        return _tiff(path, files)
    if suffix == ".png":
        return _png(path)
    raise InputError(
        f"{path}: unknown file type {suffix or '(none)'}; use .cxi, .h5, .npy, .npz, .tif or .png"
    )


def open_frames(path: Path, dataset: str | None, files: ExitStack) -> Frames:
    """The images of a file.

    Args:
        path: the file.
        dataset: within an HDF5 file (by default :data:`DATA_PATH`) or of an ``.npz`` (by default "data",
            "images" or the only one).
        files: closes what this function opens.

    Raises:
        InputError: missing or damaged file, unknown format, no such dataset.
    """
    hdf5, archive = path.suffix.lower() in HDF5_SUFFIXES, path.suffix.lower() == ".npz"
    if dataset is not None and path.is_file() and not (hdf5 or archive):
        raise InputError(f"{path}: holds no datasets, so none can be named ({dataset})")
    default = (DATA_PATH,) if hdf5 else ("data", "images")
    names = default if dataset is None else (dataset,)
    frames = _open(path, names, archive and dataset is None, files)
    if frames is None and hdf5:
        raise _missing(path, names[0], files)
    if frames is None:
        with zipfile.ZipFile(path) as stream:
            arrays = ", ".join(_arrays(stream)) or "none"
        raise InputError(f"{path}: no array named {' or '.join(names)} (there are: {arrays})")
    return frames


def open_mask(path: Path, mask: str | None, files: ExitStack) -> tuple[Path, Frames] | None:
    """The mask that belongs to the images of a file, and the file that holds it.

    Args:
        path: file of the images.
        mask: a file of its own, or a dataset within an HDF5 file; by default :data:`MASK_PATH` of an HDF5
            file and "mask" of an ``.npz``, None where there is none.
        files: closes what this function opens.

    Raises:
        InputError: a mask is named that is not there.
    """
    hdf5, archive = path.suffix.lower() in HDF5_SUFFIXES, path.suffix.lower() == ".npz"
    if mask is not None and Path(mask).is_file():
        file = Path(mask)
        names = (MASK_PATH, DATA_PATH) if file.suffix.lower() in HDF5_SUFFIXES else ("mask", "data")
        frames = _open(file, names, True, files)
        if frames is None:
            raise InputError(f"{file}: no dataset that could be the mask; use {names[0]}")
        return file, frames
    if not (hdf5 or archive):
        if mask is not None:
            raise InputError(f"{mask}: no such file (--mask)")
        return None
    default = MASK_PATH if hdf5 else "mask"
    frames = _open(path, (mask or default,), False, files)
    if frames is None and mask is not None:
        raise _missing(path, mask, files) if hdf5 else InputError(f"{path}: no array {mask}, nor such a file")
    return None if frames is None else (path, frames)
