"""The figures behind three choices in the code, measured again.

    python reports/choices.py [--images 600] [--out reports/choices.json]

1. Which network answers a log image (`network/selection.py`): shares of images for which the network for
   clean images is believed, and the errors of the answer, for clean, 8-bit, faintly flawed, realistic ones.
   And how well log images are answered whose forward peak nobody sees.
2. How good the dictionary's nearest patterns are (`fitting/dictionary.py`): share of images whose nearest
   pattern, or one of the four nearest, lies within 4 degrees and 3 nm, and the time of a look-up.
3. When a fit is called poor (`fitting/goodness.py`): deviance over its expectation at the best fit, for
   icosahedra made by the fitters' own model, on voxels, with propagation, and for two in one shot.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from icobench.network.familiar import whole
from torch import Tensor

from icobench.fitting.dictionary import DictionaryOptions, dictionary_for
from icobench.fitting.goodness import misfit
from icobench.geometry.orientation import disorientation
from icobench.images.counts import photon_counts
from icobench.images.detector import DETECTORS
from icobench.images.log_image import log_image
from icobench.images.masks import usable_pixels
from icobench.methods import Problem, find_method
from icobench.network.predict import answer
from icobench.network.selection import CLEAN_SCORE, Networks, agreeing, load_network, predict
from icobench.provenance import provenance
from icobench.runs.evaluation import evaluation_set
from icobench.sets.patterns import PatternOptions, PatternSet, draw_truth, generate_patterns
from icobench.sets.test_sets import find_test_set
from icobench.simulator.compiled import prepare_kernel
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from icobench.storage import atomic_path

SEED = 41_000
"""Not that of `icobench evaluate`: what is chosen here must not be judged on the same images."""

FAINT = 0.01
"""Half-normal background of faintly flawed log images."""

BASIN_DEG, BASIN_NM = 4.0, 3.0
DICTIONARIES = (1000, 4000)


def quantiles(values: Tensor) -> dict[str, float]:
    return {str(part): float(values.double().quantile(part)) for part in (0.01, 0.05, 0.5, 0.95, 0.99)}


def log_images(count: int, experiment: Experiment) -> dict[str, tuple[Tensor, PatternSet]]:
    """Log images by name, with their truth."""
    clean = evaluation_set("clean", count, experiment, SEED)
    realistic = evaluation_set("realistic", count, experiment, SEED)
    exact = log_image(clean.images)
    noise = torch.randn(exact.shape, generator=torch.Generator().manual_seed(SEED)).abs()
    faint = torch.where(clean.mask, (exact + FAINT * noise).clamp(0, 1), 0.0)
    return {
        "clean": (exact, clean),
        "clean, 8 bits": ((exact * 255).round() / 255, clean),
        f"background of {FAINT:g}": ((faint * 255).round() / 255, clean),
        "realistic": (realistic.images, realistic),
    }


def network_choice(count: int, networks: Networks, experiment: Experiment) -> dict[str, dict]:
    special, robust = networks.choose(experiment, "log")
    found = {}
    for name, (images, truth) in log_images(count, experiment).items():
        own, other = (answer(one, images, truth.mask, experiment, "log") for one in (special, robust))
        complete = whole(truth.mask, truth.experiment)
        oriented = own.score[:, 0] >= CLEAN_SCORE
        believed = complete & oriented & agreeing(own, other)
        angles = [disorientation(one.quaternion[:, 0], truth.quaternion) for one in (own, other)]
        misses = [(one.radius_nm - truth.radius_nm).abs() for one in (own, other)]
        found[name] = {
            "images": count,
            "complete": float(complete.double().mean()),
            "score_high_enough": float(oriented.double().mean()),
            "clean_believed": float(believed.double().mean()),
            "missing_from_score_1": quantiles(1 - own.score[:, 0]),
            "disorientation_deg": {
                "clean": quantiles(angles[0]), "realistic": quantiles(angles[1]),
                "chosen": quantiles(torch.where(believed, *angles)),
            },
            "radius_error_nm": {
                "clean": quantiles(misses[0]), "realistic": quantiles(misses[1]),
                "chosen": quantiles(torch.where(believed, *misses)),
            },
        }  # fmt: skip
    return found


def without_peak(count: int, networks: Networks, experiment: Experiment) -> dict[str, dict]:
    """Errors on log images over the brightest pixel that a hole leaves, or of photon counts."""
    clean = evaluation_set("clean", count, experiment, SEED)
    sets = {}
    for degrees in (3.0, 8.0):
        mask = usable_pixels(experiment, degrees).expand_as(clean.mask)
        sets[f"hole of {degrees:g} degrees"] = (log_image(clean.images * mask) * mask, mask, clean)
    for photons in (1e5, 1e6):
        options = PatternOptions(count, "log", replace(DETECTORS["counting"], photons=photons))
        counted = generate_patterns(options, experiment, SEED)
        sets[f"{photons:g} photons, hole of 3 degrees"] = (counted.images, counted.mask, counted)
    found = {}
    for name, (images, mask, truth) in sets.items():
        said = predict(networks, images, mask, experiment, "log")
        found[name] = {
            "images": count,
            "disorientation_deg": quantiles(disorientation(said.quaternion[:, 0], truth.quaternion)),
            "radius_error_nm": quantiles((said.radius_nm - truth.radius_nm).abs()),
        }
    return found


def dictionary_hits(count: int, experiment: Experiment) -> dict[str, dict]:
    simulator = Simulator(experiment)
    found = {}
    for name in ("clean", "counting"):
        truth = generate_patterns(PatternOptions(count, detector=DETECTORS[name]), experiment, SEED)
        for size in DICTIONARIES:
            dictionary = dictionary_for(simulator, DictionaryOptions(size))
            begin = time.perf_counter()
            near = dictionary.match(truth.images, truth.mask, truth.kind, truth.experiment, 4)
            seconds = time.perf_counter() - begin
            turn = disorientation(near.quaternion, truth.quaternion[:, None])
            good = (turn < BASIN_DEG) & ((near.radius_nm - truth.radius_nm[:, None]).abs() < BASIN_NM)
            found[f"{name}, {size} patterns"] = {
                "images": count,
                "nearest": float(good[:, 0].double().mean()),
                "one_of_four": float(good.any(1).double().mean()),
                "disorientation_median_deg": float(turn[:, 0].median()),
                "seconds_an_image": seconds / count,
            }
    return found


def two_in_one_shot(count: int, experiment: Experiment, simulator: Simulator) -> PatternSet:
    """Incoherent sums of two icosahedra of random size, 1e5 photons together."""
    radius, quaternion = draw_truth((30.0, 160.0), SEED, range(2 * count))
    intensity = simulator.intensity(radius, quaternion).reshape(2, count, *simulator.valid.shape).sum(0)
    mask = usable_pixels(experiment, DETECTORS["counting"].hole_degrees).expand(count, -1, -1)
    counts = photon_counts(intensity, mask, 1e5, torch.Generator().manual_seed(SEED))
    return PatternSet(counts, mask, radius[:count], quaternion[:count], experiment, "counts")


def deviances(count: int, networks: Networks, experiment: Experiment) -> dict[str, dict]:
    simulator = Simulator(experiment)
    sets = {
        name: generate_patterns(find_test_set(name).options(count), experiment, SEED)
        for name in ("counting", "voxels", "propagated")
    }
    sets["two icosahedra"] = two_in_one_shot(count, experiment, simulator)
    found = {}
    for name, truth in sets.items():
        problem = Problem(truth.images, truth.mask, truth.kind, simulator, networks, SEED, rescue=False)
        outcome = find_method("network+lm").run(problem)
        ratio, _ = misfit(problem.objective(), outcome.radius_nm, outcome.quaternion)
        found[name] = {
            "images": count, "deviance_over_expectation": quantiles(ratio),
            "smallest": float(ratio.min()), "largest": float(ratio.max()),
            "called_poor": sum(status == "poor-fit" for status in outcome.status) / count,
        }  # fmt: skip
    return found


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
    with atomic_path(arguments.out.resolve()) as temporary:
        temporary.write_text(json.dumps(described, indent=1) + "\n")


if __name__ == "__main__":
    main()
