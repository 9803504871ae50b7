"""Training recipes: everything that decides what a trained network will be."""

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["RECIPES", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """One training run, reproducible from these numbers and the seed.

    Images are simulated as training goes, each used in ``variants`` turned and mirrored versions with
    noise of their own. Difficulty rises from bright, whole images to the full range within the
    first ``warm_share`` of the steps.

    Attributes:
        steps: optimiser steps.
        batch: images per step, a multiple of ``variants``.
        variants: dihedral versions taken of each simulated image, 1 to 8.
        widths, hidden: of :class:`~icobench.network.compact.CompactNetwork`.
        learning_rate, weight_decay: of AdamW; one cycle of warm-up and cosine decay.
        average: decay of the exponential moving average that is evaluated and shipped.
        radius_nm: range of the uniform radius.
        photons: range of the log-uniform photon number on the usable pixels.
        hole_degrees: range of the uniform central hole.
        sine: range of the cropped detector's half width over k.
        whole_share: share of images on the whole detector.
        refraction: range of 1 - Re n; beyond ``default_index_share`` of the batches.
        absorption: range of Im n, likewise.
        default_index_share: share of batches with the experiment's own index.
        pool: number of different simulated bodies, for studies of the training set's size;
            None simulates new ones in every step.
    """

    steps: int
    batch: int = 64
    variants: int = 4
    widths: tuple[int, int, int, int] = (48, 96, 128, 192)
    hidden: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    average: float = 0.999
    radius_nm: tuple[float, float] = (28.0, 164.0)
    photons: tuple[float, float] = (4e4, 1e7)
    hole_degrees: tuple[float, float] = (0.0, 5.0)
    sine: tuple[float, float] = (0.5, 1.0)
    whole_share: float = 0.6
    refraction: tuple[float, float] = (0.0, 0.12)
    absorption: tuple[float, float] = (0.075, 0.095)
    default_index_share: float = 0.8
    warm_share: float = 0.35
    pool: int | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch % self.variants or not 1 <= self.variants <= 8:
            raise ValueError("steps must be positive and batch a multiple of variants (1 to 8)")
        if self.pool is not None and self.pool < 1:
            raise ValueError("the pool of simulated images must not be empty")

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return asdict(self)


RECIPES = {
    # About 55 minutes on two cores with bfloat16 instructions.
    "compact": Recipe(steps=11_000),
    # A minute: shows that training works and learns.
    "smoke": Recipe(steps=60, batch=32, widths=(16, 24, 32, 48), hidden=64),
}
