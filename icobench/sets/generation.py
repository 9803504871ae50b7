"""Sets larger than memory: generated block by block, in shards, resumable, and merged.

While a set is made, each finished block is a file in ``OUT.parts``; at the end they are joined. A process may
be killed at any time and started again, and several may work on one set.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from icobench.answer import Progress
from icobench.errors import InputError
from icobench.images.detector import DETECTORS, Detector
from icobench.images.formats import DATA_PATH
from icobench.provenance import provenance
from icobench.sets.pattern_file import (
    CHUNK_IMAGES,
    TRUTH_GROUP,
    PatternWriter,
    large_file,
    small_file,
    stored_settings,
)
from icobench.sets.patterns import PatternOptions, PatternSource
from icobench.simulator.compiled import prepare_kernel
from icobench.simulator.experiment import Experiment
from icobench.storage import WHOLE, PieceStore, Shard, atomic_path

__all__ = ["PRESETS", "SetGeneration", "chosen_options", "generate_to_file", "merge_shards", "shard_range"]

BLOCK = 128
"""Images made and stored together."""

PAPER_SPLITS = (("train", 20_046), ("validation", 5_012), ("test", 5_000))

PRESETS = {
    "paper": PatternOptions(
        images=sum(count for _, count in PAPER_SPLITS),
        kind="log",
        detector=Detector(),
        background=0.02,
        splits=PAPER_SPLITS,
    )
}
"""The paper's 25,058 images, a fifth of them for validation, and 5,000 for the test. How strong the paper's
background noise is has not been published; this one is faint."""


def chosen_options(
    preset: str | None = None,
    images: int | None = None,
    kind: str | None = None,
    detector: str | None = None,
    photons: float | None = None,
    hole_degrees: float | None = None,
    background: float | None = None,
) -> PatternOptions:
    """A preset, or the defaults, changed by those arguments that are not None.

    Raises:
        InputError: unknown names, or settings that make no sense.
    """
    for name, choices in ((preset, PRESETS), (detector, DETECTORS)):
        if name is not None and name not in choices:
            raise InputError(f"unknown name {name!r}; choose from {', '.join(choices)}")
    options = PatternOptions(1000) if preset is None else PRESETS[preset]
    recorder = options.detector if detector is None else DETECTORS[detector]
    if photons is not None:
        recorder = replace(recorder, photons=photons)
    if hole_degrees is not None:
        recorder = replace(recorder, hole_degrees=hole_degrees)
    given = {"images": images, "kind": kind, "background": background}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if images is not None:
        changes["splits"] = ()
    return replace(options, detector=recorder, **changes)


def shard_range(images: int, shard: int, shards: int) -> range:
    """Numbers of the images of one shard, counted from 1; bounds at whole chunks where there are enough.

    Raises:
        InputError: there is no such shard, or it would be empty.
    """
    if not 1 <= shard <= shards:
        raise InputError(f"shard {shard}/{shards}: shards are counted from 1 to their number")
    if shards > images:
        raise InputError(f"{images} images cannot be divided among {shards} shards")
    unit = CHUNK_IMAGES if images >= 4 * CHUNK_IMAGES * shards else 1
    low, high = (min(images, round(i * images / shards / unit) * unit) for i in (shard - 1, shard))
    return range(low, images if shard == shards else high)


@dataclass(frozen=True)
class SetGeneration:
    """The work of generating a set, or one shard of it, into a file; a piece is a block of images.

    On one machine every array is the same, byte for byte, however often the work was interrupted and into
    however many shards or processes it was divided.

    Attributes:
        path: HDF5 file to write; the blocks are kept in the folder ``PATH.parts`` until they are joined.
        options: what to make.
        experiment: physics and grid.
        seed: of the set.
        shard: (number, total), counted from 1: which contiguous part of the set the file holds.
        device: type of the devices that simulate; results on "cpu" and "cuda" differ by rounding.
    """

    path: Path
    options: PatternOptions
    experiment: Experiment
    seed: int
    shard: Shard = WHOLE
    device: str = "cpu"

    @property
    def numbers(self) -> range:
        """Numbers of the images in the file."""
        return shard_range(self.options.images, *self.shard)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that the arrays depend on, as JSON gives it back."""
        settings = {
            "options": self.options.to_dict(), "experiment": self.experiment.to_dict(), "seed": self.seed,
            "device": torch.device(self.device).type, "version": _version(),
            "shard": list(self.shard),
        }  # fmt: skip
        return json.loads(json.dumps(settings))

    @cached_property
    def store(self) -> PieceStore:
        """Where the blocks are kept."""
        return PieceStore(
            self.path.with_name(self.path.name + ".parts"), self.settings, "settings.json", ".",
            "blocks of a set", "remove it or choose another name",
        )  # fmt: skip

    def check(self) -> None:
        """Refuse a file or folder that belongs to other work; nothing is written.

        Raises:
            InputError: there is no such shard or no folder for the file, or the file or the blocks have other
                settings.
        """
        shard_range(self.options.images, *self.shard)
        if not self.path.resolve().parent.is_dir():
            raise InputError(f"{self.path.parent}: no such folder")
        if not self.path.exists():
            self.store.check()
        elif _stored(self.path) != self.settings:
            raise InputError(
                f"{self.path}: exists and was made with other settings; remove it or choose another name"
            )

    def open(self) -> None:
        """Make the folder of the blocks, unless the file is finished.

        Raises:
            InputError: as for :meth:`check`, or the folder cannot be written.
        """
        self.check()
        if self.path.exists():
            return
        try:
            self.store.open()
        except OSError as error:
            raise InputError(f"{self.path}: could not be written ({error.strerror})") from error

    def pieces(self) -> list[range]:
        """Numbers of the images of each block."""
        numbers = self.numbers
        return [numbers[start : start + BLOCK] for start in range(0, len(numbers), BLOCK)]

    def _name(self, piece: range) -> str:
        return f"{piece.start:09d}-{piece.stop:09d}.h5"

    def is_stored(self, piece: range) -> bool:
        """Whether the block is there, readable and complete, or the file is finished."""
        import h5py

        if self.path.exists():
            return True
        try:
            with h5py.File(self.store.path(self._name(piece)), "r") as stream:
                return len(stream[TRUTH_GROUP]["radius_nm"]) == len(piece)
        except (OSError, KeyError):
            return False

    def compute(self, piece: range, device: str, progress: Progress = lambda share: None) -> None:
        """Simulate and store one block.

        Raises:
            InputError: the device is of another type than the set's, or the disk is full.
        """
        if torch.device(device).type != torch.device(self.device).type:
            raise InputError(f"{self.path}: the set is simulated on {self.device}, not on {device}")
        patterns = _source(self.options, self.experiment, self.seed, str(device)).block(piece)
        with self.store.writing(self._name(piece)) as temporary, small_file(temporary, self.path) as stream:
            exact = bool(self.options.augmentation)  # such log images are not of 8 bits
            writer = PatternWriter(stream, len(piece), self.experiment, patterns.kind, {}, exact)
            writer.write(0, patterns)
        progress(1.0)

    def finish(self) -> bool:
        """Join the blocks to the file and remove their folder, if all of them are stored.

        Returns:
            whether the file is finished; if not, other processes have blocks to compute.

        Raises:
            InputError: the file cannot be written.
        """
        if not self.path.exists():
            if not all(self.is_stored(piece) for piece in self.pieces()):
                return False
            files = [self.store.path(self._name(piece)) for piece in self.pieces()]
            attributes = {
                "settings": self.settings,
                "splits": [list(split) for split in self.options.splits] if self.shard == WHOLE else [],
                "origin": provenance(self.seed, torch.device(self.device), self.experiment),
            }
            try:
                with self.store.writing("joined.h5") as temporary:
                    _join(self.path, temporary, files, len(self.numbers), attributes)
                os.replace(self.store.path("joined.h5"), self.path)
            except (InputError, OSError):
                if not self.path.exists():  # else another process has joined them meanwhile
                    raise
        shutil.rmtree(self.store.folder, ignore_errors=True)
        _source.cache_clear()
        return True


