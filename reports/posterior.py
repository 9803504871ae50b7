"""Are samples of posteriors right? Ranks of the truth, expected coverage, and long Metropolis chains.

    python reports/posterior.py --measure --seed 41   # ten minutes on one core; also with 142
    python reports/posterior.py                       # figure and page from what is stored

*Calibration*: bodies are drawn from the prior (radii uniform in 20 to 170 nm, orientations uniform) and
imaged with 1e3 to 1e6 photons; then the share of the posterior below the truth is uniform for any quantity
(Talts et al., arXiv 1804.06788). Quantities are the radius and three fixed combinations of the 13 numbers of
the orientation that all its equivalents share. *Expected coverage*: the share of samples nearer to a random
reference than the truth is uniform, too (Lemos et al., TARP, ICML 2023). *Chains*: means, standard deviations
and the odds of the near twin of three images, by Metropolis steps. Results are in `posterior.json`."""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kstest
from stored import text_table

from icobench.answer import RADII_NM, Answer
from icobench.fitting.objectives import Objective, objective_for
from icobench.fitting.posterior import log_likelihood
from icobench.geometry.orientation import disorientation, nearest_equivalent, random_orientations
from icobench.geometry.rotations import (
    quaternion_conjugate,
    quaternion_multiply,
    quaternion_to_rotation_vector,
    rotate_about_beam,
    turned,
)
from icobench.images.image_set import ImageSet
from icobench.network.orbit import embed
from icobench.provenance import provenance, short_commit
from icobench.reporting.figures import empty_figure, styled, svg
from icobench.runs.reconstruct import reconstruct
from icobench.seeds import Purpose, random_generator, torch_generator
from icobench.sets.own_images import FIT_SIN_THETA
from icobench.sets.simulate import simulate
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from icobench.storage import atomic_path, write_json

IMAGES, SAMPLES, BLOCK = 320, 300, 32
METHOD = "dictionary+lm"
CHAINS = ((95.0, 1e5), (45.0, 1e4), (34.0, 600.0))
"""Radii and photons of the images with chains."""
WALKERS, STEPS, BURNT = 32, 400, 100
LABELS = {"distance": "expected coverage (TARP)"}
NAMES = ("radius", "orientation 1", "orientation 2", "orientation 3", "distance")
HERE = Path(__file__).resolve().parent


def drawn(seed: int, block: int) -> ImageSet:
    """Bodies from the prior, imaged with one number of photons."""
    generator = torch_generator(seed, Purpose.SIMULATE, block)
    low, high = RADII_NM
    radii = low + (high - low) * torch.rand(BLOCK, generator=generator, dtype=torch.float64)
    photons = 10 ** (3 + 3 * float(torch.rand(1, generator=generator)))
    return simulate(radii, random_orientations(BLOCK, generator), photons, 3.0, seed=seed + block)


