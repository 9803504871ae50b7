"""Simulated patterns and what the network makes of them, for figure 3 of Stielow et al. 2020.

    python reports/figure3.py [--run reports/warm_start/counting] [--method network] [--out FILE.png]

Six images of a stored run, evenly from the best to the worst of the method's answers: target, reconstruction
and difference. The images are made anew from the run's seed and settings (`run.json`), the answers are the
stored ones. A `.json` beside the figure says which they are.
"""

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from icobench.images.counts import expected_counts
from icobench.provenance import provenance
from icobench.reporting.figures import GALLERY_COLUMNS, gallery
from icobench.reporting.tables import number
from icobench.sets.patterns import PatternSource
from icobench.sets.test_sets import find_test_set
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from icobench.storage import atomic_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("reports/warm_start/counting"))
    parser.add_argument("--method", default="network")
    parser.add_argument("--out", type=Path, default=Path("reports/figure3.png"))
    arguments = parser.parse_args()
    run = json.loads((arguments.run / "run.json").read_text())
    results = pd.read_parquet(arguments.run / "results.parquet")
    own = results[results["method"] == arguments.method].dropna(subset="radius_nm")
    ranked = own.sort_values("disorientation_deg", kind="stable")
    rows = ranked.iloc[np.linspace(0, len(ranked) - 1, GALLERY_COLUMNS).round().astype(int)]

    settings, experiment = run["settings"], Experiment.from_dict(run["experiment"])
    test_set = find_test_set(settings["test_sets"][0])
    source = PatternSource(test_set.options(settings["images"]), experiment, run["seed"])
    parts = [source.block(range(image, image + 1)) for image in rows["image"]]
    masks = torch.cat([part.mask for part in parts]) & experiment.valid()
    targets = torch.cat([part.images for part in parts]).double() * masks
    answers = torch.tensor(rows[["radius_nm", "q_w", "q_x", "q_y", "q_z"]].to_numpy())
    intensity = Simulator(experiment).intensity(answers[:, 0], answers[:, 1:]).double()
    fitted = expected_counts(intensity, masks, targets.sum((-2, -1)))
    brightest = float(targets.amax())
    decades = min(max(math.log10(brightest), 1.0), 6.0) if parts[0].kind == "counts" else 6.0
    titles = [
        f"image {row.image}, R = {row.true_radius_nm:.1f} nm\noff by {number(row.disorientation_deg)}°, "
        f"{number(row.radius_error_nm)} nm"
        for row in rows.itertuples()
    ]
    figure = gallery(targets, fitted, masks, titles, decades)
    with atomic_path(arguments.out.resolve()) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    described = {
        **provenance(run["seed"], torch.device("cpu"), experiment),
        "command": f"python reports/figure3.py --run {arguments.run} --method {arguments.method}",
        "run": {name: run[name] for name in ("command", "commit", "created", "machine")},
        "detector": asdict(source.options.detector),
        "images": rows[["image", "true_radius_nm", "disorientation_deg", "radius_error_nm"]].to_dict(
            "records"
        ),
    }
    with atomic_path(arguments.out.with_suffix(".json").resolve()) as temporary:
        temporary.write_text(json.dumps(described, indent=1) + "\n")


if __name__ == "__main__":
    main()
