"""What trained networks are worth: errors on fresh images, calibration, the physical limit, speed."""

import time
from functools import partial

import numpy as np
import torch

from icobench.answer import Progress
from icobench.geometry.orientation import boundary_distance, disorientation
from icobench.images.detector import DETECTORS
from icobench.images.image_set import ImageSet
from icobench.images.pixels import log_image
from icobench.network.selection import Networks, predict
from icobench.reporting.evaluation import Evaluated
from icobench.runs.scoring import bounds_at_truth, errors
from icobench.sets.patterns import PatternOptions, generate_patterns
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from icobench.simulator.speed import ROUNDS, timed_rounds

__all__ = ["evaluate", "speed"]

SPEED_IMAGES = 128
"""In a batch whose prediction is timed: enough to fill a machine, and seconds for the largest network."""


def evaluate(
    networks: Networks,
    truth: ImageSet,
    name: str = "",
    device: torch.device | str = "cpu",
    versions: int = 1,
    progress: Progress = lambda share: None,
) -> Evaluated:
    """Ask the networks about a test set.

    Args:
        networks: to be judged; they choose among themselves.
        truth: images and what is true of them.
        name: for the table.
        device: where to simulate the bound's derivatives (photon counts only).
        versions: turned and mirrored versions that are averaged, 1 to 8.
        progress: called with the finished share.

    Raises:
        InputError: no network was made for the experiment.
    """
    import pandas as pd

    assert truth.experiment is not None
    chosen = networks.choose(truth.experiment, truth.kind)
    begin = time.perf_counter()
    answer = predict(chosen, truth, versions=versions)
    seconds = time.perf_counter() - begin
    assert answer.hypotheses is not None
    miss = errors(answer.radius_nm, answer.quaternion, truth)
    second = disorientation(answer.hypotheses.quaternion[:, 1], truth.quaternion)
    table = pd.DataFrame(
        {
            "true_radius_nm": truth.radius_nm,
            "boundary_distance_deg": boundary_distance(truth.quaternion),
            "radius_nm": answer.radius_nm,
            "disorientation_deg": miss["disorientation_deg"],
            "second_disorientation_deg": second,
            "radius_error_nm": miss["radius_error_nm"],
            "appendix_c_mean": miss["appendix_c_mean"],
            "appendix_c_max": miss["appendix_c_max"],
            "radius_std_nm": answer.radius_std_nm,
            "orientation_std_deg": answer.orientation_std_deg,
        }
    )
    if truth.kind == "counts":
        simulator = Simulator(truth.experiment, device=device)
        bounds = bounds_at_truth(truth, simulator, progress)
        table["bound_radius_nm"], table["bound_orientation_deg"] = bounds
    progress(1.0)
    return Evaluated(name, table, seconds, chosen.digest)


def speed(networks: Networks, experiment: Experiment, rounds: int = ROUNDS) -> dict[str, dict[str, float]]:
    """Times of prediction: one image in ms, and images/s in batches of 128.

    Each is a dictionary with the "median" of the rounds, the lowest ("low") and the highest ("high"). Keys
    "one_image_ms" and "images_per_second" for photon counts; with "log_" before them for clean log images,
    for which two networks are asked.
    """
    counts = generate_patterns(PatternOptions(SPEED_IMAGES), experiment, 0)
    clean = generate_patterns(PatternOptions(SPEED_IMAGES, detector=DETECTORS["clean"]), experiment, 0)
    clean.images, clean.kind = log_image(clean.images), "log"
    device = next(networks.members[0].network.parameters()).device
    pace = {}
    for prefix, images in (("", counts), ("log_", clean)):
        if prefix and not any(member.recipe.log_images for member in networks.members):
            continue
        one = images.subset(torch.arange(1))
        # A single image takes milliseconds: a round is many of them, or a short burst of other work decides.
        single = timed_rounds(partial(predict, networks, one), device, rounds, calls=40)
        batch = timed_rounds(partial(predict, networks, images), device, rounds)
        measured = {"one_image_ms": 1e3 * single, "images_per_second": len(images) / batch}
        for name, values in measured.items():
            spread = {"median": np.median(values), "low": values.min(), "high": values.max()}
            pace[prefix + name] = {part: float(value) for part, value in spread.items()}
    return pace
