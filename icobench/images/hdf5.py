"""Frames in HDF5 files: CXI, NeXus, Eiger masters, virtual data sets, one image a group.

Links and the sources of virtual data sets are checked before anything is read: HDF5 reads a source that is
gone as zeros.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from icobench.errors import InputError
from icobench.images.facts import Fact, Facts, own_facts
from icobench.images.frames import FrameLayout, Frames, check_size, first_line, stacked
from icobench.images.hdf5_links import OBJECTS, LinkedFile
from icobench.images.hdf5_probe import check_survival
from icobench.images.stated import tree_facts

__all__ = ["DATA_PATH", "HDF5_SUFFIXES", "MASK_PATH", "NoDatasetError", "open_hdf5"]

DATA_PATH = "/entry_1/data_1/data"
MASK_PATH = "/entry_1/data_1/mask"
OWN_GROUP = "/icobench"

HDF5_SUFFIXES = (".cxi", ".h5", ".hdf5", ".hdf", ".nxs")

PLACES = (DATA_PATH, "/entry_1/instrument_1/detector_1/data", "/entry_1/image_1/data", "/entry/data/data")
"""Where images are looked for, in this order."""

PLACES_IN_ENTRY = ("instrument_1/detector_1/data", "data_1/data", "image_1/data")
"""The same within the groups ``/entry_1``, ``/entry_2``, ... of a file with one image in each."""

LINKED = re.compile(r"data_\d{6}")
"""Names of an Eiger master's links to its data files."""

MASK_NAMES = ("mask", "mask_shared", "pixel_mask", "bad_pixels", "pixelmask")

SMALL = 1 << 20
"""Numbers of a dataset that a child process reads as a whole at first; of others it reads two frames."""

NAMED = 6
"""Datasets that a message lists at most."""


class NoDatasetError(InputError):
    """A file without the dataset that was looked for."""


def open_hdf5(
    path: Path, names: Sequence[str], sole: bool, files: ExitStack, layout: FrameLayout, follow: bool = False
) -> Frames:
    """The images of a file, with its facts and masks.

    Args:
        path: of the file.
        names: paths of the dataset, the first that is there counts; the usual places if there are none.
        sole: take the only dataset of two dimensions or more if none of these is there.
        files: closes what is opened.
        layout: what the user says of the axes.
        follow: follow links that lead out of the file's folder.

    Raises:
        InputError: no such dataset, a link or source that is gone or must not be followed, a compression that
            cannot be read, a file that another program is writing.
    """

    def look() -> None:
        with ExitStack() as own:
            frames = _Reader(path, own, layout, follow).frames(names, sole)
            for part in (frames, *frames.masks.values()):
                count = part.shape[0]
                small = np.prod(part.shape, dtype=float) <= SMALL
                for number in range(count) if small else (0, count - 1):
                    with contextlib.suppress(Exception):  # another frame may still crash
                        part.read(number, number + 1)

    check_survival(path, f"{names} {sole} {layout} {follow}", look)
    return _Reader(path, files, layout, follow).frames(names, sole)


