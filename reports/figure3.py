"""Simulated patterns and what the network makes of them, for figure 3 of Stielow et al. 2020.

    python reports/figure3.py [--run reports/laptop/counting-0] [--method network] [--out FILE.png]

Six images of a stored run, evenly from the best to the worst of the method's answers: target, reconstruction
and difference. The images are made anew from the run's seed and settings (`run.json`), the answers are the
stored ones. A `.json` beside the figure says which they are.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from icobench.images.pixels import expected_counts
from icobench.provenance import provenance
from icobench.reporting.gallery import GALLERY_COLUMNS, gallery, shown_decades
from icobench.reporting.run_folder import read_run
from icobench.reporting.statistics import ANSWER
from icobench.reporting.tables import number
from icobench.sets.test_sets import find_test_set
from icobench.simulator.simulator import Simulator
from icobench.storage import atomic_path, write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("reports/laptop/counting-0"))
    parser.add_argument("--method", default="network")
    parser.add_argument("--out", type=Path, default=Path("reports/figure3.png"))
    arguments = parser.parse_args()
    if not arguments.run.is_dir():
        print(f"{arguments.run}: still owed")
        return
    run = read_run(arguments.run)
    answers = run.results[run.results["method"] == arguments.method].dropna(subset="radius_nm")
    ranked = answers.sort_values("disorientation_deg", kind="stable")
    rows = ranked.iloc[np.linspace(0, len(ranked) - 1, GALLERY_COLUMNS).round().astype(int)]

    images = run.load(rows["image"].tolist())
    targets = images.images.double() * images.mask
    bodies = torch.tensor(rows[ANSWER].to_numpy())
    intensity = Simulator(run.experiment).intensity(bodies[:, 0], bodies[:, 1:]).double()
    fitted = expected_counts(intensity, images.mask, targets.sum((-2, -1)))
    decades = shown_decades(run.kind, float(targets.amax()))
    titles = [
        f"image {row.image}, R = {row.true_radius_nm:.1f} nm\noff by {number(row.disorientation_deg)}°, "
        f"{number(row.radius_error_nm)} nm"
        for row in rows.itertuples()
    ]
    figure = gallery(targets, fitted, images.mask, titles, decades)
    with atomic_path(arguments.out.resolve()) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    shown = ["image", "true_radius_nm", "disorientation_deg", "radius_error_nm"]
    options = find_test_set(run.test_set).options(run.count)
    described = {
        **provenance(run.run["seed"], torch.device("cpu"), run.experiment),
        "command": f"python reports/figure3.py --run {arguments.run} --method {arguments.method}",
        "run": {name: run.run[name] for name in ("command", "commit", "created", "machine")},
        "networks": [card["digest"] for card in run.run.get("networks") or []],
        "detector": asdict(options.detector),
        "images": rows[shown].to_dict("records"),
    }
    write_json(arguments.out.with_suffix(".json").resolve(), described)


if __name__ == "__main__":
    main()
