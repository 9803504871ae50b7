"""What one GPU does: whether it is right, how fast it is, and how many kernels each call launches.

    python reports/gpu.py [--out FILE.json] [--device cuda] [--small] [--only NAME,...] [--minutes 4.7]
    python reports/gpu.py --page                  # gpu.md from what is stored
    python reports/gpu.py --device cpu --small    # tries all of it on a CPU in about a minute

Correctness comes first. Every part has a limit of seconds; one that fails, or takes longer, is stored as
failed, and the others go on. The file is written after each part. Times are medians of several calls after a
first one, with the device idle at both ends; launches are the kernels and copies of one call, counted by
torch's profiler on a GPU and as dispatched operators on a CPU.

Needs torch, numpy, scipy, pandas, h5py and safetensors beside icobench's source tree, which need not be
installed.
"""

import argparse
import json
import math
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
for folder in (HERE.parent, HERE):  # from a tree that is not installed, and from any folder
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.common import launches  # noqa: E402
from icobench.fitting.least_squares import levenberg_marquardt  # noqa: E402
from icobench.fitting.objectives import objective_for  # noqa: E402
from icobench.geometry.orientation import disorientation  # noqa: E402
from icobench.geometry.rotations import quaternion_multiply, rotation_vector_to_quaternion  # noqa: E402
from icobench.images.augment import FILTERS, augment  # noqa: E402
from icobench.images.image_set import ImageSet  # noqa: E402
from icobench.images.pixels import log_image, photon_counts, usable_pixels  # noqa: E402
from icobench.methods.base import Problem  # noqa: E402
from icobench.methods.registry import METHODS  # noqa: E402
from icobench.network.recipe import RECIPES  # noqa: E402
from icobench.network.selection import Networks, load_network, predict  # noqa: E402
from icobench.network.stream import TrainingStream  # noqa: E402
from icobench.provenance import provenance, short_commit  # noqa: E402
from icobench.sets.generation import PRESETS, SetGeneration  # noqa: E402
from icobench.sets.patterns import generate_patterns  # noqa: E402
from icobench.simulator.compiled import prepare_kernel  # noqa: E402
from icobench.simulator.experiment import Experiment  # noqa: E402
from icobench.simulator.simulator import Simulator  # noqa: E402
from icobench.simulator.speed import bodies  # noqa: E402
from icobench.storage import atomic_path, write_json  # noqa: E402

SEED = 20_200_827
CLOSED_FORM = HERE.parent / "tests" / "data" / "closed_form.npz"

FIELD_ERROR = {"float32": 5e-5, "float64": 1e-9}
"""Relative L2 error of a field that is allowed, as in the tests."""

STEP = 1e-5
"""Radians and nanometres of a central difference in float64."""

NEAR = 0.01
"""Degrees and nanometres that two devices' answers of a network may be apart, but for one image in a hundred:
where two hypotheses have the same score, round-off chooses."""

START_DEG, START_NM = 2.0, 1.0
"""Of the fits whose ends are compared: away from the truth."""

PHOTONS, HOLE_DEGREES = 1e5, 3.0

REPEATS = 7
"""Calls that are timed, at least."""