class _Reader(LinkedFile):
    """Where the datasets of a file lie, and what belongs to them."""

    def __init__(self, path: Path, files: ExitStack, layout: FrameLayout, follow: bool) -> None:
        super().__init__(path, files, follow)
        self.layout = layout

    def frames(self, names: Sequence[str], sole: bool) -> Frames:
        """The frames of the first dataset that is there, with facts and masks."""
        for name in ["/" + name.strip("/") for name in names or PLACES]:
            if (dataset := self.dataset(name)) is not None:
                if not names and (entries := self._entries(dataset)):
                    return self._one_a_group(entries)
                return self._complete(name, self._of(name, dataset))
        if not names:
            for group in ("/entry/data", "/entry_1/data_1"):
                if linked := self._linked(group):
                    return self._complete(group, _joined(f"{self.path}, {group}", linked))
            if entries := self._entries(None):
                return self._one_a_group(entries)
        present = [path for path, item in self.items() if item.ndim >= 2]
        if sole and len(present) == 1:
            return self._of(present[0], self.dataset(present[0]))
        listed = ", ".join(present[:NAMED]) + (", ..." if len(present) > NAMED else "") or "none"
        wanted = names[0] if names else PLACES[0]
        raise NoDatasetError(f"{self.path}: no dataset {wanted} (two-dimensional or more are: {listed})")

    def _linked(self, group: str) -> "list[Frames]":
        """The datasets data_000001, ... of an Eiger master."""
        import h5py

        parent = self.stream.get(group)
        if not isinstance(parent, h5py.Group):
            return []
        names = sorted(name for name in parent if LINKED.fullmatch(name))
        datasets = [(f"{group}/{name}", self.dataset(f"{group}/{name}")) for name in names]
        return [self._of(name, dataset) for name, dataset in datasets if dataset is not None]

    # Reading one

    def _stored_bytes(self, name: str, dataset: Any) -> int:
        """Bytes that a dataset takes in its files."""
        return self.check_sources(name, dataset) if dataset.is_virtual else dataset.id.get_storage_size()

    def _of(self, name: str, dataset: Any) -> Frames:
        """The frames of a dataset."""
        self.check_compression(name, dataset)
        where, remarks = f"{self.path}, {name}", []
        shape: tuple[int, ...] = dataset.shape or ()
        axes = dataset.attrs.get("axes", "")
        axes = axes.decode() if isinstance(axes, bytes) else str(axes)
        last = self.layout.is_last(shape, where) if not axes.startswith("experiment_identifier") else False
        if dataset.dtype.kind in "uifb":
            check_size(where, shape, dataset.dtype.itemsize, self._stored_bytes(name, dataset), self.layout)
        if len(shape) == 5 and shape[2] in (1, 2):  # European XFEL's raw data: values and gains
            remarks = [f"{where}: of {shape[2]} values for each pixel, the first is used, not the gain"]
            shape = (*shape[:2], *shape[3:])

        def read(start: int, stop: int) -> np.ndarray:
            if len(dataset.shape) == 2:
                return dataset[()][None]
            if last:
                return np.moveaxis(dataset[..., start:stop], -1, 0)
            return dataset[start:stop, :, 0] if len(dataset.shape) == 5 else dataset[start:stop]

        shape = (shape[-1], *shape[:-1]) if last else stacked(shape)
        facts: Facts = {"transpose": Fact(True, f"{where}, MATLAB's order")} if self.matlab else {}

        def grow() -> int:
            dataset.refresh()  # not that of its id: h5py remembers the shape
            return dataset.shape[-1 if last else 0]

        growing = grow if self.stream.swmr_mode and len(dataset.shape) > 2 else None
        frames = Frames(where, shape, dataset.dtype, read, facts=facts, remarks=tuple(remarks), grow=growing)
        return frames.stacked_modules()

    # One image a group

    def _entries(self, first: Any) -> "list[tuple[str, Any]]":
        """Path and dataset of the image in every group /entry_1, /entry_2, ..., if each has one."""
        if "entry_2" not in self.stream or (first is not None and first.ndim != 2):
            return []
        names = [name for name in self.stream if re.fullmatch(r"entry_\d+", name)]
        names.sort(key=lambda name: int(name.rpartition("_")[2]))
        entries = []
        for name in names:
            for place in PLACES_IN_ENTRY:
                if (dataset := self.dataset(f"/{name}/{place}")) is not None and dataset.ndim == 2:
                    entries.append((f"/{name}/{place}", dataset))
                    break
        return entries if len(entries) > 1 else []

    def _stacked(self, entries: "list[tuple[str, Any]]") -> Frames:
        """Two-dimensional datasets of one shape as frames."""
        shape, dtype = entries[0][1].shape, entries[0][1].dtype
        for entry in entries:
            self.check_compression(*entry)

        def read(start: int, stop: int) -> np.ndarray:
            images = [dataset[()] for _, dataset in entries[start:stop]]
            for image in images:
                if image.shape != shape:
                    raise ValueError(f"an image of {image.shape}, unlike the first")
            return np.stack(images)

        where = f"{self.path}, {entries[0][0]} to {entries[-1][0]}"
        if dtype.kind in "uifb":
            held = sum(self._stored_bytes(path, dataset) for path, dataset in entries)
            check_size(where, (len(entries), *shape), dtype.itemsize, held, self.layout)
        return Frames(where, (len(entries), *shape), dtype, read)

    def _one_a_group(self, entries: "list[tuple[str, Any]]") -> Frames:
        """One frame of every group, with the masks beside them."""
        frames, first = self._stacked(entries), entries[0][0]
        collected: dict[str, list[Any]] = {}
        units: dict[str, str] = {}
        for path, _ in entries:
            root = path.split("/")[1]
            for item, value, unit in self._small(root, 1, f"/{root}/"):
                collected.setdefault(item, []).append(value)
                units[item] = unit
        # What every group states, frame by frame.
        items = [
            (f"/{first.split('/')[1]}/{item}", np.squeeze(values), units[item])
            for item, values in collected.items()
            if len(values) == len(entries) and len({np.shape(value) for value in values}) == 1
        ]
        facts = tree_facts(_sorted(items), str(self.path), frames.shape[0], frames.shape[1:])
        masks: dict[str, Frames] = {}
        remarks = [*self.remarks, f"{self.path}: {len(entries)} groups with one image each"]
        for name in MASK_NAMES:
            beside = [str(PurePosixPath(path).parent / name) for path, _ in entries]
            pairs = [(path, dataset) for path in beside if (dataset := self.dataset(path)) is not None]
            if len(pairs) == len(entries) and {dataset.shape for _, dataset in pairs} == {frames.shape[1:]}:
                masks[f"{beside[0]} to {beside[-1]}"] = self._stacked(pairs)
            elif pairs:
                remarks.append(f"{self.path}: {name} of {len(pairs)} of {len(entries)} groups is not used")
        return Frames(
            frames.where, frames.shape, frames.dtype, frames.read, facts=facts, masks=masks,
            remarks=tuple(remarks),
        )  # fmt: skip

    # What belongs to them

    def _small(self, entry: str, frames: int, remove: str = "") -> Iterator[tuple[str, Any, str]]:
        """Path, value and unit of small numeric datasets in an entry, and in the groups outside of all."""
        import h5py

        group = self.stream.get(entry)
        if not isinstance(group, h5py.Group):
            return
        found: list[tuple[str, Any]] = []

        def visit(name: str, item: Any) -> bool | None:
            small = isinstance(item, h5py.Dataset) and item.dtype.kind in "iuf" and item.size
            if small and (item.size in (1, 2, 3, 6, frames) or item.shape[-2:] == (2, 3)):
                found.append((item.name, item))
            return True if len(found) > OBJECTS else None

        group.visititems(visit)
        for name, item in found:
            unit = item.attrs.get("units", item.attrs.get("unit", ""))
            unit = unit.decode(errors="replace") if isinstance(unit, bytes) else str(unit)
            try:
                yield name.removeprefix(remove), item[()], unit
            except (OSError, RuntimeError):
                continue

    def _complete(self, name: str, frames: Frames) -> Frames:
        """With the facts and the masks of the file."""
        entry = PurePosixPath(name).parts[1] if name.count("/") > 1 else "/"
        roots = [entry, *(group for group in ("LCLS", "instrument") if group in self.stream)]
        items = [item for root in roots for item in self._small(root, frames.shape[0])]
        facts = tree_facts(_sorted(items), str(self.path), frames.shape[0], frames.shape[1:])
        own = self.stream.get(OWN_GROUP)
        if own is not None:
            attributes = {key: value for key, value in own.attrs.items() if isinstance(value, str)}
            try:
                facts = own_facts(attributes, f"{self.path}, {OWN_GROUP}")
            except (ValueError, KeyError, TypeError, json.JSONDecodeError) as error:
                raise InputError(f"{self.path}, {OWN_GROUP}: damaged ({first_line(error)})") from error
        masks, others = self._masks(name, frames)
        return Frames(
            frames.where, frames.shape, frames.dtype, frames.read, frames.note, facts | frames.facts, masks,
            others, frames.modules, (*self.remarks, *frames.remarks), frames.grow,
        )  # fmt: skip

    def _masks(self, name: str, frames: Frames) -> "tuple[dict[str, Frames], tuple[str, ...]]":
        """Masks beside the images, behind links as well, and the names of others of that shape elsewhere."""
        group = self.stream.get(name)
        group = group.parent if group is not None and not hasattr(group, "keys") else group
        near = [str(PurePosixPath(name).parent)]
        if group is not None and group.file == self.stream:
            near.append(group.name)
        if PurePosixPath(name).parts[1:2] == ("entry",):
            near += ["/entry/instrument/detector", "/entry/instrument/detector/detectorSpecific"]
        used: dict[str, Frames] = {}
        seen = []
        for place in dict.fromkeys(near):
            for mask in MASK_NAMES:
                dataset = self.dataset(f"{place}/{mask}")
                if dataset is not None and dataset not in seen:
                    seen.append(dataset)
                    used[f"{place}/{mask}"] = self._of(f"{place}/{mask}", dataset)
        fitting = (frames.shape[1:], frames.shape, (1, *frames.shape[1:]))
        others = [
            path
            for path, item in self.items()
            if path.rsplit("/", 1)[-1].lower() in MASK_NAMES and item not in seen and item.shape in fitting
        ]
        return used, tuple(others)


