"""The figures behind three choices in the code, measured again.

    python reports/choices.py [--images 600] [--out reports/choices.json]

1. Which network answers a log image (`network/selection.py`): shares of images for which the network for
   clean images is believed, and the errors of the answer, for clean, 8-bit, faintly flawed, realistic ones.
   And how well log images are answered whose forward peak nobody sees.
2. How good the dictionary's nearest patterns are (`fitting/dictionary.py`): share of images whose nearest
   pattern, or one of the four nearest, lies within 4 degrees and 3 nm, and the time of a look-up.
3. When a fit is called poor (`fitting/objectives.py`): deviance over its expectation at the best fit, for
   icosahedra made by the fitters' own model, on voxels, with propagation, and for two in one shot.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from icobench.answer import POOR
from icobench.fitting.dictionary import DictionaryOptions, dictionary_for
from icobench.geometry.orientation import disorientation
from icobench.images.detector import DETECTORS
from icobench.images.image_set import ImageSet
from icobench.images.pixels import log_image, photon_counts, usable_pixels
from icobench.methods import Problem, find_method
from icobench.network.selection import (
    CLEAN_SCORE,
    Networks,
    agreeing,
    answer,
    complete,
    load_network,
    predict,
)
from icobench.provenance import provenance
from icobench.sets.patterns import PatternOptions, draw_truth, generate_patterns
from icobench.sets.test_sets import find_test_set
from icobench.simulator.compiled import prepare_kernel
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from icobench.storage import write_json

SEED = 41_000
"""Not that of `icobench evaluate`: what is chosen here must not be judged on the same images."""

FAINT = 0.01
"""Half-normal background of faintly flawed log images."""

BASIN_DEG, BASIN_NM = 4.0, 3.0
DICTIONARIES = (1000, 4000)


def quantiles(values: Tensor) -> dict[str, float]:
    return {str(part): float(values.double().quantile(part)) for part in (0.01, 0.05, 0.5, 0.95, 0.99)}


def test_images(name: str, count: int, experiment: Experiment) -> ImageSet:
    """Fresh images of a test set."""
    return generate_patterns(find_test_set(name).options(count), experiment, SEED)


def log_images(count: int, experiment: Experiment) -> dict[str, ImageSet]:
    """Log images by name, with their truth."""
    clean = test_images("clean", count, experiment)
    exact = log_image(clean.images)
    noise = torch.randn(exact.shape, generator=torch.Generator().manual_seed(SEED)).abs()
    faint = torch.where(clean.mask, (exact + FAINT * noise).clamp(0, 1), 0.0)
    images = {
        "clean": exact,
        "clean, 8 bits": (exact * 255).round() / 255,
        f"background of {FAINT:g}": (faint * 255).round() / 255,
    }
    sets = {name: replace(clean, images=pixels, kind="log") for name, pixels in images.items()}
    return {**sets, "realistic": test_images("realistic", count, experiment)}


def network_choice(count: int, networks: Networks, experiment: Experiment) -> dict[str, dict]:
    special, robust = networks.choose(experiment, "log").members
    shares = {}
    for name, truth in log_images(count, experiment).items():
        clean, other = (answer(network, truth) for network in (special, robust))
        score = clean.hypotheses.score[:, 0]
        whole, oriented = complete(truth), score >= CLEAN_SCORE
        believed = whole & oriented & agreeing(clean, other)
        angles = [disorientation(given.quaternion, truth.quaternion) for given in (clean, other)]
        misses = [(given.radius_nm - truth.radius_nm).abs() for given in (clean, other)]
        shares[name] = {
            "images": count,
            "complete": float(whole.double().mean()),
            "score_high_enough": float(oriented.double().mean()),
            "clean_believed": float(believed.double().mean()),
            "missing_from_score_1": quantiles(1 - score),
            **{
                column: {
                    "clean": quantiles(values[0]), "realistic": quantiles(values[1]),
                    "chosen": quantiles(torch.where(believed, *values)),
                }
                for column, values in (("disorientation_deg", angles), ("radius_error_nm", misses))
            },
        }  # fmt: skip
    return shares


def without_peak(count: int, networks: Networks, experiment: Experiment) -> dict[str, dict]:
    """Errors on log images over the brightest pixel that a hole leaves, or of photon counts."""
    clean = test_images("clean", count, experiment)
    sets = {}
    for degrees in (3.0, 8.0):
        mask = usable_pixels(experiment, degrees).expand_as(clean.mask)
        pixels = log_image(clean.images * mask) * mask
        sets[f"hole of {degrees:g} degrees"] = replace(clean, images=pixels, mask=mask, kind="log")
    for photons in (1e5, 1e6):
        options = PatternOptions(count, "log", replace(DETECTORS["counting"], photons=photons))
        sets[f"{photons:g} photons, hole of 3 degrees"] = generate_patterns(options, experiment, SEED)
    errors = {}
    for name, truth in sets.items():
        given = predict(networks, truth)
        errors[name] = {
            "images": count,
            "disorientation_deg": quantiles(disorientation(given.quaternion, truth.quaternion)),
            "radius_error_nm": quantiles((given.radius_nm - truth.radius_nm).abs()),
        }
    return errors


def dictionary_hits(count: int, experiment: Experiment) -> dict[str, dict]:
    simulator = Simulator(experiment)
    hits = {}
    for name in ("clean", "counting"):
        truth = generate_patterns(PatternOptions(count, detector=DETECTORS[name]), experiment, SEED)
        for size in DICTIONARIES:
            dictionary = dictionary_for(simulator, DictionaryOptions(size))
            begin = time.perf_counter()
            near = dictionary.match(truth.images, truth.mask, truth.kind, truth.experiment, 4)
            seconds = time.perf_counter() - begin
            turn = disorientation(near.quaternion, truth.quaternion[:, None])
            good = (turn < BASIN_DEG) & ((near.radius_nm - truth.radius_nm[:, None]).abs() < BASIN_NM)
            hits[f"{name}, {size} patterns"] = {
                "images": count,
                "nearest": float(good[:, 0].double().mean()),
                "one_of_four": float(good.any(1).double().mean()),
                "disorientation_median_deg": float(turn[:, 0].median()),
                "seconds_an_image": seconds / count,
            }
    return hits


def two_in_one_shot(count: int, experiment: Experiment, simulator: Simulator) -> ImageSet:
    """Incoherent sums of two icosahedra of random size, 1e5 photons together."""
    radius, quaternion = draw_truth((30.0, 160.0), SEED, range(2 * count))
    intensity = simulator.intensity(radius, quaternion).reshape(2, count, *simulator.valid.shape).sum(0)
    mask = usable_pixels(experiment, DETECTORS["counting"].hole_degrees).expand(count, -1, -1)
    counts = photon_counts(intensity, mask, 1e5, torch.Generator().manual_seed(SEED))
    return ImageSet(counts, mask, "counts", experiment, radius[:count], quaternion[:count])


def deviances(count: int, networks: Networks, experiment: Experiment) -> dict[str, dict]:
    simulator = Simulator(experiment)
    sets = {name: test_images(name, count, experiment) for name in ("counting", "voxels", "propagated")}
    sets["two icosahedra"] = two_in_one_shot(count, experiment, simulator)
    method = find_method("network+lm").with_options(rescue=False)
    ratios = {}
    for name, truth in sets.items():
        problem = Problem(truth, simulator, networks, SEED)
        given = method.run(problem)
        ratio = problem.objective().misfit(given.radius_nm, given.quaternion).ratio
        ratios[name] = {
            "images": count, "deviance_over_expectation": quantiles(ratio),
            "smallest": float(ratio.min()), "largest": float(ratio.max()),
            "called_poor": given.status.count(POOR) / count,
        }  # fmt: skip
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path("reports/choices.json"))
    arguments = parser.parse_args()
    prepare_kernel(torch.device("cpu"))
    experiment, networks = Experiment(), load_network()
    few = max(1, arguments.images // 10)
    described = {
        **provenance(SEED, torch.device("cpu"), experiment),
        "command": f"python reports/choices.py --images {arguments.images}",
        "networks": networks.digest,
        "network_of_a_log_image": network_choice(arguments.images, networks, experiment),
        "log_images_without_peak": without_peak(arguments.images, networks, experiment),
        "dictionary": dictionary_hits(few, experiment),
        "deviance": deviances(few, networks, experiment),
    }
    write_json(arguments.out.resolve(), described)


if __name__ == "__main__":
    main()
