"""An HDF5 file whose links, virtual sources and compressions are checked before anything is read."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from icobench.errors import InputError, NotYetError
from icobench.images.frames import first_line

__all__ = ["OBJECTS", "LinkedFile"]

CACHE_BYTES = 64 << 20
"""A compressed chunk that holds more frames than are read at once is unpacked once if it fits in here."""

OBJECTS = 20_000
"""Objects of a file that are looked at for facts and masks."""

DEEPEST = 4
"""Virtual data sets of virtual data sets that are followed."""

FILTERS = {
    32008: "bitshuffle",
    32004: "LZ4",
    32001: "Blosc",
    32026: "Blosc2",
    32015: "Zstandard",
    32000: "LZF",
}

LOCKED = ("unable to lock", "already open for write", "consistency flags")
"""What HDF5 says of a file that another program is writing."""


def _opened(path: Path, files: ExitStack) -> tuple[Any, str]:
    """An opened file, and a remark if another program is writing it."""
    import h5py

    try:
        return files.enter_context(h5py.File(path, "r", rdcc_nbytes=CACHE_BYTES)), ""
    except OSError as error:
        text = str(error).lower()
        if not any(word in text for word in LOCKED):
            raise
    try:
        stream = files.enter_context(h5py.File(path, "r", swmr=True, rdcc_nbytes=CACHE_BYTES))
        return stream, "another program is writing this file; the frames that were there at opening are used"
    except OSError as error:
        raise NotYetError(
            f"{path}: another program has this file open for writing; wait until it has closed it, or copy "
            "the file (a writer in HDF5's SWMR mode can be read at once; HDF5_USE_FILE_LOCKING=FALSE ignores "
            "a lock that a dead program left)"
        ) from error


class LinkedFile:
    """One file: where its datasets lie, and whether they can be read."""

    def __init__(self, path: Path, files: ExitStack, follow: bool) -> None:
        self.path, self.files, self.follow = path, files, follow
        self.stream, remark = _opened(path, files)
        self.remarks = [remark] if remark else []
        with path.open("rb") as binary:
            self.matlab = binary.read(19) == b"MATLAB 7.3 MAT-file"

    def dataset(self, name: str) -> Any:
        """The dataset with this path, None if there is none; its links checked."""
        import h5py

        group, parts = self.stream, [part for part in name.split("/") if part]
        for number, part in enumerate(parts):
            if not isinstance(group, h5py.Group):
                return None
            try:
                link = group.get(part, getlink=True)
            except (KeyError, OSError):
                return None
            if isinstance(link, h5py.ExternalLink):
                self._check_target(link.filename, link.path, f"{'/'.join(['', *parts[: number + 1]])}")
            if link is None:
                return None
            try:
                group = group[part]
            except (KeyError, OSError) as error:
                raise InputError(
                    f"{self.path}: /{'/'.join(parts[: number + 1])} is a link to something that is not there "
                    f"({first_line(error)})"
                ) from error
        return group if isinstance(group, h5py.Dataset) else None

    def _check_target(self, file: str, inside: str, name: str) -> Path:
        """The file of a link or a virtual source, which must be there and in the folder of this file."""
        folder = self.path.resolve().parent
        target = Path(file) if os.path.isabs(file) else folder / file
        resolved = target.resolve()
        if not self.follow and not resolved.is_relative_to(folder):
            raise InputError(
                f"{self.path}: {name} links to {file}, which is outside of the file's folder; "
                "say --follow-links if you trust the file"
            )
        if not resolved.exists():
            raise InputError(f"{self.path}: {name} links to {file}, which is not there")
        if not resolved.is_file():
            raise InputError(f"{self.path}: {name} links to {file}, which is not a plain file")
        return resolved

    def items(self) -> Iterator[tuple[str, Any]]:
        """Paths and datasets of the file, without following links to others, up to :data:`OBJECTS`
        objects."""
        import h5py

        visited = [self.stream]
        seen = {hash(self.stream.id)}
        count = 0
        while visited and count < OBJECTS:
            group = visited.pop(0)
            for name in group:
                count += 1
                link = group.get(name, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    continue
                try:
                    item = group[name]
                except (KeyError, OSError, RuntimeError):
                    continue
                if isinstance(item, h5py.Dataset):
                    yield item.name, item
                elif isinstance(item, h5py.Group) and hash(item.id) not in seen:
                    seen.add(hash(item.id))
                    visited.append(item)

    def check_compression(self, name: str, dataset: Any) -> None:
        """Load what unpacks the dataset."""
        import h5py

        properties = dataset.id.get_create_plist()
        for number in range(properties.get_nfilters()):
            code, _, _, stored = properties.get_filter(number)
            if h5py.h5z.filter_avail(code):
                continue
            with contextlib.suppress(ImportError):
                import hdf5plugin  # noqa: F401  registers its filters
            if not h5py.h5z.filter_avail(code):
                text = FILTERS.get(code) or stored.decode(errors="replace") or "unknown"
                raise InputError(
                    f"{self.path}, {name}: compressed by {text} (HDF5 filter {code}); "
                    'pip install "icobench[files]"'
                )

    def check_sources(self, name: str, dataset: Any, depth: int = 0) -> int:
        """Refuse a virtual dataset whose sources are not all there: HDF5 would read them as zeros.

        Returns:
            bytes that the sources hold.
        """
        import h5py

        if depth == DEEPEST:
            raise InputError(
                f"{self.path}, {name}: a virtual dataset of virtual datasets, more than {DEEPEST} deep"
            )
        held = 0
        sources = {(source.file_name, source.dset_name) for source in dataset.virtual_sources()}
        for file, inside in sorted(sources):
            if "%" in file:  # a pattern of names: the frames are as many as there are files
                held += dataset.size * dataset.dtype.itemsize
                continue
            if file in (".", str(self.path), self.path.name):
                source = self.dataset(inside)
                if source is None or source == dataset:
                    raise InputError(
                        f"{self.path}, {name}: a virtual dataset whose source {inside} is not there"
                    )
                held += self._held(self, inside, source, depth)
                continue
            target = self._check_target(file, inside, f"the virtual dataset {name}")
            try:
                with h5py.File(target, "r") as stream:
                    source = stream.get(inside)
                    if not isinstance(source, h5py.Dataset):
                        raise InputError(f"{self.path}, {name}: its source {inside} in {file} is not there")
                    self.check_compression(f"{name}, source {file}", source)
                    with ExitStack() as files:
                        held += self._held(LinkedFile(target, files, self.follow), inside, source, depth)
            except OSError as error:
                raise InputError(
                    f"{self.path}, {name}: its source {file} cannot be read ({first_line(error)})"
                ) from error
        return held

    @staticmethod
    def _held(file: "LinkedFile", name: str, source: Any, depth: int) -> int:
        """Bytes that a source holds, by its own sources if it is virtual."""
        if source.is_virtual:
            return file.check_sources(name, source, depth + 1)
        return source.id.get_storage_size()
