"""Dividing work: which of many pieces one of several processes or machines takes."""

from collections.abc import Sequence
from typing import TypeVar

from icobench.errors import InputError

__all__ = ["WHOLE", "parse_shard", "share"]

Piece = TypeVar("Piece")

WHOLE = (1, 1)
"""The one shard of work that is not divided."""


def parse_shard(text: str) -> tuple[int, int]:
    """Number and total of ``i/n``, counted from 1.

    Raises:
        InputError: not two numbers, or there is no such shard.
    """
    try:
        number, total = (int(part) for part in text.split("/"))
    except ValueError as error:
        raise InputError(f"--shard must be i/n such as 2/8, got {text!r}") from error
    if not 1 <= number <= total:
        raise InputError(f"shard {text}: shards are counted from 1 to their number")
    return number, total


def share(pieces: Sequence[Piece], shard: tuple[int, int]) -> list[Piece]:
    """Every n-th piece: the costs of neighbours are alike, so that shards cost about the same."""
    number, total = shard
    return list(pieces[number - 1 :: total])