class OutOfTimeError(Exception):
    """A part took longer than it may."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise OutOfTimeError in the block once it has taken so long."""

    def stop(*_: object) -> None:
        raise OutOfTimeError(f"stopped after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Bench:
    """The device under test, what is measured with, and what parts share.

    Attributes:
        small: few images and few repeats, to try the script out.
    """

    device: torch.device
    small: bool
    experiment: Experiment = field(default_factory=Experiment)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def few(self, usual: int, small: int) -> int:
        """A number of images or repeats."""
        return small if self.small else usual

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    @cached_property
    def simulator(self) -> Simulator:
        """The exact one, in float32, with its tables for all radii."""
        prepare_kernel(self.device)
        made = Simulator(self.experiment, device=self.device)
        radius = torch.arange(28.0, 166.0, 2.0)
        made.intensity(radius, torch.tensor([1.0, 0, 0, 0]).expand(len(radius), 4))
        return made

    @cached_property
    def networks(self) -> Networks:
        return load_network(device=self.device)

    @cached_property
    def mask(self) -> Tensor:
        return usable_pixels(self.experiment, HOLE_DEGREES).to(self.device)

    def counts(self, images: int, seed: int = SEED) -> ImageSet:
        """Photon counts with a hole, on the device."""
        radius, quaternion = bodies(images, seed)
        intensity = torch.cat(
            [
                self.simulator.intensity(radii.to(self.device), turns.to(self.device))
                for radii, turns in zip(radius.split(4096), quaternion.split(4096), strict=True)
            ]
        )
        generator = torch.Generator(self.device).manual_seed(seed)
        counts = photon_counts(intensity, self.mask, PHOTONS, generator)
        mask = self.mask.expand(counts.shape).contiguous()
        return ImageSet(counts, mask, "counts", self.experiment, radius, quaternion)

    def shown(self, images: int) -> Tensor:
        """Clean log images (N, 128, 128) on the device."""
        radius, quaternion = bodies(images, SEED)
        return log_image(self.simulator.intensity(radius.to(self.device), quaternion.to(self.device)))

    def seconds(self, call: Callable[[], Any], most: float = 3.0) -> dict[str, float]:
        """Median, least and largest seconds of a call; no further one after ``most`` seconds."""
        call()
        self.wait()
        times: list[float] = []
        repeats = self.few(REPEATS, 2)
        while len(times) < repeats and (not times or sum(times) < most):
            begin = time.perf_counter()
            call()
            self.wait()
            times.append(time.perf_counter() - begin)
        return {"seconds": float(np.median(times)), "least": min(times), "most": max(times)}

    def launches(self, call: Callable[[], Any]) -> int:
        """Kernels and copies on a GPU, dispatched operators on a CPU."""
        if not self.on_gpu:
            return launches(call)
        from torch.profiler import ProfilerActivity, profile

        call()
        self.wait()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            call()
            self.wait()
        kinds = (event.device_type for event in profiler.events())
        return sum(kind == torch.autograd.DeviceType.CUDA for kind in kinds)

    def rate(self, call: Callable[[], Any], images: int, most: float = 3.0) -> dict[str, float]:
        """Seconds of a call, images a second and launches."""
        times = self.seconds(call, most)
        return {
            "images": images, **times, "per_second": images / times["seconds"],
            "launches": self.launches(call),
        }  # fmt: skip


def _largest(values: Any) -> float:
    return float(torch.as_tensor(values).double().max())


def _relative(found: Tensor, expected: Tensor) -> float:
    """Largest relative L2 distance of an image."""
    found, expected = found.cpu().flatten(1), expected.cpu().flatten(1)
    return _largest((found - expected).norm(dim=1) / expected.norm(dim=1))


def ready(bench: Bench) -> dict[str, Any]:
    """Kernels compiled, tables made and weights read, which no later part should wait for."""
    predict(bench.networks, bench.counts(8))
    return {"networks": [member.digest for member in bench.networks.members]}


# Right or wrong. Each returns figures, of which ``right`` says whether they are as they must be.


def check_field(bench: Bench) -> dict[str, Any]:
    """Fields against the stored closed forms, and against the CPU."""
    stored = np.load(CLOSED_FORM)
    out: dict[str, Any] = {}
    for name, allowed in FIELD_ERROR.items():
        dtype = getattr(torch, name)
        errors = []
        for place, index in enumerate(stored["refractive_index"]):
            experiment = replace(bench.experiment, refractive_index=complex(index))
            simulator = Simulator(experiment, device=bench.device, dtype=dtype)
            radius = torch.tensor(stored["radius_nm"][place : place + 1])
            found = simulator.field(radius, torch.tensor(stored["quaternion"][place : place + 1])).cpu()
            valid = experiment.valid()
            errors.append(_relative(found[:, valid], torch.tensor(stored["field"][place])[None, valid]))
        radius, quaternion = bodies(bench.few(64, 4), 1)
        here = Simulator(bench.experiment, device=bench.device, dtype=dtype).field(
            radius.to(bench.device), quaternion.to(bench.device)
        )
        apart = _relative(here, Simulator(bench.experiment, dtype=dtype).field(radius, quaternion))
        out[name] = {"closed_form": max(errors), "cpu": apart}
        out["right"] = out.get("right", True) and max(*errors, apart) < allowed
    return out


def check_derivatives(bench: Bench) -> dict[str, Any]:
    """Against central differences in float64, and those of float32 against float64."""
    precise = Simulator(bench.experiment, device=bench.device, dtype=torch.float64)
    radius, quaternion = (part.to(bench.device) for part in bodies(bench.few(64, 3), 2))
    _, slopes = precise.intensity_jacobian(radius, quaternion)
    rough = Simulator(bench.experiment, device=bench.device).intensity_jacobian(radius, quaternion)[1]
    out: dict[str, Any] = {"right": True}
    for number, name in enumerate(("x", "y", "z", "radius")):
        turn = torch.zeros(1, 3, dtype=torch.float64, device=bench.device)
        grow = STEP if name == "radius" else 0.0
        if name != "radius":
            turn[0, number] = STEP
        ahead, behind = (
            precise.intensity(
                radius + sign * grow,
                quaternion_multiply(rotation_vector_to_quaternion(sign * turn), quaternion),
            )
            for sign in (1.0, -1.0)
        )
        apart = _relative((ahead - behind) / (2 * STEP), slopes[:, number])
        gaps = (rough[:, number].double() - slopes[:, number]).flatten(1).norm(dim=1)
        gaps = gaps / slopes[:, number].flatten(1).norm(dim=1)
        out[name] = {
            "differences": apart, "float32_median": float(gaps.median()),
            "float32_largest": float(gaps.max()),
        }  # fmt: skip
        # Terms of facets that stand nearly edge-on cancel in single precision: a few bodies are worse.
        out["right"] &= apart < 1e-5 and float(gaps.median()) < 1e-3 and float(gaps.max()) < 0.1
    return out


def _answers_apart(bench: Bench, images: ImageSet) -> dict[str, Any]:
    """Largest differences between the networks' answers here and on the CPU.

    The fourth call replays what was recorded, where the images are few.
    """
    for _ in range(4):
        here = predict(bench.networks, images)
    there = predict(load_network(), replace(images, images=images.images.cpu(), mask=images.mask.cpu()))
    both = [left == right for left, right in zip(here.status, there.status, strict=True)]
    assert here.hypotheses is not None and there.hypotheses is not None
    angle = disorientation(here.quaternion, there.quaternion)
    distance = (here.radius_nm - there.radius_nm).abs()
    return {
        "near": float(((angle < NEAR) & (distance < NEAR)).double().mean()),
        "degrees": _largest(angle),
        "nm": _largest(distance),
        "error_bars": _largest((here.orientation_std_deg / there.orientation_std_deg - 1).abs()),
        "scores": _largest((here.hypotheses.score - there.hypotheses.score).abs()),
        "same_status": sum(both) / len(both),
    }


def check_network(bench: Bench) -> dict[str, Any]:
    """The networks' answers here against those on the CPU: counts, log images clean and filtered."""
    count = bench.few(256, 16)
    counts, shown = bench.counts(count), bench.shown(count)
    filtered, usable, _ = augment(shown * bench.mask, "realistic", SEED, mask=bench.mask.expand(shown.shape))
    valid = bench.experiment.valid().to(bench.device).expand(shown.shape)
    sets = {
        "counts": counts,
        "clean": ImageSet(shown, valid, "log", bench.experiment),
        "realistic": ImageSet(filtered, usable, "log", bench.experiment),
        "intensity": replace(counts, kind="intensity"),
        "few counts": counts.subset(torch.arange(bench.few(100, 3))),
        "one of counts": counts.subset(torch.arange(1)),
    }
    out: dict[str, Any] = {name: _answers_apart(bench, images) for name, images in sets.items()}
    near = [min(row["near"], row["same_status"]) > 0.99 for row in out.values()]
    return out | {"right": all(near)}


def check_filters(bench: Bench) -> dict[str, Any]:
    """Each filter here against the CPU: share of pixels that differ by more than 1e-4, and of the masks."""
    shown = bench.shown(bench.few(64, 4))
    out: dict[str, Any] = {"right": True}
    for name in (*FILTERS, "random"):
        here, there = augment(shown, name, SEED), augment(shown.cpu(), name, SEED)
        apart = (here.images.cpu() - there.images).abs() > 1e-4
        masks = here.mask.cpu() != there.mask
        out[name] = {"pixels": float(apart.float().mean()), "mask": float(masks.float().mean())}
        out["right"] &= max(out[name].values()) < 1e-4
    return out


def check_fits(bench: Bench) -> dict[str, Any]:
    """Where Levenberg-Marquardt ends here and on the CPU, from the same starts on the same images."""
    count = bench.few(20, 3)
    radius, quaternion = bodies(count, 4)
    generator = torch.Generator().manual_seed(4)
    turn = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    turn = torch.nn.functional.normalize(turn, dim=1)
    start = quaternion_multiply(rotation_vector_to_quaternion(math.radians(START_DEG) * turn), quaternion)
    images = Simulator(bench.experiment, dtype=torch.float64).intensity(radius, quaternion).float()
    mask = bench.experiment.valid().expand(images.shape)
    ends = []
    for device in (bench.device, torch.device("cpu")):
        simulator = Simulator(bench.experiment, device=device)
        objective = objective_for(ImageSet(images, mask, "intensity", bench.experiment), simulator)
        ends.append(levenberg_marquardt(objective, radius + START_NM, start))
    here, there = ends
    turns = here.quaternion.double().cpu(), there.quaternion.double()
    out = {
        "images": count,
        "apart_degrees": _largest(disorientation(*turns)),
        "apart_nm": _largest((here.radius_nm.cpu() - there.radius_nm).abs()),
        "error_degrees": _largest(disorientation(turns[0], quaternion)),
    }
    return out | {"right": out["apart_degrees"] < 1e-3 and out["apart_nm"] < 1e-3}


# How fast.


def field_speed(bench: Bench, batch: int) -> dict[str, Any]:
    radius, quaternion = (table.to(bench.device) for table in bodies(batch))
    return bench.rate(lambda: bench.simulator.intensity(radius, quaternion), batch)


def one_by_one(bench: Bench) -> dict[str, Any]:
    """Images of one body each, one call after the other without a wait between them."""
    count = bench.few(200, 3)
    tables = [table.to(bench.device) for table in bodies(count)]
    pairs = [(tables[0][row : row + 1], tables[1][row : row + 1]) for row in range(count)]

    def call() -> None:
        for radius, quaternion in pairs:
            bench.simulator.field(radius, quaternion)

    return bench.rate(call, count)


def jacobian_speed(bench: Bench, batch: int) -> dict[str, Any]:
    radius, quaternion = (table.to(bench.device) for table in bodies(batch))
    return bench.rate(lambda: bench.simulator.intensity_jacobian(radius, quaternion), batch)


def network_speed(bench: Bench, batch: int, on_host: bool = False) -> dict[str, Any]:
    """Photon counts that lie on the device, or in ordinary memory of the host."""
    images = bench.counts(batch)
    if on_host:
        images = replace(images, images=images.images.cpu(), mask=images.mask.cpu())
    return bench.rate(lambda: predict(bench.networks, images), batch)


def filter_speed(bench: Bench, batch: int) -> dict[str, Any]:
    shown = bench.shown(batch)
    return bench.rate(lambda: augment(shown, "random", SEED), batch)


def method_speed(bench: Bench, name: str, images: int, **options: Any) -> dict[str, Any]:
    """A method on photon counts in one call, the second one timed; errors show that it did its work."""
    shown = bench.counts(images)
    problem = Problem(shown, bench.simulator, bench.networks, SEED)
    method = METHODS[name].with_options(**options)
    few = shown.subset(torch.arange(min(images, 64)))
    method.run(replace(problem, images=few))
    bench.wait()
    begin = time.perf_counter()
    answer = method.run(problem)
    bench.wait()
    seconds = time.perf_counter() - begin
    angle = disorientation(answer.quaternion.double().cpu(), shown.quaternion)
    return {
        "images": images, "seconds": seconds, "per_second": images / seconds,
        "per_minute": 60 * images / seconds, "median_degrees": float(angle.median()),
        "within_1_degree": float((angle < 1).double().mean()),
        "median_nm": float((answer.radius_nm.double().cpu() - shown.radius_nm).abs().median()),
    }  # fmt: skip


def training_speed(bench: Bench, name: str, **changes: Any) -> dict[str, Any]:
    """Steps of a recipe's images, simulated and degraded, in blocks that are simulated ahead."""
    batch, steps = bench.few(512, 16), bench.few(128, 4)
    recipe = replace(RECIPES[name], batch=batch, pool=None, steps=10**6, **changes)
    stream = TrainingStream(recipe, bench.experiment, SEED, bench.device)
    number = 0

    def block() -> None:
        nonlocal number
        for _ in range(steps):
            stream.batch(number)
            number += 1

    stream.batch(0)
    number, stream.last_step, stream.until = 1, 0, 1 + steps  # blocks begin where images are simulated ahead
    begin = time.perf_counter()
    block()
    bench.wait()
    seconds = time.perf_counter() - begin
    return {
        "recipe": name,
        "bodies": batch * steps // recipe.variants,
        "images": batch * steps,
        "seconds": seconds,
        "per_second": batch * steps / seconds,
    }


def paper_set(bench: Bench, filtered: bool, in_file: bool) -> dict[str, Any]:
    """The published set, with one filter for each image or of 8 bits: in memory, or as a compressed file."""
    options = replace(PRESETS["paper"], augmentation="random" if filtered else "")
    if bench.small:
        options = replace(options, images=64, splits=())
    generate_patterns(replace(options, images=64, splits=()), bench.experiment, 1, bench.device)
    begin = time.perf_counter()
    if in_file:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "set.h5"
            SetGeneration(path, options, bench.experiment, SEED, device=str(bench.device)).run()
            size = path.stat().st_size
    else:
        made = generate_patterns(options, bench.experiment, SEED, bench.device)
        size = made.images.nbytes
    seconds = time.perf_counter() - begin
    return {
        "images": options.images, "seconds": seconds, "per_second": options.images / seconds, "bytes": size
    }  # fmt: skip


class Target:
    """A figure that is wanted: of a part's result, at least or at most so much."""

    def __init__(self, words: str, part: str, key: str, least: float = -math.inf, most: float = math.inf):
        self.words, self.part, self.key, self.least, self.most = words, part, key, least, most

    @property
    def wanted(self) -> str:
        return f">= {self.least:,.6g}" if math.isfinite(self.least) else f"<= {self.most:,.6g}"

    def met(self, value: float) -> bool:
        return self.least <= value <= self.most


TARGETS = (
    Target("field, batch 4,096, a second", "field 4096", "per_second", 150_000),
    Target("field, one by one, a second", "field one by one", "per_second", 1_000),
    Target("Jacobians, batch 512, a second", "jacobian 512", "per_second", 30_000),
    Target("network, 16,384 counts, images a second", "network 16384", "per_second", 30_000),
    Target("network, one image, s", "network 1", "seconds", most=0.002),
    Target("`network+lm`, images a second", "network+lm", "per_second", 3_520),
    Target("simplex 50 x 50, images a minute", "simplex", "per_minute", 600),
    Target("training images, simulated and filtered, a second", "training filtered", "per_second", 20_000),
    Target("the paper's set, in memory, s", "paper set", "seconds", most=5),
    Target("launches, field of 64", "field 64", "launches", most=120),
    Target("launches, Jacobian of 512", "jacobian 512", "launches", most=300),
    Target("launches, `random` on 256", "filters 256", "launches", most=400),
    Target("launches, network on 1,024 counts", "network 1024", "launches", most=400),
)


def parts(bench: Bench) -> dict[str, tuple[float, Callable[[], dict[str, Any]]]]:
    """Seconds that each part may take, and the part, in order."""
    few = bench.few
    batches = (1, 8, 64, 512, 4096) if not bench.small else (1, 8)
    network = (1, 64, 1024, 16_384) if not bench.small else (1, 8)
    filters = (256, 4096) if not bench.small else (16,)
    checks = (check_field, check_derivatives, check_network, check_filters, check_fits)
    described: dict[str, tuple[float, Callable[[], dict[str, Any]]]] = {"ready": (90, partial(ready, bench))}
    described |= {check.__name__.replace("_", " "): (40, partial(check, bench)) for check in checks}
    described |= {f"field {batch}": (15, partial(field_speed, bench, batch)) for batch in batches}
    described["field one by one"] = (15, partial(one_by_one, bench))
    described |= {f"jacobian {batch}": (15, partial(jacobian_speed, bench, batch)) for batch in batches}
    described |= {f"network {batch}": (15, partial(network_speed, bench, batch)) for batch in network}
    described |= {
        **{
            f"network {batch} from the host": (15, partial(network_speed, bench, batch, True))
            for batch in (1, network[-1])
        },
        **{f"filters {batch}": (10, partial(filter_speed, bench, batch)) for batch in filters},
        "network+lm": (40, partial(method_speed, bench, "network+lm", few(4096, 4))),
        "simplex": (
            45, partial(method_speed, bench, "simplex", few(100, 1), **({"starts": 5} if bench.small else {}))
        ),
        "training filtered": (
            20, partial(training_speed, bench, "compact-realistic", images="augmented", variants=1)
        ),
        "training realistic": (20, partial(training_speed, bench, "compact-realistic")),
        "training counts": (20, partial(training_speed, bench, "compact-counts")),
        "paper set": (30, partial(paper_set, bench, True, False)),
        "paper set in a file, 8 bits": (40, partial(paper_set, bench, False, True)),
        "paper set in a file": (40, partial(paper_set, bench, True, True)),
    }  # fmt: skip
    return described


def measure(bench: Bench, out: Path, only: list[str], minutes: float) -> bool:
    """Run the parts and store each; whether none failed."""
    begin, fine = time.perf_counter(), True
    origin = provenance(SEED, bench.device, bench.experiment)
    origin["command"] = " ".join(["python", *sys.argv])
    stored: dict[str, Any] = {"origin": origin, "scale": "small" if bench.small else "full", "parts": {}}
    for name, (limit, compute) in parts(bench).items():
        if only and not any(name.startswith(word) for word in only):
            continue
        left = 60 * minutes - (time.perf_counter() - begin)
        start, state = time.perf_counter(), "done"
        try:
            if left < 1:
                raise OutOfTimeError("no time was left")
            with at_most(min(limit, left)):
                result = compute()
            if not result.get("right", True):
                state = "wrong"
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0]
            state, result = "failed", {"error": f"{type(error).__name__}: {first}"}
        if bench.on_gpu:
            torch.cuda.empty_cache()
        fine &= state == "done"
        took = round(time.perf_counter() - start, 2)
        stored["parts"][name] = {"state": state, "took": took, "result": result}
        write_json(out, stored)
        print(f"{name}: {state}, {took} s, {json.dumps(result)}", flush=True)
    print(f"{time.perf_counter() - begin:.0f} s in all")
    return fine


