"""The classifier: trained on simulated images, calibrated on others, and measured on fresh seeds.

    python reports/classifier.py --train --device cuda --out classifier.safetensors --seconds 140
    python reports/classifier.py --measure      # of the shipped weights: classifier.json
    python reports/classifier.py                # the page and the figure from what is stored

`--train --measure` does both with the new weights. `--seconds` ends the training, counted from the start of
the script; calibrating and measuring follow. Results are in `classifier.json`, the page is `classifier.md`,
the figure `classifier.svg`."""

import argparse
import copy
import json
import math
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

START = time.monotonic()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from classifier_images import Batch, Images, bodies  # noqa: E402
from stored import text_table  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from icobench.network.architectures import single_precision  # noqa: E402
from icobench.network.checkpoint import save_network  # noqa: E402
from icobench.network.classifier import (  # noqa: E402
    ARCHITECTURE,
    FEWEST_PHOTONS,
    LABELS,
    SHIPPED,
    Classifier,
    ClassifierNetwork,
    Labels,
    label_images,
    load_classifier,
)
from icobench.provenance import provenance, short_commit  # noqa: E402
from icobench.reporting.figures import empty_figure, styled, svg  # noqa: E402
from icobench.seeds import Purpose, seed_word  # noqa: E402
from icobench.sets.patterns import generate_patterns  # noqa: E402
from icobench.sets.test_sets import TEST_SETS  # noqa: E402
from icobench.simulator.experiment import Experiment  # noqa: E402
from icobench.stopwatch import Stopwatch  # noqa: E402
from icobench.storage import atomic_path, write_json  # noqa: E402

HERE = Path(__file__).resolve().parent


class Scale(NamedTuple):
    """How much is simulated.

    Attributes:
        pool: bodies for training.
        each: images of each label and kind in a batch.
        steps: of training.
        calibration: bodies, and batches, for the calibration.
        test: the same for each seed of the measurement.
        set_images: of each of the package's test sets.
    """

    pool: int
    each: int
    steps: int
    calibration: tuple[int, int]
    test: tuple[int, int]
    set_images: int


SCALES = {
    "cuda": Scale(60_000, 64, 6_000, (12_000, 60), (3_000, 25), 200),
    "cpu": Scale(1_200, 16, 900, (450, 40), (240, 8), 50),
    "trial": Scale(48, 4, 6, (24, 2), (12, 1), 2),
}
LEARNING_RATE, WEIGHT_DECAY, WARM, AVERAGE = 2e-3, 2e-2, 0.05, 0.998
NORM_BATCHES = 40
"""With which the batch norms of the averaged network get their statistics."""

CALIBRATION_SEED, TEST_SEEDS = 1000, (11, 12, 13, 14, 15)

OF_TRAINING = ("images", "training_simulations", "training_seconds", "seed", "origin")

BINS = 15
KINDS = ("counts", "log images")
PHOTONS = (1e3, 1e4, 1e5, 1e6, 1e7)
SETS = ("counting", "experiment", "propagated", "mcp", "realistic")
CPU = torch.device("cpu")
TARGET_ECE, TARGET_MS, TARGET_PARAMETERS = 0.03, 2.0, 1_000_000


