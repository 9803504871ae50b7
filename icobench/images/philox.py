"""Random numbers by counting: any number of any stream at once, the same in every batch and on every device.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11): ten rounds scramble a
counter of four 32-bit words under a key of two. Nothing is carried from one number to the next.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from icobench.devices import has_triton
from icobench.seeds import Purpose, seed_sequence

__all__ = ["Draws", "draws_for", "philox4x32"]

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
WORD = 0xFFFFFFFF

CHUNK = 1 << 15
"""Counters at a time on a CPU: their int64 words stay in its cache."""

LIBRARY = torch.library.Library("icobench", "FRAGMENT")
LIBRARY.define("philox(Tensor numbers, Tensor streams, int[] key, int count) -> Tensor")
"""An operator, so that a GPU's kernel takes the place of some hundred small ones."""


def philox4x32(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four 32-bit words that belong to each counter: int64 tensors in [0, 2^32), as the counter's are."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        # int64 products wrap modulo 2^64 and so hold the bits of the unsigned ones. The shift drags the sign
        # along, hence the masks; c1 and c3 enter only through an xor before a mask and stay unmasked.
        low = c0 * MULTIPLIERS[0]
        high = c2 * MULTIPLIERS[1]
        c0, c1 = ((high >> 32) ^ c1).bitwise_xor_(k0).bitwise_and_(WORD), high
        c2, c3 = ((low >> 32) ^ c3).bitwise_xor_(k1).bitwise_and_(WORD), low
        k0, k1 = (k0 + KEY_STEPS[0]) & WORD, (k1 + KEY_STEPS[1]) & WORD
    return c0, c1 & WORD, c2, c3 & WORD


@torch.library.impl(LIBRARY, "philox", "CPU")
def _words(numbers: Tensor, streams: Tensor, key: list[int], count: int, counters: int = CHUNK) -> Tensor:
    """Integers in [0, 2^32), (B, count) int64, for numbers (B,) and streams (B,), so many counters at a time.

    Counter: block, stream, both words of the number. A row has first all blocks' first words.
    """
    blocks = -(-count // 4)
    out = torch.empty(len(numbers), 4, blocks, dtype=torch.int64, device=numbers.device)
    block = torch.arange(blocks, device=numbers.device)
    step = max(1, counters // max(1, blocks))
    parts = (table.split(step) for table in (out, numbers[:, None], streams[:, None]))
    for part, number, stream in zip(*parts, strict=True):
        words = philox4x32((block, stream, number & WORD, (number >> 32) & WORD), (key[0], key[1]))
        for place, word in enumerate(words):
            part[:, place] = word
    return out.flatten(1)[:, :count]


@torch.library.impl(LIBRARY, "philox", "CUDA")
def _words_on_gpu(numbers: Tensor, streams: Tensor, key: list[int], count: int) -> Tensor:
    """The same in one launch, where there is Triton."""
    if not has_triton():
        return _words(numbers, streams, key, count, len(numbers) * count)
    from icobench.images.philox_kernel import words

    return words(numbers, streams, key, count)


@dataclass(frozen=True)
class Draws:
    """A stream of random numbers for each image of a batch.

    Attributes:
        key: two 32-bit words that stand for the seed.
        numbers: (B,) int64, the number of each image, on the images' device.
        stream: which stream, a 32-bit word for all images or (B,) int64.
    """

    key: tuple[int, int]
    numbers: Tensor
    stream: int | Tensor = 0

    def branch(self, index: int | Tensor) -> "Draws":
        """Stream number ``index``, 0 to 14, below this one; the paths of two branches never meet."""
        return replace(self, stream=16 * self.stream + index + 1)

    def words(self, count: int) -> Tensor:
        """Uniform integers in [0, 2^32): (B, count) int64."""
        streams = self.stream
        if not isinstance(streams, Tensor):
            streams = torch.full_like(self.numbers, streams)
        return torch.ops.icobench.philox(self.numbers, streams, self.key, count)

    def uniform(self, count: int) -> Tensor:
        """Multiples of 2^-24 in [0, 1), exact in every floating type: (B, count) float32."""
        return (self.words(count) >> 8) * 2.0**-24

    def half_normal(self, count: int) -> Tensor:
        """Moduli of normal deviates of standard deviation 1 (Box and Muller 1958): (B, count) float32."""
        radius, angle = self.uniform(2 * count).unflatten(1, (2, count)).unbind(1)
        return (-2 * torch.log1p(-radius)).sqrt() * torch.cos(2 * math.pi * angle).abs()


def draws_for(seed: int, purpose: Purpose, numbers: Tensor) -> Draws:
    """The streams of images with the numbers (B,) int64, for one purpose, on the numbers' device."""
    high, low = seed_sequence(seed, purpose).generate_state(2).tolist()
    return Draws((high, low), numbers)
