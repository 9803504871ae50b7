"""Whether the recipe that a search came to beats the shipped one: both trained equally long, with new seeds.

    icobench tune network --preset compact --steps 300 --images 256 --trials 28 --workers 2 \\
        --space reports/tuned_network_space.toml --run reports/tune_network
    python reports/tuned_network.py --train [--seeds 3] [--images 1000] [--workers 2]
        [--run reports/tune_network]

The search's value of its best trial is the luckiest of many, and no result. Here both recipes learn from the
same images, of seeds that the search has not used, and are tested on the same images, which it has not seen.
A training is one file; what exists is not computed again, and without --train nothing is. The rest is made
from the files: found_against_shipped.json, and the text for reports/README.md.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ablation import trained_networks

from icobench.network.recipe import Recipe, read_recipe
from icobench.provenance import provenance
from icobench.reporting.statistics import Interval, paired_test
from icobench.reporting.tables import Headers, interval_text, markdown_table, number
from icobench.runs.evaluation import evaluate
from icobench.runs.pool import WorkerPool
from icobench.runs.search_tasks import JUDGED_ON
from icobench.sets.patterns import generate_patterns
from icobench.sets.test_sets import find_test_set
from icobench.simulator.experiment import Experiment
from icobench.storage import read_json, write_json

__all__ = ["compared", "tuned_text"]

FIRST_SEED = 101
"""Of the trainings; the search trains with another one."""

TEST_SEED = 50_000

NAMES = ("shipped", "tuned")
"""The recipe that a search started from, and that of its best trial."""

ERRORS = ("disorientation_deg", "radius_error_nm", "appendix_c_mean")


def recipes(folder: Path) -> tuple[Recipe, Recipe]:
    """Both recipes, in the order of :data:`NAMES`, with the search's steps and batch."""
    shipped = Recipe.from_dict(read_json(folder / "search.json")["identity"]["task"]["recipe"])
    tuned, _ = read_recipe(folder / "best.toml")
    if (tuned.steps, tuned.batch) != (shipped.steps, shipped.batch):
        raise SystemExit(f"{folder}: the search varied the batch; recipes are compared at equal steps")
    if read_json(folder / "summary.json")["front"][0]["named"] == "shipped":
        raise SystemExit(f"{folder}: no trial was better than the shipped recipe")
    return shipped, tuned


def run(name: str, recipe: Recipe, seed: int, images: int, path: Path, rank: int, where: str) -> None:
    """Train, test, store; for worker processes."""
    device, test_set = torch.device(where), find_test_set(JUDGED_ON[recipe.images])
    result, networks = trained_networks(recipe, seed, device)
    truth = generate_patterns(test_set.options(images), Experiment(), TEST_SEED)
    errors = evaluate(networks, truth).table
    options = {f"network.{option}": value for option, value in networks.cards[0]["network"].items()}
    document = {
        **provenance(seed, device, Experiment()),
        "command": " ".join(["python", "reports/tuned_network.py", *sys.argv[1:]]),
        "name": name, "test_set": test_set.name, "test_seed": TEST_SEED,
        "settings": {**recipe.to_dict(), **options, "network": None},
        "training_seconds": round(result.seconds, 1),
        "training_core_seconds": round(result.core_seconds, 3),
        "errors": {column: [float(f"{value:.5g}") for value in errors[column]] for column in ERRORS},
    }  # fmt: skip
    write_json(path.resolve(), document, indent=None)


def _summary(stored: dict[str, Any]) -> dict[str, float]:
    medians = {column: float(np.median(stored["errors"][column])) for column in ERRORS}
    return {**medians, "training_core_seconds": stored["training_core_seconds"]}


def _pair(seed: int, both: list[dict[str, Any]]) -> dict[str, Any]:
    """Two trainings of a seed, image by image."""
    frames = [
        pd.DataFrame({"method": stored["name"], "disorientation_deg": stored["errors"]["disorientation_deg"]})
        for stored in both
    ]
    table = pd.concat(frames).rename_axis("image").reset_index()
    images, ratio, p = paired_test(table, "tuned", "shipped")
    summaries = {stored["name"]: _summary(stored) for stored in both}
    return {"seed": seed, "images": images, "ratio": ratio._asdict(), "p": p, **summaries}


def over_seeds(ratios: list[float]) -> dict[str, float]:
    """Median and range of two or more ratios, and a 95 % interval of their geometric mean.

    The interval is Student's of the logarithms: seeds are what is independent, not images.
    """
    from scipy.stats import t

    logs = np.log(ratios)
    half = t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
    low, high = np.exp(logs.mean() - half), np.exp(logs.mean() + half)
    middle = {"median": float(np.median(ratios)), "least": min(ratios), "most": max(ratios)}
    return {**middle, "low": float(low), "high": float(high)}


