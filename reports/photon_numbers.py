"""How the network's errors and the physical limit fall with the number of photons.

    python reports/photon_numbers.py [--images 400] [--out reports/photon_numbers.png]

Photon counts with a 3 degree hole, radii uniform in 30 to 160 nm. Above the number that the networks were
trained with (1e7), images are scaled down to it. A `.json` beside the figure holds the numbers.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from icobench.images.detector import DETECTORS
from icobench.network.selection import load_network
from icobench.provenance import provenance
from icobench.reporting.evaluation import summarise
from icobench.reporting.figures import empty_figure, legend_below, styled
from icobench.runs.evaluation import evaluate
from icobench.sets.patterns import PatternOptions, generate_patterns
from icobench.simulator.compiled import prepare_kernel
from icobench.simulator.experiment import Experiment
from icobench.storage import atomic_path, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PHOTONS = (1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7)
SEED = 21_000


@styled()
def draw(results: dict[str, dict[str, Any]]) -> "Figure":
    """Median, 90 % quantile and median bound of both errors against the number of photons."""
    import seaborn

    figure = empty_figure(9, 3.9)
    labels = {"disorientation_deg": "disorientation (deg)", "radius_error_nm": "radius error (nm)"}
    bounds = {"disorientation_deg": "bound_orientation_deg", "radius_error_nm": "bound_radius_nm"}
    for axes, (error, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
        lines = pd.DataFrame(
            {
                "median": {photons: row[error]["median"] for photons, row in results.items()},
                "90 % quantile": {photons: row[error]["90"] for photons, row in results.items()},
                "Cramér-Rao bound (median)": {
                    photons: row[f"{bounds[error]}_median"] for photons, row in results.items()
                },
            }
        )
        lines.index = lines.index.astype(float)
        seaborn.lineplot(lines, markers=True, palette="colorblind", ax=axes)
        axes.set(xlabel="photons in an image", ylabel=label, xscale="log", yscale="log")
    legend_below(figure)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("reports/photon_numbers.png"))
    arguments = parser.parse_args()
    prepare_kernel(torch.device("cpu"))
    experiment, networks = Experiment(), load_network()
    results = {}
    for photons in PHOTONS:
        options = PatternOptions(arguments.images, detector=replace(DETECTORS["counting"], photons=photons))
        evaluated = evaluate(networks, generate_patterns(options, experiment, SEED))
        summary = summarise(evaluated)
        results[f"{photons:g}"] = summary
        print(photons, summary["disorientation_deg"], flush=True)
    with atomic_path(arguments.out.resolve()) as temporary:
        draw(results).savefig(temporary, format="png", dpi=150)
    described = {
        **provenance(SEED, torch.device("cpu"), experiment),
        "command": f"python reports/photon_numbers.py --images {arguments.images}",
        "networks": networks.digest, "results": results,
    }  # fmt: skip
    write_json(arguments.out.with_suffix(".json").resolve(), described)


if __name__ == "__main__":
    main()
