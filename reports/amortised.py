"""The posterior that a network gives at once: fitting its head, and how it compares.

    python reports/amortised.py --fit          # give the weights for counts a head; minutes on one core
    python reports/amortised.py --measure calibration references compared
    python reports/amortised.py                # the page from what is stored

`--fit` leaves what the network answers as it is, and stops if anything changes. Images to measure with
come from other seeds than those to fit to; the reference posteriors are those of `references.py`. Results are
in `amortised.json`, the page is `amortised.md`."""

import argparse
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from references import FOLDER, c2st, coordinates, read_references
from scipy.stats import kstest
from spreads import BANDS, PHOTONS, TEST_SEEDS, coverage
from stored import retired_text, text_table

import icobench
from icobench.geometry.convex import icosahedron
from icobench.geometry.mixture import PoseMixture
from icobench.geometry.orientation import disorientation, random_orientations
from icobench.methods import METHODS, Problem
from icobench.network.amortised import POSTERIOR_STEP, amortised, fit_posterior, mixture_of
from icobench.network.architectures import CompactNetwork, build_network
from icobench.network.checkpoint import (
    TrainedNetwork,
    load_trained,
    read_weights,
    save_network,
    training_core_seconds,
)
from icobench.network.recipe import Recipe
from icobench.network.selection import SHIPPED, load_network
from icobench.network.spreads import spread_batches
from icobench.network.stream import TrainingStream
from icobench.provenance import provenance, short_commit
from icobench.reporting.error_bars import error_bars
from icobench.seeds import Purpose, torch_generator
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from icobench.stopwatch import Stopwatch
from icobench.storage import atomic_path, write_json

WEIGHTS = SHIPPED / "counts.safetensors"
FIT_SEED, FIT_IMAGES, BATCH, VERSIONS = 901, 65_536, 64, 2
PARTS = ("calibration", "references", "compared")
TEST_IMAGES, DRAWS = 2_000, 100
COMPARED, COMPARED_SEED, COMPARED_SEEDS, COMPARED_IMAGES = (
    ("network", "posterior", "network+lm", "dictionary+lm"), 61, 5, 40
)  # fmt: skip
EXPECTED = (0.1, 0.5, 0.68, 0.9, 0.95, 0.99)
"""Levels at which regions of highest density are looked at."""
HERE = Path(__file__).resolve().parent

WHY = (
    "The head can only say how far off the network may be. Where photon noise would allow a better answer "
    "than the network's, its posterior is wider than the exact one, and centred elsewhere, so that a "
    "classifier tells them apart. It is the posterior given the network's features, not given the image."
)


def fit() -> None:
    """Replace the shipped weights for photon counts by the same with a newly fitted head."""
    stored = read_weights(WEIGHTS)
    card = stored.card
    if "posterior" in card:
        raise SystemExit("these weights have a head; take the ones before it")
    network = build_network(card["architecture"], card["network"])
    assert isinstance(network, CompactNetwork)
    network.load_state_dict(stored.weights)
    recipe, experiment = Recipe.from_dict(card["recipe"]), Experiment.from_dict(card["experiment"])
    recipe, steps = replace(recipe, batch=BATCH, variants=VERSIONS), FIT_IMAGES // BATCH
    watch = Stopwatch(torch.device("cpu"))
    batches = spread_batches(recipe, experiment, FIT_SEED, "cpu", steps, first=POSTERIOR_STEP)
    fit_posterior(network.eval(), batches, recipe.radius_nm, FIT_SEED)
    seconds, core_seconds = watch.read()
    new = {
        **card,
        "network": network.options,
        "parameters": sum(values.numel() for values in network.parameters()),
        "training_seconds": round(card["training_seconds"] + seconds, 1),
        "training_core_seconds": round(training_core_seconds(card) + core_seconds, 1),
        "training_simulations": card["training_simulations"] + FIT_IMAGES // VERSIONS,
        "posterior_images": FIT_IMAGES,
        "posterior": {"seed": FIT_SEED, "answers_of": stored.digest},
    }
    before = load_trained(WEIGHTS)
    images = next(spread_batches(recipe, experiment, FIT_SEED + 1, "cpu", 1)).inputs
    save_network(WEIGHTS, network, new)
    with torch.no_grad():
        same = torch.equal(before.network(images), load_trained(WEIGHTS).network(images))
    assert same, "answers have changed"
    print(f"{WEIGHTS.name}: {FIT_IMAGES} images, {seconds:.0f} s", flush=True)


