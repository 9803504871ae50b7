"""What each choice in the compact network buys: short trainings that differ in one thing, at one budget.

    python reports/ablation.py [--steps 600] [--images 1000] [--workers 2] [--only NAME,...]
        [--sweep reports/sweep_dataset] [--out reports/ablation]

Every run trains for the same number of steps and is tested on the same fresh images, clean and under
the realistic chain. A run's result is one file; what exists is not computed again. Afterwards the tables
(ablation.md) and the error against the distance from the fundamental domain's boundary (boundary.png) are
drawn from the files; how much the number of training images buys is read from the stored points of
`icobench sweep --axis dataset`. These are small runs: they order the choices, they are not what the networks
can do.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from icobench.network.architectures import PERIODS_NM
from icobench.network.checkpoint import load_trained
from icobench.network.recipe import RECIPES, Recipe
from icobench.network.selection import Networks
from icobench.network.training import TrainingResult, train
from icobench.provenance import provenance
from icobench.reporting.evaluation import summarise
from icobench.reporting.figures import decade_labels, empty_figure, legend_below, styled
from icobench.reporting.sweeps import read_points
from icobench.runs.evaluation import evaluate
from icobench.runs.pool import WorkerPool
from icobench.sets.patterns import generate_patterns
from icobench.sets.test_sets import find_test_set
from icobench.simulator.compiled import prepare_kernel
from icobench.simulator.experiment import Experiment
from icobench.storage import atomic_path, write_json

TEST_SEED = 30_000
ONCE = {"blocks": [1, 1, 1], "periods_nm": []}
"""The network's trunk and radius when the base was chosen."""

PLAIN = {"harmonic": False}
CIRCLES = {"periods_nm": list(PERIODS_NM)}

CHOICES: dict[str, tuple[str, dict[str, Any], int]] = {
    "base": ("orbit target read by circular harmonics, ReLU, logarithmic loss, streamed clean images", {}, 3),
    "square": ("squared errors for logarithms", {"loss": "square"}, 3),
    "muon": ("squared errors, Muon for AdamW", {"loss": "square", "optimiser": "muon"}, 3),
    "circles": (
        "squared errors, Muon, the radius read on circles",
        {"loss": "square", "optimiser": "muon", "network": CIRCLES}, 3,
    ),
    "smaller": (
        "the same with half the multiplications, now the preset's",
        {"loss": "square", "optimiser": "muon", "network": {**CIRCLES, "blocks": [0, 0, 1]}}, 3,
    ),
    "plain head": ("orbit target, ordinary head", {"network": PLAIN}, 3),
    "quaternion": ("quaternion target, ordinary head", {"network": {**PLAIN, "target": "quaternion"}}, 3),
    "nearest": ("min-over-60 quaternion loss", {"network": {**PLAIN, "target": "nearest"}}, 1),
    "sixd": ("6D target", {"network": {**PLAIN, "target": "sixd"}}, 1),
    "tanh": ("tanh for ReLU", {"network": {"activation": "tanh"}}, 1),
    "mean square": ("mean squared error for logarithms, no spreads", {"loss": "mse"}, 1),
    "no mirror": ("one version of each image", {"variants": 1}, 1),
    "augmented": ("the eleven filters at random", {"images": "augmented"}, 1),
    "realistic": ("mostly the realistic chain", {"images": "realistic"}, 1),
    "pool": ("2,000 images again and again, not a stream", {"pool": 2_000}, 1),
    "paper": ("the published network on clean images", {"architecture": "paper", "loss": "mse"}, 1),
}  # fmt: skip
"""Name, what is meant, what differs from the base, number of seeds."""


def recipe_of(changes: dict[str, Any], steps: int) -> Recipe:
    """The 30-minute recipe for clean images, shortened, as it was when the base was chosen, and changed."""
    once = {"steps": steps, "loss": "log", "optimiser": "adamw"}
    network = {} if "architecture" in changes else {**ONCE, **changes.get("network", {})}
    return replace(RECIPES["compact"], **{**once, **changes, "network": network})


def trained_networks(recipe: Recipe, seed: int, device: torch.device) -> tuple[TrainingResult, Networks]:
    """The end of a training, and its network as it is stored."""
    prepare_kernel(device)
    with tempfile.TemporaryDirectory() as folder:
        result = train(recipe, Experiment(), Path(folder), seed, device)
        return result, Networks((load_trained(Path(folder) / "network.safetensors"),))


def run(name: str, seed: int, steps: int, images: int, path: Path, rank: int, where: str) -> None:
    """Train, test, store; for worker processes."""
    recipe = recipe_of(CHOICES[name][1], steps)
    experiment, device = Experiment(), torch.device(where)
    trained, networks = trained_networks(recipe, seed, device)
    evaluated = {
        test_set: evaluate(
            networks, generate_patterns(find_test_set(test_set).options(images), experiment, TEST_SEED)
        )
        for test_set in ("clean", "realistic")
    }
    clean = evaluated["clean"].table
    document = {
        **provenance(seed, device, experiment),
        "command": " ".join(["python", "reports/ablation.py", *sys.argv[1:]]),
        "name": name, "meaning": CHOICES[name][0], "steps": steps,
        "training_seconds": round(trained.seconds, 1),
        "training_core_seconds": round(trained.core_seconds, 1), "simulations": trained.simulations,
        "recipe": recipe.to_dict(),
        "results": {test_set: summarise(result) for test_set, result in evaluated.items()},
        "boundary_distance_deg": [round(x, 2) for x in clean["boundary_distance_deg"]],
        "disorientation_deg": [round(x, 3) for x in clean["disorientation_deg"]],
    }  # fmt: skip
    write_json(path.resolve(), document, indent=None)


