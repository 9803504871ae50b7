"""Sets larger than memory: generated block by block, in shards, resumable, and merged.

While a set is made, its finished blocks lie as files of their own in ``OUT.parts``; at the end
they are joined. A process may be killed at any time and started again.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from icobench import __version__
from icobench.errors import InputError
from icobench.images.detector import DETECTORS, Detector
from icobench.provenance import provenance
from icobench.sets.pattern_file import (
    CHUNK_IMAGES,
    TRUTH_GROUP,
    PatternWriter,
    large_file,
    small_file,
)
from icobench.sets.patterns import PatternOptions, PatternSource
from icobench.simulator.compiled import prepare_kernel
from icobench.simulator.experiment import Experiment
from icobench.storage import atomic_path

__all__ = ["PRESETS", "chosen_options", "generate_to_file", "merge_shards", "shard_range"]

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
"""The paper's 25,058 images, a fifth of them for validation, and 5,000 for the test. The strength of its
background noise is not published; ours is faint."""


def chosen_options(
    preset: str | None = None,
    images: int | None = None,
    kind: str | None = None,
    detector: str | None = None,
    photons: float | None = None,
    hole_degrees: float | None = None,
    background: float | None = None,
) -> PatternOptions:
    """A preset, or the defaults, with what a user wants otherwise.

    Raises:
        InputError: unknown names, or settings that make no sense.
    """
    for name, known in ((preset, PRESETS), (detector, DETECTORS)):
        if name is not None and name not in known:
            raise InputError(f"unknown name {name!r}; choose from {', '.join(known)}")
    options = PatternOptions(1000) if preset is None else PRESETS[preset]
    own = options.detector if detector is None else DETECTORS[detector]
    if photons is not None:
        own = replace(own, photons=photons)
    if hole_degrees is not None:
        own = replace(own, hole_degrees=hole_degrees)
    given = {"images": images, "kind": kind, "background": background}
    changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if images is not None:
        changed["splits"] = ()
    return replace(options, detector=own, **changed)


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


def generate_to_file(
    path: Path,
    options: PatternOptions,
    experiment: Experiment,
    seed: int,
    device: torch.device | str = "cpu",
    shard: tuple[int, int] = (1, 1),
    progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Generate a set, or one shard of it, into a file; continue where an earlier call was stopped.

    Every array is the same, byte for byte, however often the work was interrupted and
    into however many shards it was divided, on the same machine.

    Args:
        path: HDF5 file to write.
        options: what to make.
        experiment: physics and grid.
        seed: of the set.
        device: where to simulate.
        shard: (number, of how many), counted from 1.
        progress: called with the number of images finished.

    Returns:
        number of images that this call simulated.

    Raises:
        InputError: the file or its parts belong to other settings, or the disk does not take them.
    """
    device = torch.device(device)
    numbers = shard_range(options.images, *shard)
    settings = _settings(options, experiment, seed, device)
    own = settings | {"shard": list(shard)}
    parts = path.with_name(path.name + ".parts")
    if path.exists():
        if _stored(path) != own:
            raise InputError(
                f"{path}: exists and was made with other settings; remove it or choose another name"
            )
        shutil.rmtree(parts, ignore_errors=True)
        progress(len(numbers))
        return 0
    _prepare(parts, path, own)
    source = PatternSource(options, experiment, seed, device)
    # One kernel from the first image to the last: another one's round-off would differ in the last bit.
    prepare_kernel(device)
    files, made = [], 0
    for start in range(numbers.start, numbers.stop, BLOCK):
        block = range(start, min(start + BLOCK, numbers.stop))
        file = parts / f"{block.start:09d}-{block.stop:09d}.h5"
        if not _whole(file, len(block)):
            _write_block(file, path, source, block)
            made += len(block)
        files.append(file)
        progress(block.stop - numbers.start)
    attributes = {
        "settings": own,
        "splits": [list(split) for split in options.splits] if shard == (1, 1) else [],
        "origin": provenance(seed, device, experiment),
    }
    joined = parts / "joined.tmp"
    _join(path, joined, files, len(numbers), experiment, attributes)
    os.replace(joined, path)
    shutil.rmtree(parts, ignore_errors=True)
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
    found: dict[int, Path] = {}
    first: dict[str, Any] = {}
    for file in map(Path, shards):
        settings = _stored(file)
        number, total = settings.pop("shard")
        first = first or settings | {"total": total}
        if settings | {"total": total} != first:
            raise InputError(f"{file}: a shard of another set than {next(iter(found.values()))}")
        if number in found:
            raise InputError(f"{file}: shard {number}/{total} was given already as {found[number]}")
        found[number] = file
    if not found:
        raise InputError("no shards given")
    total = first.pop("total")
    missing = [number for number in range(1, total + 1) if number not in found]
    if missing:
        raise InputError(f"{path}: missing shard {', '.join(f'{number}/{total}' for number in missing)}")
    experiment = Experiment.from_dict(first["experiment"])
    splits = first["options"]["splits"]
    attributes = {
        "settings": first | {"shard": [1, 1]},
        "splits": splits,
        "origin": provenance(first["seed"], torch.device("cpu"), experiment),
    }
    files, images = [found[number] for number in range(1, total + 1)], first["options"]["images"]
    with atomic_path(path) as temporary:
        _join(path, temporary, files, images, experiment, attributes)
    return images