def train(seed: int, device: torch.device, scale: Scale, seconds: float, path: Path) -> None:
    """Train, calibrate, and write the weights with their card."""
    pool, each, steps = scale[:3]
    images = Images(seed, pool, device)
    say(f"simulated {pool} bodies")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_word(seed, Purpose.WEIGHTS))
        network = ClassifierNetwork().to(device).to(memory_format=torch.channels_last)
    average = copy.deepcopy(network)
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    begun, step, share, running = time.monotonic(), 0, 0.0, 0.0
    first = begun - START
    saved = False
    while share < 1:
        late = (time.monotonic() - begun) / max(1.0, seconds - first)
        share = max((step + 1) / steps, late)
        rate = min(1.0, share / WARM) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * max(rate, 1e-3)
        batch = images.batch(step, each)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = nn.functional.cross_entropy(network.raw(batch.inputs, batch.log_images), batch.label)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        step += 1
        with torch.no_grad():
            decay = min(AVERAGE, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
        if step % 50 == 0:
            running = float(loss.detach())
            if not math.isfinite(running):
                raise SystemExit(f"the loss became {running} at step {step}")
            say(f"step {step}, {share:.0%}, loss {running:.3f}")
        if share > 0.5 and not saved:  # something to keep if the machine goes
            saved = True
            settle(average, images, each)
            save(path, average, card(seed, device, step, each, pool, time.monotonic() - begun))
    settle(average, images, each)
    spent = time.monotonic() - begun
    calibrate(average, device, scale)
    save(path, average, card(seed, device, step, each, pool, spent))
    say(f"wrote {path} after {step} steps")


def say(text: str) -> None:
    print(f"{time.monotonic() - START:6.1f} s  {text}", flush=True)


def save(path: Path, network: ClassifierNetwork, description: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_network(path, network, description)


def card(seed: int, device: torch.device, steps: int, each: int, pool: int, seconds: float) -> dict[str, Any]:
    """The origin of the weights, as stored with them."""
    batch = 2 * len(LABELS) * each
    return {
        "architecture": ARCHITECTURE,
        "network": ClassifierNetwork().options,
        "labels": list(LABELS),
        "recipe": {"steps": steps, "batch": batch, "pool": pool, "learning_rate": LEARNING_RATE,
                   "bodies": [body.name for body in bodies()]},
        "experiment": Experiment().to_dict(),
        "seed": seed,
        "calibration_seed": CALIBRATION_SEED,
        "parameters": sum(values.numel() for values in ClassifierNetwork().parameters()),
        "images": steps * batch,
        "training_simulations": pool,
        "training_seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "origin": origin(seed, device),
    }  # fmt: skip


def origin(seed: int, device: torch.device) -> dict[str, Any]:
    found = provenance(seed, device, Experiment())
    words = found["command"].split()[1:]
    if "--out" in words:  # a folder of that machine
        del words[words.index("--out") : words.index("--out") + 2]
    found["command"] = " ".join(["python reports/classifier.py", *words])
    return found


@torch.no_grad()
def settle(network: ClassifierNetwork, images: Images, each: int) -> None:
    """Give the batch norms of averaged weights the statistics of these weights."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.train()
    for number in range(NORM_BATCHES if images.each > 200 else 2):
        batch = images.batch(10**6 + number, each)
        network.raw(batch.inputs, batch.log_images)
    network.eval()
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum


@torch.no_grad()
@single_precision()
def answers(network: ClassifierNetwork, seed: int, pool: int, batches: int, each: int, device: torch.device,
            raw: bool = False) -> tuple[Tensor, Batch]:  # fmt: skip
    """Logits and truths of fresh images."""
    images, logits, truths = Images(seed, pool, device), [], []
    for number in range(batches):
        batch = images.batch(number, each)
        logits.append((network.raw if raw else network)(batch.inputs, batch.log_images))
        truths.append((batch.log_images, batch.label, batch.photons))
    columns = [torch.cat(column) for column in zip(*truths, strict=True)]
    return torch.cat(logits), Batch(batch.inputs[:0], *columns)


def calibrate(network: ClassifierNetwork, device: torch.device, scale: Scale) -> None:
    """Fit a factor and five shifts of the logits for each kind of image to images not seen in training."""
    logits, truth = answers(network, CALIBRATION_SEED, *scale.calibration, scale.each, device, raw=True)
    kind, label = truth.log_images.long(), truth.label
    factor = torch.zeros(2, device=device, requires_grad=True)
    shift = torch.zeros(2, len(LABELS), device=device, requires_grad=True)
    optimiser = torch.optim.LBFGS([factor, shift], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = nn.functional.cross_entropy(logits * factor.exp()[kind, None] + shift[kind], label)
        value.backward()
        return value

    before = float(loss().detach())
    optimiser.step(loss)
    say(f"calibrated on {len(label)} images: loss {before:.4f} -> {float(loss().detach()):.4f}")
    network.scale.copy_(factor.detach().exp())
    network.shift.copy_((shift - shift.mean(1, keepdim=True)).detach())


def expected_calibration_error(probability: np.ndarray, label: np.ndarray) -> tuple[float, list[list[float]]]:
    """Mean over images of |confidence - accuracy| of their bin, 15 equal bins of the largest probability;
    and for each bin confidence, accuracy and number of images."""
    confidence, right = probability.max(1), probability.argmax(1) == label
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    rows = [
        [float(confidence[place == number].mean()), float(right[place == number].mean()),
         int((place == number).sum())]
        for number in range(BINS) if (place == number).any()
    ]  # fmt: skip
    return sum(abs(sure - true) * count for sure, true, count in rows) / len(label), rows


def precision_recall(score: np.ndarray, positive: np.ndarray) -> tuple[float, list[list[float]]]:
    """Average precision, and some 100 points (recall, precision) of the curve."""
    order = np.argsort(-score, kind="stable")
    found = np.cumsum(positive[order])
    precision, recall = found / np.arange(1, len(order) + 1), found / max(1, found[-1])
    average = float(precision[positive[order]].mean()) if positive.any() else math.nan
    at = np.unique(np.searchsorted(recall, np.linspace(0.01, 1, 100)).clip(0, len(recall) - 1))
    return average, [[round(float(recall[i]), 4), round(float(precision[i]), 4)] for i in at]


def measure(path: Path, device: torch.device, scale: Scale) -> dict[str, Any]:
    """Everything that the page says of some weights."""
    classifier = load_classifier(path, device)
    parts = []
    for fresh in TEST_SEEDS:
        logits, truth = answers(classifier.network, fresh, *scale.test, scale.each, device)
        parts.append([values.cpu().numpy() for values in
                      (logits.softmax(1), truth.log_images, truth.label, truth.photons)])  # fmt: skip
        say(f"measured seed {fresh}")
    results: dict[str, Any] = {}
    for kind, name in enumerate(KINDS):
        mine = [[column[part[1] == kind] for column in part] for part in parts]
        probability, _, label, photons = (np.concatenate(column) for column in zip(*mine, strict=True))
        error, reliability = expected_calibration_error(probability, label)
        guess = probability.argmax(1)
        table = [[int(((label == i) & (guess == j)).sum()) for j in range(len(LABELS))]
                 for i in range(len(LABELS))]  # fmt: skip
        curves = {one: precision_recall(probability[:, i], label == i) for i, one in enumerate(LABELS)}
        body = (photons >= FEWEST_PHOTONS) & (label > 0)
        results[name] = {
            "images": len(label),
            "accuracy": float((guess == label).mean()),
            "calibration_error": error,
            "calibration_error_by_seed": [expected_calibration_error(part[0], part[2])[0] for part in mine],
            "reliability": reliability,
            "confusion": table,
            "average_precision": {one: average for one, (average, _) in curves.items()},
            "curves": {one: points for one, (_, points) in curves.items()},
            "accuracy_by_photons": [
                [low, high, float((guess == label)[chosen].mean()), int(chosen.sum())]
                for low, high in pairwise(PHOTONS)
                if (chosen := body & (photons >= low) & (photons < high)).any()
            ],
        }
    return {
        "origin": origin(TEST_SEEDS[0], device), "seeds": list(TEST_SEEDS), "digest": classifier.digest,
        "parameters": classifier.card["parameters"],
        "training": {name: classifier.card[name] for name in OF_TRAINING},
        **results,
    }  # fmt: skip


def of_set(name: str, path: Path, device: torch.device, images: int) -> Labels:
    """Labels of icosahedra of a test set of the package."""
    options, experiment = TEST_SETS[name].options(images), TEST_SETS[name].believed(Experiment())
    return label_images(
        generate_patterns(options, experiment, TEST_SEEDS[0], device), load_classifier(path, device)
    )


def speed() -> dict[str, Any]:
    """Milliseconds for an image on one core, what it takes to prepare it included."""
    images = generate_patterns(TEST_SETS["experiment"].options(256), Experiment(), TEST_SEEDS[0])
    classifier = Classifier(ClassifierNetwork().eval().fold(), {}, "")
    threads, found = torch.get_num_threads(), []
    torch.set_num_threads(1)
    for _ in range(6):
        watch = Stopwatch(CPU)
        label_images(images, classifier)
        found.append([1e3 * seconds / len(images) for seconds in watch.read()])
    torch.set_num_threads(threads)
    core = np.min(found[1:], axis=0)[1].item()  # other programs only add to it
    processor = provenance(0, CPU, Experiment())["machine"]["processor"]
    return {"core_ms": core, "processor": processor}


@styled()
def draw(path: Path, values: dict[str, Any]) -> None:
    """Precision-recall curves and reliability of both kinds of images."""
    figure = empty_figure(13, 4)
    panels = figure.subplots(1, 3)
    for axes, name in zip(panels, KINDS, strict=False):
        for label, points in values[name]["curves"].items():
            recall, precision = zip(*points, strict=True)
            average = values[name]["average_precision"][label]
            axes.plot(recall, precision, label=f"{label} ({average:.3f})")
        axes.set(xlabel="recall", ylabel="precision", title=name, xlim=(0, 1.01), ylim=(0.4, 1.01))
        axes.legend(title="average precision", fontsize=8, title_fontsize=8, loc="lower left")
    for name in KINDS:
        sure, true, _ = zip(*values[name]["reliability"], strict=True)
        words = f"{name} (error {values[name]['calibration_error']:.1%})"
        panels[2].plot(sure, true, "o-", markersize=4, label=words)
    panels[2].plot((0, 1), (0, 1), color="0.6", linewidth=1)
    panels[2].set(xlabel="largest probability", ylabel="share that is right", title="reliability")
    panels[2].legend(fontsize=8)
    with atomic_path(path) as temporary:
        temporary.write_bytes(svg(figure))


def page(values: dict[str, Any]) -> str:
    """All results as Markdown."""
    training, took = values["training"], values["speed"]
    core = took["core_ms"]
    trained, made = training["origin"], values["origin"]
    on = trained["machine"].get("gpu") or "two CPU cores (**small scale**)"
    words = [
        f"{values['parameters']:,} parameters, trained on {training['images']:,} images of",
        f"{training['training_simulations']:,} simulated bodies in {training['training_seconds']:,.0f} s on",
        f"{on}, calibrated on other images, and measured here on fresh bodies, noise and detectors from",
        f"{len(values['seeds'])} further seeds. All labels are equally common. Images with fewer than",
        f"{FEWEST_PHOTONS} photons of a body are `empty`; `classifier_images.py` says how images are made.",
    ]
    parts = ["# What an image shows, before any fit", " ".join(words)]
    rows = []
    for name in KINDS:
        found = values[name]
        seeds = found["calibration_error_by_seed"]
        row = (name, f"{found['images']:,}", f"{found['accuracy']:.1%}", f"{found['calibration_error']:.1%}")
        averages = (f"{found['average_precision'][label]:.3f}" for label in LABELS)
        rows.append((*row, f"{min(seeds):.1%} to {max(seeds):.1%}", *averages))
    titles = ["images", "number", "right", "calibration error", "by seed"]
    titles += [f"average precision, {label}" for label in LABELS]
    parts += [text_table(titles, rows).strip(), "![Precision, recall, reliability](classifier.svg)"]
    worst, parameters = max(values[name]["calibration_error"] for name in KINDS), values["parameters"]
    targets = [
        ("expected calibration error, 15 bins", f"<= {TARGET_ECE:.0%}", f"{worst:.1%}", worst <= TARGET_ECE),
        ("parameters", f"<= {TARGET_PARAMETERS:,}", f"{parameters:,}", parameters <= TARGET_PARAMETERS),
        ("an image on two cores", f"<= {TARGET_MS:g} ms", f"{core:.2f} ms on one", core <= TARGET_MS),
    ]
    rows = [(*row, "yes" if met else "**no**") for *row, met in targets]
    parts.append(text_table(("target", "wanted", "measured", "met"), rows).strip())
    for name in KINDS:
        parts += [f"## Confusion, {name}", "Rows: what it is; columns: what it was called."]
        rows = [
            (label, *(f"{count:,}" for count in row), f"{row[place] / max(1, sum(row)):.1%}")
            for place, (label, row) in enumerate(zip(LABELS, values[name]["confusion"], strict=True))
        ]
        parts.append(text_table(("", *LABELS, "right"), rows).strip())
        rows = [
            (f"{low:.0e} to {high:.0e}", f"{share:.1%}", f"{count:,}")
            for low, high, share, count in values[name]["accuracy_by_photons"]
        ]
        parts.append(text_table(("photons of the bodies", "right", "images"), rows).strip())
    rows = [
        (f"`{name}`", *(str(counts[label]) for label in LABELS)) for name, counts in values["sets"].items()
    ]
    parts += [
        "## Icosahedra of the package's test sets",
        "Other code made these images: detectors and, in `propagated`, waves that training did not have.",
        text_table(("test set", *LABELS), rows).strip(),
    ]
    words = [
        f"Made by `{made['command']}`, commit {short_commit(made.get('tree', made['commit']))}, seeds",
        f"{', '.join(map(str, values['seeds']))}, on",
        f"{made['machine'].get('gpu', made['machine']['processor'])}; weights {values['digest']} by",
        f"`{trained['command']}`, commit {short_commit(trained.get('tree', trained['commit']))}, seed "
        f"{training['seed']}; time",
        f"measured on {took['processor']}.",
    ]
    return "\n\n".join([*parts, " ".join(words)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--speed", action="store_true", help="measure the time for an image again")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=SHIPPED, help="weights; classifier.json is beside others")
    parser.add_argument("--seconds", type=float, default=1e9, help="at which the training ends")
    parser.add_argument("--scale", choices=SCALES, help="the device's by default")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    scale = SCALES[arguments.scale or device.type]
    if arguments.train:
        train(arguments.seed, device, scale, arguments.seconds, arguments.out)
    results = HERE / "classifier.json"
    if arguments.measure:
        if arguments.out.resolve() != SHIPPED.resolve():
            results = arguments.out.with_name("classifier.json")
        write_json(results, found := measure(arguments.out, device, scale))
        found["sets"] = {}
        for name in SETS:
            names = of_set(name, arguments.out, device, scale.set_images).names
            found["sets"][name] = {one: names.count(one) for one in LABELS}
            say(f"labelled the test set {name}")
        write_json(results, found)
    if arguments.out.resolve() == SHIPPED.resolve() and results.is_file():
        values = json.loads(results.read_text())
        if "speed" not in values or arguments.speed:
            write_json(results, values := values | {"speed": speed()})
        draw(HERE / "classifier.svg", values)
        with atomic_path(HERE / "classifier.md") as temporary:
            temporary.write_text(page(values))


if __name__ == "__main__":
    main()
