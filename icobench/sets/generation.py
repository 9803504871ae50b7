"""Sets larger than memory: generated block by block, in shards, resumable, and merged.

While a set is made, each finished block is a file in ``OUT.parts``; at the end they are joined. A process may
be killed at any time and started again, and several may work on one set.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch

from icobench.answer import Progress
from icobench.errors import InputError
from icobench.images.detector import DETECTORS, Detector
from icobench.provenance import provenance, versions
from icobench.sets.pattern_file import CHUNK_IMAGES, TRUTH_GROUP, join_files, stored_settings, write_patterns
from icobench.sets.patterns import PAPER_BACKGROUND, PatternOptions, PatternSource, changed
from icobench.simulator.compiled import prepare_kernel
from icobench.simulator.experiment import Experiment
from icobench.storage import WHOLE, PieceStore, Shard, atomic_path, check_output, put_in_place

__all__ = ["PRESETS", "SetGeneration", "chosen_options", "merge_shards", "shard_range"]

BLOCK = 128
"""Images made and stored together."""

PACKED_BYTES = {"counts": 0.6, "log": 0.75, "intensity": 3.6}
"""Bytes of a pixel in a file, compressed, its share of the mask included."""

PAPER_SPLITS = (("train", 20_046), ("validation", 5_012), ("test", 5_000))

PRESETS = {
    "paper": PatternOptions(
        sum(count for _, count in PAPER_SPLITS),
        "log",
        Detector(),
        background=PAPER_BACKGROUND,
        splits=PAPER_SPLITS,
    )
}
"""The paper's 25,058 images, a fifth of them for validation, and 5,000 for the test."""


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
    if images is not None:
        options = replace(options, images=images, splits=())
    recorder = options.detector if detector is None else DETECTORS[detector]
    recorder = changed(recorder, photons=photons, hole_degrees=hole_degrees)
    return changed(options, kind=kind, background=background, detector=recorder)


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
    def store(self) -> PieceStore:
        """Where the blocks are kept; its identity is all that the arrays depend on."""
        identity = {
            "options": self.options.to_dict(), "experiment": self.experiment.to_dict(), "seed": self.seed,
            "device": torch.device(self.device).type, "version": versions()["icobench"],
            "shard": self.shard,
        }  # fmt: skip
        return PieceStore(
            self.path.with_name(self.path.name + ".parts"), identity, "settings.json", ".",
            "blocks of a set", "remove it or choose another name",
        )  # fmt: skip

    def check(self) -> None:
        """Refuse a shard or folder that does not exist, and a file or blocks with other settings."""
        shard_range(self.options.images, *self.shard)
        check_output(self.path)
        if not self.path.exists():
            self.store.check()
            self._check_disk()
        elif stored_settings(self.path) != self.store.identity:
            raise InputError(
                f"{self.path}: exists and was made with other settings; remove it or choose another name"
            )

    def _check_disk(self) -> None:
        """Refuse what the disk cannot take: the blocks, and the file that they are joined to."""
        pixels = self.experiment.pixels**2
        needed = 2 * len(self.numbers) * pixels * PACKED_BYTES[self.options.stored_kind]
        free = shutil.disk_usage(self.path.resolve().parent).free
        if needed > free:
            raise InputError(
                f"{self.path}: {len(self.numbers):,} images take about {needed / 1e9:,.3g} GB while they are "
                f"made; {free / 1e9:,.3g} GB are free"
            )

    def open(self) -> None:
        """Make the folder of the blocks, unless the file is finished."""
        self.check()
        if not self.path.exists():
            self.store.open()

    def pieces(self) -> list[range]:
        """Numbers of the images of each block."""
        numbers = self.numbers
        return [numbers[start : start + BLOCK] for start in range(0, len(numbers), BLOCK)]

    def _file(self, piece: range) -> Path:
        return self.store.path(f"{piece.start:09d}-{piece.stop:09d}.h5")

    def is_stored(self, piece: range) -> bool:
        """Whether the block is there, readable and complete, or the file is finished."""
        import h5py

        if self.path.exists():
            return True
        try:
            with h5py.File(self._file(piece), "r") as stream:
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
        exact = bool(self.options.augmentation)  # such log images are not of 8 bits
        try:
            write_patterns(self._file(piece), patterns, {}, exact, self.path)
        except (InputError, OSError):
            if not self.path.exists():  # else another process has finished the file meanwhile
                raise
        progress(1.0)

    def finish(self) -> bool:
        """Join the blocks to the file and remove their folder, if all of them are stored.

        Returns:
            whether the file is finished; if not, other processes have blocks to compute.
        """
        if not self.path.exists():
            pieces = self.pieces()
            if not all(self.is_stored(piece) for piece in pieces):
                return False
            try:
                with self.store.writing("joined.h5") as temporary:
                    files = [self._file(piece) for piece in pieces]
                    _join(temporary, files, self.store.identity, self.device, self.path)
                put_in_place(self.store.path("joined.h5"), self.path)
            except (InputError, OSError):
                if not self.path.exists():  # else another process has joined them meanwhile
                    raise
        shutil.rmtree(self.store.folder, ignore_errors=True)
        _source.cache_clear()
        return True

    def run(self, progress: Progress = lambda share: None) -> int:
        """Compute all missing blocks in this process and join them; returns the number of their images.

        Raises:
            InputError: the file or its parts belong to other settings, or the disk is full.
        """
        self.open()
        made = 0
        for piece in self.pieces():
            if not self.is_stored(piece):
                self.compute(piece, self.device)
                made += len(piece)
            progress((piece.stop - self.numbers.start) / len(self.numbers))
        self.finish()
        return made


