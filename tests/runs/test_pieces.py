"""What the progress of a list of pieces says: what is under way, and how long it still takes."""

import re
import time
from typing import NamedTuple

import pytest
import torch

from icobench.runs import pieces as pieces_module
from icobench.runs.pieces import _Course, execute
from icobench.runs.pool import Running


class Piece(NamedTuple):
    method: str
    number: int

    def __str__(self) -> str:
        return f"{self.method} block {self.number}"


FAST, SLOW = "network", "simplex"
PIECES = [Piece(method, number) for number in (1, 2) for method in (FAST, SLOW)]


class Waits:
    """Pieces that wait, and say how far they are; in any process."""

    def pieces(self) -> list[Piece]:
        return PIECES

    def is_stored(self, piece: Piece) -> bool:
        return False

    def compute(self, piece: Piece, device: str, progress=lambda share: None) -> None:
        for step in range(4 if piece.method == SLOW else 0):
            progress(step / 4)
            time.sleep(0.4)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_under_way_is_named_with_its_share(workers):
    seen: list[tuple[float, str]] = []
    execute(Waits(), torch.device("cpu"), workers, report=lambda *values: seen.append(values))
    shares = [share for share, _ in seen]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert seen[-1][1] == "4 of 4 done"
    halfway = [text for _, text in seen if re.search(r"simplex block \d \((25|50|75)%\)", text)]
    assert halfway and any("of 4 done" in text for text in halfway)


def test_the_time_that_is_left_is_that_of_what_is_left(monkeypatch):
    """Two workers, fast pieces of 1 s and slow ones of 100 s: with exact shares the forecast is exact."""
    now, said = [0.0], []
    monkeypatch.setattr(pieces_module.time, "monotonic", lambda: now[0])
    course = _Course(PIECES, PIECES, 2, lambda *values: said.append(values))
    fast, slow = PIECES[0], PIECES[1]
    course.show([Running((fast,), 0.0, 0.0), Running((slow,), 0.0, 0.0)])
    assert said[-1] == (0.0, "0 of 4 done: network block 1, simplex block 1")
    now[0] = 1.0
    course.finished(fast)
    now[0] = 5.0
    course.show([Running((slow,), 0.0, 0.05)])
    assert said[-1][1] == "1 of 4 done: simplex block 1 (5%)"  # a first step may be a long one
    now[0] = 10.0
    course.show([Running((slow,), 0.0, 0.1)])
    # 90 s of this one, 100 s of the other, 1 s: by two workers.
    share, text = said[-1]
    assert share == pytest.approx((1 + 0.1) / 4)
    assert text == "1 of 4 done, about 2 min left: simplex block 1 (10%)"
    now[0] = 100.0
    course.finished(slow)
    course.show()
    assert said[-1][1] == "2 of 4 done, about 50 s left"
    for piece in PIECES[2:]:
        course.finished(piece)
    course.show()
    assert said[-1] == (1.0, "4 of 4 done")