def of_bars(radius: torch.Tensor, quaternion: torch.Tensor, bars: tuple[torch.Tensor, ...]) -> PoseMixture:
    """What error bars (N,) in nm and degrees say, as a distribution: normal, the same about all axes."""
    radius_std, angle_rms = (bar.double() for bar in bars)
    angle = torch.deg2rad(angle_rms / 3**0.5)
    factor = torch.diag_embed(torch.stack((angle, angle, angle, radius_std), 1))[:, None]
    share, none = (
        torch.ones(len(radius), 1, dtype=torch.float64),
        torch.zeros(len(radius), dtype=torch.float64),
    )
    return PoseMixture(radius[:, None], quaternion[:, None], factor, share, none, icosahedron(), (0.0, 1.0))


def calibration(trained: TrainedNetwork, seed: int) -> dict[str, Any]:
    """Of images like those of training: scores, coverage of error bars, regions of highest density, ranks."""
    network, card = trained.network, trained.card
    assert isinstance(network, CompactNetwork)
    recipe = replace(trained.recipe, batch=BATCH, variants=1, pool=None, warm_share=0.0)
    stream = TrainingStream(recipe, Experiment.from_dict(card["experiment"]), seed, "cpu")
    low, high = recipe.radius_nm
    rows = []
    for step in range(-(-TEST_IMAGES // BATCH)):
        inputs, quaternion, radius_nm = stream.batch(step)
        truth = radius_nm.double()[:, None], quaternion.double()[:, None]
        mixture = mixture_of(network, inputs, recipe.radius_nm)
        with torch.no_grad():
            bars = network.layout.error_bars(network(inputs))
        simple = of_bars(mixture.radius[:, 0], mixture.quaternion[:, 0], bars)
        generator = torch_generator(seed, Purpose.POSTERIOR, step)
        radii, turns = mixture.draw(DRAWS, [generator] * len(inputs))
        at_truth = mixture.log_density(*truth)
        reference = low + (high - low) * torch.rand(len(inputs), 1, generator=generator, dtype=torch.float64)
        other = random_orientations(len(inputs), generator)[:, None]
        away, away_truth = (
            ((radius - reference) / (high - low)).square() + (disorientation(turn, other) / 40).square()
            for radius, turn in ((radii, turns), truth)
        )
        std = mixture.factor[:, 0].square().sum(2)
        angle = disorientation(mixture.quaternion[:, 0], quaternion.double())
        columns = {
            "radius_nm": truth[0][:, 0],
            "photons": torch.expm1(4 * inputs[:, 0]).sum((-2, -1)).double(),
            "score": -at_truth[:, 0],
            "score of bars": -simple.log_density(*truth)[:, 0],
            "denser": (mixture.log_density(radii, turns) > at_truth).double().mean(1),
            "below": (radii < truth[0]).double().mean(1),
            "nearer": (away < away_truth).double().mean(1),
            "radius": (mixture.radius[:, 0] - truth[0][:, 0]).abs() / std[:, 3].sqrt(),
            "orientation": torch.deg2rad(angle) / std[:, :3].sum(1).sqrt(),
            "far": (angle > 5).double(),
            "other": mixture.share[:, 1] + mixture.uniform,
        }
        rows.append({name: values.numpy() for name, values in columns.items()})
    values = {name: np.concatenate([row[name] for row in rows])[:TEST_IMAGES] for name in rows[0]}
    edges = np.geomspace(*PHOTONS, BANDS + 1)
    bands = np.clip(np.searchsorted(edges, values["photons"]) - 1, 0, BANDS - 1)
    print(f"seed {seed}", flush=True)
    ranks = {name: kstest(values[name], "uniform") for name in ("denser", "below", "nearer")}
    scores = {
        name: [
            float(values[name].mean()),
            *(float(values[name][bands == band].mean()) for band in range(BANDS)),
        ]
        for name in ("score", "score of bars")
    }
    return {
        "seed": seed, "scores": scores, "coverage": coverage(values, counted=True),
        "expected": {str(level): float((values["denser"] <= level).mean()) for level in EXPECTED},
        "ranks": {name: [float(test.statistic), float(test.pvalue)] for name, test in ranks.items()},
        "far": int(values["far"].sum()), "other": float(values["other"].max()),
    }  # fmt: skip


def against_references(trained: TrainedNetwork) -> list[dict[str, Any]]:
    """C2ST of the mixture, and of the network's error bars, against the exact posteriors."""
    references, rows = read_references(), []
    images = references.images
    mixture = amortised(trained, images)
    answer = METHODS["network"].run(Problem(images, Simulator(Experiment()), load_network()))
    simple = of_bars(answer.radius_nm, answer.quaternion, (answer.radius_std_nm, answer.orientation_std_deg))
    count = references.radius_nm.shape[1]
    drawn = {}
    for place, (name, one) in enumerate((("posterior", mixture), ("network", simple))):
        generators = [torch_generator(0, Purpose.POSTERIOR, place, number) for number in range(len(images))]
        drawn[name] = one.draw(count, generators)
    drawn["exact"] = references.radius_nm, references.quaternion
    for number in range(len(images)):
        centre = images.quaternion[number]
        points = {
            name: coordinates(radius[number], turn[number], centre) for name, (radius, turn) in drawn.items()
        }
        row = {"radius_nm": float(images.radius_nm[number]), "photons": float(references.photons[number])}
        for name, values in points.items():
            # Half of the middle 68 %: a single draw from the uniform distribution would rule a variance.
            low, high = values.quantile(torch.tensor([0.1587, 0.8413], dtype=values.dtype), 0)
            spread = (high - low) / 2
            row[name] = {
                "radius_nm": float(spread[3]), "angle_deg": float(spread[:3].norm()),
                "c2st": c2st(points["exact"], values, number) if name != "exact" else None,
            }  # fmt: skip
        rows.append(row)
        print(row, flush=True)
    return rows


def compared() -> dict[str, Any]:
    """Coverage, width and score of error bars in a comparison of methods, on the set counting."""
    result = icobench.compare(
        COMPARED,
        ["counting"],
        COMPARED_IMAGES,
        seeds=COMPARED_SEEDS,
        seed=COMPARED_SEED,
        device="cpu",
        workers=1,
    )
    table = error_bars(result.results)
    seconds = result.results.groupby("method")["core_seconds"].median()
    status = result.results.groupby("method")["status"].value_counts()
    return {
        "rows": json.loads(table[table["answers"] == "all"].to_json(orient="records")),
        "core_seconds": seconds.to_dict(),
        "statuses": {method: status[method].to_dict() for method in COMPARED},
        "failures": result.failures,
    }


def measure(part: str) -> dict[str, Any]:
    """One of :data:`PARTS`, with where it comes from."""
    trained = load_trained(WEIGHTS)
    origin = provenance(
        COMPARED_SEED if part == "compared" else TEST_SEEDS[0], torch.device("cpu"), Experiment()
    )
    origin["command"] = f"python reports/amortised.py --measure {part}"
    if part == "calibration":
        found: Any = [calibration(trained, seed) for seed in TEST_SEEDS]
    else:
        found = against_references(trained) if part == "references" else compared()
    references = (
        json.loads((FOLDER / "references.json").read_text())["digest"] if part == "references" else None
    )
    return {"origin": origin, "network": trained.digest, "references": references, "found": found}


def _span(values: list[float], digits: int = 2) -> str:
    """The smallest and the largest of the seeds."""
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def _scores(seeds: list[dict[str, Any]]) -> str:
    edges = np.geomspace(*PHOTONS, BANDS + 1)
    bands = [f"{low:.2g} to {high:.2g}" for low, high in pairwise(edges)]
    rows = []
    for place, what in enumerate(["all", *bands]):
        mixture, bars = ([run["scores"][name][place] for run in seeds] for name in ("score", "score of bars"))
        better = [old - new for new, old in zip(mixture, bars, strict=True)]
        rows.append((what, _span(mixture), _span(bars), _span(better)))
    return text_table(("photons", "`posterior`", "bars of `network`", "better by"), rows)


def _calibration(seeds: list[dict[str, Any]]) -> str:
    rows = [
        (f"{float(level):.0%}", _span([100 * run["expected"][level] for run in seeds], 1))
        for level in seeds[0]["expected"]
    ]
    words = {"denser": "highest density", "below": "radius", "nearer": "random reference (TARP)"}
    ranks = [
        (words[name], *(f"{run['ranks'][name][0]:.3f} ({run['ranks'][name][1]:.2g})" for run in seeds))
        for name in words
    ]
    titles = ("ranks by", *(f"seed {run['seed']}" for run in seeds))
    regions = text_table(("region of highest density", "holds the truth (%)"), rows)
    words_of_ranks = (
        f"Largest difference of the ranks of the truth among {DRAWS} draws from uniform ones, and p:"
    )
    return f"{regions}\n{words_of_ranks}\n\n{text_table(titles, ranks)}"


def _bars(seeds: list[dict[str, Any]]) -> str:
    rows = []
    for key in seeds[0]["coverage"]:
        level = 100 * float(key.split()[1])
        found = [run["coverage"][key] for run in seeds]
        pooled = np.abs(np.mean([one["cells"] for one in found], 0) - level).max()
        worst = max(abs(value - level) for one in found for value in one["cells"])
        every = _span([one["all"] for one in found], 1)
        rows.append((key.split()[0], f"{level:.0f} %", every, f"{worst:.1f}", f"{pooled:.1f}"))
    titles = (
        "error of",
        "interval",
        "holds (%)",
        "worst cell, any seed (points)",
        "worst cell, mean of the seeds",
    )
    return text_table(titles, rows)


def _references(rows: list[dict[str, Any]], made: list[dict[str, Any]]) -> str:
    lines = []
    for row, reference in zip(rows, made, strict=True):
        widths = [
            f"{row[name]['radius_nm']:.3f}, {row[name]['angle_deg']:.3f}"
            for name in ("exact", "posterior", "network")
        ]
        lines.append((
            f"{row['radius_nm']:g} nm, {row['photons']:.0e}", *widths, f"{row['posterior']['c2st']:.3f}",
            f"{row['network']['c2st']:.3f}", f"{reference['c2st_chain']:.3f}",
            f"{reference['effective']:.0f}", f"{reference['pareto_k']:.2f}",
        ))  # fmt: skip
    titles = (
        "image", "exact (nm, deg)", "`posterior`", "bars of `network`", "C2ST of `posterior`",
        "C2ST of these bars", "C2ST of a chain", "effective", "Pareto k",
    )  # fmt: skip
    return text_table(titles, lines)


def _chains(made: list[dict[str, Any]]) -> str:
    """The largest difference between samples and chains."""
    means, ratios = [], []
    for one in made:
        ours, chain = one["samples"], one["chain"]
        means += [abs(a - b) / s for a, b, s in zip(ours["mean"], chain["mean"], chain["std"], strict=True)]
        ratios += [a / b for a, b in zip(ours["std"], chain["std"], strict=True)]
    return (
        f"Samples and chains differ by at most {max(means):.2f} standard deviations in the mean of any of "
        f"the four quantities; their standard deviations have ratios of {min(ratios):.2f} to "
        f"{max(ratios):.2f}."
    )


def _compared(found: dict[str, Any]) -> str:
    rows = [
        (row["method"], row["quantity"], f"{row['with_bars']} of {row['images']}",
         f"{100 * row['within_68']:.1f}", f"{100 * row['within_95']:.1f}", f"{row['bar_over_bound']:.2f}",
         f"{row['score_mean']:.2f}", f"{row['score_at_bound']:.2f}",
         f"{1e3 * found['core_seconds'][row['method']]:.1f}")
        for row in found["rows"]
    ]  # fmt: skip
    titles = ("method", "error bar of", "with bar", "68 % holds", "95 % holds", "bar over bound, median",
              "score, mean", "score at the bound", "core ms an image")  # fmt: skip
    return text_table(titles, rows)


def page(values: dict[str, Any]) -> str:
    """The tables as Markdown."""
    seeds, references = values["calibration"]["found"], json.loads((FOLDER / "references.json").read_text())
    made, measured = references["posteriors"], values["references"]["found"]
    same = values["references"]["references"] == references["digest"]
    stale = "" if same else " **Measured against other references.**"
    accuracies = [row["posterior"]["c2st"] for row in measured]
    far, other = sum(run["far"] for run in seeds), max(run["other"] for run in seeds)
    parts = [
        "# The posterior that a network gives at once",
        "The method `posterior` asks the network for photon counts and a head on it, which gives a normal "
        "distribution (rotation vector and radius, a full covariance) around each of the network's two "
        "hypotheses, and a uniform one. The head was fitted by the likelihood of the true poses, summed over "
        "equivalent orientations, of "
        f"{FIT_IMAGES:,} images like those of the network's training; the network is as it was. Densities "
        "are per nm and cubic radian (Haar's measure of orientations modulo the 60 rotations).",
        f"Below: {TEST_IMAGES:,} fresh images like those of training from each of {len(seeds)} seeds, which "
        "had no part in fitting or choosing the head.",
        "## Scores",
        "Mean of the negative logarithm of the density at the truth, in nats; smallest and largest of the "
        "seeds. The bars of `network` are taken as normal distributions, the same about all axes.",
        _scores(seeds),
        "## Calibration",
        _calibration(seeds),
        "Error bars, as in [`spreads.md`](spreads.md) (4 radius by 4 photon bands, some "
        f"{TEST_IMAGES // BANDS**2} images in a cell):",
        _bars(seeds),
        f"Of these {TEST_IMAGES * len(seeds):,} images {far} are off by more than 5 degrees; the largest "
        f"share of a posterior elsewhere than around the first hypothesis is {other:.1e}.",
        "## Against ten reference posteriors",
        "Images by the rule in [`references.py`](references.py), the same for everybody: "
        f"`references/posteriors.npz`, version {references['version']}, {references['digest']}. Widths: half "
        "of the middle 68 % of the radius and of turns about x, y and z, these as a root of the sum of "
        "squares. C2ST: share of samples that a classifier assigns correctly, 0.5 for the same distribution, "
        "1 for separate ones." + stale,
        _references(measured, made),
        f"C2ST of `posterior` is {np.mean(accuracies):.3f} in the mean. {_chains(made)}",
        WHY,
        "## Beside other methods",
        f"The set `counting` (1e5 photons), {COMPARED_SEEDS} x {COMPARED_IMAGES} images, seeds from "
        f"{COMPARED_SEED}; scores of the error bars, in nats, per nm and per cubic degree:",
        _compared(values["compared"]["found"]),
        f"Made by `python reports/amortised.py --fit`, seed {FIT_SEED}; "
        f"`python reports/references.py`, commit {short_commit(references['origin']['commit'])}; "
        + "; ".join(
            f"`{values[part]['origin']['command']}`, commit {short_commit(values[part]['origin']['commit'])}"
            for part in PARTS
        )
        + f". Calibration with seeds {', '.join(str(run['seed']) for run in seeds)}. "
        + retired_text([values[part]["network"] for part in PARTS]),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--measure", nargs="+", choices=PARTS, default=[])
    arguments, stored = parser.parse_args(), HERE / "amortised.json"
    if arguments.fit:
        fit()
    values = json.loads(stored.read_text()) if stored.is_file() else {}
    for part in arguments.measure:
        values[part] = measure(part)
        write_json(stored, values)
    if all(part in values for part in PARTS):
        with atomic_path(HERE / "amortised.md") as temporary:
            temporary.write_text(page(values))


if __name__ == "__main__":
    main()
