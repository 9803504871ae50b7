"""Sweeps: accuracy against one thing that costs simulations.

Every point is one file, written whole or not at all. The same command computes what is missing, and parts
that were computed on several machines can be merged.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import torch

from icobench.answer import Progress
from icobench.errors import InputError
from icobench.provenance import provenance
from icobench.reporting.sweeps import read_described, read_point
from icobench.runs.sweep_points import SweepSettings, measure
from icobench.storage import PieceStore, atomic_path, differences, read_json, write_json

__all__ = ["Point", "Sweep", "merge_sweeps", "parse_points"]

LARGEST_POINT = 10**8
"""Nobody simulates more, and names of files end somewhere."""


def parse_points(text: str, total: int | None = None) -> tuple[int, ...]:
    """Increasing whole numbers; fractions and 1 are shares of ``total`` where that is given.

    Raises:
        InputError: not such a list.
    """
    points = []
    for part in text.split(","):
        try:
            # A fraction of an exponent such as 1e999999999 would fill the memory; a float is inf or 0.
            plausible = "/" in part or 0 < float(part) <= LARGEST_POINT
            value = Fraction(part.strip()) if plausible else Fraction(0)
        except (ValueError, ZeroDivisionError) as error:
            raise InputError(f"--points must be numbers such as 100,1e4 or 1/8, got {part!r}") from error
        if total is not None and value <= 1:
            value = Fraction(round(value * total))
        if value.denominator != 1 or not 1 <= value <= LARGEST_POINT:
            raise InputError(
                f"--points must be positive whole numbers of at most {LARGEST_POINT:.0e}, got {part!r}"
            )
        points.append(int(value))
    return tuple(sorted(set(points)))


class Point(NamedTuple):
    """One piece of a sweep.

    Attributes:
        point: value on the axis.
        repetition: counted from 0.
    """

    point: int
    repetition: int

    def __str__(self) -> str:
        return f"point {self.point:,}"

    def file(self, axis: str) -> str:
        """Name of the stored result."""
        return f"{axis}-{self.point:08d}-seed{self.repetition}.json"


@dataclass(frozen=True)
class Sweep:
    """Points along one axis in a folder. Making one reads and writes nothing.

    Attributes:
        folder: of the run.
        settings: what is measured.
        points: values on the axis.
        seeds: repetitions of every point.
        shards: into how many parts the points are divided.
    """

    folder: Path
    settings: SweepSettings
    points: Sequence[int]
    seeds: int
    shards: int = 1

    @property
    def store(self) -> PieceStore:
        """The folder with the finished points."""
        identity = self.settings.identity
        return PieceStore(self.folder, identity, "sweep.json", "points", "a sweep", allowed=["training"])

    def check(self) -> None:
        """Refuse a folder that holds another sweep, or shards of another number; nothing is written."""
        self.store.check()
        self._stored_shards()

    def _stored_shards(self) -> int:
        description = self.store.description
        stored = read_json(description).get("shards", 1) if description.exists() else 1
        if 1 != stored != self.shards != 1:
            raise InputError(
                f"{self.folder}: was divided into {stored} shards, not {self.shards}; "
                "keep the number, or leave out --shard to compute all that is missing here"
            )
        return max(stored, self.shards)

    def open(self) -> None:
        """Make the folder, or continue in it."""
        shards = self._stored_shards()
        origin = provenance(self.settings.seed, torch.device("cpu"), self.settings.experiment)
        self.store.open({**origin, "points": list(self.points), "seeds": self.seeds, "shards": shards})

    def pieces(self) -> list[Point]:
        """Points and repetitions, the most expensive first."""
        return [Point(point, seed) for point in reversed(self.points) for seed in range(self.seeds)]

    def is_stored(self, piece: Point) -> bool:
        """Whether a point is finished."""
        return self.store.has(piece.file(self.settings.axis))

    def compute(self, piece: Point, device: str, progress: Progress = lambda share: None) -> None:
        """Measure a point and store it."""
        settings, name = self.settings, piece.file(self.settings.axis)
        training = self.folder / "training" / Path(name).stem
        result = measure(settings, *piece, training, device, progress)
        stored = {
            **provenance(settings.seed + piece.repetition, torch.device(device), settings.experiment),
            "axis": settings.axis, "method": settings.method, "identity": settings.identity, "result": result,
        }  # fmt: skip
        with self.store.writing(name) as temporary:
            temporary.write_text(json.dumps(stored) + "\n")


def merge_sweeps(out: Path, folders: Sequence[Path]) -> int:
    """Bring the points of several folders of one sweep together; all is checked before anything is written.

    Args:
        out: made; a folder that holds the same sweep is filled up.
        folders: one for each shard, in any order; the same point may be in two if it is the same.

    Returns:
        number of points.

    Raises:
        InputError: folders of different sweeps, different results of one point, or points missing.
    """
    out, sources = Path(out), [Path(folder) for folder in folders]
    descriptions = [read_described(folder) for folder in sources]
    first = descriptions[0]
    for folder, description in zip(sources, descriptions, strict=True):
        if description["identity"] != first["identity"]:
            names = "; ".join(differences(description["identity"], first["identity"]))
            raise InputError(f"{folder}: another sweep than {sources[0]} ({names})")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; choose another name")
    if out.exists() and any(out.iterdir()):
        if not (out / "sweep.json").exists():
            raise InputError(f"{out}: not empty and not a sweep; choose another name")
        descriptions.append(read_described(out))
        if descriptions[-1]["identity"] != first["identity"]:
            raise InputError(f"{out}: holds another sweep; choose another name")
        sources.insert(0, out)
    files = _distinct_points(sources, first["identity"])
    points = sorted({point for description in descriptions for point in description["points"]})
    seeds, axis = max(description["seeds"] for description in descriptions), first["identity"]["axis"]
    wanted = [Point(point, seed).file(axis) for point in points for seed in range(seeds)]
    missing = [name.removesuffix(".json") for name in wanted if name not in files]
    if missing:
        names = ", ".join(missing[:3])
        raise InputError(f"{out}: {len(missing)} of {len(wanted)} points are in no folder ({names}, ...)")
    try:
        (out / "points").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made ({error.strerror})") from error
    write_json(out / "sweep.json", {**first, "points": points, "seeds": seeds, "shards": 1})
    for name, path in files.items():
        if path != out / "points" / name:
            with atomic_path(out / "points" / name) as temporary:
                shutil.copyfile(path, temporary)
    return len(wanted)


def _distinct_points(folders: Sequence[Path], identity: dict[str, Any]) -> dict[str, Path]:
    """The files of all points by name; of equal ones the first.

    Raises:
        InputError: a point is damaged, of another sweep, or has two results.
    """
    files: dict[str, tuple[Path, Any]] = {}
    for folder in folders:
        for path in sorted((folder / "points").glob("*.json")):
            result = read_point(path, identity)["result"]
            # Times differ between two computations of one point; nothing else may.
            lasting = {name: value for name, value in result.items() if "seconds" not in name}
            other, theirs = files.setdefault(path.name, (path, lasting))
            if theirs != lasting:
                raise InputError(f"{path}: differs from {other}")
    return {name: path for name, (path, _) in files.items()}
