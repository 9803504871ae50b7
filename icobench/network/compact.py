"""The compact network: residual convolutions in polar coordinates, answers that turn with the image."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from icobench.errors import InputError
from icobench.network.outputs import SPREADS, Layout
from icobench.network.polar import (
    HarmonicSum,
    PolarGrid,
    ResidualBlock,
    RingBias,
    RoundConvolution,
    batch_norm,
)
from icobench.network.sizes import Circles, Line
from icobench.network.targets import TARGETS

__all__ = ["ACTIVATIONS", "CompactNetwork"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),  # what it is applied to is needed nowhere else
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}

RINGS, SECTORS = 96, 256
"""Of the polar grid. A body of R = 160 nm has fringes of 149 rad a rad, 2.4 rad a ring."""

STEM_RINGS, STEM_SECTORS = 16, 64

OVERLAP = 2
"""Rings and sectors that the stem's field reaches into each of its neighbours'."""

PERIODS_NM = (256.0, 64.0, 16.0)
"""Of the circles for the radius. Fringes come again after 5 nm of it or more (pi over the largest q)."""


class Reading(nn.Module):
    """Harmonics of the features round the azimuth: the orbit vector, turning with the image."""

    def __init__(self, features: int, degree: int, sectors: int) -> None:
        super().__init__()
        self.pairs = nn.Conv1d(features, 2 * (degree + 1), 1)
        self.harmonics = HarmonicSum(degree, sectors)

    def forward(self, x: Tensor) -> Tensor:
        return self.harmonics(self.pairs(x).float())


class CompactNetwork(nn.Module):
    """From (B, 3, 128, 128) to the numbers of orientation and radius and their spreads: (B, D + S + 2).

    The image is resampled to 96 rings of scattering angle and 256 sectors of azimuth. A stem with a large
    field and three stages (16 x 64, 8 x 32, 4 x 16) with residual blocks follow; then every sector mixes its
    rings, and a convolution round the whole azimuth mixes the sectors. For the target "orbit", circular
    harmonics of the features give the 13 components, so that a turn of the image by a sixteenth turns the
    answer exactly. Other targets take all sectors' features at once.

    Args:
        target: a key of :data:`~icobench.network.targets.TARGETS`.
        widths: channels of the three stages.
        hidden: features of a sector.
        blocks: further residual blocks in each stage.
        activation: a key of :data:`ACTIVATIONS`.
        harmonic: whether the orbit vector is read by circular harmonics.
        periods_nm: circumferences of the circles on which the radius is read
            (:class:`~icobench.network.sizes.Circles`, 16 to 180 nm); none for the radius itself.

    Raises:
        InputError: unknown target or activation.
        ValueError: circles that no radius can be read on.
    """

    def __init__(
        self,
        target: str = "orbit",
        widths: Sequence[int] = (32, 64, 128),
        hidden: int = 256,
        blocks: Sequence[int] = (0, 0, 1),
        activation: str = "relu",
        harmonic: bool = True,
        periods_nm: Sequence[float] = PERIODS_NM,
    ) -> None:
        super().__init__()
        if target not in TARGETS or activation not in ACTIVATIONS:
            raise InputError(f"unknown target {target!r} or activation {activation!r}")
        self.layout = Layout(TARGETS[target], Circles(periods_nm) if periods_nm else Line())
        self.options = {
            "target": target, "widths": list(widths), "hidden": hidden, "blocks": list(blocks),
            "activation": activation, "harmonic": harmonic, "periods_nm": list(periods_nm),
        }  # fmt: skip
        chosen = ACTIVATIONS[activation]
        first, second, third = widths
        rings, sectors = RINGS // STEM_RINGS, SECTORS // STEM_SECTORS
        self.grid = PolarGrid(RINGS, SECTORS, OVERLAP)
        field = rings + 2 * OVERLAP, sectors + 2 * OVERLAP
        self.stem = nn.Conv2d(2, first, field, (rings, sectors), (OVERLAP, 0), bias=False)
        self.stem_norm: nn.Module = batch_norm(first)
        self.material = nn.Parameter(torch.zeros(1, first, STEM_RINGS, 1))
        self.activation = chosen()
        stages: list[nn.Module] = [RingBias(first, 16)]
        for number, (inputs, outputs) in enumerate(((first, first), (first, second), (second, third))):
            if number:
                stages += [ResidualBlock(inputs, outputs, 2, chosen), RingBias(outputs, 16 >> number)]
            stages += [ResidualBlock(outputs, outputs, 1, chosen) for _ in range(blocks[number])]
        self.stages = nn.Sequential(*stages)
        self.sectors = 16
        self.rings_to_features = nn.Conv1d(4 * third, hidden, 1)
        self.round = RoundConvolution(hidden, self.sectors)
        if target == "orbit" and harmonic:
            self.orientation: Reading | nn.Sequential = Reading(
                hidden, (self.layout.target.dimension - 1) // 2, self.sectors
            )
        else:
            self.orientation = nn.Sequential(
                nn.Flatten(), nn.Linear(self.sectors * hidden, hidden), chosen(),
                nn.Linear(hidden, self.layout.target.dimension),
            )  # fmt: skip
        self.size = nn.Sequential(
            nn.Linear(2 * hidden, hidden), chosen(), nn.Linear(hidden, self.layout.size.dimension + SPREADS)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Channels of :func:`~icobench.network.inputs.network_input` -> (B, D + S + 2), float32."""
        refraction = x[:, 2, 0, 0]
        split = not self.training and len(x) > 1 and x.device.type == "cpu"
        x = self.stem_norm(self._split_stem(x) if split else self._whole_stem(x))
        x = x + refraction[:, None, None, None] * self.material
        x = self.stages(self.activation(x))
        x = self.activation(self.rings_to_features(x.flatten(1, 2)))
        x = x + self.activation(self.round(x))
        summary = torch.cat((x.mean(-1), x.amax(-1)), 1)
        return torch.cat((self.orientation(x).float(), self.size(summary).float()), 1)

    def _whole_stem(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            image = self.grid(x[:, :2]).contiguous(memory_format=torch.channels_last)
        return self.stem(image)

    def _split_stem(self, x: Tensor) -> Tensor:
        """The same for image and mask apart: the mask that all images have is seen once."""
        shown, mask = x[:, :1], x[:, 1:2]
        if bool((mask == mask[:1]).all()):
            mask = mask[:1]
        parts = zip((shown, mask), self.stem.weight.split(1, 1), (self.stem.bias, None), strict=True)
        image, shape = (
            nn.functional.conv2d(self.grid(part), weight, bias, self.stem.stride, (OVERLAP, 0))
            for part, weight, bias in parts
        )
        return image + shape

    def last_layers(self) -> tuple[nn.Module, ...]:
        """Those whose outputs are the network's, or become them by a fixed sum."""
        reading = self.orientation
        return reading.pairs if isinstance(reading, Reading) else reading[-1], self.size[-1]

    def fold(self) -> "CompactNetwork":
        """Merge the batch norms into the convolutions, for inference only; returns itself."""
        self.stem = fuse_conv_bn_eval(self.stem, self.stem_norm)  # type: ignore[arg-type, type-var]
        self.stem_norm = nn.Identity()
        self.round.fold()
        for block in self.stages:
            if isinstance(block, ResidualBlock):
                block.fold()
        return self
