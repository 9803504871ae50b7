"""A page on a source that is watched, served on this machine alone."""

import json
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from icobench.answer import FAILED, RADII_NM
from icobench.errors import InputError
from icobench.geometry.convex import icosahedron
from icobench.geometry.rotations import quaternion_to_matrix
from icobench.images.image_set import ImageSet
from icobench.reporting.page import render
from icobench.reporting.pictures import INTENSITY_MAP, UNUSABLE, palette, picture

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LivePage", "LiveState", "beam_in_body", "map_outline", "on_map"]

BIN_NM = 5.0
CELL = 0.02
"""Width of a cell of the map of orientations; the sphere has a radius of 1."""

REACH = (0.56, 0.38)
"""Half the width and the height of the map."""

PICTURES = 6
SECONDS = 300
LATENCIES = 100_000
"""Frames of which times are kept."""

TROUBLES = 8
PICTURE_PIXELS = 128


def beam_in_body(quaternion: torch.Tensor) -> torch.Tensor:
    """Directions of the beam in the body's frame (N, 3), of equivalent ones that nearest to a two-fold axis.

    The sixty equivalents of an orientation (N, 4) see the beam from sixty directions. Those nearest to the
    two-fold axis z with x >= 0 fill a triangle between two five-fold axes and a three-fold one, evenly for
    random orientations.
    """
    beam = quaternion_to_matrix(quaternion)[..., 2, :]
    turns = quaternion_to_matrix(torch.as_tensor(icosahedron().group).to(quaternion))
    directions = torch.einsum("gij,nj->ngi", turns, beam)
    best = directions[torch.arange(len(beam)), directions[..., 2].argmax(1)]
    half_turn = torch.where(best[:, :1] < 0, -1.0, 1.0).to(best)
    return torch.cat((best[:, :2] * half_turn, best[:, 2:]), 1)


def on_map(direction: torch.Tensor) -> torch.Tensor:
    """Directions (N, 3) on a map of equal areas around z (Lambert's): (N, 2), y across and x up."""
    return direction[:, [1, 0]] * torch.sqrt(2 / (1 + direction[:, 2:]))


def map_outline(points: int = 12) -> list[list[float]]:
    """The triangle of :func:`beam_in_body` on the map, as a closed line."""
    golden = (1 + math.sqrt(5)) / 2
    five, three = torch.tensor([0.0, 1.0, golden]), torch.tensor([golden, 0.0, 2 * golden + 1])
    corners = [five, three, five * torch.tensor([1.0, -1.0, 1.0]), five]
    line = []
    for start, end in pairwise(corners):
        share = torch.linspace(0, 1, points)[:, None]
        way = torch.lerp(start / start.norm(), end / end.norm(), share)
        line += on_map(way / way.norm(dim=1, keepdim=True)).tolist()
    return line


