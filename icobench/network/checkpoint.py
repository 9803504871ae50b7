"""Trained networks on disk: safetensors with the weights and, in the header, a card with their origin."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
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
from icobench.storage import atomic_path

__all__ = [
    "StoredWeights", "TrainedNetwork", "load_trained", "mismatch", "not_finite", "read_weights",
    "save_network", "training_core_seconds",
]  # fmt: skip

FORMAT = "icobench-2"

LEAST_SINE = {"clean": 1.0, "augmented": 0.75, "realistic": 0.75}
"""Least ``sin_theta_max`` for networks of log images; those for counts have it in the recipe."""


@dataclass(frozen=True)
class TrainedNetwork:
    """A network and its origin.

    Attributes:
        network: in evaluation mode.
        card: architecture, recipe, experiment, seed and cost, as stored.
        recipe: of its training, with the kind and the ranges of its images.
        digest: first 12 hexadecimal digits of the weights' SHA-256.
    """

    network: Network
    card: dict[str, Any]
    recipe: Recipe
    digest: str

    def misfits(self, experiment: Experiment) -> list[str]:
        """What the network was trained for where an experiment differs, in words; empty if it fits."""
        trained, recipe = Experiment.from_dict(self.card["experiment"]), self.recipe
        problems = []
        if not experiment.orthographic:
            problems.append("the orthographic grid, not a flat detector")
        if abs(experiment.wavelength_nm / trained.wavelength_nm - 1) > 1e-3:
            problems.append(f"wavelength {trained.wavelength_nm:g} nm, not {experiment.wavelength_nm:g} nm")
        n, m = experiment.refractive_index, trained.refractive_index
        (low, high), (weak, strong) = recipe.refraction, recipe.absorption
        if recipe.log_images:
            fits, range_words = abs(n - m) <= 2e-3, f"{m.real:g}{m.imag:+g}j"
        else:
            fits = low - 1e-3 <= 1 - n.real <= high + 1e-3 and weak - 1e-3 <= n.imag <= strong + 1e-3
            range_words = f"1 - ({low:g} to {high:g}) + ({weak:g} to {strong:g})j"
        if not fits:
            problems.append(f"refractive index {range_words}, not {n.real:g}{n.imag:+g}j")
        least = LEAST_SINE.get(recipe.images, recipe.sine[0])
        if experiment.sin_theta_max < least - 1e-9:
            problems.append(f"sin_theta_max of at least {least:g}, not {experiment.sin_theta_max:g}")
        return problems


class StoredWeights(NamedTuple):
    """A file of weights: tensors by name, with card and digest as for :class:`TrainedNetwork`."""

    weights: dict[str, torch.Tensor]
    card: dict[str, Any]
    digest: str


def training_core_seconds(card: dict[str, Any]) -> float:
    """What a training took of all processor cores together, of a GPU its time; 0 if the card does not tell.

    Cards of earlier versions have wall time and threads.
    """
    if "training_core_seconds" in card:
        return float(card["training_core_seconds"])
    on_gpu = str(card.get("device")).startswith("cuda")
    return float(card.get("training_seconds") or 0) * (1 if on_gpu else card.get("threads", 1))


def not_finite(weights: dict[str, torch.Tensor]) -> str | None:
    """Name of the first tensor with an infinite or NaN number, None if there is none."""
    return next((name for name, value in weights.items() if not torch.isfinite(value).all()), None)


def mismatch(network: Network, weights: dict[str, torch.Tensor]) -> str | None:
    """The first parameter whose weights do not fit a network, in words; None if all fit."""
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    for name in [*expected, *shapes]:
        if name not in shapes:
            return f"there is no {name}"
        if name not in expected:
            return f"{name} is not the network's"
        if shapes[name] != expected[name]:
            return f"{name} is of shape {shapes[name]}, not {expected[name]}"
    return None


def save_network(path: Path, network: Network, card: dict[str, Any]) -> None:
    """Write weights and card as safetensors, whole or not at all; an InputError names a weight not finite."""
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    if (name := not_finite(state)) is not None:
        raise InputError(f"{path}: not written, {name} is not finite")
    with atomic_path(path) as temporary:
        save_file(state, str(temporary), metadata={"format": FORMAT, "card": json.dumps(card)})


@contextmanager
def _refusing_foreign(path: Path | str) -> Iterator[None]:
    """Turn errors that damaged or foreign files cause into one line."""
    try:
        yield
    except (SafetensorError, InputError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: not a network of icobench ({reason})") from error


def read_weights(path: Path | str) -> StoredWeights:
    """Read weights and card.

    Raises:
        InputError: missing, damaged or foreign file, or a weight in it is infinite or NaN.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    with _refusing_foreign(path):
        with safe_open(str(path), framework="pt") as opened:
            metadata = opened.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
        card = json.loads(metadata["card"])
        Experiment.from_dict(card["experiment"])
        weights = load_file(str(path))
        if (name := not_finite(weights)) is not None:
            raise ValueError(f"{name} is not finite")
        # Of names and numbers alone: the same network may have another card.
        digest = hashlib.sha256()
        for name in sorted(weights):
            digest.update(name.encode())
            # As bytes: NumPy has no bfloat16.
            digest.update(weights[name].reshape(-1).view(torch.uint8).numpy().tobytes())
        return StoredWeights(weights, card, digest.hexdigest()[:12])


def load_trained(path: Path | str, device: torch.device | str = "cpu") -> TrainedNetwork:
    """Load weights and card, ready for inference; raises as :func:`read_weights` does."""
    stored = read_weights(path)
    with _refusing_foreign(path):
        recipe = Recipe.from_dict(stored.card["recipe"])
        network = build_network(stored.card["architecture"], stored.card["network"])
        if (difference := mismatch(network, stored.weights)) is not None:
            raise ValueError(difference)
        network.load_state_dict(stored.weights)
        network = network.eval().fold().to(device)
    return TrainedNetwork(network, stored.card, recipe, stored.digest)
