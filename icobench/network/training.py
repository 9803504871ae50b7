"""The training loop: streamed images, moving average, checkpoints that resume bit for bit."""

import copy
import csv
import hashlib
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icobench.answer import Progress
from icobench.errors import InputError
from icobench.images.image_set import ImageSet
from icobench.network.amortised import POSTERIOR_STEP, fit_posterior
from icobench.network.architectures import CompactNetwork, Network, build_network, single_precision
from icobench.network.checkpoint import (
    StoredWeights,
    TrainedNetwork,
    mismatch,
    not_finite,
    save_network,
    training_core_seconds,
)
from icobench.network.inputs import require_canonical
from icobench.network.optimisers import Schedule, make_optimisers
from icobench.network.outputs import LOSSES
from icobench.network.recipe import Recipe
from icobench.network.spreads import LEAST_IMAGES, fit_spreads, spread_batches
from icobench.network.stream import TrainingStream
from icobench.network.validation import mean_loss, prediction_errors, spread_factors, validation_batches
from icobench.seeds import Purpose, seed_word
from icobench.simulator.experiment import Experiment
from icobench.stopwatch import Stopwatch
from icobench.storage import atomic_path, differences

__all__ = ["HEADS", "DivergedError", "TrainingResult", "data_digest", "train"]

LARGEST_GRADIENT = 1.0
"""Norm to which larger gradients are cut."""

HEADS = ("spread_head.", "posterior_head.")
"""How the names of the weights of a network's heads (:mod:`icobench.network.heads`) begin."""

DIGEST_PIXELS = 2**16
"""Pixels of a set that go into its digest."""


class DivergedError(InputError):
    """Loss, gradient or weights became infinite or NaN."""


class TrainingResult(NamedTuple):
    """The end of a run.

    Attributes:
        finished: all steps done, or the plateau rule satisfied (otherwise the time limit stopped it).
        steps: steps done in total.
        seconds: training time in total, over all resumptions.
        core_seconds: likewise, of all processor cores together; on a GPU the time of the GPU.
        simulations: images simulated for training, in total.
        network: the averaged network, in evaluation mode.
    """

    finished: bool
    steps: int
    seconds: float
    core_seconds: float
    simulations: int
    network: Network