@lru_cache(maxsize=1)
def _source(options: PatternOptions, experiment: Experiment, seed: int, device: str) -> PatternSource:
    # The same kernel for all blocks: the round-off of another one would differ in the last bit.
    prepare_kernel(torch.device(device))
    return PatternSource(options, experiment, seed, device)


def generate_to_file(
    path: Path,
    options: PatternOptions,
    experiment: Experiment,
    seed: int,
    device: torch.device | str = "cpu",
    shard: Shard = WHOLE,
    progress: Progress = lambda share: None,
) -> int:
    """Generate a set, or one shard of it, in this process; continue where an earlier call was stopped.

    Args:
        path, options, experiment, seed, shard: see :class:`SetGeneration`.
        device: where to simulate.
        progress: called with the finished share.

    Returns:
        number of images that this call simulated.

    Raises:
        InputError: the file or its parts belong to other settings, or the disk is full.
    """
    device = torch.device(device)
    work = SetGeneration(Path(path), options, experiment, seed, shard, device.type)
    work.open()
    made, pieces = 0, work.pieces()
    for piece in pieces:
        if not work.is_stored(piece):
            work.compute(piece, str(device))
            made += len(piece)
        progress((piece.stop - pieces[0].start) / len(work.numbers))
    work.finish()
    return made


