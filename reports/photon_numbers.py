"""How the network's errors and the physical limit fall with the number of photons.

    python reports/photon_numbers.py [--images 400] [--out reports/photon_numbers.png]

Photon counts with a 3 degree hole, radii uniform in 30 to 160 nm. Above the number that the networks were
trained with (1e7), images are scaled down to it. A `.json` beside the figure holds the numbers.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from icobench.images.detector import DETECTORS
from icobench.network.selection import load_network
from icobench.provenance import provenance
from icobench.runs.evaluation import evaluate, summarise
from icobench.sets.patterns import PatternOptions, generate_patterns
from icobench.simulator.compiled import prepare_kernel
from icobench.simulator.experiment import Experiment
from icobench.storage import atomic_path

PHOTONS = (1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7)
SEED = 21_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("reports/photon_numbers.png"))
    arguments = parser.parse_args()
    from matplotlib.figure import Figure

    prepare_kernel(torch.device("cpu"))
    experiment, networks = Experiment(), load_network()
    results = {}
    for photons in PHOTONS:
        options = PatternOptions(arguments.images, detector=replace(DETECTORS["counting"], photons=photons))
        truth = generate_patterns(options, experiment, SEED)
        results[f"{photons:g}"] = summarise(evaluate(networks, truth))
        print(photons, results[f"{photons:g}"]["disorientation_deg"], flush=True)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    pairs = (("disorientation_deg", "bound_orientation_deg"), ("radius_error_nm", "bound_radius_nm"))
    labels = ("disorientation (deg)", "radius error (nm)")
    for axis, (error, bound), label in zip(figure.subplots(1, 2), pairs, labels, strict=True):
        rows = list(results.values())
        (line,) = axis.plot(PHOTONS, [row[error]["median"] for row in rows], marker="o", label="median")
        axis.plot(
            PHOTONS, [row[error]["90"] for row in rows], ":", color=line.get_color(), label="90 % quantile"
        )
        axis.plot(PHOTONS, [row[f"{bound}_median"] for row in rows], "k--", label="Cramer-Rao bound, median")
        axis.set(xlabel="photons an image", ylabel=label, xscale="log", yscale="log")
        axis.grid(alpha=0.3)
        axis.legend()
    origin = provenance(SEED, torch.device("cpu"), experiment)
    origin["command"] = f"python reports/photon_numbers.py --images {arguments.images}"
    with atomic_path(arguments.out.resolve()) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    with atomic_path(arguments.out.with_suffix(".json").resolve()) as temporary:
        temporary.write_text(
            json.dumps({**origin, "networks": networks.digest, "results": results}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
