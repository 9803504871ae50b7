"""Trained networks on disk: safetensors with the weights and, in the header, a card with their origin.

Large networks may be rounded to 8 bits, and be a folder of several files, the parts.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from icobench.errors import InputError
from icobench.network.architectures import Network, build_network
from icobench.network.heads import SpreadHead
from icobench.network.recipe import Recipe
from icobench.simulator.experiment import Experiment
from icobench.storage import atomic_path

__all__ = [
    "StoredWeights", "TrainedNetwork", "load_into", "load_trained", "mismatch", "not_finite", "read_weights",
    "rounded", "save_network", "save_rounded", "training_core_seconds", "training_stages",
    "unrounded",
]  # fmt: skip

NetworkType = TypeVar("NetworkType", bound=nn.Module)

FORMAT = "icobench-2"

LEAST_SINE = {"clean": 1.0, "augmented": 0.75, "realistic": 0.75}
"""Least ``sin_theta_max`` for networks of log images; those for counts have it in the recipe."""

STEP = ".step"
"""Ends the name of the tensor with the steps of one that is rounded to 8 bits."""

MOST_STEPS = 127

LEAST_ROUNDED = 4096
"""Smaller tensors, such as a network's first and last layer, are kept in half precision: they hardly count,
and rounding them shifts every radius."""

LEAST_OPTION = 64
"""An option of a network may be as large as this, whatever its weights."""

PART_BYTES = 10 * 2**20
"""Of weights in a file of a rounded network, about; a repository should have no large files."""


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
        if experiment.physics != trained.physics:
            problems.append(f"the physics {trained.physics}, not {experiment.physics}")
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
    """Weights that were read: tensors by name, with card and digest as for :class:`TrainedNetwork`."""

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


class Stage(NamedTuple):
    """What a stage of a training took on its own.

    Attributes:
        core_seconds: of all processor cores together, of a GPU its time.
        simulations: images.
        on_gpu: whether it ran on a GPU.
        streamed: whether the images were simulated in that time, instead of read from a stored set.
    """

    core_seconds: float
    simulations: int
    on_gpu: bool
    streamed: bool


def training_stages(card: dict[str, Any]) -> list[Stage]:
    """The stages of a training, the last first; most have one. A card's own costs include earlier stages'."""
    start = card.get("started_from")
    earlier = training_stages(start) if start else []
    return [
        Stage(
            training_core_seconds(card) - sum(stage.core_seconds for stage in earlier),
            int(card.get("training_simulations") or 0) - sum(stage.simulations for stage in earlier),
            str(card.get("device")).startswith("cuda"),
            card.get("data") is None,
        ),
        *earlier,
    ]


def not_finite(weights: dict[str, torch.Tensor]) -> str | None:
    """Name of the first tensor with an infinite or NaN number, None if there is none."""
    return next((name for name, value in weights.items() if not torch.isfinite(value).all()), None)


def mismatch(network: nn.Module, weights: dict[str, torch.Tensor]) -> str | None:
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


def save_network(path: Path, network: nn.Module, card: dict[str, Any]) -> None:
    """Write weights and card as safetensors, whole or not at all; an InputError names a weight not finite."""
    state = _finite_state(path, network)
    with atomic_path(path) as temporary:
        save_file(state, str(temporary), metadata={"format": FORMAT, "card": json.dumps(card)})


def _finite_state(path: Path, network: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a network that are to be written to a path."""
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    if (name := not_finite(state)) is not None:
        raise InputError(f"{path}: not written, {name} is not finite")
    return state