def table(stored: dict[tuple[str, int], dict]) -> str:
    """Markdown: medians over seeds, and their range."""
    lines = [
        "| choice | meaning | seeds | clean: deg | 99 % | nm | realistic: deg | nm | minutes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (meaning, _, _) in CHOICES.items():
        runs = [document for (other, _), document in stored.items() if other == name]
        if not runs:
            continue

        def cell(test_set: str, column: str, key: str, runs: list[dict] = runs) -> str:
            values = sorted(document["results"][test_set][column][key] for document in runs)
            spread = f" ({values[0]:.3g} to {values[-1]:.3g})" if len(values) > 1 else ""
            return f"{np.median(values):.3g}{spread}"

        cells = [
            name, meaning, str(len(runs)), cell("clean", "disorientation_deg", "median"),
            cell("clean", "disorientation_deg", "99"), cell("clean", "radius_error_nm", "median"),
            cell("realistic", "disorientation_deg", "median"), cell("realistic", "radius_error_nm", "median"),
            f"{np.median([document['training_seconds'] for document in runs]) / 60:.1f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def dataset_table(folder: Path) -> str:
    """Markdown: the network's errors against the number of images that it was trained with."""
    described, points = json.loads((folder / "sweep.json").read_text()), read_points(folder)
    recipe = described["identity"]["recipe"]
    lines = [
        f"From `{described['command']}`: {recipe['steps']} steps of {recipe['batch']} images, "
        f"{described['identity']['images']} {described['identity']['test_set']} test images.\n",
        "| training images | seeds | deg | 99 % | nm |",
        "|---|---|---|---|---|",
    ]
    for size, answers in points.groupby("point"):
        seeds = answers.groupby("repetition")

        def cell(column: str, part: float, seeds: Any = seeds) -> str:
            values = seeds[column].quantile(part)
            return f"{values.median():.3g} ({values.min():.3g} to {values.max():.3g})"

        cells = [
            f"{size:,}", str(len(seeds)), cell("disorientation_deg", 0.5), cell("disorientation_deg", 0.99),
            cell("radius_error_nm", 0.5),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@styled()
def boundary_figure(stored: dict[tuple[str, int], dict], path: Path) -> None:
    """Median error against distance from the boundary for the four targets, same trunk and budget."""
    import seaborn

    labels = {"plain head": "orbit", "quaternion": "quaternion", "nearest": "min over 60", "sixd": "6D"}
    names = {"distance": "boundary_distance_deg", "error": "disorientation_deg"}
    frames = [
        pd.DataFrame({"target": labels[name], **{key: document[column] for key, column in names.items()}})
        for (name, _), document in sorted(stored.items())
        if name in labels
    ]
    figure = empty_figure(6, 4)
    axes = figure.subplots()
    if frames:
        table = pd.concat(frames, ignore_index=True)
        edges = np.array([0, 1, 2, 4, 7, 11, 16, 36])
        table["distance"] = pd.cut(table["distance"], edges, right=False, labels=(edges[1:] + edges[:-1]) / 2)
        table["distance"] = table["distance"].astype(float)
        seaborn.lineplot(
            table, x="distance", y="error", hue="target", style="target", hue_order=labels.values(),
            style_order=labels.values(), estimator="median", errorbar=None, markers=True, dashes=False,
            palette="colorblind", ax=axes,
        )  # fmt: skip
        legend_below(figure, columns=4)
    axes.set(
        xlabel="distance from the fundamental domain's boundary (deg)", ylabel="median disorientation (deg)",
        yscale="log",
    )  # fmt: skip
    decade_labels(axes.yaxis)
    with atomic_path(path.resolve()) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread")
    parser.add_argument("--only", help="comma-separated names")
    parser.add_argument("--sweep", type=Path, default=Path("reports/sweep_dataset"))
    parser.add_argument("--out", type=Path, default=Path("reports/ablation"))
    arguments = parser.parse_args()
    chosen = arguments.only.split(",") if arguments.only else list(CHOICES)
    if unknown := set(chosen) - set(CHOICES):
        parser.error(f"unknown choice {', '.join(sorted(unknown))}; choose from {', '.join(CHOICES)}")
    arguments.out.mkdir(parents=True, exist_ok=True)

    def path_of(name: str, seed: int) -> Path:
        return arguments.out / f"{name.replace(' ', '-')}-steps{arguments.steps}-seed{seed}.json"

    # The longest first, then every choice once before any a second time.
    every = ((name, seed) for name in chosen for seed in range(CHOICES[name][2]))
    order = sorted(every, key=lambda job: (job[0] != "paper", job[1]))
    missing = [
        (name, seed, arguments.steps, arguments.images, path_of(name, seed))
        for name, seed in order
        if not path_of(name, seed).exists()
    ]
    with WorkerPool(min(arguments.workers, max(1, len(missing))), torch.device("cpu")) as pool:
        for job, _ in pool.run(run, missing):
            print(f"{job[0]}, seed {job[1]}", flush=True)
    stored = {
        (name, seed): json.loads(path_of(name, seed).read_text())
        for name in CHOICES
        for seed in range(CHOICES[name][2])
        if path_of(name, seed).exists()
    }
    head = f"{arguments.steps} steps of 32 images each, {arguments.images} test images"
    text = f"# What each choice buys\n\nSmall runs: {head}, medians over seeds (range).\n\n{table(stored)}\n"
    if arguments.sweep.is_dir():
        text += f"\n## The number of training images\n\n{dataset_table(arguments.sweep)}\n"
    with atomic_path((arguments.out / "ablation.md").resolve()) as temporary:
        temporary.write_text(text)
    boundary_figure(stored, arguments.out / "boundary.png")
    print(text)


if __name__ == "__main__":
    main()
