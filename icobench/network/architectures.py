"""Networks by name."""

from typing import Any

from icobench.errors import InputError
from icobench.network.compact import CompactNetwork
from icobench.network.paper import PaperNetwork

__all__ = ["ARCHITECTURES", "Network", "build_network"]

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
        return ARCHITECTURES[architecture](**options)
    except (TypeError, ValueError) as error:
        raise InputError(f"architecture {architecture}: {error}") from error