class LiveState:
    """What is known of a watched source; of constant size. Several threads use it.

    Args:
        where: the source.
        method: name.

    Attributes:
        valid: (H, W) pixels of the grid that can hold anything.
        frames, hits, failed, fitted: numbers of stored rows: all, those with an answer, unreadable ones, and
            answers that a fit has replaced.
        fits_waiting, fits_dropped: images.
        backlog: frames that are there and not answered.
        missed: trains of a stream that did not come.
        troubles: lines on what could not be read, the last ones.
    """

    def __init__(self, where: str, method: str) -> None:
        self.where, self.method = where, method
        self.valid: np.ndarray | bool = True
        self.frames = self.hits = self.failed = self.fitted = 0
        self.fits_waiting = self.fits_dropped = self.backlog = self.missed = 0
        self.troubles: deque[str] = deque(maxlen=TROUBLES)
        self.begun = time.monotonic()
        self._lock = threading.Lock()
        low, high = RADII_NM
        self._radii = np.zeros(round((high - low) / BIN_NM), dtype=np.int64)
        across, up = (math.ceil(size / CELL) for size in (2 * REACH[0], REACH[1]))
        self._map = np.zeros((up, across), dtype=np.int64)
        self._latencies: deque[float] = deque(maxlen=LATENCIES)
        self._course: deque[tuple[float, int, int, int]] = deque(maxlen=SECONDS)
        self._pictures: deque[tuple[int, np.ndarray]] = deque(maxlen=2 * PICTURES)
        self._captions: dict[int, str] = {}
        self._fits_now = 0

    def trouble(self, line: str) -> None:
        """Keep a line on what went wrong."""
        self.troubles.append(line)

    def show(self, hits: ImageSet) -> None:
        """Keep the last hits as pictures, which are shown once their rows are stored."""
        step = max(1, hits.images.shape[-1] // PICTURE_PIXELS)
        valid = self.valid if isinstance(self.valid, bool) else self.valid[::step, ::step]
        for place in range(max(0, len(hits) - PICTURES), len(hits)):
            image = hits.images[place, ::step, ::step].cpu().numpy()
            mask = hits.mask[place, ::step, ::step].cpu().numpy() & valid
            light = image if hits.kind == "log" else np.log1p(np.maximum(image, 0))
            light = light / max(float(light[mask].max(initial=0)), 1e-9)
            shade = np.where(mask, (light * 254).clip(0, 254), UNUSABLE).astype(np.uint8)
            with self._lock:
                self._pictures.append((int(hits.numbers[place]), shade))

    def add(self, rows: "pd.DataFrame") -> None:
        """Rows that are stored."""
        answered = rows[rows["radius_nm"].notna()]
        low, high = RADII_NM
        turns = torch.tensor(answered[[f"q_{axis}" for axis in "wxyz"]].to_numpy(dtype=float))
        across, up = (on_map(beam_in_body(turns)).numpy() / CELL).T
        columns = np.clip(across + REACH[0] / CELL, 0, self._map.shape[1] - 1).astype(int)
        lines = np.clip(up, 0, self._map.shape[0] - 1).astype(int)
        with self._lock:
            self.frames += len(rows)
            self.hits += len(answered)
            self.failed += int(rows["status"].str.startswith(FAILED).sum())
            self._radii += np.histogram(answered["radius_nm"], len(self._radii), (low, high))[0]
            np.add.at(self._map, (lines, columns), 1)
            self._latencies.extend(rows["latency_s"].tolist())
            self._course.append((time.monotonic(), len(rows), len(answered), self._fits_now))
            self._fits_now = 0
            shown = {number for number, _ in self._pictures}
            self._captions = {number: text for number, text in self._captions.items() if number in shown}
            for row in answered[answered.index.isin(shown)].itertuples():
                self._captions[int(row.Index)] = f"R = {row.radius_nm:.1f} nm, {row.status}"

    def improve(self, fits: "pd.DataFrame") -> None:
        """Fits that are stored."""
        with self._lock:
            self.fitted += len(fits)
            self._fits_now += len(fits)

    def latency(self) -> tuple[float, float]:
        """Median and 99 % quantile of the seconds between a frame and its answer; NaN without frames."""
        with self._lock:
            values = np.array(self._latencies)
        return tuple(np.quantile(values, (0.5, 0.99)).tolist()) if values.size else (math.nan, math.nan)

    def numbers(self) -> dict[str, Any]:
        """All that a page shows, as JSON has it."""
        median, worst = self.latency()
        with self._lock:
            pictures = [(number, shade) for number, shade in self._pictures if number in self._captions]
            pictures = pictures[-PICTURES:]
            captions = [self._captions[number] for number, _ in pictures]
            course = [list(entry) for entry in self._course]
            radii, orientations = self._radii.tolist(), self._map.tolist()
        now = time.monotonic()
        recent = [entry for entry in course if entry[0] > now - 10]
        return {
            "where": self.where, "method": self.method, "seconds": now - self.begun, "frames": self.frames,
            "hits": self.hits, "failed": self.failed, "fitted": self.fitted, "backlog": self.backlog,
            "fits_waiting": self.fits_waiting, "fits_dropped": self.fits_dropped,
            "missed": self.missed,
            "rate": sum(entry[1] for entry in recent) / 10,
            "latency": None if math.isnan(median) else [median, worst],
            "radii": radii, "orientations": orientations, "troubles": list(self.troubles),
            "course": [[entry[0] - now, *entry[1:]] for entry in course],
            "pictures": [
                [picture(shade), caption] for (_, shade), caption in zip(pictures, captions, strict=True)
            ],
        }  # fmt: skip

    def summary(self) -> str:
        """The session in a line."""
        seconds = time.monotonic() - self.begun
        text = (
            f"{self.frames:,} images in {seconds:,.0f} s ({self.frames / max(seconds, 1e-9):.3g} a second), "
            f"{self.hits:,} hits"
        )
        if self.failed:
            text += f", {self.failed:,} unusable"
        if self.fitted or self.fits_dropped or self.fits_waiting:
            left = self.fits_dropped + self.fits_waiting
            text += f"; {self.fitted:,} fitted, {left:,} fits left out for want of time"
        if self.missed:
            text += f"; {self.missed:,} trains in between were not received"
        median, worst = self.latency()
        if not math.isnan(median):
            text += f"; latency {1e3 * median:.0f} ms (median), {1e3 * worst:.0f} ms (99 %)"
        return text


class LivePage:
    """Serves the page, on this machine alone; a context manager.

    Args:
        port: where; 0 for any that is free.
        numbers: gives what :meth:`LiveState.numbers` gives.

    Raises:
        InputError: the port is not free.
    """

    def __init__(self, port: int, numbers: Callable[[], dict[str, Any]]) -> None:
        palette(INTENSITY_MAP)  # matplotlib takes a second, which the first request should not wait
        page = render(
            "live.html.j2", title="Live", low=RADII_NM[0], step=BIN_NM, cell=CELL, reach=REACH,
            outline=map_outline(),
        ).encode()  # fmt: skip

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                # Another site's page in the same browser must not read this one under a name of its own.
                if self.headers.get("Host", "").partition(":")[0] not in ("127.0.0.1", "localhost"):
                    self.send_error(403)
                elif self.path == "/":
                    self._give(page, "text/html; charset=utf-8")
                elif self.path == "/numbers.json":
                    self._give(json.dumps(numbers()).encode(), "application/json")
                else:
                    self.send_error(404)

            def _give(self, content: bytes, kind: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *words: Any) -> None:
                pass

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"--page {port}: cannot be served there ({reason})") from error
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}/"

    def __enter__(self) -> "LivePage":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