def merge_shards(path: Path, shards: Sequence[Path]) -> int:
    """Join the shards of one set into a file.

    Args:
        path: HDF5 file to write.
        shards: all shards of the set, in any order.

    Returns:
        number of images.

    Raises:
        InputError: a shard is missing, given twice, of another set, or damaged; the message names it.
    """
    if path.exists():
        raise InputError(f"{path}: exists; remove it or choose another name")
    files: dict[int, Path] = {}
    common: dict[str, Any] = {}
    for file in map(Path, shards):
        settings = _stored(file)
        number, total = settings.pop("shard")
        settings["total"] = total
        common = common or settings
        if settings != common:
            raise InputError(f"{file}: a shard of another set than {next(iter(files.values()))}")
        if number in files:
            raise InputError(f"{file}: shard {number}/{total} was given already as {files[number]}")
        files[number] = file
    if not files:
        raise InputError("no shards given")
    total = common.pop("total")
    missing = [number for number in range(1, total + 1) if number not in files]
    if missing:
        raise InputError(f"{path}: missing shard {', '.join(f'{number}/{total}' for number in missing)}")
    options = common["options"]
    experiment = Experiment.from_dict(common["experiment"])
    attributes = {
        "settings": common | {"shard": list(WHOLE)},
        "splits": options["splits"],
        "origin": provenance(common["seed"], torch.device("cpu"), experiment),
    }
    with atomic_path(path) as temporary:
        _join(path, temporary, [files[number] for number in sorted(files)], options["images"], attributes)
    return options["images"]


def _version() -> str:
    try:
        return metadata.version("icobench")
    except metadata.PackageNotFoundError:
        return "not installed"


def _stored(path: Path) -> dict[str, Any]:
    """The settings in a file's attributes."""
    settings = stored_settings(path)
    if not settings:
        raise InputError(f"{path}: not a set made by icobench generate")
    return settings


def _join(
    path: Path, temporary: Path, files: Sequence[Path], images: int, attributes: dict[str, Any]
) -> None:
    """One file, which will be renamed to ``path``, from many that hold its images in order."""
    import h5py

    with h5py.File(files[0], "r") as first:
        truth, exact = first[TRUTH_GROUP], first[DATA_PATH].dtype.kind == "f"
        kind = str(truth.attrs["kind"])
        experiment = Experiment.from_dict(json.loads(truth.attrs["experiment"]))
    start, size = 0, sum(file.stat().st_size for file in files)
    with large_file(temporary, path, size) as target:
        writer = PatternWriter(target, images, experiment, kind, attributes, exact)
        for file in files:
            try:
                with h5py.File(file, "r") as stream:
                    writer.copy(start, stream)
                    start += len(stream[TRUTH_GROUP]["radius_nm"])
            except (OSError, KeyError, ValueError) as error:
                raise InputError(f"{path}: could not be joined, at {file} ({error})") from error
