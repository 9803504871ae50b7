"""Which reader opens a file, and the readers of NumPy, MATLAB, TIFF, PNG and fabio's formats.

Opening a file reads only its description and raises :class:`~icobench.errors.InputError` if the file cannot
be used at all. A problem of a single frame shows when that frame is read.
"""

import logging
import zipfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np

from icobench.errors import InputError
from icobench.images.facts import Fact, Facts
from icobench.images.frames import FrameLayout, Frames, array_frames, check_size, first_line, plain_frames
from icobench.images.hdf5 import DATA_PATH, HDF5_SUFFIXES, MASK_PATH, NoDatasetError, open_hdf5
from icobench.images.stated import header_facts

__all__ = ["DATA_PATH", "HDF5_SUFFIXES", "IMAGE_SUFFIXES", "MASK_PATH", "open_frames", "open_mask"]

CUT_SHORT = 1000
"""Of what the header of an uncompressed array declares to what its file holds."""

BLOCK_BYTES = 1 << 20

NPZ_FACTS = ("wavelength_nm", "distance_mm", "pixel_mm", "centre", "sin_theta_max")
"""Arrays of an ``.npz`` that are read as facts, by the names of options."""

ORIENTATIONS = {
    1: (False, ""), 2: (False, "x"), 3: (False, "xy"), 4: (False, "y"),
    5: (True, ""), 6: (True, "x"), 7: (True, "xy"), 8: (True, "y"),
}  # fmt: skip
"""TIFF 6.0's tag 274: whether rows and columns are exchanged first, and what is mirrored then."""


def _npy(path: Path, names: Sequence[str], sole: bool, files: ExitStack, layout: FrameLayout) -> Frames:
    stream = files.enter_context(path.open("rb"))
    held = path.stat().st_size
    return _numpy_frames(str(path), stream, lambda: np.load(path, mmap_mode="r"), layout, held)


def _npz(path: Path, names: Sequence[str], sole: bool, files: ExitStack, layout: FrameLayout) -> Frames:
    archive = files.enter_context(zipfile.ZipFile(path))
    present = [name.removesuffix(".npy") for name in archive.namelist()]
    images = [name for name in present if name not in (*NPZ_FACTS, "mask")]
    name = next((name for name in names if name in present), None)
    if name is None:
        if not sole or len(images) != 1:
            listed = ", ".join(present) or "none"
            raise NoDatasetError(f"{path}: no array named {' or '.join(names)} (there are: {listed})")
        name = images[0]

    def opened(name: str) -> Frames:
        member = archive.getinfo(f"{name}.npy")
        if member.flag_bits & 1:
            raise InputError(f"{path}, {name}: encrypted")
        check_size(f"{path}, {name}", (member.file_size,), 1, member.compress_size, FrameLayout())
        note = _checksum_note(archive, member.filename)
        stream = files.enter_context(archive.open(member))
        frames = _numpy_frames(
            f"{path}, {name}", stream, lambda: np.load(path)[name], layout, member.file_size
        )
        return replace(frames, note=note)

    frames, facts = opened(name), _npz_facts(path, present)
    masks = {"mask": opened("mask")} if "mask" in present and name != "mask" else {}
    return replace(frames, facts=facts, masks=masks)


def _checksum_note(archive: zipfile.ZipFile, name: str) -> str:
    """A note if a member of an archive is damaged: its checksum is compared at its end, where reads that jump
    never come."""
    try:
        with archive.open(name) as stream:
            while stream.read(BLOCK_BYTES):
                pass
    except Exception as error:  # decompression raises many kinds; the frames before are good
        return f"the archive is damaged ({first_line(error)})"
    return ""


def _npz_facts(path: Path, present: Sequence[str]) -> Facts:
    facts: Facts = {}
    names = [name for name in NPZ_FACTS if name in present]
    with np.load(path) as archive:
        for name in names:
            value = archive[name]
            if value.dtype.kind in "iuf" and value.size == (2 if name == "centre" else 1):
                numbers = value.astype(float).ravel().tolist()
                facts[name] = Fact(tuple(numbers) if name == "centre" else numbers[0], f"{path}, {name}")
    return facts


