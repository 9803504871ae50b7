"""A stage: a list of pieces that are computed until the clock stops them; the next call computes the rest."""

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from icobench.provenance import provenance
from icobench.simulator.compiled import prepare_kernel
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from icobench.storage import PieceStore, read_json, write_json
from paper_scale.energy import PowerMeter, power_query
from paper_scale.scales import Scale

__all__ = ["OutOfTime", "Part", "Piece", "Run", "Stage", "has_results", "scale_of", "stored_pieces"]

DESCRIPTION, PARTS = "stage.json", "pieces"
DONE, PART, FAILED = "done", "part", "failed"
"""States of a stored piece: finished; stopped by the clock, to be continued; ended by an error."""


class OutOfTime(Exception):  # noqa: N818 (no error)
    """The stage's minutes are spent; what is finished is stored."""


@dataclass(frozen=True)
class Part:
    """Result of a piece that the clock stopped: stored as it is, continued by the next call."""

    result: Any


@dataclass(frozen=True)
class Run:
    """What all stages share.

    Attributes:
        scale: how large everything is.
        out: folder of results, small enough to be committed.
        work: folder of data sets and checkpoints.
        device: where to work.
        max_minutes: of each stage in this call.
        seed: of everything.
        fresh: whether a stage forgets what was stored, and trained, before.
    """

    scale: Scale
    out: Path
    work: Path
    device: torch.device
    max_minutes: float = 7.5
    seed: int = 0
    fresh: bool = False
    experiment: Experiment = field(default_factory=Experiment)


@dataclass(frozen=True)
class Piece:
    """A part of a stage whose result is stored on its own.

    Attributes:
        name: within the stage.
        compute: makes the result, of plain values; :class:`Part` if it is not finished.
        needs: pieces of the stage that must be finished before.
        wanted: whether to compute it; unless it is finished, by default.
        prepare: called before the piece's clock and power meter start.
    """

    name: str
    compute: Callable[[], Any]
    needs: Sequence[str] = ()
    wanted: Callable[[], bool] | None = None
    prepare: Callable[[], Any] | None = None


def stored_pieces(folder: Path, stage: str) -> dict[str, dict[str, Any]]:
    """All stored pieces of a stage by name: state, result, seconds, joules, origin."""
    return {path.stem: read_json(path) for path in sorted((Path(folder) / stage / PARTS).glob("[!.]*.json"))}


def scale_of(folder: Path) -> str:
    """The name of the scale of the results in a folder, empty if there are none."""
    described = next(Path(folder).glob(f"*/{DESCRIPTION}"), None)
    return read_json(described)["identity"]["scale"]["name"] if described else ""


def has_results(folder: Path) -> bool:
    """Whether a stage has stored anything in a folder of results."""
    return any(Path(folder).glob(f"*/{DESCRIPTION}"))


class Stage:
    """Computes and stores the pieces of one stage.

    Args:
        run: what all stages share.
        name: of the stage.

    Attributes:
        left: names of pieces that are not finished.

    Raises:
        InputError: the folder holds results of another scale or seed.
    """

    def __init__(self, run: Run, name: str) -> None:
        self.run, self.name, self.left = run, name, list[str]()
        self.begin = time.perf_counter()
        if run.fresh:
            for folder in (run.out / name, self.work):
                shutil.rmtree(folder, ignore_errors=True)
        identity = {"scale": asdict(run.scale), "seed": run.seed}
        self.store = PieceStore(
            run.out / name, identity, DESCRIPTION, PARTS, "results", "choose another --out"
        )
        self.store.check()

    @property
    def work(self) -> Path:
        """Folder of this stage's checkpoints."""
        return self.run.work / self.name

    @cached_property
    def simulator(self) -> Simulator:
        """The exact one, with its tables for all radii: they are made once and no method's cost."""
        made = Simulator(self.run.experiment, device=self.run.device)
        sizes = torch.arange(20.0, 171.0, 5.0)
        made.intensity(sizes, torch.tensor([1.0, 0, 0, 0]).expand(len(sizes), 4))
        return made

    @cached_property
    def origin(self) -> dict[str, Any]:
        """Where the pieces of this call come from."""
        origin = provenance(self.run.seed, self.run.device, self.run.experiment)
        return origin | {"command": " ".join(["python", *sys.argv])}

    @property
    def minutes_left(self) -> float:
        """Of this call."""
        return self.run.max_minutes - (time.perf_counter() - self.begin) / 60

    def check_clock(self, *_: object) -> None:
        """For progress callbacks.

        Raises:
            OutOfTime: no minutes are left.
        """
        if self.minutes_left <= 0:
            raise OutOfTime

    def stored(self, name: str) -> dict[str, Any]:
        """A piece as it is stored, empty if it is not."""
        return read_json(self.store.path(f"{name}.json")) if self.store.has(f"{name}.json") else {}

    def result(self, name: str) -> Any:
        """The result of a finished piece, None if it is not finished."""
        piece = self.stored(name)
        return piece["result"] if piece.get("state") == DONE else None

    def execute(self, pieces: Sequence[Piece]) -> None:
        """Compute what is wanted, in order, while there are minutes left; the others are noted as left."""
        for piece in pieces:
            finished = self.result(piece.name) is not None
            if any(self.result(name) is None for name in piece.needs):
                if not finished:
                    self.left.append(piece.name)
            elif not finished if piece.wanted is None else piece.wanted():
                self._compute(piece)

    def _compute(self, piece: Piece) -> None:
        """Compute and store one piece.

        An error is stored and the other pieces go on: what fails on a machine at hand for minutes only must
        not take the rest with it.
        """
        try:
            self.check_clock()
            prepare_kernel(self.run.device)
            if piece.prepare:
                piece.prepare()
        except OutOfTime:
            self.left.append(piece.name)
            return
        print(f"[{self.name}] {piece.name}", flush=True)
        if not self.store.description.exists():
            self.store.open()
        before = self.stored(piece.name)
        before = before if before.get("state") == PART else {}
        begin, state = time.perf_counter(), DONE
        meter = PowerMeter(power_query(self.run.device))
        try:
            with meter:
                result = piece.compute()
                if isinstance(result, Part):
                    state, result = PART, result.result
        except OutOfTime:
            state, result = PART, before.get("result", {})
            print(f"[{self.name}] {piece.name}: stopped by the clock", flush=True)
        except Exception as error:
            first_line = (str(error).strip().splitlines() or [""])[0]
            state, result = FAILED, {"error": f"{type(error).__name__}: {first_line}"}
            print(f"[{self.name}] {piece.name}: {result['error']}", flush=True)
        seconds, joules = time.perf_counter() - begin, meter.joules
        if before:  # the cost of a piece is the sum over all calls
            seconds += before["seconds"]
            joules = None if joules is None or before["joules"] is None else joules + before["joules"]
        stored = {"state": state, "result": result, "seconds": round(seconds, 3), "joules": joules}
        write_json(self.store.path(f"{piece.name}.json"), stored | {"origin": self.origin})
        if state != DONE:
            self.left.append(piece.name)