def _settings(
    options: PatternOptions, experiment: Experiment, seed: int, device: torch.device
) -> dict[str, Any]:
    """All that the arrays depend on, as JSON gives it back."""
    found = {
        "options": asdict(options),
        "experiment": experiment.to_dict(),
        "seed": seed,
        "device": device.type,
        "version": __version__,
    }
    return json.loads(json.dumps(found))


def _stored(path: Path) -> dict[str, Any]:
    """The settings in a file's attributes."""
    import h5py

    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as stream:
            return json.loads(stream[TRUTH_GROUP].attrs["settings"])
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a set made by icobench generate ({error})") from error


def _prepare(parts: Path, path: Path, settings: dict[str, Any]) -> None:
    """Make the folder of parts, or see that it belongs to the same settings."""
    described = parts / "settings.json"
    try:
        parts.mkdir(exist_ok=True)
        if described.exists():
            if json.loads(described.read_text()) != settings:
                raise InputError(f"{parts}: made with other settings; remove it or choose another name")
            return
        with atomic_path(described) as temporary:
            temporary.write_text(json.dumps(settings, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"{path}: could not be written ({error.strerror})") from error


def _whole(file: Path, images: int) -> bool:
    """Whether a part is there, readable and complete."""
    import h5py

    try:
        with h5py.File(file, "r") as stream:
            return len(stream[TRUTH_GROUP]["radius_nm"]) == images
    except (OSError, KeyError):
        return False


def _write_block(file: Path, path: Path, source: PatternSource, numbers: range) -> None:
    patterns = source.block(numbers)
    with atomic_path(file) as temporary, small_file(temporary, path) as stream:
        writer = PatternWriter(stream, len(numbers), source.experiment, patterns.kind, {})
        writer.write(0, patterns)


def _join(
    path: Path,
    temporary: Path,
    files: list[Path],
    images: int,
    experiment: Experiment,
    attributes: dict[str, Any],
) -> None:
    """One file, to be called ``path``, from many."""
    import h5py

    with h5py.File(files[0], "r") as first:
        kind = str(first[TRUTH_GROUP].attrs["kind"])
    start = 0
    size = sum(file.stat().st_size for file in files)
    with large_file(temporary, path, size) as target:
        writer = PatternWriter(target, images, experiment, kind, attributes)
        for file in files:
            try:
                with h5py.File(file, "r") as stream:
                    writer.copy(start, stream)
                    start += len(stream[TRUTH_GROUP]["radius_nm"])
            except (OSError, KeyError, ValueError) as error:
                raise InputError(f"{path}: could not be joined, at {file} ({error})") from error
