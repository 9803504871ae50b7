"""One call of one stage: pieces are made until the clock runs out; a rerun makes the rest."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from paper_scale.energy import PowerMeter, power_query
from paper_scale.scales import Scale
from paper_scale.store import Store

__all__ = ["OutOfTime", "Part", "Run", "Stage"]


class OutOfTime(Exception):  # noqa: N818 (no error)
    """The stage's minutes are spent; what is finished is stored."""


@dataclass(frozen=True)
class Part:
    """Result of a piece that the clock stopped: worth looking at, made on by the next call."""

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


class Stage:
    """Makes and stores pieces.

    Args:
        run: what all stages share.
        name: of the stage.

    Attributes:
        left: pieces that are not finished yet.
    """

    def __init__(self, run: Run, name: str) -> None:
        self.run, self.name = run, name
        self.begin = time.perf_counter()
        if run.fresh:
            (run.out / f"{name}.json").unlink(missing_ok=True)
            for folder in (run.out / name, self.work):
                shutil.rmtree(folder, ignore_errors=True)
        self.store = Store(run.out, name, run.scale, run.seed, run.device)
        self.left: list[str] = []

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

    def wants(self, name: str) -> bool:
        """Whether a piece is not finished and there are minutes left for it."""
        return self.store.get(name) is None and self.minutes_left > 0

    def piece(self, name: str, function: Callable[[], Any], again: bool = False) -> Any:
        """The stored result, or that of ``function`` if there are minutes left; None if it is not finished.

        A stored one is made ``again`` where that is asked for. An error is stored and the other pieces go on:
        what fails on a machine at hand for minutes only must not take the rest with it.
        """
        known = self.store.get(name)
        if known is not None and not again:
            return known
        if self.minutes_left <= 0:
            self.left.append(name)
            return None
        print(f"[{self.name}] {name}", flush=True)
        begin, state = time.perf_counter(), "done"
        meter = PowerMeter(power_query(self.run.device))
        try:
            with meter:
                result = function()
                if isinstance(result, Part):
                    state, result = "part", result.result
        except OutOfTime:
            # What it took is kept, and what an earlier call found.
            state, result = "part", self.store.part(name)
            print(f"[{self.name}] {name}: stopped by the clock", flush=True)
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0]
            state, result = "failed", {"error": f"{type(error).__name__}: {first}"}
            print(f"[{self.name}] {name}: {result['error']}", flush=True)
        self.store.put(name, state, result, time.perf_counter() - begin, meter.joules)
        if state != "done":
            self.left.append(name)
            return None
        return result
