"""Networks by name: the compact one and that of Stielow et al. 2020, Mach. Learn.: Sci. Technol. 1 045007.

Both map the channels of :func:`~icobench.network.inputs.network_input` to float32 numbers, whose order is
their ``layout``; ``last_layers`` are those whose outputs are the numbers, directly or after a fixed sum.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from icobench.devices import by_device
from icobench.errors import InputError
from icobench.network import polar
from icobench.network.heads import PosteriorHead, SpreadHead
from icobench.network.orbit import DIMENSION
from icobench.network.outputs import SPREADS, Layout
from icobench.network.targets import TARGETS, Circles, Line

__all__ = [
    "ARCHITECTURES", "PERIODS_NM", "CompactNetwork", "Network", "PaperNetwork", "build_network",
    "single_precision",
]  # fmt: skip

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),  # no layer needs its input again
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}

RINGS, SECTORS = 96, 256
"""Of the polar grid. The fringes of a body of R = 160 nm have phases of 149 rad per rad, 2.4 rad per ring."""

STEM_RINGS, STEM_SECTORS = 16, 64

LAST_SECTORS = 16
"""Sectors after the third stage."""

OVERLAP = 2
"""Rings and sectors by which neighbouring fields of the stem overlap on each side."""

PERIODS_NM = (256.0, 64.0, 16.0)
"""Of the circles for the radius. Fringes repeat after 5 nm of it or more (pi over the largest q)."""

STACKS = ((3, 64), (4, 128), (6, 256), (4, 512))
"""Residual blocks and filters of each stack."""


class CompactNetwork(nn.Module):
    """From (B, 3, 128, 128) to the numbers of orientation and radius and their spreads: (B, D + S + 2).

    The image is resampled to 96 rings of scattering angle and 256 sectors of azimuth. A stem with a large
    field and three stages (16 x 64, 8 x 32, 4 x 16) with residual blocks follow. Then a linear layer mixes
    the rings of each sector, and a convolution round the azimuth mixes the sectors. For the target "orbit",
    circular harmonics of the features give the 13 components: when the image turns by a sixteenth of a full
    turn, the orientation turns with it exactly. For other targets, linear layers use all features.

    Args:
        target: a key of :data:`~icobench.network.targets.TARGETS`.
        widths: channels of the three stages.
        hidden: features of a sector.
        blocks: additional residual blocks in each stage.
        activation: a key of :data:`ACTIVATIONS`.
        harmonic: whether circular harmonics give the orbit vector.
        periods_nm: circumferences of the circles that express the radius
            (:class:`~icobench.network.targets.Circles`, 16 to 180 nm); none for the radius itself.
        spread_hidden: hidden numbers of a :class:`~icobench.network.heads.SpreadHead` that corrects the
            spreads; 0 for none. Training adds it at its end, see :mod:`icobench.network.spreads`.
        posterior_hidden: the same of a :class:`~icobench.network.heads.PosteriorHead`, for the target "orbit"
            alone; see :mod:`icobench.network.amortised`.

    Raises:
        ValueError: circles that cannot express a radius.
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
        spread_hidden: int = 0,
        posterior_hidden: int = 0,
    ) -> None:
        super().__init__()
        self.layout = Layout(TARGETS[target], Circles(periods_nm) if periods_nm else Line())
        self.options = {
            "target": target, "widths": list(widths), "hidden": hidden, "blocks": list(blocks),
            "activation": activation, "harmonic": harmonic, "periods_nm": list(periods_nm),
        }  # fmt: skip
        make_activation = ACTIVATIONS[activation]
        first, second, third = widths
        rings, sectors = RINGS // STEM_RINGS, SECTORS // STEM_SECTORS
        self.grid = polar.PolarGrid(RINGS, SECTORS, OVERLAP)
        field = rings + 2 * OVERLAP, sectors + 2 * OVERLAP
        self.stem = nn.Conv2d(2, first, field, (rings, sectors), (OVERLAP, 0), bias=False)
        self.stem_norm: nn.Module = polar.batch_norm(first)
        self.material = nn.Parameter(torch.zeros(1, first, STEM_RINGS, 1))
        self.activation = make_activation()
        stages: list[nn.Module] = [polar.RingBias(first, STEM_RINGS)]
        for number, (inputs, outputs) in enumerate(((first, first), (first, second), (second, third))):
            if number:
                stages.append(polar.ResidualBlock(inputs, outputs, 2, make_activation))
                stages.append(polar.RingBias(outputs, STEM_RINGS >> number))
            stages += [
                polar.ResidualBlock(outputs, outputs, 1, make_activation) for _ in range(blocks[number])
            ]
        self.stages = nn.Sequential(*stages)
        self.rings_to_features = nn.Conv1d(4 * third, hidden, 1)
        self.round = polar.RoundConvolution(hidden, LAST_SECTORS)
        components = self.layout.target.dimension
        self.orientation: polar.HarmonicSum | nn.Sequential
        if target == "orbit" and harmonic:
            self.orientation = polar.HarmonicSum(hidden, (components - 1) // 2, LAST_SECTORS)
        else:
            self.orientation = nn.Sequential(
                nn.Flatten(), nn.Linear(LAST_SECTORS * hidden, hidden), make_activation(),
                nn.Linear(hidden, components),
            )  # fmt: skip
        self.size = nn.Sequential(
            nn.Linear(2 * hidden, hidden), make_activation(),
            nn.Linear(hidden, self.layout.size.dimension + SPREADS),
        )  # fmt: skip
        head = self.orientation
        self.last_layers = head.pairs if isinstance(head, polar.HarmonicSum) else head[-1], self.size[-1]
        self.hidden = hidden
        self.spread_head: SpreadHead | None = None
        if spread_hidden:
            self.add_spread_head(spread_hidden)
        self.posterior_head: PosteriorHead | None = None
        if posterior_hidden:
            self.add_posterior_head(posterior_hidden)

    @property
    def features(self) -> int:
        """Number of the features that the heads see."""
        numbers = self.layout.size.dimension
        return 2 * self.hidden + 1 + numbers + numbers // 2 + SPREADS + 3

    def add_spread_head(self, hidden: int) -> SpreadHead:
        """Give the network a new head for the spreads, which changes nothing yet; returns it."""
        head = SpreadHead(self.features, hidden).to(self.material.device)
        self.spread_head, self.options["spread_hidden"] = head, hidden
        return head

    def add_posterior_head(self, hidden: int) -> PosteriorHead:
        """Give the network a new head for the posterior, which no answer depends on; returns it.

        Raises:
            ValueError: a network for another target than "orbit".
        """
        if self.layout.target.dimension != DIMENSION:
            raise ValueError("a head for the posterior needs the target orbit")
        head = PosteriorHead(self.features, hidden).to(self.material.device)
        self.posterior_head, self.options["posterior_hidden"] = head, hidden
        return head

    def forward(self, x: Tensor) -> Tensor:
        if self.spread_head is None:
            return self._trunk(x)[0]
        output, features = self.with_features(x)
        log_spreads = torch.stack(self.layout.log_spreads(output), 1)
        return torch.cat((output[:, :-SPREADS], log_spreads + self.spread_head(features)), 1)

    def with_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output without the spread head (B, D + S + 2), and what that head sees (B, F), both float32.

        The features: those of the trunk, mean and maximum over the sectors; the length of the orientation's
        numbers; the radius's numbers and the lengths on its circles; the logarithms of the spreads; the
        image's photons (logarithm), usable share and material.
        """
        output, summary = self._trunk(x)
        orientation, size = self.layout.split(output)
        half = self.layout.size.dimension // 2
        circles = torch.hypot(size[:, :half], size[:, half : 2 * half])
        # Undoes count_brightness; for log images it is a measure of brightness alone.
        photons = torch.expm1(4 * x[:, 0]).sum((-2, -1)).clamp_min(1).log()
        image = torch.stack((photons, x[:, 1].mean((-2, -1)), x[:, 2, 0, 0]), 1)
        length = orientation.norm(dim=1, keepdim=True)
        log_spreads = torch.stack(self.layout.log_spreads(output), 1)
        return output, torch.cat((summary.float(), length, size, circles, log_spreads, image), 1)

    def _trunk(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Output and summary; see :meth:`with_features`."""
        refraction = x[:, 2, 0, 0]
        separate = not self.training and len(x) > 1 and by_device(x.device, True, False)
        x = self.stem_norm(self._separate_stem(x) if separate else self._joint_stem(x))
        x = x + refraction[:, None, None, None] * self.material
        x = self.stages(self.activation(x))
        x = self.activation(self.rings_to_features(x.flatten(1, 2)))
        x = x + self.activation(self.round(x))
        summary = torch.cat((x.mean(-1), x.amax(-1)), 1)
        return torch.cat((self.orientation(x).float(), self.size(summary).float()), 1), summary

    def _joint_stem(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            image = self.grid(x[:, :2]).contiguous(memory_format=torch.channels_last)
        return self.stem(image)

    def _separate_stem(self, x: Tensor) -> Tensor:
        """The same, computed apart for image and mask: a mask that all images share is computed once."""
        image, mask = x[:, :1], x[:, 1:2]
        if bool((mask == mask[:1]).all()):
            mask = mask[:1]
        parts = zip((image, mask), self.stem.weight.split(1, 1), (self.stem.bias, None), strict=True)
        of_image, of_mask = (
            nn.functional.conv2d(self.grid(part), weight, bias, self.stem.stride, (OVERLAP, 0))
            for part, weight, bias in parts
        )
        return of_image + of_mask

    def fold(self) -> "CompactNetwork":
        """Merge the batch norms into the convolutions, for inference only; returns itself."""
        self.stem = fuse_conv_bn_eval(self.stem, self.stem_norm)  # type: ignore[arg-type, type-var]
        self.stem_norm = nn.Identity()
        self.round.fold()
        for block in self.stages:
            if isinstance(block, polar.ResidualBlock):
                block.fold()
        return self


class _Block(nn.Module):
    """Two 3x3 convolutions with batch norm (He et al. 2016); 1x1 shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.activation = activation()
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.first_norm(self.first(x)))
        return self.activation(self.shortcut(x) + self.second_norm(self.second(y)))


class PaperNetwork(nn.Module):
    """From (B, 3, 128, 128), of which it uses the first channel alone, to (B, D + 1); published defaults.

    7x7/2 convolution with 64 filters, 2x2 max pooling, stacks of 3, 4, 6 and 4 residual blocks with 64,
    128, 256 and 512 filters whose first convolutions have stride 2, global average pooling, one linear
    layer. 26 M parameters, 0.32 G multiplications an image. The paper does not say where it normalises;
    batch norm after every convolution is the usual reading of a residual network.
    """

    def __init__(self, target: str = "quaternion", activation: str = "tanh") -> None:
        super().__init__()
        self.layout = Layout(TARGETS[target], Line())
        self.options = {"target": target, "activation": activation}
        make_activation = ACTIVATIONS[activation]
        layers: list[nn.Module] = [
            nn.Conv2d(1, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), make_activation(), nn.MaxPool2d(2),
        ]  # fmt: skip
        inputs = 64
        for blocks, filters in STACKS:
            for number in range(blocks):
                layers.append(_Block(inputs, filters, 1 if number else 2, make_activation))
                inputs = filters
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.last = nn.Linear(inputs, self.layout.dimension)
        self.last_layers = (self.last,)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(x[:, :1])).float()

    def fold(self) -> "PaperNetwork":
        """Return the network as it is: the norms are not merged."""
        return self


Network = CompactNetwork | PaperNetwork

ARCHITECTURES: dict[str, type[Network]] = {"compact": CompactNetwork, "paper": PaperNetwork}


def build_network(architecture: str, options: dict[str, Any]) -> Network:
    """A network with random weights; an InputError names an unknown architecture or option."""
    if architecture not in ARCHITECTURES:
        raise InputError(f"unknown architecture {architecture!r}; choose from {', '.join(ARCHITECTURES)}")
    try:
        for name, choices in (("target", TARGETS), ("activation", ACTIVATIONS)):
            if name in options and options[name] not in choices:
                raise ValueError(f"unknown {name} {options[name]!r}; choose from {', '.join(choices)}")
        return ARCHITECTURES[architecture](**options)
    except (TypeError, ValueError) as error:
        raise InputError(f"architecture {architecture}: {error}") from error


@contextmanager
def single_precision() -> Iterator[None]:
    """Convolutions in true float32 on a GPU, whose default, TF32, keeps 10 bits of each factor.

    A radius of 160 nm is wanted to 0.01 nm, which needs 14 bits. Also a decorator of functions.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
