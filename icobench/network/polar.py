"""Layers for images in polar coordinates, where a turn about the beam is a shift.

All feature maps are (B, C, rings, sectors): rings of equal steps in the scattering angle, sectors of equal
steps in the azimuth from +x to +y. Convolutions run round the azimuth without an edge: when the image turns,
its features turn with it. Along the rings the position of a feature matters, and :class:`RingBias` makes it
known to the layers.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from icobench.network.inputs import CANONICAL_PIXELS

__all__ = [
    "HarmonicSum", "PolarGrid", "ResidualBlock", "RingBias", "RoundConvolution", "WrappedConvolution",
    "batch_norm",
]  # fmt: skip


class PolarGrid(nn.Module):
    """Bilinear samples of canonical images on a polar grid.

    Ring i lies at the scattering angle (i + 1/2) / rings * 90 degrees, at sin(theta) on the orthographic
    grid; sector j at the azimuth 2 pi j / sectors. Equal steps in the angle suit a body of any size: the
    field's bandwidth along theta is k R everywhere on the Ewald sphere.

    At either end ``wrapped`` sectors are repeated, for a convolution that follows.
    """

    places: Tensor

    def __init__(self, rings: int, sectors: int, wrapped: int = 0) -> None:
        super().__init__()
        theta = (torch.arange(rings, dtype=torch.float64) + 0.5) / rings * (math.pi / 2)
        numbers = torch.arange(-wrapped, sectors + wrapped, dtype=torch.float64)
        azimuth = numbers / sectors * (2 * math.pi)
        half = CANONICAL_PIXELS // 2
        radius = half * torch.sin(theta)[:, None]
        x, y = half + radius * torch.cos(azimuth), half + radius * torch.sin(azimuth)
        places = torch.stack((x, y), -1) / (CANONICAL_PIXELS - 1) * 2 - 1
        self.register_buffer("places", places.float().unsqueeze(0), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, 128, 128) -> (B, C, rings, sectors + 2 wrapped)."""
        places = self.places.to(images.dtype).expand(len(images), -1, -1, -1)
        return nn.functional.grid_sample(images, places, align_corners=True)


class WrappedConvolution(nn.Module):
    """3x3 convolution, wrapped round the azimuth and padded with zeros along the rings; stride 1 or 2."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        # With stride 2 only the outer edge needs one more ring, but a convolution pads both edges alike: both
        # get two, and the first row of the result is dropped. A padded copy of the features would cost more.
        self.stride = stride
        self.convolution = nn.Conv2d(inputs, outputs, 3, stride, (stride, 0), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        ends = (x[..., -1:], x, x[..., :1]) if self.stride == 1 else (x, x[..., :1])
        out = self.convolution(torch.cat(ends, -1))
        return out if self.stride == 1 else out[..., 1 : 1 + x.shape[-2] // 2, :]


class RoundConvolution(nn.Conv1d):
    """Convolution round all sectors, with a kernel of that length: (B, C, sectors) -> the same shape.

    It is computed with one product for each circular harmonic, Y_m = conj(W_m) X_m, where X_m and W_m are the
    Fourier transforms of features and kernel, instead of one for every pair of sectors.
    """

    folded: Tensor | None

    def __init__(self, channels: int, sectors: int) -> None:
        super().__init__(channels, channels, sectors)
        self.sectors = sectors
        self.register_buffer("folded", None, persistent=False)

    def _spectrum(self) -> Tensor:
        """(orders, C, C) complex: conj(W_m), from inputs to outputs."""
        return torch.fft.rfft(self.weight.float()).conj().permute(2, 1, 0)

    def fold(self) -> None:
        """Transform the kernel once, for inference only."""
        self.folded = self._spectrum().detach().resolve_conj().contiguous()

    def forward(self, x: Tensor) -> Tensor:
        # In single precision: rounded transforms would not commute with turns.
        with torch.autocast(x.device.type, enabled=False):
            spectrum = self._spectrum() if self.folded is None else self.folded
            # Contiguous: a product of strided complex matrices takes more than twice the time.
            waves = torch.fft.rfft(x.float()).permute(2, 0, 1).contiguous() @ spectrum
            out = torch.fft.irfft(waves.permute(1, 2, 0), self.sectors)
            return out + self.bias[:, None]  # type: ignore[index]


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """A norm whose statistics average over some hundred batches, as those of small batches scatter."""
    return nn.BatchNorm2d(channels, momentum=0.01)


class RingBias(nn.Module):
    """A learned constant for each channel and ring."""

    def __init__(self, channels: int, rings: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, rings, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class ResidualBlock(nn.Module):
    """Two 3x3 wrapped convolutions with batch norm; mean-pooled 1x1 shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first = WrappedConvolution(inputs, outputs, stride)
        self.first_norm = batch_norm(outputs)
        self.second = WrappedConvolution(outputs, outputs)
        self.second_norm = batch_norm(outputs)
        self.activation = activation()
        same = inputs == outputs and stride == 1
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(nn.AvgPool2d(stride), nn.Conv2d(inputs, outputs, 1))
        )

    def fold(self) -> None:
        """Merge the batch norms into the convolutions, for inference only."""
        for convolution, norm in ((self.first, "first_norm"), (self.second, "second_norm")):
            convolution.convolution = fuse_conv_bn_eval(convolution.convolution, getattr(self, norm))
            setattr(self, norm, nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.first_norm(self.first(x)))
        return self.activation(self.shortcut(x) + self.second_norm(self.second(y)))


class HarmonicSum(nn.Module):
    """Circular harmonics of features, ordered as the real harmonics of one degree.

    A linear layer gives a pair (a_m, b_m) for each order m at each azimuth phi, and these give the component
    pair sum a_m cos(m phi) - b_m sin(m phi) and sum a_m sin(m phi) + b_m cos(m phi). When the image turns by
    alpha and the features with it, the pair turns by m alpha, exactly as the harmonics of order m do.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(self, features: int, degree: int, sectors: int) -> None:
        super().__init__()
        self.pairs = nn.Conv1d(features, 2 * (degree + 1), 1)
        phase = torch.arange(degree + 1)[:, None] * torch.arange(sectors) * (2 * math.pi / sectors)
        self.register_buffer("cosine", torch.cos(phase) / sectors, persistent=False)
        self.register_buffer("sine", torch.sin(phase) / sectors, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, features, sectors) -> (B, 2 degree + 1), float32, orders m = -degree..degree."""
        a, b = self.pairs(x).float().chunk(2, 1)
        even = (a * self.cosine - b * self.sine).sum(-1)
        odd = (a * self.sine + b * self.cosine).sum(-1)
        return torch.cat((odd[:, 1:].flip(1), even), 1)
