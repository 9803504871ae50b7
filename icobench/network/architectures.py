"""Networks by name: the compact one and that of Stielow et al. 2020, Mach. Learn.: Sci. Technol. 1 045007."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from icobench.errors import InputError
from icobench.network.compact import ACTIVATIONS, CompactNetwork
from icobench.network.outputs import Layout
from icobench.network.targets import TARGETS, Line

__all__ = ["ARCHITECTURES", "Network", "PaperNetwork", "build_network"]

STACKS = ((3, 64), (4, 128), (6, 256), (4, 512))
"""Residual blocks and filters of each stack."""


class Block(nn.Module):
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
    """From (B, 3, 128, 128), of which it uses the first channel alone, to (B, D + 1).

    7x7/2 convolution with 64 filters, 2x2 max pooling, stacks of 3, 4, 6 and 4 residual blocks with 64,
    128, 256 and 512 filters whose first convolutions have stride 2, global average pooling, one linear
    layer. 26 M parameters, 0.32 G multiplications an image. The paper does not say where it normalises;
    batch norm after every convolution is the usual reading of a residual network.

    Args:
        target, activation: as for the compact network; the published ones are the defaults.
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
                layers.append(Block(inputs, filters, 1 if number else 2, make_activation))
                inputs = filters
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.last = nn.Linear(inputs, self.layout.dimension)
        self.last_layers = (self.last,)

    def forward(self, x: Tensor) -> Tensor:
        """Channels of :func:`~icobench.network.inputs.network_input` -> (B, D + 1), float32."""
        return self.last(self.layers(x[:, :1])).float()

    def fold(self) -> "PaperNetwork":
        """Return the network as it is: the norms are not merged."""
        return self


Network = CompactNetwork | PaperNetwork

ARCHITECTURES: dict[str, type[Network]] = {"compact": CompactNetwork, "paper": PaperNetwork}


def build_network(architecture: str, options: dict[str, Any]) -> Network:
    """A network with random weights.

    Raises:
        InputError: unknown architecture or options.
    """
    if architecture not in ARCHITECTURES:
        raise InputError(f"unknown architecture {architecture!r}; choose from {', '.join(ARCHITECTURES)}")
    try:
        for name, choices in (("target", TARGETS), ("activation", ACTIVATIONS)):
            if name in options and options[name] not in choices:
                raise ValueError(f"unknown {name} {options[name]!r}; choose from {', '.join(choices)}")
        return ARCHITECTURES[architecture](**options)
    except (TypeError, ValueError) as error:
        raise InputError(f"architecture {architecture}: {error}") from error
