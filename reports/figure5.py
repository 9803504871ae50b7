"""Images that others made, reconstructed, in place of figure 5 of Stielow et al. 2020.

    python reports/figure5.py [--images FILE.cxi] [--truth FILE.csv] [--methods network,network+mle]

The paper's experimental images are not published. These four were made with pyMSFT 1.0.2 of the University of
Rostock (multi-slice Fourier transform and its propagating variant, Poisson noise, a hole), so neither the
simulator nor the noise is this package's; their refractive index comes from the table of the truth.
Draws reconstruction and difference for the last method, and writes all answers beside it as `.json`.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from icobench.geometry.orientation import disorientation
from icobench.images.pixels import expected_counts
from icobench.methods import Problem, find_method
from icobench.network.selection import load_network
from icobench.provenance import provenance
from icobench.reporting.gallery import gallery
from icobench.reporting.tables import number
from icobench.sets.own_images import read_own_images
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from icobench.storage import atomic_path, write_json

DATA = Path("tests/data")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, default=DATA / "pymsft_patterns.cxi")
    parser.add_argument("--truth", type=Path, default=DATA / "pymsft_patterns_truth.csv")
    parser.add_argument("--methods", default="network,dictionary+mle,network+mle")
    parser.add_argument("--out", type=Path, default=Path("reports/figure5.png"))
    arguments = parser.parse_args()
    table = pd.read_csv(arguments.truth)
    networks = load_network()
    shown: dict[str, list] = {"targets": [], "fitted": [], "masks": [], "titles": []}
    answers = []
    for row in table.itertuples():
        believed = Experiment(
            refractive_index=complex(row.n_real, row.n_imag), solid_angle_factor=True
        )  # the cropped ones keep the grid; beyond their edge pixels are masked
        truth = read_own_images(arguments.images, believed, truth=arguments.truth)
        # Starts are drawn by the number of an image: each of these is the first of its set.
        truth = replace(truth.subset(torch.tensor([row.index])), numbers=torch.tensor([0]))
        simulator = Simulator(truth.experiment)
        for name in arguments.methods.split(","):
            answer = find_method(name).run(Problem(truth, simulator, networks))
            answers.append(
                {
                    "image": row.index, "made_with": row.model, "method": name,
                    "radius_nm": float(answer.radius_nm[0]), "true_radius_nm": row.radius_nm,
                    "radius_error_nm": float((answer.radius_nm - truth.radius_nm).abs()[0]),
                    "disorientation_deg": float(disorientation(answer.quaternion, truth.quaternion)[0]),
                    "orientation_std_deg": float(answer.orientation_std_deg[0]),
                    "radius_std_nm": float(answer.radius_std_nm[0]),
                    "objective": float(answer.objective[0]), "evaluations": int(answer.evaluations[0]),
                    "seconds": float(torch.as_tensor(answer.seconds).sum()), "status": answer.status[0],
                }
            )  # fmt: skip
        last = answers[-1]
        target = truth.images.double() * truth.mask
        intensity = simulator.intensity(answer.radius_nm, answer.quaternion).double()
        shown["targets"].append(target[0])
        shown["fitted"].append(expected_counts(intensity, truth.mask, target.sum((-2, -1)))[0])
        shown["masks"].append(truth.mask[0])
        shown["titles"].append(
            f"{row.model}, R = {row.radius_nm:g} nm\noff by {number(last['disorientation_deg'])}°, "
            f"{number(last['radius_error_nm'])} nm\n{last['status']}"
        )
    figure = gallery(
        *(torch.stack(shown[name]) for name in ("targets", "fitted", "masks")), shown["titles"], 4.0
    )
    with atomic_path(arguments.out.resolve()) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    described = {
        **provenance(0, torch.device("cpu"), believed),
        "command": f"python reports/figure5.py --methods {arguments.methods}",
        "networks": networks.digest, "answers": answers,
    }  # fmt: skip
    described.pop("experiment")  # each image has its own, in the table of the truth
    write_json(arguments.out.with_suffix(".json").resolve(), described)


if __name__ == "__main__":
    main()
