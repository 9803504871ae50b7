"""Reading and writing image stacks: CXI / HDF5, NumPy, TIFF.

A mask inside icobench is True where a pixel is usable; in CXI files non-zero means bad.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from icobench.errors import InputError

__all__ = ["DATA_PATH", "MASK_PATH", "ImageStack", "atomic_path", "read_images"]

DATA_PATH = "/entry_1/data_1/data"
MASK_PATH = "/entry_1/data_1/mask"

HDF5_SUFFIXES = (".cxi", ".h5", ".hdf5", ".hdf", ".nxs")
TIFF_SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True)
class ImageStack:
    """Images as read from a file.

    Attributes:
        images: (N, H, H) float32, finite and not negative, 0 where masked.
        mask: (N, H, H) bool, True where usable.
        kind: "counts" for photon counts, "log" for log images in [0, 1].
        path: where they came from.
    """

    images: np.ndarray
    mask: np.ndarray
    kind: str
    path: Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it on success and removed on failure.

    Raises:
        InputError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path.parent}: not writable")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _read_hdf5(path: Path, data_path: str, mask_path: str | None) -> tuple[Any, Any]:
    import h5py

    try:
        with h5py.File(path, "r") as stream:
            if not isinstance(stream.get(data_path), h5py.Dataset):
                raise InputError(f"{path}: no dataset {data_path}")
            named = mask_path or MASK_PATH
            found = stream.get(named)
            if mask_path is not None and not isinstance(found, h5py.Dataset):
                raise InputError(f"{path}: no dataset {named}")
            mask = found[()] if isinstance(found, h5py.Dataset) else None
            return stream[data_path][()], mask
    except OSError as error:
        raise InputError(f"{path}: not a readable HDF5 file ({_first_line(error)})") from error


def _read_numpy(path: Path) -> tuple[Any, Any]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded, None
        with loaded:
            names = loaded.files
            name = "data" if "data" in names else "images" if "images" in names else None
            if name is None and len(names) == 1:
                name = names[0]
            if name is None:
                raise InputError(f"{path}: no array named data or images (found {', '.join(names)})")
            return loaded[name], loaded["mask"] if "mask" in names and name != "mask" else None
    except (OSError, ValueError, EOFError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a readable NumPy file ({_first_line(error)})") from error
    except Exception as error:  # zipfile.BadZipFile and zlib.error of a damaged .npz
        raise InputError(f"{path}: not a readable NumPy file ({_first_line(error)})") from error


def _read_tiff(path: Path) -> tuple[Any, Any]:
    import tifffile

    try:
        with tifffile.TiffFile(path) as stream:
            size = path.stat().st_size
            for page in stream.pages:
                ends = zip(page.dataoffsets, page.databytecounts, strict=True)
                if any(start + length > size for start, length in ends):
                    raise ValueError("cut short")
            return stream.asarray(), None
    except Exception as error:  # tifffile raises many kinds for damaged files
        raise InputError(f"{path}: not a readable TIFF file ({_first_line(error)})") from error


def _kind(raw: np.ndarray, usable: np.ndarray, kind: str) -> str:
    if kind != "auto":
        return kind
    if raw.dtype == np.uint8:
        return "log"
    if np.issubdtype(raw.dtype, np.floating) and usable.any():
        return "counts" if (raw[usable] > 1).any() else "log"
    return "counts"


def read_images(
    path: Path | str,
    kind: str = "auto",
    data_path: str = DATA_PATH,
    mask_path: str | None = None,
) -> ImageStack:
    """Read and check a stack of images.

    Args:
        path: ``.cxi``, ``.h5``, ``.npy``, ``.npz`` (arrays ``data`` or ``images``, and ``mask``) or ``.tif``.
        kind: "counts", "log", or "auto": 8-bit images and floats up to 1 are log images.
        data_path, mask_path: datasets inside an HDF5 file; the mask may be missing.

    Raises:
        InputError: unreadable, wrongly shaped or impossible data; the message names file and image.
    """
    path = Path(path)
    if kind not in ("auto", "counts", "log"):
        raise InputError(f"kind must be auto, counts or log, got {kind!r}")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix in HDF5_SUFFIXES:
        raw, bad = _read_hdf5(path, data_path, mask_path)
    elif suffix in (".npy", ".npz"):
        raw, bad = _read_numpy(path)
    elif suffix in TIFF_SUFFIXES:
        raw, bad = _read_tiff(path)
    else:
        raise InputError(f"{path}: unknown file type {suffix or '(none)'}; use .cxi, .h5, .npy, .npz or .tif")

    raw = np.asarray(raw)
    if raw.dtype.kind not in "uif":
        raise InputError(f"{path}: images must be real numbers, got {raw.dtype}")
    if raw.ndim == 2:
        raw = raw[None]
    if raw.ndim != 3 or raw.shape[1] != raw.shape[2]:
        raise InputError(f"{path}: expected images of shape (N, H, H) or (H, H), got {raw.shape}")
    if len(raw) == 0:
        raise InputError(f"{path}: holds no image")
    if raw.shape[1] < 16 or raw.shape[1] % 2:
        raise InputError(
            f"{path}: images must have an even number of at least 16 pixels a side, got {raw.shape}"
        )
    usable = np.ones(raw.shape, dtype=bool)
    if bad is not None:
        bad = np.asarray(bad)
        if bad.shape not in (raw.shape, raw.shape[1:]):
            raise InputError(f"{path}: mask of shape {bad.shape} does not fit images of shape {raw.shape}")
        usable &= np.broadcast_to(bad == 0, raw.shape)

    kind = _kind(raw, usable, kind)
    values = raw.astype(np.float32)
    if kind == "log" and raw.dtype == np.uint8:
        values /= 255
    for index, (image, mask) in enumerate(zip(values, usable, strict=True)):
        seen = image[mask]
        where = f"{path}: image {index}"
        if seen.size == 0:
            raise InputError(f"{where} is masked completely")
        if not np.isfinite(seen).all():
            raise InputError(f"{where} holds NaN or infinite values at usable pixels")
        if (seen < 0).any():
            raise InputError(f"{where} holds negative values at usable pixels")
        if kind == "log" and (seen > 1).any():
            raise InputError(f"{where} is not a log image: values above 1")
        if not (seen > 0).any():
            raise InputError(f"{where} is empty: all usable pixels are 0")
    return ImageStack(np.where(usable, values, 0), usable, kind, path)
