"""Sweeps: accuracy against one thing that costs simulations.

Every point is one file, written whole or not at all; a rerun computes only what is missing, and shards that
were computed on machines of their own are merged.
"""

import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from icobench.errors import InputError
from icobench.storage import atomic_path, holds_others
from icobench.provenance import provenance
from icobench.runs.points import SweepSettings, measure
from icobench.runs.pool import WorkerPool, in_process
from icobench.runs.shards import WHOLE, share

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "AXES",
    "Axis",
    "Sweep",
    "difference",
    "parse_points",
    "read_described",
    "read_point",
    "read_points",
]

SUCCESS_DEG, SUCCESS_NM = 1.0, 1.0

LARGEST_POINT = 10**12
"""Nobody simulates more, and names of files end somewhere."""

COLUMNS = {
    "point", "repetition", "fixed_simulations", "fixed_seconds", "seconds", "evaluations",
    "disorientation_deg", "radius_error_nm", "appendix_c_mean", "appendix_c_max",
}  # fmt: skip
"""What every stored point has."""

Progress = Callable[[float, str], None]


class Axis(NamedTuple):
    """What a sweep varies.

    Attributes:
        label: of the figure.
        points: by default; shares of the training set for "dataset".
        seeds: repetitions by default.
        method: by default.
    """

    label: str
    points: str
    seeds: int
    method: str


AXES = {
    "dataset": Axis("simulated training images", "1/64,1/32,1/16,1/8,1/4,1/2,1", 3, "network"),
    "dictionary": Axis("images in the dictionary", "125,250,500,1000,2000,4000", 3, "dictionary+lm"),
    "starts": Axis("random starts of the simplex", "1,2,5,10,25,50,100", 3, "simplex"),
    "iterations": Axis("iterations of each start of the simplex", "10,20,30,40,50,75,100", 3, "simplex"),
    "photons": Axis("photons in the image", "1e3,1e4,1e5,1e6,1e7", 3, "dictionary+lm"),
}  # fmt: skip


def parse_points(text: str, whole: int | None = None) -> tuple[int, ...]:
    """Increasing whole numbers; fractions and 1 are shares of ``whole`` where that is given.

    Raises:
        InputError: not such a list.
    """
    points = []
    for part in text.split(","):
        try:
            # A fraction of an exponent such as 1e999999999 would fill the memory; a float is inf or 0.
            fair = "/" in part or 0 < float(part) <= LARGEST_POINT
            value = Fraction(part.strip()) if fair else Fraction(0)
        except (ValueError, ZeroDivisionError) as error:
            raise InputError(f"--points must be numbers such as 100,1e4 or 1/8, got {part!r}") from error
        if whole is not None and value <= 1:
            value = Fraction(round(value * whole))
        if value.denominator != 1 or not 1 <= value <= LARGEST_POINT:
            raise InputError(
                f"--points must be positive whole numbers of at most {LARGEST_POINT:.0e}, got {part!r}"
            )
        points.append(int(value))
    return tuple(sorted(set(points)))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: damaged; remove it and run the sweep again") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: damaged; remove it and run the sweep again")
    return found


def read_described(folder: Path) -> dict[str, Any]:
    """What a folder's sweep is: identity, points, seeds and what else was noted.

    Raises:
        InputError: no sweep, or damaged.
    """
    path = folder / "sweep.json"
    if not folder.is_dir():
        raise InputError(f"{folder}: {'is a file, not a sweep' if folder.exists() else 'no such folder'}")
    if not path.exists():
        raise InputError(f"{folder}: no sweep (it has no sweep.json)")
    found = _read(path)
    identity, points = found.get("identity"), found.get("points")
    whole = isinstance(points, list) and all(isinstance(one, int) for one in [*points, found.get("seeds")])
    if not whole or not isinstance(identity, dict) or "axis" not in identity:
        raise InputError(f"{path}: damaged; remove it and run the sweep again")
    return found


def read_point(path: Path, identity: dict[str, Any]) -> tuple[dict[str, Any], "pd.DataFrame"]:
    """A stored point, and its result with a row for each test image.

    Raises:
        InputError: of another sweep, or damaged.
    """
    import pandas as pd

    stored = _read(path)
    if stored.get("identity") != identity:
        raise InputError(f"{path}: a point of another sweep; remove it")
    try:
        frame = pd.DataFrame(stored["result"])
        whole = {"method", "axis"} <= stored.keys() and set(frame.columns) >= COLUMNS
    except (KeyError, ValueError, TypeError):
        whole = False
    if not whole:
        raise InputError(f"{path}: damaged; remove it and run the sweep again")
    return stored, frame


