"""Watch a source of images: a network answers every hit at once, fits get the time that is left.

One thread reads frames, this one answers them, a third stores rows every second; fits run in processes of
lower priority. What fits cannot manage in time is dropped, the network's answer stays.
"""

import gc
import os
import pickle
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from icobench import __version__
from icobench.answer import MISS, Answer
from icobench.devices import by_device, one_thread
from icobench.errors import InputError
from icobench.fitting.nuisance import NUISANCES
from icobench.images.image_set import ImageSet
from icobench.images.live import BLOCK, Arrived, LiveSource
from icobench.images.prepare import Prepared
from icobench.methods import Method, find_method
from icobench.reporting.live import LiveState
from icobench.runs.blocks import Fitting
from icobench.runs.fit_queue import FitQueue
from icobench.runs.live_table import LiveTable
from icobench.runs.pool import WorkerPool, chosen_device, default_workers
from icobench.runs.reconstruct import begin

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LitPixels", "Watch", "network_of"]

FLUSH = 1.0
"""Seconds between pieces of the table."""

HELD, GPU_HELD = 32, 8
"""Blocks of frames, or trains, that are read ahead; a source waits for the rest."""

GATHER = 0.025
"""Seconds that a frame waits for others: four together cost little more than half of four alone."""

GPU_BLOCK = 256
"""Frames that are read at once for a GPU; :data:`~icobench.images.live.BLOCK` for a CPU."""

TOGETHER, GPU_TOGETHER = BLOCK, 1024
"""Frames that are answered together at most."""

FIT_QUEUE, GPU_FIT_QUEUE = 256, 2048
"""Images that wait for a fit at most."""

FIT_BLOCK, GPU_FIT_BLOCK = 8, 256
"""Images that a process fits together at most."""

FIT_AHEAD, GPU_FIT_AHEAD = 1, 2
"""Blocks that each process is given: a GPU has the next one while the first one's fits are collected."""

NICE = 10
"""By how much the fits' processes step back behind this one."""

LAST_FITS = 3.0
"""Seconds that running fits are waited for at the end."""

LEAST_LIT = 300
"""Lit pixels of a hit."""


@dataclass(frozen=True)
class LitPixels:
    """Hits have light in many pixels.

    Attributes:
        least: pixels of a hit.
        photons: in a lit pixel, at least; of images without photons any light counts.
    """

    least: int = LEAST_LIT
    photons: float = 1.0

    def count(self, images: ImageSet) -> np.ndarray:
        """(N,) lit pixels among the usable ones."""
        values = images.images.numpy()
        lit = (values >= self.photons if images.kind == "counts" else values > 0) & images.mask.numpy()
        return np.count_nonzero(lit.reshape(len(images), -1), axis=1)


def network_of(method: Method) -> Method:
    """The method that asks the network alone, of one that begins with it.

    Raises:
        InputError: a method that begins otherwise.
    """
    if not method.needs_network:
        raise InputError(
            f"watch needs a method that begins with a network, such as network+lm, not {method.name}"
        )
    alone = find_method(method.name.split("+")[0].removesuffix("-propagated"))
    if "versions" in method.option_names:
        alone = alone.with_options(versions=getattr(method.options, "versions", 1))
    return replace(alone, physics=method.physics)


@lru_cache(maxsize=1)
def _fitting(packed: bytes, device: str) -> Fitting:
    """What fits, in a process of its own, which steps back and makes its tables."""
    with suppress(OSError):
        os.nice(NICE)
    fitting = replace(pickle.loads(packed), device=device)
    fitting.prepare()
    return fitting


def _fit(packed: bytes, block: ImageSet | None, rank: int, device: str) -> "pd.DataFrame | None":
    """The fits of a block in a process of its own; None for no images, which only makes the tables."""
    fitting = _fitting(packed, device)
    if block is None:
        return None
    answers, _ = fitting.answer(block)
    return _rows(Answer.join(answers), fitting.method.name)


def _rows(answer: Answer, method: str) -> "pd.DataFrame":
    """A row for each image, numbered by ``index``."""
    return answer.to_frame().set_index("index").assign(method=method)


