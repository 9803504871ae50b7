"""Test figures of a trained network on fresh images, alone and as a start for Levenberg-Marquardt.

    python reports/network_test.py [--images 2000] [--fits 400] [--model WEIGHTS] [--out FILE]

Three test sets of the `icobench compare` kind: 1e5 photons with a 3 degree hole, 1e6 photons likewise, and
noise-free. The seed differs from every seed that training uses.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch

from icobench.comparison.methods import METHODS, Problem
from icobench.datasets.patterns import PatternOptions, PatternSet, generate_patterns
from icobench.geometry.orientation import appendix_c_errors, disorientation
from icobench.images.detector import DETECTORS
from icobench.images.files import atomic_path
from icobench.network.selection import Networks, load_network, predict
from icobench.provenance import provenance
from icobench.simulator.compiled import prepare_kernel
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

SEED = 20_000


def quantiles(values: torch.Tensor) -> dict[str, float]:
    """Median, 90 % and 99 % quantile."""
    return {
        name: round(float(values.double().quantile(share)), 4)
        for name, share in (("median", 0.5), ("90", 0.9), ("99", 0.99))
    }


def figures(radius: torch.Tensor, quaternion: torch.Tensor, truth: PatternSet) -> dict:
    """Error quantiles and success rates."""
    angle = disorientation(quaternion.double(), truth.quaternion)
    miss = (radius.double() - truth.radius_nm).abs()
    mean, largest = appendix_c_errors(radius.double(), quaternion.double(), truth.radius_nm, truth.quaternion)
    solved = ((angle < 1) & (miss < 1)).double()
    large = truth.radius_nm > 45
    return {
        "images": len(truth),
        "disorientation_deg": quantiles(angle),
        "radius_error_nm": quantiles(miss),
        "appendix_c_mean": quantiles(mean),
        "appendix_c_max": quantiles(largest),
        "success_rate": round(float(solved.mean()), 4),
        "success_rate_above_45nm": round(float(solved[large].mean()), 4),
    }


def test_network(network: Networks, truth: PatternSet, fits: int) -> dict:
    """The network alone on all images, and network+lm on the first ``fits``."""
    begin = time.perf_counter()
    answer = predict(network, truth.images, truth.mask, truth.experiment, truth.kind)
    out = {
        "network": {
            **figures(answer.radius_nm, answer.quaternion[:, 0], truth),
            "seconds_per_image": round((time.perf_counter() - begin) / len(truth), 5),
        }
    }
    simulator = Simulator(truth.experiment)
    if not fits:
        return out
    pieces = [
        METHODS["network+lm"].run(
            Problem(truth.images[i], truth.mask[i], truth.kind, simulator, network, SEED, i)
        )
        for i in torch.arange(min(fits, len(truth))).split(32)
    ]
    rows = torch.arange(min(fits, len(truth)))
    radius = torch.cat([piece.radius_nm for piece in pieces])
    quaternion = torch.cat([piece.quaternion for piece in pieces])
    out["network+lm"] = {
        **figures(radius, quaternion, truth.subset(rows)),
        "evaluations_mean": float(torch.cat([p.evaluations for p in pieces]).double().mean()),
        "seconds_per_image": round(sum(piece.seconds for piece in pieces) / len(rows), 4),
    }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--fits", type=int, default=400)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--out", type=Path, default=Path("reports/network_test.json"))
    arguments = parser.parse_args()

    network = load_network(arguments.model)
    experiment = Experiment()
    prepare_kernel(torch.device("cpu"))
    results = {}
    for name, photons in (("1e5 photons", 1e5), ("1e6 photons", 1e6), ("noise-free", 0.0)):
        detector = replace(DETECTORS["counting"], photons=photons) if photons else DETECTORS["clean"]
        truth = generate_patterns(PatternOptions(arguments.images, detector=detector), experiment, SEED)
        results[name] = test_network(network, truth, arguments.fits if photons == 1e5 else 0)
        print(name, json.dumps(results[name], indent=1), flush=True)
    origin = provenance(SEED, torch.device("cpu"), experiment)
    origin["command"] = f"python reports/network_test.py --images {arguments.images} --fits {arguments.fits}"
    document = {**origin, "weights": network.digest, "cards": network.cards, "results": results}
    with atomic_path(arguments.out.resolve()) as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