@lru_cache(maxsize=1)
def _source(options: PatternOptions, experiment: Experiment, seed: int, device: str) -> PatternSource:
    # The same kernel for all blocks: the round-off of another one would differ in the last bit.
    prepare_kernel(torch.device(device))
    return PatternSource(options, experiment, seed, device)


def merge_shards(path: Path, shards: Sequence[Path]) -> int:
    """Join all shards of one set, given in any order, into a file; returns the number of images.

    Raises:
        InputError: a shard is missing, given twice, of another set, or damaged; the message names it.
    """
    if path.exists():
        raise InputError(f"{path}: exists; remove it or choose another name")
    if not shards:
        raise InputError("no shards given")
    files: dict[int, Path] = {}
    for file in map(Path, shards):
        if not (stored := stored_settings(file)):
            raise InputError(f"{file}: not a set made by icobench generate")
        (number, total), stored["shard"] = stored["shard"], list(WHOLE)
        if not files:
            common = stored, total
        if (stored, total) != common:
            raise InputError(f"{file}: a shard of another set than {next(iter(files.values()))}")
        if number in files:
            raise InputError(f"{file}: shard {number}/{total} was given already as {files[number]}")
        files[number] = file
    if missing := [f"{number}/{total}" for number in range(1, total + 1) if number not in files]:
        raise InputError(f"{path}: missing shard {', '.join(missing)}")
    with atomic_path(path) as temporary:
        _join(temporary, [files[number] for number in sorted(files)], stored, "cpu", path)
    return stored["options"]["images"]


def _join(path: Path, files: Sequence[Path], settings: dict[str, Any], device: str, reported: Path) -> None:
    """Join the files of a set with these settings, or of a shard of it, on this device."""
    options, shard = settings["options"], tuple(settings["shard"])
    experiment = Experiment.from_dict(settings["experiment"])
    attributes = {
        "settings": settings,
        "splits": options["splits"] if shard == WHOLE else [],
        "origin": provenance(settings["seed"], torch.device(device), experiment),
    }
    join_files(path, files, len(shard_range(options["images"], *shard)), attributes, reported)
