"""How the network's errors and the physical limit fall with the number of photons.

    python reports/photon_numbers.py                  # draws what is stored
    python reports/photon_numbers.py --images 400     # measures anew

Photon counts with a 3 degree hole, radii uniform in 30 to 160 nm. Above the number that the networks were
trained with (1e7), images are scaled down to it. Root mean squares, of the errors and of the Cramer-Rao
bound: a median of errors over a median of bounds flatters, since an efficient fit scores 0.77 by it. A
`.json` beside the figure holds the numbers.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from icobench.images.detector import DETECTORS
from icobench.network.selection import load_network
from icobench.provenance import provenance
from icobench.reporting.evaluation import summarise
from icobench.reporting.figures import decade_labels, empty_figure, legend_below, styled
from icobench.runs.evaluation import evaluate
from icobench.sets.patterns import PatternOptions, generate_patterns
from icobench.simulator.compiled import prepare_kernel
from icobench.simulator.experiment import Experiment
from icobench.storage import atomic_path, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PHOTONS = (1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7)
SEED = 21_000
BOUNDS = {
    "disorientation_deg": ("bound_orientation_deg", "disorientation, RMS (deg)"),
    "radius_error_nm": ("bound_radius_nm", "radius error, RMS (nm)"),
}
"""Column of the bound and label of each error."""

ALLOWED = 3.0
"""Times the bound: the target."""


@styled()
def draw(results: dict[str, dict[str, Any]]) -> "Figure":
    """Root mean squares of both errors and of their bounds against the number of photons."""
    figure = empty_figure(9, 3.9)
    photons = [float(name) for name in results]
    for axes, (error, (bound, label)) in zip(figure.subplots(1, 2), BOUNDS.items(), strict=True):
        reached = [row[f"{error}_rms"] for row in results.values()]
        limit = [row[f"{bound}_rms"] for row in results.values()]
        axes.plot(photons, reached, "o-", label="network")
        axes.plot(photons, limit, "k--", label="Cramér-Rao bound")
        axes.plot(photons, [ALLOWED * value for value in limit], "k:", label=f"{ALLOWED:g} times the bound")
        axes.set(xlabel="photons in an image", ylabel=label, xscale="log", yscale="log")
        decade_labels(axes.yaxis)
    legend_below(figure)
    return figure


def measure(images: int) -> dict[str, Any]:
    """Errors of the shipped network on so many images for each number of photons."""
    prepare_kernel(torch.device("cpu"))
    experiment, networks = Experiment(), load_network()
    results = {}
    for photons in PHOTONS:
        options = PatternOptions(images, detector=replace(DETECTORS["counting"], photons=photons))
        evaluated = evaluate(networks, generate_patterns(options, experiment, SEED))
        columns = [name for error, (bound, _) in BOUNDS.items() for name in (error, bound)]
        squares = {f"{name}_rms": float(evaluated.table[name].pow(2).mean() ** 0.5) for name in columns}
        results[f"{photons:g}"] = summarise(evaluated) | squares
        print(photons, squares, flush=True)
    return {
        **provenance(SEED, torch.device("cpu"), experiment),
        "command": f"python reports/photon_numbers.py --images {images}",
        "networks": networks.choose(experiment, "counts").digest, "results": results,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--images", type=int, help="measure anew with so many images for each number of photons"
    )
    parser.add_argument("--out", type=Path, default=Path("reports/photon_numbers.png"))
    arguments = parser.parse_args()
    path = arguments.out.with_suffix(".json").resolve()
    if arguments.images:
        write_json(path, measure(arguments.images))
    if not path.is_file():
        print(f"{path.name}: still owed")
        return
    results = json.loads(path.read_text())["results"]
    if any("radius_error_nm_rms" not in row for row in results.values()):
        print(f"{path.name}: stored without root mean squares; measure anew")
        return
    with atomic_path(arguments.out.resolve()) as temporary:
        draw(results).savefig(temporary, format="png", dpi=150)


if __name__ == "__main__":
    main()
