"""The training loop: streamed images, moving average, checkpoints that resume bit for bit."""

import csv
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icobench.errors import InputError
from icobench.geometry.orientation import disorientation
from icobench.network.checkpoint import save_network
from icobench.network.compact import CompactNetwork
from icobench.network.orbit import decode
from icobench.network.recipe import Recipe
from icobench.network.stream import TrainingStream, step_learning_rate
from icobench.simulator.experiment import Experiment

__all__ = ["TrainingResult", "train"]

VALIDATION_STEP = 10**9
"""Step number whose batches are kept for validation; training never gets there."""

LOG_FIELDS = (
    "step", "loss", "learning_rate", "seconds", "images",
    "disorientation_median_deg", "disorientation_90_deg", "radius_median_nm",
)  # fmt: skip


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        finished: all steps done (otherwise the time limit stopped it).
        steps: steps done in total.
        seconds: training time in total, over all resumptions.
        simulations: images simulated for training, in total.
        network: the averaged network, in evaluation mode.
    """

    finished: bool
    steps: int
    seconds: float
    simulations: int
    network: CompactNetwork


class _State:
    """Everything a checkpoint holds: network, average, optimiser, step and time."""

    def __init__(self, recipe: Recipe, seed: int, device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence(seed, spawn_key=(0,)).generate_state(1)[0]))
            self.network = CompactNetwork(recipe.widths, recipe.hidden)
        self.network = self.network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = CompactNetwork(recipe.widths, recipe.hidden).to(device)
        self.average.load_state_dict(self.network.state_dict())
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.step = 0
        self.seconds = 0.0

    def update_average(self, decay: float) -> None:
        # Early on a long memory would only hold the random start.
        decay = min(decay, (1 + self.step) / (10 + self.step))
        own, source = self.average.state_dict(), self.network.state_dict()
        for name, value in own.items():
            if value.is_floating_point():
                value.lerp_(source[name], 1 - decay)
            else:
                value.copy_(source[name])

    def save(self, path: Path, identity: dict[str, Any]) -> None:
        temporary = path.with_suffix(".tmp")
        torch.save(
            {
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "step": self.step,
                "seconds": self.seconds,
                "identity": identity,
            },
            temporary,
        )
        os.replace(temporary, path)

    def load(self, path: Path, identity: dict[str, Any]) -> None:
        try:
            data = torch.load(path, weights_only=True, map_location="cpu")
            known = data["identity"]
        except Exception as error:
            raise InputError(f"{path}: not a readable checkpoint") from error
        if known != identity:
            raise InputError(f"{path}: belongs to another recipe, experiment or seed")
        self.network.load_state_dict(data["network"])
        self.average.load_state_dict(data["average"])
        self.optimiser.load_state_dict(data["optimiser"])
        self.step, self.seconds = data["step"], data["seconds"]


def _validate(network: CompactNetwork, batches: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[float, ...]:
    network.eval()
    angles, radii = [], []
    with torch.no_grad():
        for inputs, vector, radius in batches:
            said = network.interpret(network(inputs))
            found = decode(said.vector, 1).quaternion[:, 0]
            truth = decode(vector, 1).quaternion[:, 0]
            angles.append(disorientation(found, truth))
            radii.append((said.radius_nm - radius).abs())
    angle, miss = torch.cat(angles).cpu(), torch.cat(radii).cpu()
    return float(angle.median()), float(angle.quantile(0.9)), float(miss.median())


def _append(path: Path, row: dict[str, Any]) -> None:
    fresh = not path.exists()
    with path.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, LOG_FIELDS)
        if fresh:
            writer.writeheader()
        writer.writerow(row)


def train(
    recipe: Recipe,
    experiment: Experiment,
    folder: Path,
    seed: int = 0,
    device: torch.device | str = "cpu",
    max_minutes: float | None = None,
    bfloat16: bool = True,
    checkpoint_minutes: float = 3.0,
    progress: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> TrainingResult:
    """Train a network, resuming from the folder's checkpoint if there is one.

    Leaves ``checkpoint.pt`` (to resume), ``training.csv`` (loss and validation errors) and the averaged
    network as ``network.safetensors`` with its card ``network.json``.

    Args:
        recipe: what to train.
        experiment: physics; on the canonical grid.
        folder: where results go; made if missing.
        seed: of the run; same seed, same network (bit for bit on one CPU type and thread count).
        device: where to train.
        max_minutes: stop, resumable, after this long in this call.
        bfloat16: autocast convolutions to bfloat16.
        checkpoint_minutes: time between checkpoints.
        progress: called with step, steps and the running loss.

    Raises:
        InputError: the folder's checkpoint belongs to another run; the loss became NaN (the last
            good checkpoint is kept).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device(device)
    identity = {"recipe": repr(recipe), "experiment": repr(experiment), "seed": seed}
    state = _State(recipe, seed, device)
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        state.load(checkpoint, identity)
    stream = TrainingStream(recipe, experiment, seed, device)
    batches = [stream.batch(VALIDATION_STEP + i) for i in range(max(1, 512 // recipe.batch))]

    begin = last_saved = time.perf_counter()
    before = state.seconds
    running = 0.0
    state.network.train()
    while state.step < recipe.steps:
        inputs, vector, radius = stream.batch(state.step)
        for group in state.optimiser.param_groups:
            group["lr"] = step_learning_rate(recipe, state.step)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            output = state.network(inputs)
        loss = state.network.loss(output, vector, radius)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise InputError(
                f"the loss became {value} at step {state.step}; {checkpoint} holds the last good state"
            )
        state.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(state.network.parameters(), 1.0)
        state.optimiser.step()
        state.step += 1
        state.update_average(recipe.average)
        running = value if running == 0 else 0.98 * running + 0.02 * value
        progress(state.step, recipe.steps, running)

        now = time.perf_counter()
        state.seconds = before + now - begin
        late = max_minutes is not None and now - begin > 60 * max_minutes
        if state.step == recipe.steps or late or now - last_saved > 60 * checkpoint_minutes:
            median, tail, miss = _validate(state.average, batches)
            state.save(checkpoint, identity)
            _append(
                folder / "training.csv",
                {
                    "step": state.step, "loss": running, "seconds": round(state.seconds, 1),
                    "learning_rate": step_learning_rate(recipe, state.step - 1),
                    "images": state.step * recipe.batch, "disorientation_median_deg": median,
                    "disorientation_90_deg": tail, "radius_median_nm": miss,
                },
            )  # fmt: skip
            last_saved = now
            if late:
                break

    simulations = state.step * recipe.batch // recipe.variants
    network = state.average.eval()
    card = {
        "architecture": "compact",
        "parameters": sum(p.numel() for p in network.parameters()),
        "recipe": recipe.to_dict(),
        "experiment": experiment.to_dict(),
        "seed": seed,
        "steps": state.step,
        "training_seconds": round(state.seconds, 1),
        "training_simulations": simulations,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "torch": torch.__version__,
    }
    save_network(folder / "network.safetensors", network, card)
    return TrainingResult(state.step == recipe.steps, state.step, state.seconds, simulations, network)