def samples_of(answer: Answer, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Radii (N, S), orientations (N, S, 4) and weights (N, S)."""
    values = {name: column.reshape(count, -1) for name, column in answer.samples.items()}
    return values["radius_nm"], torch.stack([values[f"q_{axis}"] for axis in "wxyz"], -1), values["weight"]


def ranks(truth: ImageSet, answer: Answer, seed: int, block: int) -> torch.Tensor:
    """(N, 5) shares of the posterior below the truth, and nearer to a random reference than it."""
    radius, turn, weight = samples_of(answer, len(truth))
    generator = torch_generator(seed, Purpose.BOOTSTRAP, block)
    sides = torch.randn(13, 3, generator=torch_generator(seed, Purpose.BOOTSTRAP), dtype=torch.float64)
    low, high = RADII_NM
    reference = low + (high - low) * torch.rand(BLOCK, 1, generator=generator, dtype=torch.float64)
    other = random_orientations(BLOCK, generator)[:, None]

    def distance(radii: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
        return ((radii - reference) / (high - low)).square() + (disorientation(turns, other) / 40).square()

    columns = [radius < truth.radius_nm[:, None]]
    below = embed(turn) @ sides < (embed(truth.quaternion) @ sides)[:, None]
    columns += list(below.unbind(-1))
    at_truth = distance(truth.radius_nm[:, None], truth.quaternion[:, None])
    columns.append(distance(radius, turn) < at_truth)
    return torch.stack([(weight * column).sum(1) for column in columns], 1)


def calibration(seed: int) -> dict[str, Any]:
    parts, effective, tails, statuses = [], [], [], []
    for block in range(IMAGES // BLOCK):
        truth = drawn(seed, block)
        answer = reconstruct(
            truth.images,
            truth.mask,
            "counts",
            method=METHOD,
            posterior=SAMPLES,
            seed=seed + block,
            device="cpu",
        )
        parts.append(ranks(truth, answer, seed, block))
        effective += answer.nuisance["posterior_effective"].tolist()
        tails += answer.nuisance["posterior_k"].tolist()
        statuses += answer.status
        print(f"{(block + 1) * BLOCK} images", flush=True)
    every = torch.cat(parts)
    return {
        "ranks": {name: [round(value, 5) for value in every[:, i].tolist()] for i, name in enumerate(NAMES)},
        "effective": effective, "pareto_k": tails, "status": statuses,
    }  # fmt: skip


def turns_from(quaternion: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """Rotation vectors (S, 3) in degrees from an orientation (4,)."""
    near = nearest_equivalent(quaternion, centre.expand_as(quaternion))
    relative = quaternion_multiply(near, quaternion_conjugate(centre).expand_as(near))
    return torch.rad2deg(quaternion_to_rotation_vector(relative))


def summary(
    truth: ImageSet, radius: torch.Tensor, turn: torch.Tensor, weight: torch.Tensor
) -> dict[str, Any]:
    """Mean and standard deviation of radius and turns, near the truth and near its twin together."""
    twin = rotate_about_beam(truth.quaternion, torch.full((1,), math.pi, dtype=torch.float64))
    apart = disorientation(turn, twin) < disorientation(turn, truth.quaternion)
    near = ~apart
    vectors = turns_from(turn, truth.quaternion[0])[near]
    values, share = torch.cat((radius[near, None], vectors), 1), weight[near] / weight[near].sum()
    mean = (share[:, None] * values).sum(0)
    spread = (share[:, None] * (values - mean).square()).sum(0).sqrt()
    return {"mean": mean.tolist(), "std": spread.tolist(), "twin": float((weight * apart).sum())}


def chain(truth: ImageSet, seed: int, number: int) -> dict[str, Any]:
    """What samples of an image's posterior say, and a chain."""
    experiment = Experiment()
    seen = replace(truth, mask=truth.mask & (experiment.sin_theta() <= FIT_SIN_THETA))
    objective = objective_for(seen, Simulator(experiment))
    answer = reconstruct(
        truth.images, truth.mask, "counts", method=METHOD, posterior=2000, seed=seed, device="cpu"
    )
    radius, turn, weight = (part[0] for part in samples_of(answer, 1))
    ours = summary(truth, radius, turn, weight)
    every_radius, every_turn = walk(
        objective, truth, ours["std"], random_generator(seed, Purpose.STARTS, number)
    )
    every_radius, every_turn = every_radius.flatten(), every_turn.flatten(0, 1)
    even = torch.full((len(every_radius),), 1 / len(every_radius), dtype=torch.float64)
    print(f"chain {number}", flush=True)
    return {
        "samples": ours, "chain": summary(truth, every_radius, every_turn, even),
        "effective": float(answer.nuisance["posterior_effective"][0]), "status": answer.status[0],
    }  # fmt: skip


def walk(
    objective: Objective, truth: ImageSet, spreads: list[float], rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Radii (steps, walkers) and orientations (steps, walkers, 4) of Metropolis steps, the first left out.

    Half of the walkers start at the truth, half at its twin; they may also leap between both by half a turn
    about the beam.

    Args:
        objective: of one image.
        truth: of that image.
        spreads: of the posterior: radius in nm, turns about x, y, z in degrees.
        rng: of the steps.
    """
    size = torch.tensor([*(math.radians(value) for value in spreads[1:]), spreads[0]])
    size = size.double() * 0.9
    at = torch.zeros(WALKERS, dtype=torch.long)
    radii = truth.radius_nm.repeat(WALKERS)
    turns = truth.quaternion.repeat(WALKERS, 1)
    turns[1::2] = rotate_about_beam(turns[1::2], torch.full((WALKERS // 2,), math.pi, dtype=torch.float64))
    value, kept = log_likelihood(objective, at, radii, turns), []
    for step in range(STEPS):
        move = torch.as_tensor(rng.standard_normal((WALKERS, 4))) * size
        leap = torch.as_tensor(math.pi * (rng.uniform(size=WALKERS) < 0.2))
        trial_radius = radii + move[:, 3]
        trial_turn = rotate_about_beam(turned(turns, move[:, :3]), leap)
        trial = log_likelihood(objective, at, trial_radius, trial_turn)
        moved = torch.as_tensor(np.log(rng.uniform(size=WALKERS))) < trial - value
        radii = torch.where(moved, trial_radius, radii)
        turns = torch.where(moved[:, None], trial_turn, turns)
        value = torch.where(moved, trial, value)
        if step >= BURNT:
            kept.append((radii, turns))
    every_radius, every_turn = (torch.stack(column) for column in zip(*kept, strict=True))
    return every_radius, every_turn


def chains(seed: int) -> list[dict[str, Any]]:
    results = []
    for number, (radius_nm, photons) in enumerate(CHAINS):
        turn = random_orientations(1, torch_generator(seed, Purpose.SIMULATE, 1000 + number))
        truth = simulate(
            torch.tensor([radius_nm], dtype=torch.float64), turn, photons, 3.0, seed=seed + number
        )
        results.append({"radius_nm": radius_nm, "photons": photons, **chain(truth, seed, number)})
    return results


def measure(seed: int) -> dict[str, Any]:
    origin = provenance(seed, torch.device("cpu"), Experiment())
    origin["command"] = f"python reports/posterior.py --measure --seed {seed}"
    return {"origin": origin, "chains": chains(seed), "calibration": calibration(seed)}


@styled()
def draw(path: Path, runs: dict[str, Any]) -> None:
    """Cumulative distributions of the ranks, less the uniform one, in a band that holds 95 % of them."""
    from scipy.stats import kstwo

    figure = empty_figure(5 * len(runs), 4)
    panels = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
    for axes, (seed, run) in zip(panels, runs.items(), strict=True):
        ranked = run["calibration"]["ranks"]
        count = len(ranked[NAMES[0]])
        band = kstwo.ppf(0.95, count)
        axes.axhspan(-band, band, color="0.9", label="95 % of uniform ranks")
        for name in NAMES:
            ordered = np.sort(ranked[name])
            axes.plot(ordered, np.arange(1, count + 1) / count - ordered, label=LABELS.get(name, name))
        axes.set_xlabel("share of the posterior below the truth")
        axes.set_title(f"seed {seed}")
    panels[0].set_ylabel("share of images, less a uniform one")
    panels[0].legend(fontsize=8)
    with atomic_path(path) as temporary:
        temporary.write_bytes(svg(figure))


def page(runs: dict[str, Any]) -> str:
    tests = {seed: run["calibration"]["ranks"] for seed, run in runs.items()}
    rows = []
    for name in NAMES:
        results = [kstest(ranked[name], "uniform") for ranked in tests.values()]
        cells = [cell for test in results for cell in (f"{test.statistic:.3f}", f"{test.pvalue:.3f}")]
        rows.append((LABELS.get(name, name), *cells))
    titles = ["quantity", *(f"{word}, seed {seed}" for seed in runs for word in ("largest difference", "p"))]
    both = {
        name: np.array([value for run in runs.values() for value in run["calibration"][name]])
        for name in ("effective", "pareto_k")
    }
    chain_rows = []
    for seed, run in runs.items():
        for row in run["chains"]:
            image = f"{row['radius_nm']:g} nm, {row['photons']:g} photons, seed {seed}"
            for who in ("samples", "chain"):
                pairs = zip(row[who]["mean"], row[who]["std"], strict=True)
                cells = [f"{mean:.3f} +- {spread:.3f}" for mean, spread in pairs]
                chain_rows.append((image, who, *cells, f"{row[who]['twin']:.3f}"))
    effective, tails = both["effective"], both["pareto_k"]
    words = [
        f"{len(effective)} images of bodies from the prior (20 to 170 nm), 1e3 to 1e6 photons, {SAMPLES}",
        f"samples each, after `{METHOD}`: the effective number of samples is",
        f"{np.median(effective):.0f} in the median, below 50 for {np.mean(effective < 50):.1%};",
        f"Pareto k is above 0.7 for {np.mean(tails > 0.7):.1%}.",
    ]
    of_chains = [
        f"Against Metropolis chains ({WALKERS} walkers, {STEPS - BURNT} steps each): radius (nm), turns from",
        "the truth about x, y, z (degrees), probability of the near twin:",
    ]
    made = [
        f"`{run['origin']['command']}`, commit {short_commit(run['origin']['commit'])}."
        for run in runs.values()
    ]
    parts = [
        "# Posteriors of single images",
        " ".join(words),
        "Kolmogorov-Smirnov tests of the ranks of the truth against the uniform distribution:",
        text_table(titles, rows),
        "![Ranks of the truth](posterior.svg)",
        " ".join(of_chains),
        text_table(("image", "by", "radius", "x", "y", "z", "twin"), chain_rows),
        "\n".join(made),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--seed", type=int, default=41)
    options, stored = parser.parse_args(), HERE / "posterior.json"
    runs = json.loads(stored.read_text()) if stored.exists() else {}
    if options.measure:
        runs[str(options.seed)] = measure(options.seed)
        write_json(stored, runs)
    draw(HERE / "posterior.svg", runs)
    with atomic_path(HERE / "posterior.md") as temporary:
        temporary.write_text(page(runs))


if __name__ == "__main__":
    main()
