"""The fitters against their targets: success, cost, the physical limit, error bars, what is no icosahedron.

    icobench compare --preset laptop --test-sets clean --methods all --run reports/fitters/clean
    icobench compare --preset laptop --test-sets counting --methods ... --run reports/fitters/counting
    python reports/fitters.py [--shapes 100] [--out reports/fitters]
    python reports/fitters.py --page    # from what is stored

The first two commands reconstruct; this script reads their results.parquet, adds what no comparison holds
(other shapes, two particles, SciPy's Nelder-Mead on the same simulator) and writes fitters.json and
fitters.md.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize
from stored import digests_of, retired_text

from icobench.answer import solved
from icobench.fitting.simplex import RADIUS_UNIT_NM, SimplexFits, SimplexOptions, random_starts
from icobench.geometry.rotations import (
    quaternion_multiply,
    quaternion_normalize,
    rotation_vector_to_quaternion,
)
from icobench.geometry.shapes import shape, sphere
from icobench.images.image_set import ImageSet
from icobench.images.pixels import photon_counts, usable_pixels
from icobench.methods import Problem, find_method
from icobench.network.selection import load_network
from icobench.provenance import provenance
from icobench.reporting.page import write_file
from icobench.sets.patterns import PatternOptions, draw_truth, generate_patterns
from icobench.simulator.compiled import prepare_kernel
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from icobench.storage import write_json

PHOTONS, HOLE_DEGREES = 1e5, 3.0
TIGHT_DEG, TIGHT_NM = 0.1, 0.1
"""Stricter than what counts as solved elsewhere: these are the fitters' own targets."""

LARGE_NM = 50.0
SHAPES = ("cube", "octahedron", "sphere", "two icosahedra", "icosahedron")


def methods_table(results: pd.DataFrame, counting: bool) -> dict[str, dict[str, float]]:
    """What each method reached; ratios to the bound over images with R >= 50 nm."""
    table = {}
    for method, answers in results.groupby("method", sort=False):
        turn, size = answers["disorientation_deg"], answers["radius_error_nm"]
        row = {
            "images": len(answers),
            "solved": float(((turn < TIGHT_DEG) & (size < TIGHT_NM)).mean()),
            "within_1deg_1nm": float(solved(turn, size).mean()),
            "evaluations_mean": float(answers["evaluations"].mean()),
            "evaluations_99": float(answers["evaluations"].quantile(0.99)),
            "seconds": float(answers["seconds"].mean()),
            "ok": float(answers["status"].str.startswith("ok").mean()),
        }
        if counting:
            large = answers[answers["true_radius_nm"] >= LARGE_NM]
            for name, error, bound in (
                ("orientation", "disorientation_deg", "bound_orientation_deg"),
                ("radius", "radius_error_nm", "bound_radius_nm"),
            ):
                ratio = np.sqrt((large[error] ** 2).mean() / (large[bound] ** 2).mean())
                row[f"rmse_over_bound_{name}"] = float(ratio)
            row["coverage_radius"] = float((size <= answers["radius_std_nm"]).mean())
            # Three components of known covariance: 61 % lie within the root of its trace if it is isotropic.
            row["coverage_orientation"] = float((turn <= answers["orientation_std_deg"]).mean())
        table[str(method)] = row
    return table


