"""Accuracy against the number of simulated images, as figure 4b of Stielow et al. 2020.

    python reports/figure4b.py [--run reports/laptop/clean] [--sweep reports/sweep_dataset] [--out FILE.svg]

Simplex and hybrids as lines with a band of 10 to 90 % of the images, from the stored courses of a run of
`icobench compare`; the network as markers, a marker for each size of its training set, from the stored points
of `icobench sweep --axis dataset`, where they stand if a single image has to pay for the training set. Beside
the figure a `.json` with the medians.
"""

import argparse
import json
from pathlib import Path

import pandas as pd

from icobench.reporting.figures import plot_errors, svg
from icobench.reporting.page import write_file
from icobench.reporting.sweeps import read_points
from icobench.storage import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("reports/laptop/clean"))
    parser.add_argument("--sweep", type=Path, default=Path("reports/sweep_dataset"))
    parser.add_argument("--out", type=Path, default=Path("reports/figure4b.svg"))
    arguments = parser.parse_args()
    results, curves = (pd.read_parquet(arguments.run / f"{name}.parquet") for name in ("results", "curves"))
    training = read_points(arguments.sweep) if arguments.sweep.is_dir() else None
    if training is not None:
        # The shipped network stands at 0 simulations an image; here its training counts.
        results = results[results["method"] != "network"]
    write_file(arguments.out.resolve(), svg(plot_errors(results, curves, training)))
    errors = ["disorientation_deg", "radius_error_nm", "appendix_c_mean"]
    run = json.loads((arguments.run / "run.json").read_text())
    described = {
        "command": f"python reports/figure4b.py --run {arguments.run} --sweep {arguments.sweep}",
        "run": {name: run[name] for name in ("command", "commit", "created", "machine", "seed")},
        "methods": {
            method: {
                "images": len(answers), "simulations": float(answers["evaluations"].mean()),
                **{f"{name}_median": float(answers[name].median()) for name in errors},
            }
            for method, answers in results.groupby("method", sort=False)
        },
        "training_sets": {
            int(size): {
                "images": len(points), **{f"{name}_median": float(points[name].median()) for name in errors}
            }
            for size, points in (training.groupby("fixed_simulations") if training is not None else ())
        },
    }  # fmt: skip
    write_json(arguments.out.with_suffix(".json").resolve(), described)


if __name__ == "__main__":
    main()
