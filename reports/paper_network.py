"""The weights of the published network, rounded to 8 bits, and what the rounding costs.

    python reports/paper_network.py paper_network_float16.safetensors [--images 1000]

The file holds the averaged weights of a training at the paper's scale, on one GPU, in half precision, and a
card in its header. `icobench/network/weights/paper/` is made from it; `reports/paper_network.json` has the
errors of both on the same images of the test set `paper`. The seed is that of the 5,000 images on which the
network was judged after its training: the bodies are the same.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from icobench.errors import InputError
from icobench.network.architectures import build_network
from icobench.network.checkpoint import TrainedNetwork, save_rounded
from icobench.network.recipe import Recipe
from icobench.network.selection import SHIPPED, Networks, load_network
from icobench.provenance import provenance
from icobench.reporting.evaluation import summarise
from icobench.runs.evaluation import evaluate
from icobench.sets.patterns import generate_patterns
from icobench.sets.test_sets import find_test_set
from icobench.simulator.experiment import Experiment
from icobench.storage import write_json

SEED = 99

SHIPPED_FOLDER = SHIPPED / "paper"

LIMIT = 0.03
"""Largest growth of a median error."""

ERRORS = ("disorientation_deg", "radius_error_nm", "appendix_c_mean")

TRAINING = {
    "training_simulations": 25_058,
    "training_images": {"training": 20_046, "validation": 5_012},
    "set": "8-bit log images over 6 decades with half-normal background of 0.02; the eleven filters applied "
    "once to each of the training images, a fixed set of 220,506",
    "set_seconds": 57.9,
    "precision": "bfloat16 autocast",
    "gpu": "NVIDIA H200",
    "commit": "a2fdfa2fe3",
    "weights": "moving average (0.999), in half precision, then rounded to 8 bits: a symmetric step for each "
    "output channel, tensors with fewer than 4,096 numbers and the batch norms in half precision",
}
"""What the card in the file does not say, or says otherwise: the validation images were simulated, too."""


def stored_network(path: Path) -> TrainedNetwork:
    """The network in half precision."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with safe_open(str(path), framework="pt") as opened:
        card: dict[str, Any] = json.loads(opened.metadata()["card"])
    network = build_network(card["architecture"], card["network"])
    network.load_state_dict(load_file(str(path)))
    return TrainedNetwork(network.eval(), card | TRAINING, Recipe.from_dict(card["recipe"]), "float16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("reports/paper_network.json"))
    arguments = parser.parse_args()
    original = stored_network(arguments.weights)
    save_rounded(SHIPPED_FOLDER, original.network, original.card)
    experiment = Experiment()
    images = generate_patterns(find_test_set("paper").options(arguments.images), experiment, SEED)
    contestants = {"float16": Networks((original,)), "shipped": load_network(SHIPPED_FOLDER)}
    errors = {name: summarise(evaluate(networks, images, name)) for name, networks in contestants.items()}
    first, second = errors.values()
    growth = {name: second[name]["median"] / first[name]["median"] - 1 for name in ERRORS}
    described = {
        **provenance(SEED, torch.device("cpu"), experiment),
        "command": f"python reports/paper_network.py {arguments.weights.name} --images {arguments.images}",
        "bytes": {file.name: file.stat().st_size for file in sorted(SHIPPED_FOLDER.iterdir())},
        "growth_of_median": growth,
        "within_limit": max(growth.values()) <= LIMIT,
        "errors": errors,
    }
    write_json(arguments.out.resolve(), described)
    print(json.dumps({name: described[name] for name in ("bytes", "growth_of_median", "within_limit")}))


if __name__ == "__main__":
    main()
