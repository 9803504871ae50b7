"""The posterior that a network gives at once, against the exact one.

python reports/amortised.py --fit                # give the weights for counts a head; minutes on one core
"""

import argparse
from dataclasses import replace

import torch

from icobench.network.amortised import POSTERIOR_STEP, fit_posterior
from icobench.network.architectures import CompactNetwork, build_network
from icobench.network.checkpoint import load_trained, read_weights, save_network, training_core_seconds
from icobench.network.recipe import Recipe
from icobench.network.selection import SHIPPED
from icobench.network.spreads import spread_batches
from icobench.simulator.experiment import Experiment
from icobench.stopwatch import Stopwatch

WEIGHTS = SHIPPED / "counts.safetensors"
FIT_SEED, FIT_IMAGES, BATCH, VERSIONS = 901, 65_536, 64, 2


def fit() -> None:
    """Replace the shipped weights for photon counts by the same with a newly fitted head."""
    stored = read_weights(WEIGHTS)
    card = stored.card
    if "posterior" in card:
        raise SystemExit("these weights have a head; take the ones before it")
    network = build_network(card["architecture"], card["network"])
    assert isinstance(network, CompactNetwork)
    network.load_state_dict(stored.weights)
    recipe, experiment = Recipe.from_dict(card["recipe"]), Experiment.from_dict(card["experiment"])
    recipe, steps = replace(recipe, batch=BATCH, variants=VERSIONS), FIT_IMAGES // BATCH
    watch = Stopwatch(torch.device("cpu"))
    batches = spread_batches(recipe, experiment, FIT_SEED, "cpu", steps, first=POSTERIOR_STEP)
    fit_posterior(network.eval(), batches, recipe.radius_nm, FIT_SEED)
    seconds, core_seconds = watch.read()
    new = {
        **card,
        "network": network.options,
        "parameters": sum(values.numel() for values in network.parameters()),
        "training_seconds": round(card["training_seconds"] + seconds, 1),
        "training_core_seconds": round(training_core_seconds(card) + core_seconds, 1),
        "training_simulations": card["training_simulations"] + FIT_IMAGES // VERSIONS,
        "posterior_images": FIT_IMAGES,
        "posterior": {"seed": FIT_SEED, "answers_of": stored.digest},
    }
    before = load_trained(WEIGHTS)
    images = next(spread_batches(recipe, experiment, FIT_SEED + 1, "cpu", 1)).inputs
    save_network(WEIGHTS, network, new)
    with torch.no_grad():
        same = torch.equal(before.network(images), load_trained(WEIGHTS).network(images))
    assert same, "answers have changed"
    print(f"{WEIGHTS.name}: {FIT_IMAGES} images, {seconds:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--fit", action="store_true")
    if parser.parse_args().fit:
        fit()


if __name__ == "__main__":
    main()
