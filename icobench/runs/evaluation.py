"""What trained networks are worth: errors on fresh images, calibration, the physical limit, speed."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from icobench.methods import Problem
from icobench.sets.patterns import PatternOptions, PatternSet, generate_patterns
from icobench.errors import InputError
from icobench.fitting.uncertainty import cramer_rao
from icobench.geometry.orientation import appendix_c_errors, boundary_distance, disorientation
from icobench.images.augment import augment
from icobench.images.detector import DETECTORS
from icobench.images.log_image import log_image
from icobench.network.predict import NetworkAnswer
from icobench.network.selection import Networks, predict
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["EVALUATION_SETS", "Evaluated", "evaluate", "evaluation_set", "speed", "summarise"]

EVALUATION_SETS = ("clean", "realistic", "counting")
"""Noise-free intensities; log images under the realistic chain; 1e5 photons with a 3 degree hole."""

CHUNK = 250

ERRORS = ("disorientation_deg", "radius_error_nm", "appendix_c_mean", "appendix_c_max")


def evaluation_set(
    name: str,
    images: int,
    experiment: Experiment,
    seed: int,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] = lambda done: None,
) -> PatternSet:
    """A fresh test set by name, radii uniform in 30 to 160 nm.

    Raises:
        InputError: unknown name.
    """
    if name not in EVALUATION_SETS:
        raise InputError(f"unknown test set {name!r}; choose from {', '.join(EVALUATION_SETS)}")
    detector = DETECTORS["counting" if name == "counting" else "clean"]
    truth = generate_patterns(PatternOptions(images, detector=detector), experiment, seed, device, progress)
    if name == "realistic":
        changed = augment(log_image(truth.images), "realistic", seed, mask=truth.mask)
        truth.images, truth.mask, truth.kind = changed.images, changed.mask, "log"
    return truth


@dataclass
class Evaluated:
    """One test set's outcome.

    Attributes:
        name: of the test set.
        table: one row per image: truth, errors, predicted spreads and, for photon counts, the
            Cramer-Rao bounds.
        seconds: of the prediction of all images.
        networks: digests of the networks that were asked.
    """

    name: str
    table: "pd.DataFrame"
    seconds: float
    networks: str


def _bounds(
    truth: PatternSet, simulator: Simulator, progress: Callable[[float], None]
) -> tuple[Tensor, Tensor]:
    """Cramer-Rao standard deviations (N,) of radius and orientation at the truth."""
    radius, turn = [], []
    for index in torch.arange(len(truth)).split(CHUNK):
        own = truth.subset(index)
        objective = Problem(own.images, own.mask, own.kind, simulator).objective()
        spread = cramer_rao(objective, own.radius_nm, own.quaternion)
        radius.append(spread[0])
        turn.append(spread[1])
        progress(float(index[-1] + 1) / len(truth))
    return torch.cat(radius), torch.cat(turn)


def _table(truth: PatternSet, answer: NetworkAnswer) -> "pd.DataFrame":
    import pandas as pd

    turns = disorientation(answer.quaternion, truth.quaternion.unsqueeze(1).expand_as(answer.quaternion))
    mean, largest = appendix_c_errors(
        answer.radius_nm, answer.quaternion[:, 0], truth.radius_nm, truth.quaternion
    )
    return pd.DataFrame(
        {
            "true_radius_nm": truth.radius_nm,
            "boundary_distance_deg": boundary_distance(truth.quaternion),
            "radius_nm": answer.radius_nm,
            "disorientation_deg": turns[:, 0],
            "second_disorientation_deg": turns[:, 1],
            "radius_error_nm": (answer.radius_nm - truth.radius_nm).abs(),
            "appendix_c_mean": mean,
            "appendix_c_max": largest,
            "radius_std_nm": answer.radius_std_nm,
            "orientation_std_deg": answer.orientation_std_deg,
        }
    )


def evaluate(
    networks: Networks,
    truth: PatternSet,
    name: str = "",
    device: torch.device | str = "cpu",
    versions: int = 1,
    progress: Callable[[float], None] = lambda share: None,
) -> Evaluated:
    """Ask the networks about a test set.

    Args:
        networks: to be judged; they choose among themselves.
        truth: images and what is true of them, from :func:`evaluation_set` or any other source.
        name: for the table.
        device: where to simulate the bound's derivatives (photon counts only).
        versions: turned and mirrored versions that are averaged, 1 to 8.
        progress: called with the finished share.

    Raises:
        InputError: no network was made for the experiment.
    """
    chosen = networks.subset(truth.experiment, truth.kind)
    begin = time.perf_counter()
    answer = predict(chosen, truth.images, truth.mask, truth.experiment, truth.kind, versions=versions)
    seconds = time.perf_counter() - begin
    table = _table(truth, answer)
    if truth.kind == "counts":
        simulator = Simulator(truth.experiment, device=device)
        table["bound_radius_nm"], table["bound_orientation_deg"] = _bounds(truth, simulator, progress)
    progress(1.0)
    return Evaluated(name, table, seconds, chosen.digest)


def summarise(evaluated: Evaluated) -> dict[str, Any]:
    """Quantiles of every error, success rate, calibration and, where known, the ratio to the bound.

    The ratios are median error over median bound, and root mean square error over root mean square bound.
    Coverage is the share of radii within one predicted standard deviation (0.68 if the spreads are
    right) and of orientations within the predicted root mean square angle (0.61).
    """
    table = evaluated.table
    out: dict[str, Any] = {"images": len(table), "networks": evaluated.networks}
    for column in ERRORS:
        values = table[column]
        out[column] = {
            "median": float(values.median()), "90": float(values.quantile(0.9)),
            "99": float(values.quantile(0.99)),
        }  # fmt: skip
    solved = (table["disorientation_deg"] < 1) & (table["radius_error_nm"] < 1)
    out["success_rate"] = float(solved.mean())
    out["second_hypothesis_nearer"] = float(
        (table["second_disorientation_deg"] < table["disorientation_deg"]).mean()
    )
    if table["radius_std_nm"].notna().all():
        out["coverage_radius"] = float((table["radius_error_nm"] <= table["radius_std_nm"]).mean())
        out["coverage_orientation"] = float(
            (table["disorientation_deg"] <= table["orientation_std_deg"]).mean()
        )
    pairs = (("disorientation_deg", "bound_orientation_deg"), ("radius_error_nm", "bound_radius_nm"))
    for error, bound in pairs:
        if bound in table:
            out[f"{bound}_median"] = float(table[bound].median())
            out[f"{error}_over_bound_median"] = float(table[error].median() / table[bound].median())
            mean_square = table[error].pow(2).mean() / table[bound].pow(2).mean()
            out[f"{error}_over_bound_rms"] = float(mean_square**0.5)
    out["seconds_per_image"] = evaluated.seconds / len(table)
    return out


def speed(networks: Networks, experiment: Experiment, repeats: int = 5) -> dict[str, float]:
    """Best times of prediction: one image in ms, and images/s in batches of 256.

    Keys "one_image_ms" and "images_per_second" for photon counts; with "log_" before them for clean log
    images, for which two networks are asked.
    """
    counts = generate_patterns(PatternOptions(256), experiment, 0)
    clean = generate_patterns(PatternOptions(256, detector=DETECTORS["clean"]), experiment, 0)
    clean.images, clean.kind = log_image(clean.images), "log"
    device = next(networks.members[0].network.parameters()).device

    def best(patterns: PatternSet) -> float:
        times = []
        # A single image is soon done: a second or so of them, lest a neighbour's burst of work decides.
        for _ in range(1 + repeats * (40 if len(patterns) == 1 else 1)):
            begin = time.perf_counter()
            predict(networks, patterns.images, patterns.mask, experiment, patterns.kind)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - begin)
        return min(times[1:])

    found = {}
    for prefix, truth in (("", counts), ("log_", clean)):
        if prefix and not any(member.recipe.log_images for member in networks.members):
            continue
        found[f"{prefix}one_image_ms"] = 1e3 * best(truth.subset(torch.arange(1)))
        found[f"{prefix}images_per_second"] = len(truth) / best(truth)
    return found