def compared(folder: Path) -> dict[str, Any]:
    """All that a search and the trainings after it say; empty before there are two seeds of these.

    Args:
        folder: of the search, with the folder ``trainings`` in it.
    """
    trainings: dict[int, dict[str, Any]] = {}
    for path in sorted((folder / "trainings").glob("*.json")):
        stored = json.loads(path.read_text())
        trainings.setdefault(stored["seed"], {})[stored["name"]] = stored
    complete = {seed: both for seed, both in sorted(trainings.items()) if set(both) == set(NAMES)}
    pairs = {seed: [both[name] for name in NAMES] for seed, both in complete.items()}
    if len(pairs) < 2:
        return {}
    settings = [[stored["settings"] for stored in both] for both in pairs.values()]
    if any(both != settings[0] for both in settings):
        raise SystemExit(f"{folder}: trainings of different recipes; remove those of an earlier search")
    shipped, tuned = settings[0]
    summary, first = read_json(folder / "summary.json"), next(iter(pairs.values()))[0]
    values = {row["named"]: row["objectives"][0] for row in summary["named"]}
    seeds = [_pair(seed, both) for seed, both in pairs.items()]
    origin = ("command", "created", "versions", "machine", "device", "seed", "commit")
    return {
        **{name: first[name] for name in origin},
        "steps": shipped["steps"], "test_set": first["test_set"], "test_seed": first["test_seed"],
        "search": {
            **summary["search"], "states": summary["states"],
            "values": {**values, "tuned": summary["front"][0]["objectives"][0]},
        },
        "changes": {name: [shipped[name], tuned[name]] for name in tuned if shipped[name] != tuned[name]},
        "seeds": seeds,
        "ratio": over_seeds([pair["ratio"]["value"] for pair in seeds]),
    }  # fmt: skip


def _table(seeds: list[dict[str, Any]]) -> str:
    """Markdown: both recipes' medians, seed by seed."""
    headers: Headers = [("seed", "")]
    for name in NAMES:
        headers += [(name, unit) for unit in ("deg", "nm", "appendix C, %", "core-seconds")]
    headers += [("ratio by image", "")]
    rows = []
    for pair in seeds:
        cells = [
            number(100 * value if column == "appendix_c_mean" else value)
            for name in NAMES
            for column, value in pair[name].items()
        ]
        rows.append([str(pair["seed"]), *cells, interval_text(Interval(**pair["ratio"]))])
    return markdown_table(headers, rows)


def tuned_text(folder: Path) -> str:
    """Markdown: what the search came to, its cost, and how its recipe does against the shipped one."""
    result = compared(folder)
    if not result:
        return "The search of the network is still owed."
    search, ratio, seeds, steps = (result[name] for name in ("search", "ratio", "seeds", "steps"))
    changes = [
        f"{name} {number(new) if isinstance(new, float) else new}"
        for name, (_, new) in result["changes"].items()
    ]
    seen = f"{number(search['values']['tuned'])} degrees"
    if "shipped" in search["values"]:
        seen += f" (the shipped recipe: {number(search['values']['shipped'])})"
    verdict = f"{len(seeds)} seeds do not tell them apart"
    if ratio["high"] < 1 or ratio["low"] > 1:
        verdict = f"The tuned one is {'better' if ratio['high'] < 1 else 'worse'}"
    return (
        f"{search['trials']} trials of the recipe `compact`, of {steps} steps each or stopped early "
        f"({search['states']['pruned']} were), took {number(search['core_seconds'] / 60)} core-minutes and "
        f"{search['simulations']:,} simulations. The best has {', '.join(changes)}. The search saw a median "
        f"of {seen}, the luckiest of its trials. So both recipes were trained again, as long, with new "
        f"seeds, and tested on {seeds[0]['images']:,} new images ({result['test_set']}). Medians, and the "
        f"median over images of the ratio of disorientations, tuned to shipped:\n\n{_table(seeds)}\n"
        f"{verdict}: the median of the seeds' ratios is {number(ratio['median'])} "
        f"({number(ratio['least'])} to {number(ratio['most'])}), the 95 % interval of their geometric mean "
        f"{number(ratio['low'])} to {number(ratio['high'])}. Trainings of {steps} steps say nothing of the "
        "preset's 11,000."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("reports/tune_network"), help="the search's folder")
    parser.add_argument("--train", action="store_true", help="train what is missing")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread")
    arguments = parser.parse_args()
    folder = arguments.run / "trainings"
    if arguments.train:
        named = list(zip(NAMES, recipes(arguments.run), strict=True))
        missing = [
            (name, recipe, seed, arguments.images, path)
            for seed in range(FIRST_SEED, FIRST_SEED + arguments.seeds)
            for name, recipe in named
            if not (path := folder / f"{name}-seed{seed}.json").exists()
        ]
        folder.mkdir(exist_ok=True)
        with WorkerPool(min(arguments.workers, max(1, len(missing))), torch.device("cpu")) as pool:
            for job, _ in pool.run(run, missing):
                print(f"{job[0]}, seed {job[2]}", flush=True)
    if result := compared(arguments.run):
        write_json((arguments.run / "found_against_shipped.json").resolve(), result)
    print(tuned_text(arguments.run))


if __name__ == "__main__":
    main()