class Sweep:
    """Points along one axis in a folder.

    Args:
        folder: made if missing; a folder of the same settings is continued.
        settings: what is measured.
        points: values on the axis.
        seeds: repetitions of every point.
        shard: number and total; only every n-th point of those.

    Raises:
        InputError: the folder holds another sweep, or shards of another number.
    """

    def __init__(
        self,
        folder: Path,
        settings: SweepSettings,
        points: Sequence[int],
        seeds: int,
        shard: tuple[int, int] = WHOLE,
    ) -> None:
        self.folder, self.settings, self.seeds, self.shard = Path(folder), settings, seeds, shard
        self.points = tuple(points)
        self._open()

    @staticmethod
    def check(folder: Path, settings: SweepSettings, shards: int = 1) -> int:
        """Whether a folder may be used for a sweep; nothing is written.

        Returns:
            into how many shards it is divided.

        Raises:
            InputError: the folder holds something else.
        """
        described = folder / "sweep.json"
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: is a file, not a run folder")
        if not described.exists():
            if holds_others(folder, "sweep.json", "points"):
                raise InputError(f"{folder}: not empty and not a sweep; choose another --run")
            return shards
        known = _read(described)
        if known.get("identity") != settings.identity:
            raise InputError(
                f"{folder}: holds a sweep with other settings; choose another --run"
                f" ({difference(known.get('identity'), settings.identity)})"
            )
        if 1 != known.get("shards", 1) != shards != 1:
            raise InputError(
                f"{folder}: was divided into {known['shards']} shards, not {shards}; "
                "keep the number, or leave out --shard to compute all that is missing here"
            )
        return max(shards, known.get("shards", 1))

    def _open(self) -> None:
        described = self.folder / "sweep.json"
        shards = self.check(self.folder, self.settings, self.shard[1])
        try:
            (self.folder / "points").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be made ({error.strerror})") from error
        with atomic_path(described) as temporary:
            text = {
                **provenance(self.settings.seed, torch.device("cpu"), self.settings.experiment),
                "identity": self.settings.identity, "points": self.points, "seeds": self.seeds,
                "shards": shards,
            }  # fmt: skip
            temporary.write_text(json.dumps(text, indent=1) + "\n")

    def path(self, point: int, repetition: int) -> Path:
        """Where a point's result is stored."""
        return self.folder / "points" / f"{self.settings.axis}-{point:08d}-seed{repetition}.json"

    def jobs(self) -> list[tuple[int, int]]:
        """Points and repetitions of this shard, the dearest first."""
        every = [(point, seed) for point in reversed(self.points) for seed in range(self.seeds)]
        return share(every, self.shard)

    def missing(self) -> list[tuple[int, int]]:
        """Of these, what is not yet stored."""
        return [job for job in self.jobs() if not self.path(*job).exists()]

    def run(
        self, device: torch.device, workers: int = 1, progress: Progress = lambda share, text: None
    ) -> "pd.DataFrame":
        """Compute what is missing of this shard; then the table of all that is stored.

        On a CPU every point is computed by one thread, here or in a worker: results are the same for every
        number of workers.
        """
        jobs, missing = self.jobs(), self.missing()
        if not jobs:  # more shards than points
            progress(1.0, f"{self.settings.axis}, no points in this shard")
            return read_points(self.folder)
        done = len(jobs) - len(missing)

        def inner(part: float) -> None:
            progress((done + part) / len(jobs), f"{self.settings.axis}, {done + 1} of {len(jobs)} points")

        inner(0.0)
        with WorkerPool(min(workers, max(1, len(missing))), device) as pool, in_process(device):
            if pool.workers == 1:
                for point, repetition in missing:
                    compute(self.settings, self.folder, point, repetition, 0, str(device), inner)
                    done += 1
            else:
                for _ in pool.run(compute, [(self.settings, self.folder, *job) for job in missing]):
                    done += 1
                    progress(done / len(jobs), f"{self.settings.axis}, {done} of {len(jobs)} points")
        return read_points(self.folder)


def compute(
    settings: SweepSettings,
    folder: Path,
    point: int,
    repetition: int,
    rank: int,
    device: str,
    progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Measure one point and store it; for worker processes."""
    name = f"{settings.axis}-{point:08d}-seed{repetition}"
    found = measure(settings, point, repetition, folder / "training" / name, device, progress)
    described = {**provenance(settings.seed + repetition, torch.device(device), settings.experiment)}
    described.update(axis=settings.axis, method=settings.method, identity=settings.identity, result=found)
    with atomic_path(folder / "points" / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(described) + "\n")


def difference(known: Any, own: dict[str, Any]) -> str:
    """In what two sweeps' identities differ, in words."""
    known = known if isinstance(known, dict) else {}
    names = [name for name in own if known.get(name) != own[name]]
    return "other " + ", ".join(names) if names else "other settings"


def read_points(folder: Path | str) -> "pd.DataFrame":
    """All stored points of a sweep: one row for each point, repetition and test image.

    Columns: axis, method, point, repetition, image, fixed_simulations, fixed_seconds, seconds (of the whole
    point), evaluations, the errors, success, and where there is photon noise the Cramer-Rao bounds.

    Raises:
        InputError: no such sweep, damaged files, or points of another sweep among them.
    """
    import pandas as pd

    folder = Path(folder)
    identity = read_described(folder)["identity"]
    frames = []
    for path in sorted((folder / "points").glob("*.json")):
        stored, frame = read_point(path, identity)
        frame.insert(0, "image", range(len(frame)))
        frame.insert(0, "method", stored["method"])
        frame.insert(0, "axis", stored["axis"])
        frames.append(frame)
    if not frames:
        return pd.DataFrame()
    table = pd.concat(frames, ignore_index=True)
    table["success"] = (table["disorientation_deg"] < SUCCESS_DEG) & (table["radius_error_nm"] < SUCCESS_NM)
    return table.sort_values(["point", "repetition", "image"], ignore_index=True)
