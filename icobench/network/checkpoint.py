"""Trained networks on disk: safetensors for the weights, JSON beside them for their origin."""

import hashlib
import json
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from icobench.errors import InputError
from icobench.network.compact import CompactNetwork
from icobench.simulator.experiment import Experiment

__all__ = ["TrainedNetwork", "load_network", "save_network", "shipped_weights"]


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with what is known of it.

    Attributes:
        network: in evaluation mode.
        card: recipe, experiment, seed, cost and test figures, as stored.
        digest: first 12 hexadecimal digits of the weights' SHA-256.
    """

    network: CompactNetwork
    card: dict[str, Any]
    digest: str

    def check(self, experiment: Experiment) -> None:
        """Refuse an experiment that the network was not trained for.

        Raises:
            InputError: wavelength, refractive index or angular range outside of training.
        """
        own = Experiment.from_dict(self.card["experiment"])
        recipe = self.card["recipe"]
        problems = []
        if not experiment.orthographic:
            problems.append("the orthographic grid, not a flat detector")
        if abs(experiment.wavelength_nm / own.wavelength_nm - 1) > 1e-3:
            problems.append(f"wavelength {own.wavelength_nm:g} nm, not {experiment.wavelength_nm:g} nm")
        n = experiment.refractive_index
        (low, high), (weak, strong) = recipe["refraction"], recipe["absorption"]
        trained = low - 1e-3 <= 1 - n.real <= high + 1e-3 and weak - 1e-3 <= n.imag <= strong + 1e-3
        if not trained:
            problems.append(
                f"refractive index 1 - ({low:g} to {high:g}) + ({weak:g} to {strong:g})j, "
                f"not {n.real:g}{n.imag:+g}j"
            )
        least = recipe["sine"][0]
        if experiment.sin_theta_max < least - 1e-9:
            problems.append(f"sin_theta_max of at least {least:g}, not {experiment.sin_theta_max:g}")
        if problems:
            raise InputError(f"the network's weights were made for {'; '.join(problems)}")


def shipped_weights() -> Path:
    """The weights that come with the package."""
    return Path(str(resources.files("icobench.network") / "weights" / "compact.safetensors"))


def _card_path(path: Path) -> Path:
    return path.with_suffix(".json")


def save_network(path: Path, network: CompactNetwork, card: dict[str, Any]) -> None:
    """Write ``path`` (safetensors) and the card beside it, each whole or not at all."""
    path = Path(path)
    card = {"widths": list(network.widths), "hidden": network.hidden, **card}
    temporary = path.with_suffix(".tmp")
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    save_file(state, str(temporary), metadata={"format": "icobench-1"})
    os.replace(temporary, path)
    temporary.write_text(json.dumps(card, indent=1) + "\n")
    os.replace(temporary, _card_path(path))


def load_network(path: Path | str | None = None, device: torch.device | str = "cpu") -> TrainedNetwork:
    """Load weights and card; the shipped ones by default.

    Raises:
        InputError: missing, damaged or foreign files.
    """
    path = Path(path) if path is not None else shipped_weights()
    for needed in (path, _card_path(path)):
        if not needed.is_file():
            raise InputError(f"{needed}: no such file (a network is weights and a .json beside them)")
    try:
        card = json.loads(_card_path(path).read_text())
        network = CompactNetwork(tuple(card["widths"]), card["hidden"])
        network.load_state_dict(load_file(str(path)))
        Experiment.from_dict(card["experiment"])
        for limits in ("refraction", "absorption", "sine"):
            low, high = card["recipe"][limits]
            if not low <= high:
                raise ValueError(f"recipe: {limits} from {low} to {high}")
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: not a network of icobench ({first})") from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return TrainedNetwork(network.eval().to(device), card, digest)
