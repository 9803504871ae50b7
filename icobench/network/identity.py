"""What a training run is, in plain values, and in what two of them differ."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from icobench.errors import InputError
from icobench.network.recipe import Recipe
from icobench.simulator.experiment import Experiment

__all__ = ["data_digest", "differences", "run_differences", "run_identity"]

SAMPLE = 2**16
"""Pixels of a set that go into its digest."""


def data_digest(images: Tensor, radius: Tensor, quaternion: Tensor) -> str:
    """First 12 hexadecimal digits of the SHA-256 of a set's shape, truth and a sample of its pixels.

    Args:
        images: (N, H, W) intensities.
        radius: (N,).
        quaternion: (N, 4).
    """
    found = hashlib.sha256(repr(tuple(images.shape)).encode())
    for truth in (radius, quaternion):
        found.update(truth.detach().cpu().double().contiguous().numpy().tobytes())
    # An odd stride, so that the sample is not of a few columns.
    pixels = images.reshape(-1)[:: max(1, images.numel() // SAMPLE) | 1].cpu().double()
    # In thousandths of a decade: intensities of log images differ in their last bits between machines.
    steps = (1000 * pixels.clamp_min(1e-30).log10()).round().to(torch.int32)
    found.update(steps.numpy().tobytes())
    return found.hexdigest()[:12]


def run_identity(
    recipe: Recipe,
    experiment: Experiment,
    seed: int,
    fast: bool,
    start: str | None,
    data: tuple[Tensor, Tensor, Tensor] | None,
    held_out: tuple[Tensor, Tensor, Tensor] | None,
) -> dict[str, Any]:
    """All that a run's course depends on, but the machine, as JSON gives it back.

    Args:
        recipe, experiment, seed, fast: of :func:`~icobench.network.training.train`.
        start: digest of the weights it goes on from.
        data: what it learns from, None for simulations.
        held_out: what it is validated on, likewise.
    """
    found = {
        "recipe": recipe.to_dict(),
        "experiment": experiment.to_dict(),
        "seed": seed,
        "fast": fast,
        "start": start,
        "data": None if data is None else data_digest(*data),
        "held_out": None if held_out is None else data_digest(*held_out),
    }
    return json.loads(json.dumps(found))


def differences(known: dict[str, Any], own: dict[str, Any], name: str) -> list[str]:
    """Entries in which two dictionaries differ, such as "recipe.batch 32, not 64"."""
    keys = [*own, *(key for key in known if key not in own)]
    return [
        f"{name}{key} {known.get(key, 'unknown')}, not {own.get(key, 'unknown')}"
        for key in keys
        if known.get(key) != own.get(key)
    ]


def run_differences(known: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """In what a checkpoint's run differs from another, in words; empty if they are the same.

    What the checkpoint's recipe or experiment lacks counts as its default, so that a new field does not
    invalidate old checkpoints; those of early versions hold both as text, and nothing of data and ``fast``.

    Raises:
        InputError: ``known`` is no identity.
    """
    defaults = {"recipe": Recipe(steps=1).to_dict(), "experiment": Experiment().to_dict()}
    texts = {
        "recipe": repr(Recipe.from_dict(own["recipe"])),
        "experiment": repr(Experiment.from_dict(own["experiment"])),
    }
    found = []
    try:
        for name, default in defaults.items():
            if isinstance(known[name], str):
                found += [] if known[name] == texts[name] else [f"another {name}"]
            else:
                whole = json.loads(json.dumps(default)) | known[name]
                found += differences(whole, own[name], f"{name}.")
        plain = _without(own, defaults)
        return found + differences(plain | {"start": None} | _without(known, defaults), plain, "")
    except (KeyError, TypeError) as error:
        raise InputError("no identity of a training run") from error


def _without(values: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in names}
