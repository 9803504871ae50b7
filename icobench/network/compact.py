"""The compact network: a small residual network on the degree-6 orbit embedding."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from icobench.network.orbit import DIMENSION

__all__ = ["CompactNetwork", "Prediction"]

RADIUS_MIDDLE_NM = 95.0
RADIUS_SCALE_NM = 65.0


class Prediction(NamedTuple):
    """What the network says.

    Attributes:
        vector: (B, 13) estimate of the orbit vector; its norm falls with doubt.
        radius_nm: (B,).
        radius_std_nm: (B,) predicted standard deviation.
    """

    vector: Tensor
    radius_nm: Tensor
    radius_std_nm: Tensor


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm; 1x1 shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.shortcut(x) + self.second_norm(self.second(y)))


class CompactNetwork(nn.Module):
    """From (B, 6, 64, 64) to orbit vector, radius and its spread.

    The centre of the image is the beam, so positions carry meaning: the last feature map is
    flattened, not averaged.

    Args:
        widths: channels of the four stages (32, 16, 8 and 4 pixels wide).
        hidden: units of the last hidden layer.
    """

    def __init__(self, widths: tuple[int, int, int, int] = (48, 96, 128, 192), hidden: int = 256) -> None:
        super().__init__()
        self.widths, self.hidden = tuple(widths), hidden
        first, second, third, fourth = widths
        self.stem = nn.Sequential(nn.Conv2d(6, first, 5, 2, 2, bias=False), nn.BatchNorm2d(first), nn.ReLU())
        self.blocks = nn.Sequential(
            ResidualBlock(first, first),
            ResidualBlock(first, second, 2),
            ResidualBlock(second, second),
            ResidualBlock(second, third, 2),
            ResidualBlock(third, third),
            ResidualBlock(third, fourth, 2),
        )
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(16 * fourth, hidden), nn.ReLU(), nn.Linear(hidden, DIMENSION + 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 6, 64, 64) -> (B, 15): orbit vector, scaled radius, log of its scaled spread."""
        return self.head(self.blocks(self.stem(x)))

    @staticmethod
    def interpret(output: Tensor) -> Prediction:
        """Split the raw output and restore units."""
        output = output.float()
        return Prediction(
            output[:, :DIMENSION],
            RADIUS_MIDDLE_NM + RADIUS_SCALE_NM * output[:, DIMENSION],
            RADIUS_SCALE_NM * torch.exp(output[:, DIMENSION + 1].clamp(-9, 1)),
        )

    @staticmethod
    def loss(output: Tensor, vector: Tensor, radius_nm: Tensor) -> Tensor:
        """Squared error of vector and radius, plus a Gaussian likelihood that fits the spread only."""
        output = output.float()
        target = (radius_nm - RADIUS_MIDDLE_NM) / RADIUS_SCALE_NM
        orbit = (output[:, :DIMENSION] - vector).square().sum(1).mean()
        miss = (output[:, DIMENSION] - target).square()
        log_spread = output[:, DIMENSION + 1].clamp(-9, 1)
        likelihood = log_spread + 0.5 * miss.detach() * torch.exp(-2 * log_spread)
        return orbit + 4 * miss.mean() + 0.01 * likelihood.mean()