@dataclass(frozen=True)
class _Answered:
    """Frames that were answered together.

    Attributes:
        rows: (N,) their rows in the table.
        facts: (N,) each, where they came from and when.
        answers: for all of them.
    """

    rows: np.ndarray
    facts: dict[str, np.ndarray]
    answers: list[Answer]


class Watch:
    """One session with a source.

    Args:
        source: where images come from.
        out: the table, which an earlier session may have begun.
        method: that begins with a network; if it is more than that, it fits.
        lit: which images are hits, if these are not sorted further (``sort``).
        workers: processes that fit; 0 for one for each core or GPU.
        identity: what else the rows depend on, plain values: a table by others is refused.
        settings: of :func:`~icobench.runs.reconstruct.begin`.

    Attributes:
        table: where rows go.
        state: what a page shows.

    Raises:
        InputError: a method that begins otherwise, no weights, or a table of something else.
    """

    def __init__(
        self, source: LiveSource, out: Path, method: Method, lit: LitPixels | None = None, workers: int = 0,
        identity: dict[str, Any] | None = None, **settings: Any,
    ) -> None:  # fmt: skip
        self.source, self.method, self.settings = source, method, settings
        self.alone = network_of(method)
        self._device = chosen_device(str(settings.get("device", "auto")))
        networks = method.load_networks(settings.get("model"), self._device)
        about = {"method": {"name": method.name, **method.settings}, "networks": networks and networks.digest}
        self.table = LiveTable(out, {"icobench": __version__, **about, **(identity or {})})
        self.lit = lit or LitPixels()
        self.workers = workers or default_workers(self._device)
        self.state = LiveState(source.where, method.name)
        self.fits: Fitting | None = None
        self._further: list[str] = []
        self._stop = threading.Event()
        self._read: queue.Queue[Arrived] = queue.Queue(by_device(self._device, HELD, GPU_HELD))
        self._trouble: BaseException | None = None
        self._next = 0
        self._held: list[_Answered] = []
        self._complete = 0
        self._better: list[pd.DataFrame] = []
        self._reads = by_device(self._device, BLOCK, GPU_BLOCK)
        self._together = by_device(self._device, TOGETHER, GPU_TOGETHER)
        self._ahead = self.workers * by_device(self._device, FIT_AHEAD, GPU_FIT_AHEAD)
        self._waiting = FitQueue(
            by_device(self._device, FIT_QUEUE, GPU_FIT_QUEUE),
            by_device(self._device, FIT_BLOCK, GPU_FIT_BLOCK),
        )
        self._running: deque[Future] = deque()
        self._storing: Future | None = None
        self._stored_at = 0.0

    def stop(self) -> None:
        """End soon: what was read is still answered."""
        self._stop.set()

    def run(self, idle: float = 0.0, say: Callable[[str], None] = lambda line: None) -> None:
        """Watch until :meth:`stop`, or until no frame came for ``idle`` seconds, if that is not 0.

        Raises:
            InputError: a table of something else, or what ended the source; all rows are stored.
        """
        self.source.known = self.table.open()
        try:
            prepared = self._first(idle, say)
            if prepared is not None:
                self._watch(prepared, idle, say)
        finally:
            self.source.close()
            self.table.close()
        if self._trouble is not None:
            raise self._trouble

    def _first(self, idle: float, say: Callable[[str], None]) -> Prepared | None:
        """The first frames; None if the session ends before there are any."""
        begin, waited = time.monotonic(), False
        while not self._stop.is_set() and not (idle and time.monotonic() - begin > idle):
            prepared = self.source.open()
            for line in self._troubles():
                say(line)
            if prepared is not None:
                return prepared
            if not waited and time.monotonic() - begin > 1:
                say(f"{self.source.where}: waiting for the first images")
                waited = True
            time.sleep(0.05)
        return None

    def _watch(self, prepared: Prepared, idle: float, say: Callable[[str], None]) -> None:
        stack = begin(prepared, self.method, **self.settings)
        for line in (*prepared.notes, *stack.notes):
            say(line)
        fits = stack.fitting
        self.network = replace(fits, method=self.alone, nuisance=(), auto_physics=False)
        vars(self.network)["networks"] = fits.networks  # already loaded
        self.fits = replace(fits, sort=False) if "+" in self.method.name else None
        columns = [name for parameter in fits.nuisance for name in NUISANCES[parameter]]
        self._further = [*columns, "gain", *(["physics"] if fits.auto_physics else [])]
        self.state.valid = fits.experiment.valid().numpy()
        # What a GPU leaves to the processor is too little for several threads, which would wait in loops.
        with one_thread(), WorkerPool(self.workers, self._device) as pool, ThreadPoolExecutor(1) as writer:
            packed = pickle.dumps(self.fits) if self.fits is not None else b""
            self.network.prepare()
            if packed:
                for ready in [pool.submit(_fit, (packed, None)) for _ in range(self.workers)]:
                    ready.result()
            # What was loaded stays: collections that walk through it would hold up answers.
            gc.collect()
            gc.freeze()
            say("ready")
            reader = threading.Thread(target=self._reading, daemon=True)
            reader.start()
            last = self.state.begun = time.monotonic()
            while not self._stop.is_set():
                if self._step():
                    last = time.monotonic()
                self._serve(pool, packed)
                self._flush(writer)
                for line in self._troubles():
                    say(line)
                if idle and time.monotonic() - last > idle:
                    self._stop.set()
            while reader.is_alive():  # it may wait for room
                self._step()
            while self._step(wait=0.0):
                pass
            until = time.monotonic() + LAST_FITS
            while self._running and time.monotonic() < until:
                self._collect()
                time.sleep(0.01)
            # What waits still is not fitted any more.
            self.state.fits_waiting, left = 0, len(self._waiting)
            self.state.fits_dropped = self._waiting.dropped + left
            self._flush(writer, last=True)
            if self._storing is not None:
                self._storing.result()

    # Reading

    def _reading(self) -> None:
        """In a thread: frames of the source, as many as are held."""
        try:
            while not self._stop.is_set():
                arrived = self.source.take(self._reads)
                if arrived is None:
                    time.sleep(0.005)
                while arrived is not None:
                    with suppress(queue.Full):
                        self._read.put(arrived, timeout=0.1)
                        arrived = None
        except BaseException as error:
            self._trouble = error
            self._stop.set()

    def _troubles(self) -> Iterable[str]:
        lines, self.source.troubles[:] = list(self.source.troubles), []
        fresh = [line for line in dict.fromkeys(lines) if line not in self.state.troubles]
        for line in fresh:
            self.state.trouble(line)
        return fresh

    # Answering

    def _step(self, wait: float = 0.02) -> bool:
        """Answer the frames that are there; whether there were any."""
        batch: list[Arrived] = []
        with suppress(queue.Empty):
            batch.append(self._read.get(timeout=wait) if wait else self._read.get_nowait())
            while sum(len(arrived.images) for arrived in batch) < self._together:
                left = float(batch[0].times[0]) + GATHER - time.monotonic() if wait else 0.0
                batch.append(self._read.get(timeout=left) if left > 0 else self._read.get_nowait())
        if batch:
            self._answer(batch)
        return bool(batch)

    def _answer(self, batch: list[Arrived]) -> None:
        count = [len(arrived.images) for arrived in batch]
        rows = np.arange(self._next, self._next + sum(count))
        self._next += len(rows)
        images = ImageSet.join([arrived.images for arrived in batch])
        problems: dict[int, str] = {}
        first = int(rows[0])
        for arrived, size in zip(batch, count, strict=True):
            here = dict(zip(arrived.images.numbers.tolist(), range(first, first + size), strict=True))
            problems |= {here[number]: reason for number, reason in arrived.images.problems.items()}
            first += size
        images = replace(images, numbers=torch.from_numpy(rows), problems={})
        lit = self.lit.count(images)
        dim = {
            row: f"{pixels} lit pixels"
            for row, pixels in zip(rows.tolist(), lit.tolist(), strict=True)
            if pixels < self.lit.least and row not in problems
        }
        answers = [Answer.failed(problems)] if problems else []
        answers += [Answer.failed(dim, MISS)] if dim else []
        unfit = problems | dim
        hits = images
        if unfit:
            hits = images.subset(torch.tensor([row not in unfit for row in rows.tolist()]))
        if len(hits):
            found, usable = self.network.answer(hits)
            answers += found
            if usable is None:  # no signal in the fitted range, or misses by the classifier
                hits = hits.subset(torch.arange(0))
            else:
                if len(found[0]) < len(hits):
                    hits = hits.subset(torch.isin(hits.numbers, found[0].index))
                if self.fits is not None:
                    self._waiting.add(hits, found[0])
        now, wall = time.monotonic(), time.time()
        # What was there before could not be answered before.
        came = np.maximum(np.concatenate([arrived.times for arrived in batch]), self.state.begun)
        facts = {
            "source": np.repeat([arrived.source for arrived in batch], count),
            "train": np.concatenate([arrived.trains for arrived in batch]),
            "index": np.concatenate([arrived.places for arrived in batch]),
            "arrived": wall - (now - came), "latency_s": now - came, "lit_pixels": lit,
        }  # fmt: skip
        self._held.append(_Answered(rows, facts, answers))
        if batch[-1].last:
            self._complete = len(self._held)
        self.state.show(hits)

    # Fitting

    def _serve(self, pool: WorkerPool, packed: bytes) -> None:
        """Collect fits, and give the processes new ones where frames do not wait for their answers."""
        if self.fits is None:
            return
        self._collect()
        late = self._read.qsize() > self._read.maxsize // 4
        while not late and len(self._running) < self._ahead and (images := self._waiting.take()) is not None:
            self._running.append(pool.submit(_fit, (packed, images)))
        self.state.fits_waiting, self.state.fits_dropped = len(self._waiting), self._waiting.dropped

    def _collect(self) -> None:
        for _ in range(len(self._running)):
            fit = self._running.popleft()
            if fit.done():
                self._better.append(fit.result())
            else:
                self._running.append(fit)

    # Storing

    def _flush(self, writer: ThreadPoolExecutor, last: bool = False) -> None:
        """Store the rows of complete trains, once a second, in a thread."""
        self.state.backlog, self.state.missed = self.source.waiting() + self._read.qsize(), self.source.missed
        now = time.monotonic()
        if self._storing is not None and (self._storing.done() or last):
            self._storing.result()
            self._storing = None
        if self._storing is not None or (now - self._stored_at < FLUSH and not last):
            return
        self._stored_at = now
        rows, self._held = self._held[: self._complete], self._held[self._complete :]
        fits, self._better, self._complete = self._better, [], 0
        fits = [table[table["radius_nm"].notna()] for table in fits]
        if rows or fits:
            self._storing = writer.submit(self._store, rows, fits)

    def _store(self, batches: "list[_Answered]", fits: "list[pd.DataFrame]") -> None:
        import pandas as pd

        if batches:
            rows = self._table(batches)
            self.table.store_rows(rows)
            self.state.add(rows)
        if fits:
            improved = pd.concat(fits)
            self.table.store_fits(improved)
            self.state.improve(improved)

    def _table(self, batches: "list[_Answered]") -> "pd.DataFrame":
        """A row for each frame of some batches; a table for each batch would take longer than its fields."""
        import pandas as pd

        rows = np.concatenate([batch.rows for batch in batches])
        answer = Answer.join([answer for batch in batches for answer in batch.answers])
        facts = {name: np.concatenate([batch.facts[name] for batch in batches]) for name in batches[0].facts}
        facts["arrived"] = pd.to_datetime(facts["arrived"], unit="s", utc=True)
        table = _rows(answer, self.network.method.name).reindex(rows)
        further = {name: table.get(name, np.nan) for name in self._further}
        if "physics" in further:
            further["physics"] = ""
        return pd.concat([pd.DataFrame(facts, index=table.index), table.assign(**further)], axis=1)