def _number(value: Any) -> str:
    return (
        f"{value:,.4g}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int)
        else str(value)
    )


def _flat(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key} ")
        elif key != "right":
            yield before + key, value


def page(stored: dict[str, Any]) -> str:
    """Markdown of stored results."""
    origin, done = stored["origin"], stored["parts"]
    machine = origin["machine"]
    card = machine.get("gpu", machine["processor"])
    small = " **Small scale: it shows that the script works, no more.**" if stored["scale"] == "small" else ""
    lines = [
        f"# One card: {card}", "",
        f"`{origin['command']}`, commit {short_commit(origin.get('tree', origin['commit']))}"
        f"{' (a copy of its tree)' if 'tree' in origin else ''}, {origin['created'][:10]}, torch "
        f"{origin['versions']['torch']}, {machine['cores']} CPU cores, seed {origin['seed']}.{small}", "",
        *stored.get("remarks", []), *([""] if "remarks" in stored else []),
        "| wanted | target | here | met |", "|---|---|---|---|",
    ]  # fmt: skip
    for target in TARGETS:
        value = done.get(target.part, {}).get("result", {}).get(target.key)
        if value is None:
            error = done.get(target.part, {}).get("result", {}).get("error", "not measured")
            lines.append(f"| {target.words} | {target.wanted} | {error} | - |")
        else:
            met = "-" if small else "yes" if target.met(value) else "no"
            lines.append(f"| {target.words} | {target.wanted} | {_number(value)} | {met} |")
    checks = {name: part for name, part in done.items() if name.startswith("check")}
    lines += ["", "## Right", "", "Largest differences. The limits are in `gpu.py`.", ""]
    for name, part in checks.items():
        state = "right" if part["state"] == "done" else part["state"]
        words = ", ".join(f"{key} {_number(value)}" for key, value in _flat(part["result"]))
        lines.append(f"- {name.removeprefix('check ')}: {state} ({words})")
    lines += ["", "## Fast", "", "| call | images | median s | images a second | launches | further |",
              "|---|---|---|---|---|---|"]  # fmt: skip
    columns = ("images", "seconds", "per_second", "launches")
    for name, part in done.items():
        if name in checks:
            continue
        result = part["result"]
        cells = [_number(result[key]) if key in result else "-" for key in columns]
        rest = {key: value for key, value in result.items() if key not in (*columns, "least", "most")}
        further = ", ".join(f"{key} {_number(value)}" for key, value in rest.items())
        lines.append(f"| {name} | {' | '.join(cells)} | {further} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=HERE / "gpu.json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--only", default="", help="parts whose names begin with one of these, by commas")
    parser.add_argument("--minutes", type=float, default=4.7, help="after which no part begins")
    parser.add_argument("--page", action="store_true", help="write gpu.md beside the stored results")
    arguments = parser.parse_args()
    if not arguments.page:
        only = [word for word in arguments.only.split(",") if word]
        bench = Bench(torch.device(arguments.device), arguments.small)
        return 0 if measure(bench, arguments.out, only, arguments.minutes) else 1
    text = page(json.loads(arguments.out.read_text()))
    with atomic_path(arguments.out.with_suffix(".md")) as temporary:
        temporary.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
