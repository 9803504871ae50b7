"""The training loop: streamed images, moving average, checkpoints that resume bit for bit."""

import csv
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icobench.errors import InputError
from icobench.geometry.orientation import disorientation
from icobench.network.architectures import Network, build_network
from icobench.network.calibration import spread_factors
from icobench.network.canonical import require_canonical
from icobench.network.checkpoint import (
    SPREAD_FACTORS,
    StoredWeights,
    TrainedNetwork,
    misfit,
    not_finite,
    save_network,
)
from icobench.network.identity import run_differences, run_identity
from icobench.network.optimisers import OPTIMISERS
from icobench.network.outputs import LOSSES, interpret
from icobench.network.recipe import Recipe
from icobench.network.schedule import Schedule, schedule_of
from icobench.network.stream import TrainingBatch, TrainingStream
from icobench.simulator.experiment import Experiment

__all__ = ["DivergedError", "TrainingResult", "train"]

VALIDATION_STEP = 10**9
"""Step number whose batches are kept for validation; training never gets there."""

LOG_FIELDS = (
    "step", "loss", "learning_rate", "seconds", "images",
    "disorientation_median_deg", "disorientation_90_deg", "radius_median_nm",
)  # fmt: skip


class DivergedError(InputError):
    """Loss, gradient or weights became infinite or NaN."""


def _diverged(what: str, step: int, checkpoint: Path) -> DivergedError:
    kept = f"; {checkpoint} holds the last good state" if checkpoint.exists() else ""
    return DivergedError(f"{what} at step {step}{kept}")


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        finished: all steps done, or the plateau rule satisfied (otherwise the time limit stopped it).
        steps: steps done in total.
        seconds: training time in total, over all resumptions.
        simulations: images simulated for training, in total.
        network: the averaged network, in evaluation mode.
    """

    finished: bool
    steps: int
    seconds: float
    simulations: int
    network: Network


class _State:
    """Everything a checkpoint holds: network, average, optimisers, step and time."""

    def __init__(self, recipe: Recipe, seed: int, device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence(seed, spawn_key=(0,)).generate_state(1)[0]))
            self.network = build_network(recipe.architecture, recipe.network)
        self.network = self.network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = build_network(recipe.architecture, recipe.network).to(device)
        self.average.load_state_dict(self.network.state_dict())
        self.optimisers = OPTIMISERS[recipe.optimiser](
            self.network, recipe.learning_rate, recipe.weight_decay
        )
        self.step = 0
        self.seconds = 0.0

    def start_from(self, start: StoredWeights) -> None:
        """Take over weights.

        Raises:
            InputError: they belong to another architecture.
        """
        if (wrong := misfit(self.network, start.weights)) is not None:
            raise InputError(f"the weights to start from belong to another architecture ({wrong})")
        self.network.load_state_dict(start.weights)
        self.average.load_state_dict(start.weights)

    def update_average(self, decay: float) -> None:
        # Early on a long memory would only hold the random start.
        decay = min(decay, (1 + self.step) / (10 + self.step))
        own, source = self.average.state_dict(), self.network.state_dict()
        floats = [name for name, value in own.items() if value.is_floating_point()]
        torch._foreach_lerp_([own[name] for name in floats], [source[name] for name in floats], 1 - decay)
        for name in own.keys() - set(floats):
            own[name].copy_(source[name])

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint holds, by name."""
        return {
            **{f"network {name}": value for name, value in self.network.state_dict().items()},
            **{f"average {name}": value for name, value in self.average.state_dict().items()},
            **{
                f"{name} {number}.{place}": value
                for number, optimiser in enumerate(self.optimisers)
                for place, own in optimiser.state_dict()["state"].items()
                for name, value in own.items()
            },
        }

    def save(self, path: Path, identity: dict[str, Any], schedule: Schedule) -> None:
        temporary = path.with_suffix(".tmp")
        torch.save(
            {
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "optimisers": [one.state_dict() for one in self.optimisers],
                "step": self.step,
                "seconds": self.seconds,
                "schedule": schedule.state(),
                "identity": identity,
            },
            temporary,
        )
        os.replace(temporary, path)

    def load(self, path: Path, identity: dict[str, Any], schedule: Schedule) -> None:
        try:
            data = torch.load(path, weights_only=True, map_location="cpu")
            known = data["identity"]
        except Exception as error:
            raise InputError(f"{path}: not a readable checkpoint") from error
        try:
            other = run_differences(known, identity)
        except InputError as error:
            raise InputError(f"{path}: not a readable checkpoint") from error
        if other:
            raise InputError(f"{path}: belongs to another run ({'; '.join(other)}); choose another folder")
        if (wrong := misfit(self.network, data["network"])) is not None:
            raise InputError(f"{path}: belongs to another architecture ({wrong}); choose another folder")
        self.network.load_state_dict(data["network"])
        self.average.load_state_dict(data["average"])
        for own, stored in zip(self.optimisers, data["optimisers"], strict=True):
            own.load_state_dict(stored)
        self.step, self.seconds = data["step"], data["seconds"]
        if (name := not_finite(self.tensors())) is not None:
            raise InputError(f"{path}: {name} is not finite")
        schedule.restore(data.get("schedule", {}))


