"""Trained networks on disk: safetensors with the weights and, in the header, where they come from."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from icobench.errors import InputError
from icobench.network.architectures import Network, build_network
from icobench.network.recipe import Recipe
from icobench.simulator.experiment import Experiment

__all__ = [
    "StoredWeights", "TrainedNetwork", "load_trained", "misfit", "not_finite", "read_weights", "save_network",
]  # fmt: skip

FORMAT = "icobench-2"

SPREAD_FACTORS = "spread_factors"
"""Key of the card, see :func:`~icobench.network.calibration.spread_factors`."""


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with what is known of it.

    Attributes:
        network: in evaluation mode.
        card: architecture, recipe, experiment, seed and cost, as stored.
        recipe: of its training: what it sees and in which ranges.
        digest: first 12 hexadecimal digits of the weights' SHA-256.
    """

    network: Network
    card: dict[str, Any]
    recipe: Recipe
    digest: str

    def factors(self) -> tuple[float, float]:
        """By what the predicted spreads of radius and orientation are to be multiplied."""
        stored = self.card.get(SPREAD_FACTORS, {})
        return float(stored.get("radius", 1.0)), float(stored.get("orientation", 1.0))

    def misfits(self, experiment: Experiment) -> list[str]:
        """What of an experiment the network was not trained for, in words; empty if nothing."""
        own = Experiment.from_dict(self.card["experiment"])
        recipe = self.recipe
        problems = []
        if not experiment.orthographic:
            problems.append("the orthographic grid, not a flat detector")
        if abs(experiment.wavelength_nm / own.wavelength_nm - 1) > 1e-3:
            problems.append(f"wavelength {own.wavelength_nm:g} nm, not {experiment.wavelength_nm:g} nm")
        n = experiment.refractive_index
        if recipe.log_images:
            m = own.refractive_index
            if abs(n - m) > 2e-3:
                problems.append(f"refractive index {m.real:g}{m.imag:+g}j, not {n.real:g}{n.imag:+g}j")
        else:
            (low, high), (weak, strong) = recipe.refraction, recipe.absorption
            if not (low - 1e-3 <= 1 - n.real <= high + 1e-3 and weak - 1e-3 <= n.imag <= strong + 1e-3):
                problems.append(
                    f"refractive index 1 - ({low:g} to {high:g}) + ({weak:g} to {strong:g})j, "
                    f"not {n.real:g}{n.imag:+g}j"
                )
        least = {"counts": recipe.sine[0], "clean": 1.0}.get(recipe.images, 0.75)
        if experiment.sin_theta_max < least - 1e-9:
            problems.append(f"sin_theta_max of at least {least:g}, not {experiment.sin_theta_max:g}")
        return problems


class StoredWeights(NamedTuple):
    """A file of weights.

    Attributes:
        weights: tensors by name.
        card: where they come from.
        digest: first 12 hexadecimal digits of their SHA-256.
    """

    weights: dict[str, torch.Tensor]
    card: dict[str, Any]
    digest: str


def not_finite(weights: dict[str, torch.Tensor]) -> str | None:
    """Name of the first tensor with an infinite or NaN number, None if there is none."""
    return next((name for name, value in weights.items() if not torch.isfinite(value).all()), None)


def misfit(network: Network, weights: dict[str, torch.Tensor]) -> str | None:
    """The first parameter in which weights differ from a network's, in words; None if they fit."""
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    for name in [*own, *given]:
        if name not in given:
            return f"there is no {name}"
        if name not in own:
            return f"{name} is not the network's"
        if own[name] != given[name]:
            return f"{name} is of shape {given[name]}, not {own[name]}"
    return None


def save_network(path: Path, network: Network, card: dict[str, Any]) -> None:
    """Write weights and card to ``path`` (safetensors), whole or not at all.

    Raises:
        InputError: a weight is infinite or NaN.
    """
    path = Path(path)
    temporary = path.with_suffix(".tmp")
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    if (name := not_finite(state)) is not None:
        raise InputError(f"{path}: not written, {name} is not finite")
    save_file(state, str(temporary), metadata={"format": FORMAT, "card": json.dumps(card)})
    os.replace(temporary, path)


def _read_card(path: Path) -> dict[str, Any]:
    with safe_open(str(path), framework="pt") as opened:
        metadata = opened.metadata() or {}
    if metadata.get("format") != FORMAT:
        raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
    card = json.loads(metadata["card"])
    Experiment.from_dict(card["experiment"])
    return card


def _digest(weights: dict[str, torch.Tensor]) -> str:
    """Of names and numbers alone: the header of the same network may differ."""
    found = hashlib.sha256()
    for name in sorted(weights):
        found.update(name.encode())
        # As bytes: numpy does not know bfloat16.
        found.update(weights[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:12]


def read_weights(path: Path | str) -> StoredWeights:
    """Read weights and card.

    Raises:
        InputError: missing, damaged or foreign file, or a weight in it is infinite or NaN.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        card = _read_card(path)
        weights = load_file(str(path))
        if (name := not_finite(weights)) is not None:
            raise ValueError(f"{name} is not finite")
    except (SafetensorError, InputError, ValueError, KeyError, TypeError) as error:
        raise _foreign(path, error) from error
    return StoredWeights(weights, card, _digest(weights))


def _foreign(path: Path, error: Exception) -> InputError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(f"{path}: not a network of icobench ({first})")


def load_trained(path: Path | str, device: torch.device | str = "cpu") -> TrainedNetwork:
    """Load weights and card, ready for inference.

    Raises:
        InputError: missing, damaged or foreign file, or a weight in it is infinite or NaN.
    """
    stored = read_weights(path)
    try:
        recipe = Recipe.from_dict(stored.card["recipe"])
        network = build_network(stored.card["architecture"], stored.card["network"])
        if (wrong := misfit(network, stored.weights)) is not None:
            raise ValueError(wrong)
        network.load_state_dict(stored.weights)
    except (InputError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise _foreign(Path(path), error) from error
    return TrainedNetwork(network.eval().fold().to(device), stored.card, recipe, stored.digest)
