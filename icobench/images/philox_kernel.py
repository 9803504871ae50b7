"""Philox as one kernel for a GPU; only imported there, as it needs Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["words"]

BLOCKS = 1024
"""Counters of a program."""


@triton.jit(do_not_specialize=["first_key", "second_key", "blocks", "count"])
def _philox(numbers, streams, out, first_key, second_key, blocks, count, SIZE: tl.constexpr):
    """Four words of each of SIZE counters of an image; as :func:`icobench.images.philox.philox4x32`."""
    image = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    number = tl.load(numbers + image).to(tl.uint64, bitcast=True)
    stream = tl.load(streams + image).to(tl.uint32)
    c0 = block.to(tl.uint32)
    c1 = stream + tl.zeros_like(c0)
    c2 = (number & 0xFFFFFFFF).to(tl.uint32) + tl.zeros_like(c0)
    c3 = (number >> 32).to(tl.uint32) + tl.zeros_like(c0)
    k0 = first_key.to(tl.uint32, bitcast=True)
    k1 = second_key.to(tl.uint32, bitcast=True)
    first = tl.full((SIZE,), 0xD2511F53, tl.uint32)
    second = tl.full((SIZE,), 0xCD9E8D57, tl.uint32)
    for _ in tl.static_range(10):
        before = c0
        c0 = tl.umulhi(second, c2) ^ c1 ^ k0
        c1 = second * c2
        c2 = tl.umulhi(first, before) ^ c3 ^ k1
        c3 = first * before
        k0 = k0 + tl.full((), 0x9E3779B9, tl.uint32)
        k1 = k1 + tl.full((), 0xBB67AE85, tl.uint32)
    row = out + image * count
    tl.store(row + block, c0.to(tl.int64), (block < blocks) & (block < count))
    tl.store(row + block + blocks, c1.to(tl.int64), (block < blocks) & (block + blocks < count))
    tl.store(row + block + 2 * blocks, c2.to(tl.int64), (block < blocks) & (block + 2 * blocks < count))
    tl.store(row + block + 3 * blocks, c3.to(tl.int64), (block < blocks) & (block + 3 * blocks < count))


def words(numbers: Tensor, streams: Tensor, key: list[int], count: int) -> Tensor:
    """Integers in [0, 2^32), (B, count) int64, for numbers (B,) and streams (B,) on a GPU."""
    out = torch.empty(len(numbers), count, dtype=torch.int64, device=numbers.device)
    blocks = -(-count // 4)
    if out.numel():
        signed = [word - (word >> 31 << 32) for word in key]  # the same bits as an int32
        grid = len(numbers), triton.cdiv(blocks, BLOCKS)
        _philox[grid](numbers.contiguous(), streams.contiguous(), out, *signed, blocks, count, SIZE=BLOCKS)
    return out