def rounded(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights rounded to 8 bits, by a symmetric step for each output channel.

    A tensor NAME (C, ...) of two or more dimensions and at least 4,096 numbers becomes int8, and NAME.step
    (C,) float32 are the steps. The largest magnitude of a channel is 127 of them, so that no weight moves by
    more than half a step. Other numbers are kept in half precision, integers as they are.
    """
    stored = {}
    for name, value in weights.items():
        if value.is_floating_point() and value.ndim > 1 and value.numel() >= LEAST_ROUNDED:
            rows = value.float().flatten(1)
            step = rows.abs().amax(1) / MOST_STEPS
            steps = rows / torch.where(step > 0, step, 1.0)[:, None]
            stored[name] = steps.round().to(torch.int8).reshape(value.shape)
            stored[name + STEP] = step
        else:
            stored[name] = value.half() if value.is_floating_point() else value
    return stored


def unrounded(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of :func:`rounded`, which are float32 again; others as they are.

    Raises:
        ValueError: steps are missing.
    """
    weights = {}
    for name, value in stored.items():
        if name.endswith(STEP) and name.removesuffix(STEP) in stored:
            continue
        if value.dtype == torch.int8:
            if name + STEP not in stored:
                raise ValueError(f"there is no {name}{STEP}")
            value = (value.flatten(1) * stored[name + STEP][:, None]).reshape(value.shape)
        weights[name] = value
    return weights


def save_rounded(folder: Path, network: Network, card: dict[str, Any]) -> None:
    """Write weights and card, rounded to 8 bits, into a folder, as parts of about the same size.

    Every part has the card, the number of parts and the digest of all weights in its header. An InputError
    names a weight not finite.
    """
    stored = rounded(_finite_state(folder, network))
    total = sum(value.nbytes for value in stored.values())
    count = -(-total // PART_BYTES)
    parts: list[dict[str, torch.Tensor]] = [{} for _ in range(count)]
    before = 0
    for name, value in sorted(stored.items()):
        parts[before * count // total][name] = value
        before += value.nbytes
    header = {"format": FORMAT, "card": json.dumps(card), "parts": str(count), "digest": _digest(stored)}
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(parts, 1):
        with atomic_path(folder / f"part-{number}.safetensors") as temporary:
            save_file(part, str(temporary), metadata=header)


def _digest(weights: dict[str, torch.Tensor]) -> str:
    """Of names and numbers alone, 12 hexadecimal digits: the same network may have another card."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        # As bytes: NumPy has no bfloat16.
        digest.update(weights[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


FOREIGN = (
    SafetensorError, InputError, ValueError, KeyError, TypeError, RuntimeError, RecursionError,
    AttributeError, OverflowError, IndexError, ZeroDivisionError, MemoryError,
)  # fmt: skip
"""What damaged or foreign files make libraries raise."""

FACTORS = (1e-3, 1e3)
"""Plausible factors of a network's error bars."""


def _checked_card(text: str) -> dict[str, Any]:
    """The card in a header, its fields of the right kind; a ValueError names one that is not."""
    card = json.loads(text)
    if not isinstance(card, dict):
        raise ValueError("the card is no dictionary")
    for name in ("recipe", "experiment", "network"):
        if not isinstance(card.get(name), dict):
            raise ValueError(f"{name} is no dictionary")
    if not isinstance(card.get("architecture"), str):
        raise ValueError("architecture is no name")
    for name in ("spreads", "posterior"):
        if not isinstance(card.get(name, {}), dict):
            raise ValueError(f"{name} is no dictionary")
    factors = card.get("spread_factors", {})
    if not isinstance(factors, dict):
        raise ValueError("spread_factors is no dictionary")
    for name, value in factors.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not FACTORS[0] <= value <= FACTORS[1]:
            raise ValueError(f"spread_factors.{name} is {value!r}")
    Experiment.from_dict(card["experiment"])
    return card


def _plausible(options: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    """Refuse options of a network that is larger than its weights, before it is built.

    Raises:
        ValueError: naming the option.
    """
    largest = max((max(value.shape, default=1) for value in weights.values()), default=1)
    for name, value in options.items():
        numbers = value if isinstance(value, list) else [value]
        if isinstance(value, list) and not 0 < len(value) <= LEAST_OPTION:
            raise ValueError(f"{name} is {value!r}")
        if _whole(numbers) and not all(abs(number) <= max(largest, LEAST_OPTION) for number in numbers):
            raise ValueError(f"{name} is {value!r}, and no weight has so many numbers")
    lists = [value for value in options.values() if isinstance(value, list) and _whole(value)]
    if any(sum(value) > LEAST_OPTION * len(weights) for value in lists):
        raise ValueError("it is far larger than its weights")


def _whole(values: list[Any]) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


@contextmanager
def _refusing_foreign(path: Path | str) -> Iterator[None]:
    """Turn errors that damaged or foreign files cause into one line."""
    try:
        yield
    except FOREIGN as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, KeyError):
            reason = f"there is no {error.args[0]!r}"
        raise InputError(f"{path}: not a network of icobench ({reason})") from error


def read_weights(path: Path | str) -> StoredWeights:
    """Read weights and card, of a file or of a folder with all parts.

    Raises:
        InputError: a missing, damaged or foreign file, a missing part, or a weight is infinite or NaN.
    """
    path = Path(path)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise InputError(f"{path}: {'no weights in this folder' if path.is_dir() else 'no such file'}")
    stored: dict[str, torch.Tensor] = {}
    for file in files:
        with _refusing_foreign(file):
            with safe_open(str(file), framework="pt") as opened:
                metadata = opened.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
            stored |= load_file(str(file))
    with _refusing_foreign(path):
        if len(files) != int(metadata.get("parts", 1)):
            raise ValueError(f"{len(files)} of {metadata.get('parts', 1)} parts")
        card = _checked_card(metadata["card"])
        if (name := not_finite(stored)) is not None:
            raise ValueError(f"{name} is not finite")
        digest = _digest(stored)
        if digest != metadata.get("digest", digest):
            raise ValueError(f"digest {digest}, not {metadata['digest']}: a part is damaged or another's")
        return StoredWeights(unrounded(stored), card, digest)


def load_into(
    path: Path | str, stored: StoredWeights, build: Callable[[str, dict[str, Any]], NetworkType]
) -> NetworkType:
    """The network that ``build`` makes of a card's architecture and options, with the weights of a file.

    Raises:
        InputError: options or weights that do not belong together.
    """
    with _refusing_foreign(path):
        _plausible(stored.card["network"], stored.weights)
        network = build(stored.card["architecture"], stored.card["network"])
        if (difference := mismatch(network, stored.weights)) is not None:
            raise ValueError(difference)
        network.load_state_dict(stored.weights)
    return network


def load_trained(path: Path | str, device: torch.device | str = "cpu") -> TrainedNetwork:
    """Load weights and card, ready for inference; raises as :func:`read_weights` does."""
    stored = read_weights(path)
    network = load_into(path, stored, build_network)
    with _refusing_foreign(path):
        recipe = Recipe.from_dict(stored.card["recipe"])
        if not all(
            bool((head.scale > 0).all()) for head in network.modules() if isinstance(head, SpreadHead)
        ):
            raise ValueError("a scale of a head is not positive")
        network = network.eval().fold().to(device)
    return TrainedNetwork(network, stored.card, recipe, stored.digest)