def _numpy_frames(
    where: str, stream: IO[bytes], load: Callable[[], np.ndarray], layout: FrameLayout, held: int
) -> Frames:
    """The array at the stream's start; ``load`` is for one whose frames are scattered: in Fortran order, or
    along the last axis."""
    major, _ = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(stream)
    if dtype.kind in "uifb":
        # A file that was cut short holds some of what it declares.
        check_size(where, shape, dtype.itemsize, held, layout, CUT_SHORT)
    if dtype.kind in "uifb" and (fortran or layout.is_last(shape, where)):
        return array_frames(where, load(), layout)
    return plain_frames(where, stream, stream.tell(), dtype, shape).stacked_modules()


def _matlab(path: Path, names: Sequence[str], sole: bool, files: ExitStack, layout: FrameLayout) -> Frames:
    """MATLAB's files: HDF5 since version 7.3, before that a format of its own, read as a whole."""
    import h5py
    from scipy.io import loadmat, whosmat

    if h5py.is_hdf5(path):
        return open_hdf5(path, names, True, files, layout)
    arrays = {name: shape for name, shape, _ in whosmat(path) if len(shape) >= 2 and min(shape) > 1}
    for array, shape in arrays.items():
        check_size(
            f"{path}, {array}",
            shape[:2] + shape[2:],
            8,
            path.stat().st_size,
            FrameLayout(most_pixels=1 << 31),
        )
    name = next((name for name in names if name in arrays), None)
    if name is None:
        if len(arrays) != 1:
            raise NoDatasetError(
                f"{path}: say by --dataset which array (there are: {', '.join(arrays) or 'none'})"
            )
        (name,) = arrays
    return array_frames(f"{path}, {name}", loadmat(path, variable_names=[name])[name], layout)