def data_digest(images: ImageSet) -> str:
    """First 12 hexadecimal digits of the SHA-256 of a set's shape, truth and a sample of its intensities."""
    digest = hashlib.sha256(repr(tuple(images.images.shape)).encode())
    for truth in (images.radius_nm, images.quaternion):
        digest.update(truth.detach().cpu().double().contiguous().numpy().tobytes())
    # An odd stride, so that the sample is not from a few columns only.
    stride = max(1, images.images.numel() // DIGEST_PIXELS) | 1
    pixels = images.images.reshape(-1)[::stride].cpu().double()
    # In thousandths of a decade: intensities of log images differ in their last bits between machines.
    levels = (1000 * pixels.clamp_min(1e-30).log10()).round().to(torch.int32)
    digest.update(levels.numpy().tobytes())
    return digest.hexdigest()[:12]


class _Run:
    """Everything that a checkpoint holds: network, average, optimisers, schedule, step, time and identity."""

    def __init__(
        self, recipe: Recipe, seed: int, device: torch.device, identity: dict[str, Any],
        start: StoredWeights | None,
    ) -> None:  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_word(seed, Purpose.WEIGHTS))
            self.network = build_network(recipe.architecture, recipe.network)
        if start is not None:
            # The heads are fitted anew at the end.
            weights = {name: value for name, value in start.weights.items() if not name.startswith(HEADS)}
            if (difference := mismatch(self.network, weights)) is not None:
                raise InputError(f"the weights to start from belong to another architecture ({difference})")
            self.network.load_state_dict(weights)
        self.average = copy.deepcopy(self.network).to(device).eval()
        self.network = self.network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimisers = make_optimisers(recipe, self.network)
        self.schedule = Schedule(recipe)
        # As JSON gives it back, so that it compares equal to a stored one.
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))
        self.step, self.seconds, self.core_seconds = 0, 0.0, 0.0

    def apply_gradients(self, learning_rate: float, decay: float) -> None:
        """One step of the optimisers and of the moving average."""
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate
            optimiser.step()
        self.step += 1
        # At the beginning a long memory would only hold the random start.
        decay = min(decay, (1 + self.step) / (10 + self.step))
        averages, current = self.average.state_dict(), self.network.state_dict()
        floats = [name for name, value in averages.items() if value.is_floating_point()]
        mean, new = ([state[name] for name in floats] for state in (averages, current))
        torch._foreach_lerp_(mean, new, 1 - decay)
        for name in averages.keys() - set(floats):
            averages[name].copy_(current[name])

    def not_finite(self) -> str | None:
        """Name of the first tensor with an infinite or NaN number, None if there is none."""
        tensors: dict[str, Tensor] = {}
        for part, network in (("network", self.network), ("average", self.average)):
            tensors |= {f"{part} {name}": value for name, value in network.state_dict().items()}
        for number, optimiser in enumerate(self.optimisers):
            for place, state in optimiser.state_dict()["state"].items():
                tensors |= {f"{name} {number}.{place}": value for name, value in state.items()}
        return not_finite(tensors)

    def save(self, path: Path) -> None:
        values = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
            "seconds": self.seconds,
            "core_seconds": self.core_seconds,
            "schedule": {name: getattr(self.schedule, name) for name in ("best", "waited", "falls")},
            "identity": self.identity,
        }
        content = io.BytesIO()
        torch.save(values, content)
        with atomic_path(path) as temporary:
            # By Python: torch's own writer says of a full disk what nobody understands.
            temporary.write_bytes(content.getbuffer())

    def load(self, path: Path) -> None:
        """Continue from a checkpoint; an InputError says if it is damaged, too old, or of another run."""
        try:
            stored = torch.load(path, weights_only=True, map_location="cpu")
            # With the defaults of fields that recipes and experiments did not have yet.
            recipe = Recipe.from_dict(stored["identity"]["recipe"]).to_dict()
            experiment = Experiment.from_dict(stored["identity"]["experiment"]).to_dict()
            completed = {**stored["identity"], "recipe": recipe, "experiment": experiment}
            identity = json.loads(json.dumps(completed))
        except Exception as error:
            raise InputError(f"{path}: not a readable checkpoint") from error
        if other := differences(identity, self.identity):
            raise InputError(f"{path}: belongs to another run ({'; '.join(other)}); choose another folder")
        if (difference := mismatch(self.network, stored["network"])) is not None:
            raise InputError(f"{path}: belongs to another architecture ({difference}); choose another folder")
        self.network.load_state_dict(stored["network"])
        self.average.load_state_dict(stored["average"])
        for optimiser, state in zip(self.optimisers, stored["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        self.step, self.seconds = stored["step"], stored["seconds"]
        # Older checkpoints have wall time alone.
        self.core_seconds = stored.get("core_seconds", self.seconds * torch.get_num_threads())
        if (name := self.not_finite()) is not None:
            raise InputError(f"{path}: {name} is not finite")
        for name, value in stored["schedule"].items():
            setattr(self.schedule, name, value)


def _check_trainable(recipe: Recipe, experiment: Experiment, network: Network, data: ImageSet | None) -> None:
    """Refuse an experiment that the recipe leaves out, and radii that the network cannot express."""
    trained = TrainedNetwork(network, {"experiment": experiment.to_dict()}, recipe, "")
    if problems := trained.misfits(experiment):
        raise InputError(f"the recipe is for {'; '.join(problems)}")
    radii = recipe.radius_nm
    if data is not None:
        radii = float(data.radius_nm.min()), float(data.radius_nm.max())
    low, high = network.layout.size.range_nm
    if not low <= radii[0] <= radii[1] <= high:
        raise InputError(
            f"this network tells radii of {low:g} to {high:g} nm, not of {radii[0]:g} to {radii[1]:g} nm; "
            "with periods_nm = [] it tells any"
        )


@single_precision()
def train(
    recipe: Recipe,
    experiment: Experiment,
    folder: Path,
    seed: int = 0,
    device: torch.device | str = "cpu",
    max_minutes: float | None = None,
    fast: bool = True,
    checkpoint_minutes: float = 3.0,
    data: ImageSet | None = None,
    held_out: ImageSet | None = None,
    start: StoredWeights | None = None,
    progress: Progress = lambda share: None,
    report: Callable[[int, float, Network], None] = lambda step, loss, average: None,
    search: dict[str, Any] | None = None,
) -> TrainingResult:
    """Train a network, resuming from the folder's checkpoint if there is one.

    Leaves ``checkpoint.pt`` (to resume), ``training.csv`` (loss and validation errors) and the averaged
    network, with its card inside, as ``network.safetensors``.

    Args:
        recipe: what to train.
        experiment: physics; on the canonical grid.
        folder: of the results; made if missing.
        seed: of the run; same seed, same network (bit for bit on one CPU type and thread count).
        device: where to train.
        max_minutes: stop, resumable, after this long in this call.
        fast: autocast to bfloat16, and compile the network on CUDA.
        checkpoint_minutes: time between checkpoints.
        data: intensities to train on instead of simulations, on the canonical grid. Those of log images
            contain noise and need a recipe without background.
        held_out: intensities to validate on instead of fresh simulations.
        start: weights of the same architecture to start from, instead of random ones.
        progress: called with the finished share of the steps.
        report: called with the step, the running loss and the averaged network; may raise to stop.
        search: the cost of finding the recipe, for the card.

    Raises:
        InputError: the experiment is not on the canonical grid, or the recipe leaves its material out; radii
            that the network cannot express; the folder's checkpoint belongs to another run, the line names
            what differs.
        DivergedError: loss, gradient or weights became infinite or NaN (the last good checkpoint is kept).
    """
    require_canonical(experiment)
    folder, device = Path(folder), torch.device(device)
    identity = {
        "recipe": recipe.to_dict(),
        "experiment": experiment.to_dict(),
        "seed": seed,
        "fast": fast,
        "start": None if start is None else start.digest,
        "data": None if data is None else data_digest(data),
        "held_out": None if held_out is None else data_digest(held_out),
    }
    run = _Run(recipe, seed, device, identity, start)
    _check_trainable(recipe, experiment, run.network, data)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        run.load(checkpoint)
    stream = TrainingStream(recipe, experiment, seed, device, data)
    batches = validation_batches(recipe, experiment, seed, device, held_out)
    loss_of = LOSSES[recipe.loss]
    forward = torch.compile(run.network) if fast and device.type == "cuda" else run.network

    def diverged(problem: str) -> DivergedError:
        kept = f"; {checkpoint} holds the last good state" if checkpoint.exists() else ""
        return DivergedError(f"{problem} at step {run.step}{kept}")

    watch, last_saved, running_loss = Stopwatch(device), 0.0, 0.0
    seconds_before, cores_before = run.seconds, run.core_seconds
    while not run.schedule.finished(run.step):
        inputs, quaternion, radius_nm = stream.batch(run.step)
        settling = run.schedule.settling(run.step)
        run.network.train(not settling)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=fast and not settling):
            output = forward(inputs)
        loss = loss_of(output, run.network.layout, quaternion, radius_nm)
        run.network.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(run.network.parameters(), LARGEST_GRADIENT)
        # Read together: every reading waits for the device.
        loss_value, norm_value = torch.stack((loss.detach(), norm)).tolist()
        for what, value in (("loss", loss_value), ("gradient", norm_value)):
            if not math.isfinite(value):
                raise diverged(f"the {what} became {value}")
        learning_rate = run.schedule.learning_rate(run.step)
        run.apply_gradients(learning_rate, recipe.average)
        running_loss = 0.98 * running_loss + 0.02 * loss_value if running_loss else loss_value
        progress(run.step / recipe.steps)
        report(run.step, running_loss, run.average)
        run.schedule.observe(run.step, lambda: mean_loss(run.average, recipe.loss, batches))

        now, cores = watch.read()
        run.seconds, run.core_seconds = seconds_before + now, cores_before + cores
        late = max_minutes is not None and now > 60 * max_minutes
        finished = run.schedule.finished(run.step)
        if not (finished or late or now - last_saved > 60 * checkpoint_minutes):
            continue
        if (name := run.not_finite()) is not None:
            raise diverged(f"{name} became infinite or NaN")
        errors = prediction_errors(run.average, batches)
        run.save(checkpoint)
        row = {
            "step": run.step,
            "loss": running_loss,
            "learning_rate": learning_rate,
            "seconds": round(run.seconds, 1),
            "images": run.step * recipe.batch,
            "disorientation_median_deg": float(errors.angle_deg.median()),
            "disorientation_90_deg": float(errors.angle_deg.quantile(0.9)),
            "radius_median_nm": float(errors.radius_nm.median()),
        }
        with (folder / "training.csv").open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if not file.tell():
                writer.writeheader()
            writer.writerow(row)
        last_saved = now
        if late:
            break

    network, finished = run.average, run.schedule.finished(run.step)
    simulations = recipe.pool or run.step * recipe.batch // recipe.variants
    if data is not None:
        simulations = len(data)
    factors, steps_of = {"radius": 1.0, "orientation": 1.0}, {"spread": 0, "posterior": 0}
    if finished and isinstance(network, CompactNetwork):
        for head, share in (("spread", recipe.spread_share), ("posterior", recipe.posterior_share)):
            steps = round(share * run.step)
            steps_of[head] = steps if steps * recipe.batch >= LEAST_IMAGES else 0
        if steps := steps_of["spread"]:
            fit_spreads(network, spread_batches(recipe, experiment, seed, device, steps, held_out), seed)
        if steps := steps_of["posterior"]:
            fresh = spread_batches(recipe, experiment, seed, device, steps, held_out, POSTERIOR_STEP)
            fit_posterior(network, fresh, recipe.radius_nm, seed)
    if not steps_of["spread"]:
        factors = spread_factors(prediction_errors(network, batches))
    if head_steps := sum(steps_of.values()):
        simulations += head_steps * recipe.batch // recipe.variants if held_out is None else 0
        now, cores = watch.read()
        run.seconds, run.core_seconds = seconds_before + now, cores_before + cores
    seconds, core_seconds = run.seconds, run.core_seconds
    if start is not None:
        # The cost of the weights that it started from is part of the total.
        simulations += int(start.card.get("training_simulations", 0))
        seconds += float(start.card.get("training_seconds", 0.0))
        core_seconds += training_core_seconds(start.card)
    card = {
        "architecture": recipe.architecture,
        "network": network.options,
        "parameters": sum(values.numel() for values in network.parameters()),
        **{name: identity[name] for name in ("recipe", "experiment", "seed", "data")},
        "steps": run.step,
        "images": run.step * recipe.batch,
        "training_seconds": round(seconds, 1),
        "training_core_seconds": round(core_seconds, 1),
        "training_simulations": simulations,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "torch": torch.__version__,
        "search": search,
        **{f"{head}_images": steps * recipe.batch for head, steps in steps_of.items()},
        "spread_factors": factors,
        "started_from": None if start is None else start.card,  # its cost is in the totals above
    }
    save_network(folder / "network.safetensors", network, card)
    return TrainingResult(finished, run.step, seconds, core_seconds, simulations, network)