def _validate(network: Network, batches: list[TrainingBatch]) -> tuple[float, ...]:
    network.eval()
    angles, radii = [], []
    with torch.no_grad():
        for inputs, quaternion, radius in batches:
            said = interpret(network(inputs), network.layout)
            found = network.layout.target.decode(said.orientation).quaternion[:, 0]
            angles.append(disorientation(found, quaternion.double()))
            radii.append((said.radius_nm - radius).abs())
    angle, miss = torch.cat(angles).cpu(), torch.cat(radii).cpu()
    return float(angle.median()), float(angle.quantile(0.9)), float(miss.median())


def _validation_loss(network: Network, recipe: Recipe, batches: list[TrainingBatch]) -> float:
    network.eval()
    with torch.no_grad():
        losses = [
            float(LOSSES[recipe.loss](network(inputs), network.layout, quaternion, radius))
            for inputs, quaternion, radius in batches
        ]
    return sum(losses) / len(losses)


def _append(path: Path, row: dict[str, Any]) -> None:
    fresh = not path.exists()
    with path.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, LOG_FIELDS)
        if fresh:
            writer.writeheader()
        writer.writerow(row)


def validation_batches(
    recipe: Recipe,
    experiment: Experiment,
    seed: int,
    device: torch.device,
    held_out: tuple[Tensor, Tensor, Tensor] | None,
) -> list[TrainingBatch]:
    """512 images like those of training, none of which training ever sees; fewer for a tiny run."""
    stream = TrainingStream(replace(recipe, pool=None), experiment, seed, device, held_out)
    count = max(1, min(512 // recipe.batch, recipe.steps))
    return [stream.batch(VALIDATION_STEP + i) for i in range(count)]


def train(
    recipe: Recipe,
    experiment: Experiment,
    folder: Path,
    seed: int = 0,
    device: torch.device | str = "cpu",
    max_minutes: float | None = None,
    fast: bool = True,
    checkpoint_minutes: float = 3.0,
    data: tuple[Tensor, Tensor, Tensor] | None = None,
    held_out: tuple[Tensor, Tensor, Tensor] | None = None,
    start: StoredWeights | None = None,
    progress: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    watch: Callable[[int, Network], None] | None = None,
    watch_steps: int = 1,
    search: dict[str, Any] | None = None,
) -> TrainingResult:
    """Train a network, resuming from the folder's checkpoint if there is one.

    Leaves ``checkpoint.pt`` (to resume), ``training.csv`` (loss and validation errors) and the averaged
    network, with its card inside, as ``network.safetensors``.

    Args:
        recipe: what to train.
        experiment: physics; on the canonical grid.
        folder: where results go; made if missing.
        seed: of the run; same seed, same network (bit for bit on one CPU type and thread count).
        device: where to train.
        max_minutes: stop, resumable, after this long in this call.
        fast: autocast to bfloat16, and compile the network on CUDA.
        checkpoint_minutes: time between checkpoints.
        data: a set to train on instead of simulations: intensities (N, 128, 128), radii (N,), orientations
            (N, 4), kept on the device. Log images have their own noise and want a recipe without background:
            :meth:`~icobench.sets.training_data.TrainingSet.fitting`.
        held_out: a set to validate on instead of fresh simulations, likewise.
        start: weights of the same architecture to go on from, instead of random ones.
        progress: called with step, steps and the running loss.
        watch: called with step and averaged network every ``watch_steps`` steps; may raise to stop.
        watch_steps: see there.
        search: what finding the recipe has cost, for the card.

    Raises:
        InputError: the experiment is not on the canonical grid, or the recipe leaves its material out; radii
            that the network cannot tell; the folder's checkpoint belongs to another run, the line names what
            differs.
        DivergedError: loss, gradient or weights became infinite or NaN (the last good checkpoint is kept).
    """
    require_canonical(experiment)
    folder = Path(folder)
    device = torch.device(device)
    begun = None if start is None else start.digest
    identity = run_identity(recipe, experiment, seed, fast, begun, data, held_out)
    state = _State(recipe, seed, device)
    if start is not None:
        state.start_from(start)
    itself = TrainedNetwork(state.network, {"experiment": experiment.to_dict()}, recipe, "")
    if refused := itself.misfits(experiment):
        raise InputError(f"the recipe is for {'; '.join(refused)}")
    radii = recipe.radius_nm if data is None else (float(data[1].min()), float(data[1].max()))
    low, high = state.network.layout.size.range_nm
    if not low <= radii[0] <= radii[1] <= high:
        raise InputError(
            f"this network tells radii of {low:g} to {high:g} nm, not of {radii[0]:g} to {radii[1]:g} nm; "
            "with periods_nm = [] it tells any"
        )
    folder.mkdir(parents=True, exist_ok=True)
    schedule = schedule_of(recipe)
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        state.load(checkpoint, identity, schedule)
    stream = TrainingStream(recipe, experiment, seed, device, data)
    batches = validation_batches(recipe, experiment, seed, device, held_out)
    loss_of = LOSSES[recipe.loss]
    compiled = fast and device.type == "cuda"
    forward = torch.compile(state.network) if compiled else state.network

    begin = last_saved = time.perf_counter()
    before = state.seconds
    running = 0.0
    while not schedule.finished(state.step):
        inputs, quaternion, radius = stream.batch(state.step)
        rate = schedule.learning_rate(state.step)
        for optimiser in state.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
        settling = schedule.settling(state.step)
        state.network.train(not settling)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=fast and not settling):
            output = forward(inputs)
        loss = loss_of(output, state.network.layout, quaternion, radius)
        state.network.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(state.network.parameters(), 1.0)
        # Read together: every reading waits for the device.
        value, slope = torch.stack((loss.detach(), norm)).tolist()
        for what, number in (("loss", value), ("gradient", slope)):
            if not math.isfinite(number):
                raise _diverged(f"the {what} became {number}", state.step, checkpoint)
        for optimiser in state.optimisers:
            optimiser.step()
        state.step += 1
        state.update_average(recipe.average)
        running = value if running == 0 else 0.98 * running + 0.02 * value
        progress(state.step, recipe.steps, running)
        if schedule.due(state.step):
            schedule.observe(_validation_loss(state.average, recipe, batches))
        if watch is not None and state.step % watch_steps == 0:
            watch(state.step, state.average.eval())

        now = time.perf_counter()
        state.seconds = before + now - begin
        late = max_minutes is not None and now - begin > 60 * max_minutes
        if schedule.finished(state.step) or late or now - last_saved > 60 * checkpoint_minutes:
            if (name := not_finite(state.tensors())) is not None:
                raise _diverged(f"{name} became infinite or NaN", state.step, checkpoint)
            median, tail, miss = _validate(state.average, batches)
            state.save(checkpoint, identity, schedule)
            _append(
                folder / "training.csv",
                {
                    "step": state.step, "loss": running, "seconds": round(state.seconds, 1),
                    "learning_rate": rate,
                    "images": state.step * recipe.batch, "disorientation_median_deg": median,
                    "disorientation_90_deg": tail, "radius_median_nm": miss,
                },
            )  # fmt: skip
            last_saved = now
            if late:
                break

    simulations = state.step * recipe.batch // recipe.variants
    if data is not None or recipe.pool is not None:
        simulations = len(data[1]) if data is not None else recipe.pool or 0
    if start is not None:
        # What the weights cost before belongs to what they cost.
        simulations += int(start.card.get("training_simulations", 0))
        state.seconds += float(start.card.get("training_seconds", 0.0))
    network = state.average.eval()
    card = {
        "architecture": recipe.architecture,
        "network": network.options,
        "parameters": sum(p.numel() for p in network.parameters()),
        "recipe": recipe.to_dict(),
        "experiment": experiment.to_dict(),
        "seed": seed,
        "data": identity["data"],  # digest of the set it learnt from; None for simulations
        "steps": state.step,
        "images": state.step * recipe.batch,
        "training_seconds": round(state.seconds, 1),
        "training_simulations": simulations,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "torch": torch.__version__,
        "search": search,
        SPREAD_FACTORS: spread_factors(network, batches),
        "started_from": None if start is None else start.card,  # its cost is in the totals above
    }
    save_network(folder / "network.safetensors", network, card)
    return TrainingResult(schedule.finished(state.step), state.step, state.seconds, simulations, network)