def _tiff(path: Path, names: Sequence[str], sole: bool, files: ExitStack, layout: FrameLayout) -> Frames:
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
    held = path.stat().st_size
    check_size(str(path), (count, *first.shape), np.dtype(first.dtype or np.uint8).itemsize, held, layout)
    planes = first.samplesperpixel if first.planarconfig == 2 else 1
    if first.samplesperpixel > planes:
        raise InputError(f"{path}: not a greyscale TIFF ({first.samplesperpixel} samples a pixel)")
    remarks: tuple[str, ...] = ()
    if planes > 1:
        remarks = (f"{path}: {planes} separate planes in a page, taken as frames, not as colours",)
    tag = first.tags.get("Orientation")
    transpose, flip = ORIENTATIONS.get(int(tag.value) if tag is not None else 1, (False, ""))
    origin = f"{path}, TIFF's orientation tag"
    facts = {"transpose": Fact(True, origin)} if transpose else {}
    facts |= {"flip": Fact(flip, origin)} if flip else {}
    series = stream.series[0]
    note = "the list of its pages breaks off; the file is damaged" if messages else ""
    if len(stream.series) == 1 and series.dataoffset is not None and series.dtype is not None:
        dtype = series.dtype.newbyteorder(stream.byteorder)
        binary = files.enter_context(path.open("rb"))
        frames = plain_frames(str(path), binary, series.dataoffset, dtype, series.shape, note)
        return replace(frames, facts=facts, remarks=remarks)
    shape, dtype = first.shape, np.dtype(first.dtype)

    def read(start: int, stop: int) -> np.ndarray:
        images = [pages[number].asarray() for number in range(start // planes, -(-stop // planes))]
        for image in images:
            if image.shape != shape or image.dtype != dtype:
                raise ValueError(f"a page of {image.dtype} {image.shape}, unlike the first")
        stack = np.concatenate(images) if planes > 1 else np.stack(images)
        return stack[start % planes :][: stop - start] if planes > 1 else stack

    return Frames(str(path), (count * planes, *shape[-2:]), dtype, read, note, facts, remarks=remarks)


def _png(path: Path, names: Sequence[str], sole: bool, files: ExitStack, layout: FrameLayout) -> Frames:
    from PIL import Image

    with Image.open(path, formats=["PNG"]) as image:
        check_size(str(path), (image.height, image.width), 1, path.stat().st_size, layout)
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


def _fabio(path: Path, names: Sequence[str], sole: bool, files: ExitStack, layout: FrameLayout) -> Frames:
    """EDF, CBF, MarCCD and what else fabio reads."""
    try:
        import fabio
    except ImportError as error:
        raise InputError(f'{path}: files of this type need fabio; pip install "icobench[files]"') from error

    image = fabio.open(str(path))
    files.callback(image.close)
    first = image.data
    count = max(1, image.nframes)

    def read(start: int, stop: int) -> np.ndarray:
        if count == 1:
            return first[None]
        return np.stack([image.getframe(number).data for number in range(start, stop)])

    facts = header_facts(image.header, f"{path}, header")
    return Frames(str(path), (count, *first.shape), first.dtype, read, facts=facts)


Reader = Callable[[Path, Sequence[str], bool, ExitStack, FrameLayout], Frames]

FORMATS: tuple[tuple[str, tuple[str, ...], Reader], ...] = (
    ("HDF5", HDF5_SUFFIXES, open_hdf5),
    ("NumPy", (".npy",), _npy),
    ("NumPy", (".npz",), _npz),
    ("MATLAB", (".mat",), _matlab),
    ("TIFF", (".tif", ".tiff"), _tiff),
    ("PNG", (".png",), _png),
    ("detector", (".edf", ".cbf", ".mccd", ".marccd", ".mar3450"), _fabio),
)

IMAGE_SUFFIXES = tuple(suffix for _, suffixes, _ in FORMATS for suffix in suffixes)
"""How the names of files end that can be opened."""

WITH_DATASETS = (*HDF5_SUFFIXES, ".npz", ".mat")


def _open(
    path: Path, names: Sequence[str], sole: bool, files: ExitStack, layout: FrameLayout, follow: bool = False
) -> Frames:
    """The dataset of the first of these names that a file has, or its sole one if ``sole`` allows that."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    suffix = path.suffix.lower()
    for what, suffixes, reader in FORMATS:
        if suffix in suffixes:
            try:
                if reader is open_hdf5:
                    return open_hdf5(path, names, sole, files, layout, follow)
                return reader(path, names, sole, files, layout)
            except InputError:
                raise
            except Exception as error:  # libraries raise many kinds for damaged files
                raise InputError(f"{path}: not a readable {what} file ({first_line(error)})") from error
    raise InputError(
        f"{path}: unknown file type {suffix or '(none)'}; use .cxi, .h5, .npy, .npz, .mat, .tif, .png or .edf"
    )


def open_frames(
    path: Path, dataset: str | None, files: ExitStack, layout: FrameLayout | None = None, follow: bool = False
) -> Frames:
    """The images of a file, which ``files`` closes at the end.

    The default ``dataset`` is that of one of the usual places in an HDF5 file; "data", "images" or the only
    one of an npz.

    Args:
        path: of the file.
        dataset: name of the dataset within it.
        files: closes what is opened.
        layout: what the user says of the axes.
        follow: follow HDF5 links that lead out of the file's folder.

    Raises:
        InputError: missing or damaged file, unknown format, no such dataset.
    """
    suffix = path.suffix.lower()
    if dataset is not None and path.is_file() and suffix not in WITH_DATASETS:
        raise InputError(f"{path}: holds no datasets, so none can be named ({dataset})")
    names = ("data", "images") if suffix == ".npz" else ()
    sole = suffix == ".npz" and dataset is None
    return _open(path, names if dataset is None else (dataset,), sole, files, layout or FrameLayout(), follow)


def open_mask(path: Path, mask: str, files: ExitStack, follow: bool = False) -> Frames:
    """The mask that a user names: a file of its own, or a dataset of the images' file.

    Raises:
        InputError: it is not there.
    """
    layout = FrameLayout("first")
    if (file := Path(mask)).is_file():
        hdf5 = file.suffix.lower() in HDF5_SUFFIXES
        return _open(file, (MASK_PATH, DATA_PATH) if hdf5 else ("mask", "data"), True, files, layout, follow)
    if path.suffix.lower() not in WITH_DATASETS:
        raise InputError(f"{mask}: no such file (--mask)")
    return _open(path, (mask,), False, files, layout, follow)