def shape_images(name: str, radius: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Noise-free intensities."""
    if name == "two icosahedra":  # far apart: the interference is finer than a pixel
        simulator = Simulator()
        return simulator.intensity(radius, turns) + simulator.intensity(radius.flip(0), turns.flip(0))
    body = None if name == "icosahedron" else sphere(240) if name == "sphere" else shape(name)
    return Simulator(body=body).intensity(radius, turns)


def statuses(images: int, seed: int) -> dict[str, dict[str, Any]]:
    """What network+lm says of icosahedra and of what is none."""
    simulator, networks, method = Simulator(), load_network(), find_method("network+lm")
    mask = usable_pixels(Experiment(), HOLE_DEGREES).expand(images, -1, -1)
    out = {}
    for number, name in enumerate(SHAPES):
        radius, turns = draw_truth((30.0, 160.0), seed + number, range(images))
        generator = torch.Generator().manual_seed(seed + number)
        counts = photon_counts(shape_images(name, radius, turns), mask, PHOTONS, generator)
        images_of_shape = ImageSet(counts, mask, "counts", simulator.experiment)
        answer = method.run(Problem(images_of_shape, simulator, networks, seed))
        words = pd.Series(answer.status)
        out[name] = {
            "ok": float(words.str.startswith("ok").mean()),
            "statuses": words.value_counts().to_dict(),
            "evaluations_mean": float(answer.evaluations.double().mean()),
            "deviance_median": float(answer.objective.median()),
        }
    return out


def against_scipy(seed: int, starts: int = 6) -> dict[str, float]:
    """Seconds per evaluation: 50 x 50 at once, and SciPy from some of the same starts, in one run."""
    patterns = generate_patterns(PatternOptions(1, radius_range_nm=(94.0, 96.0)), Experiment(), seed)
    problem = Problem(patterns, Simulator())
    options = SimplexOptions()
    radius, turns = random_starts(1, options, seed)
    # Tables for every radius are made once in a process; neither side is charged with them.
    sizes = torch.arange(20.0, 171.0, 5.0)
    problem.simulator.intensity(sizes, patterns.quaternion.expand(len(sizes), 4))
    objective = problem.objective()
    begin = time.perf_counter()
    fits = SimplexFits(objective, torch.tensor([0]), radius, turns, options)
    corners = fits.state.points.clone()
    for _ in range(options.iterations):
        fits.step()
    batched, spent = time.perf_counter() - begin, int(objective.simulator.evaluations[0])
    calls, index = 0, torch.tensor([0])
    begin = time.perf_counter()
    for start in range(starts):
        anchor = turns[0, start]

        def value(point: np.ndarray, anchor: torch.Tensor = anchor) -> float:
            turn = rotation_vector_to_quaternion(torch.from_numpy(point[:3]))
            turned = quaternion_normalize(quaternion_multiply(turn, anchor))
            size = torch.tensor([RADIUS_UNIT_NM * point[3]])
            return float(objective.value(index, size, turned[None]))

        found = minimize(
            value, corners[start, 0].numpy(), method="Nelder-Mead",
            bounds=[(-np.pi, np.pi)] * 3 + [(2.0, 17.0)],
            options={"initial_simplex": corners[start].numpy(), "maxiter": 51, "xatol": 0, "fatol": 0},
        )  # fmt: skip
        calls += found.nfev
    one_by_one = time.perf_counter() - begin
    return {
        "seconds_50x50": batched, "evaluations_50x50": spent,
        "ms_per_evaluation": 1e3 * batched / spent,
        "scipy_ms_per_evaluation": 1e3 * one_by_one / calls,
        "ratio": (one_by_one / calls) / (batched / spent),
    }  # fmt: skip


def markdown(document: dict[str, Any], folder: Path) -> str:
    """The tables, as text; the runs in the folder say which networks took part."""
    machine = document["machine"]
    runs = (json.loads(path.read_text()) for path in sorted(folder.glob("*/run.json")))
    retired = retired_text(digest for run in runs for digest in digests_of(run))
    lines = [
        "# The fitters against their targets\n",
        f"`{document['command']}` on {machine.get('processor', 'this machine')}, commit "
        f"{document['commit']}, seed {document['seed']}; the runs are in the folders beside this file."
        f"{' ' * bool(retired)}{retired}\n",
        f"Solved: below {TIGHT_DEG} degrees and {TIGHT_NM} nm. RMSE over the Cramer-Rao bound: R >= "
        f"{LARGE_NM:g} nm. Covered: share of errors within the reported standard deviation (68 % for the "
        "radius if right; for the orientation, root of a sum of three variances, 61 % if those are equal).\n",
    ]  # fmt: skip
    for name, table in document["methods"].items():
        counting = "rmse_over_bound_radius" in next(iter(table.values()))
        header = ["method", "images", "solved %", "1 deg, 1 nm %", "evaluations", "99 %", "s", "ok %"]
        if counting:
            header += ["RMSE/bound deg", "RMSE/bound nm", "covered nm %", "covered deg %"]
        lines += [f"## {name}\n", f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
        for method, row in table.items():
            cells = [
                method, str(row["images"]), f"{100 * row['solved']:.1f}",
                f"{100 * row['within_1deg_1nm']:.1f}", f"{row['evaluations_mean']:.1f}",
                f"{row['evaluations_99']:.0f}", f"{row['seconds']:.3f}",
                f"{100 * row['ok']:.1f}",
            ]  # fmt: skip
            if counting:
                cells += [
                    f"{row['rmse_over_bound_orientation']:.2f}", f"{row['rmse_over_bound_radius']:.2f}",
                    f"{100 * row['coverage_radius']:.0f}", f"{100 * row['coverage_orientation']:.0f}",
                ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    lines += [
        "## What network+lm says of other bodies\n",
        f"{PHOTONS:g} photons, R 30 to 160 nm.\n",
        "| image of | ok % | evaluations | median deviance a pixel |", "|---|---|---|---|",
    ]  # fmt: skip
    for name, row in document["shapes"].items():
        cells = [name, f"{100 * row['ok']:.1f}", f"{row['evaluations_mean']:.0f}"]
        lines.append(f"| {' | '.join(cells)} | {row['deviance_median']:.2f} |")
    speed = document["scipy"]
    lines += [
        "\n## Nelder-Mead in a batch and SciPy's, same simulator, same starts, one run\n",
        f"50 x 50 for one image of R = 95 nm: {speed['seconds_50x50']:.1f} s for "
        f"{speed['evaluations_50x50']} evaluations, "
        f"{speed['ms_per_evaluation']:.2f} ms each; SciPy, one point at a time: "
        f"{speed['scipy_ms_per_evaluation']:.2f} ms each, {speed['ratio']:.1f} times as long.\n",
    ]
    return "\n".join(lines)


def main() -> None:
    """Read, add, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shapes", type=int, default=100, help="images of each shape")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("reports/fitters"))
    parser.add_argument("--page", action="store_true", help="write fitters.md anew from fitters.json")
    given = parser.parse_args()
    if given.page:
        document = json.loads((given.out / "fitters.json").read_text())
        write_file(given.out.resolve() / "fitters.md", markdown(document, given.out).encode())
        return
    runs = {
        name: pd.read_parquet(given.out / name / "results.parquet")
        for name in ("clean", "counting")
        if (given.out / name / "results.parquet").exists()
    }
    if not runs:
        parser.error(f"{given.out}: no run yet; see --help")
    prepare_kernel(torch.device("cpu"))
    document = {
        **provenance(given.seed, torch.device("cpu"), Experiment()),
        "command": " ".join(["python", "reports/fitters.py", *sys.argv[1:]]),
        "scipy": against_scipy(given.seed),
        "methods": {name: methods_table(run, name == "counting") for name, run in runs.items()},
        "shapes": statuses(given.shapes, given.seed),
    }
    write_json(given.out.resolve() / "fitters.json", document)
    page = markdown(document, given.out)
    write_file(given.out.resolve() / "fitters.md", page.encode())
    print(page)


if __name__ == "__main__":
    main()