def _sorted(items: "list[tuple[str, Any, str]]") -> "list[tuple[str, Any, str]]":
    """Wavelengths before energies, and the beam at the sample before its source."""

    def rank(item: tuple[str, Any, str]) -> tuple[int, int]:
        name = item[0].lower()
        return int("wavelength" not in name.rsplit("/", 1)[-1]), int("beam" not in name)

    return sorted(items, key=rank)


def _joined(where: str, parts: "list[Frames]") -> Frames:
    """The frames of several datasets, one after the other."""
    counts = [part.shape[0] for part in parts]
    ends = np.cumsum(counts)
    first = parts[0]
    for part in parts:
        if part.shape[1:] != first.shape[1:]:
            raise InputError(f"{part.where}: frames of {part.shape[1:]}, unlike those of {first.where}")

    def read(start: int, stop: int) -> np.ndarray:
        blocks = []
        for part, end, count in zip(parts, ends, counts, strict=True):
            low, high = max(start - (end - count), 0), min(stop - (end - count), count)
            if low < high:
                blocks.append(part.read(low, high))
        return np.concatenate(blocks)

    remark = f"{where}: {len(parts)} linked datasets with {int(ends[-1])} frames"
    remarks = tuple(line for part in parts for line in part.remarks)
    return Frames(where, (int(ends[-1]), *first.shape[1:]), first.dtype, read, remarks=(remark, *remarks))
