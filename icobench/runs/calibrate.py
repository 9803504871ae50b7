"""What the first images of a source say of its detector: the beam's position, the response, gain and noise.

All images of a run share these. Each is found by fitting the first images with what is believed so far,
seeing in which way they differ from their fits, and so on.
"""

import math
from dataclasses import replace

import numpy as np
import torch

from icobench.answer import POOR, Answer
from icobench.errors import InputError
from icobench.fitting.least_squares import centre_steps
from icobench.fitting.nuisance import Nuisance
from icobench.fitting.objectives import PoissonDeviance
from icobench.geometry.convex import ConvexBody, icosahedron
from icobench.images.image_set import ImageSet
from icobench.images.image_source import FEWEST_UNITS, ImageSource
from icobench.images.noise import noise_of
from icobench.images.response import Response
from icobench.methods import Method, Problem
from icobench.network.classifier import Classifier, label_images
from icobench.network.selection import Networks
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

__all__ = [
    "BLOCK", "GPU_BLOCK", "Bench", "find_beam", "find_noise", "find_response", "misses_of", "problem_of",
    "refine_gain",
]  # fmt: skip

BLOCK, GPU_BLOCK = 32, 1024
"""Images fitted together, on a CPU and on a GPU."""

CENTRE_ROUNDS = 12
"""Log images, whose steps are shorter, need more of them than photon counts."""

CENTRE_TOLERANCE = 0.01
"""Pixels; the search for the beam ends when a step is shorter."""

LONGEST_CENTRE_STEP = 1.5
"""Pixels; a fringe of the largest bodies is 2.7 pixels wide."""

NOISE_ROUNDS = 2

OTHER_UNIT = 2.0
"""Whole numbers are photons unless their noise is that of units this many times larger, and explains them."""

RESPONSE_ROUNDS = 10
RESPONSE_TOLERANCE = 0.004
BRIGHT = 20.0
"""Photons in a pixel from which the average of a power is the power of the average, to 0.6 %."""

LEVELS = 14
"""Bins of an image's brightness that its response is read off at."""


def problem_of(
    block: ImageSet, simulator: Simulator, networks: Networks | None, seed: int, fit_sin_theta: float
) -> Problem:
    """What a method gets: fits see the pixels up to an angle, the networks all of them."""
    experiment = simulator.experiment
    valid = experiment.valid()
    fitted = valid & (experiment.sin_theta() <= fit_sin_theta + 1e-9)
    images = replace(block, mask=block.mask & fitted, experiment=experiment)
    return Problem(images, simulator, networks, seed, network_mask=block.mask & valid)


def misses_of(problem: Problem, classifier: Classifier | None) -> dict[int, str]:
    """What the images show that are no hits, in words, by their numbers; none if they are not sorted."""
    if classifier is None:
        return {}
    seen = problem.images.mask if problem.network_mask is None else problem.network_mask
    return label_images(replace(problem.images, mask=seen), classifier).reasons()


class Bench:
    """Fits of the first images of a source under changing beliefs.

    Args:
        grid: the images on their grid.
        method: that fits; without its second search, which is in vain, and ten times as long, where a belief
            is wrong.
        device, networks, seed, fit_sin_theta: as for :func:`~icobench.runs.reconstruct.reconstruct`.
        body: that made the images; the icosahedron by default.

    Attributes:
        classifier: sorts images before they are fitted; None for no sorting.
    """

    def __init__(
        self, grid: ImageSource, method: Method, device: torch.device, networks: Networks | None, seed: int,
        fit_sin_theta: float, body: ConvexBody | None = None,
    ) -> None:  # fmt: skip
        self.grid, self.device, self.networks = grid, device, networks
        self.method = method.with_options(rescue=False) if "rescue" in method.option_names else method
        self.seed, self.fit_sin_theta, self.body = seed, fit_sin_theta, body or icosahedron()
        self.classifier: Classifier | None = None

    def first(self) -> ImageSet:
        """The first images that can be used.

        Raises:
            InputError: there are none.
        """
        block = next(self.grid.blocks(BLOCK))
        good = torch.tensor([number not in block.problems for number in block.numbers.tolist()])
        if not good.any():
            raise InputError(f"{self.grid.where}: none of the first images can be used")
        return block.subset(good)

    def fitted(self, experiment: Experiment) -> tuple[Problem, Answer]:
        """The first images and their fits; without misses, if images are sorted and some are none."""
        simulator = self.simulator(experiment)
        problem = problem_of(self.first(), simulator, self.networks, self.seed, self.fit_sin_theta)
        missed = misses_of(problem, self.classifier)
        if 0 < len(missed) < len(problem.images):
            hit = torch.tensor([number not in missed for number in problem.images.numbers.tolist()])
            seen = problem.network_mask
            seen = None if seen is None else seen[hit]
            problem = replace(problem, images=problem.images.subset(hit), network_mask=seen)
        return problem, self.method.run(problem)

    def simulator(self, experiment: Experiment) -> Simulator:
        """Of the body, for an experiment."""
        return Simulator(experiment, device=self.device, body=self.body)


def find_beam(bench: Bench, experiment: Experiment) -> Experiment:
    """The experiment with the beam where the first images say that it is.

    Reconstructs, takes the median of the images' estimates of how far the beam is off, which a few failed
    fits do not shift, moves the beam, and so on.

    Raises:
        InputError: none of the first images can be used, or the search does not settle, or it settles where
            no body makes more than half of the images.
    """
    for _ in range(CENTRE_ROUNDS):
        problem, answer = bench.fitted(experiment)
        objective = problem.objective()
        steps, _ = centre_steps(objective, answer.radius_nm, answer.quaternion)
        step = steps.median(0).values.clamp(-LONGEST_CENTRE_STEP, LONGEST_CENTRE_STEP)
        x, y = (old + new for old, new in zip(experiment.centre_offset, step.tolist(), strict=True))
        if max(abs(x), abs(y)) > experiment.pixels / 16:
            break
        experiment = replace(experiment, centre_offset=(x, y))
        if float(step.abs().max()) < CENTRE_TOLERANCE:
            # Far from the beam there are places where steps end, too, but no body makes the images there.
            if 2 * int(objective.misfit(answer.radius_nm, answer.quaternion).unlike.sum()) > len(answer):
                break
            return experiment
    raise InputError(f"{bench.grid.where}: the search for the beam does not settle; give --centre")


def _pairs(problem: Problem, answer: Answer) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Expected counts, measured ones and read-out variance of usable pixels, for each image with a like
    fit."""
    objective = problem.objective()
    assert isinstance(objective, PoissonDeviance)
    nuisance = Nuisance.from_answer(answer)
    unlike = objective.misfit(answer.radius_nm, answer.quaternion, None, nuisance).unlike
    mean, counts = objective.pairs(answer.radius_nm, answer.quaternion, nuisance)
    readout = problem.images.readout
    pairs = []
    for row in (~unlike).nonzero()[:, 0].tolist():
        usable = objective.mask[row].cpu()
        noise = torch.zeros(int(usable.sum())) if readout is None else readout[row][usable]
        pairs.append((mean[row][usable].numpy(), counts[row][usable].numpy(), noise.numpy()))
    return pairs


def _gain_factor(problem: Problem, answer: Answer) -> float | None:
    """By how much the gain is larger than believed, the median over the images; None if no fit is like."""
    factors = []
    for mean, counts, noise in _pairs(problem, answer):
        square = (counts - mean).astype(np.float64) ** 2 - noise
        # Read-out noise that is known is taken off; the rest grows with the mean.
        gain, _ = noise_of(mean.astype(np.float64), np.maximum(square, 0) if not noise.any() else square)
        factors.append(gain)
    return float(np.median(factors)) if factors else None


def find_noise(source: ImageSource, bench: Bench, experiment: Experiment) -> list[str]:
    """Set a source's gain where its numbers do not show it: from neighbouring pixels, then from fits.

    Where no noise of photons shows, the images are taken as noise-free intensities.

    Returns:
        what the user should know, a line each.
    """
    if source.kind != "counts" or source.gain is not None or source.steps:
        return []
    first, _ = source.estimate_noise()
    least = FEWEST_UNITS * float(bench.first().images.clamp_min(0).sum((-2, -1)).median())
    gain, explained = max(first, least), False
    for _ in range(NOISE_ROUNDS):
        if gain <= least and source.readout == 0:
            source.kind = bench.grid.kind = "intensity"
            return ["no noise of photons shows: taken as intensities without noise"]
        source.with_noise(gain)
        problem, answer = bench.fitted(experiment)
        explained = 2 * sum(word == POOR for word in answer.status) <= len(answer)
        factor = _gain_factor(problem, answer)
        if factor is None:
            break
        gain = max(gain * factor, least)
    # Where no body explains the images, their differences from it are no noise; nor where they are far larger
    # than those between neighbouring pixels.
    explained = explained and gain < OTHER_UNIT * first
    gain, by = (
        (gain, "the noise of the first images") if explained else (first, "neighbouring pixels, roughly")
    )
    source.with_noise(gain)
    return [f"gain estimated from {by}: {gain:.4g} stored units per photon (--gain)"]


def refine_gain(source: ImageSource, bench: Bench, problem: Problem, answer: Answer) -> list[str]:
    """Set another gain for whole numbers if that explains the first images, and 1 does not.

    Whole numbers are photons as a rule; those of a camera that was not calibrated are not. Neighbouring
    pixels must speak for the other gain, too: differences from a wrong body look like noise of larger units.

    Returns:
        what the user should know; empty where nothing was changed.
    """
    poor = sum(word == POOR for word in answer.status)
    if source.kind != "counts" or source.gain is not None or 2 * poor <= len(answer):
        return []
    before = 1.0 if problem.images.gain is None else float(problem.images.gain.median())
    factor = _gain_factor(problem, answer)
    if factor is None or 1 / OTHER_UNIT < factor < OTHER_UNIT or factor <= 0:
        return []
    neighbours, _ = source.estimate_noise()
    if neighbours <= 0 or abs(math.log(neighbours / (before * factor))) > abs(math.log(neighbours / before)):
        return []
    source.with_noise(before * factor)
    again, better = bench.fitted(problem.simulator.experiment)
    if 2 * sum(word == POOR for word in better.status) > len(better):
        source.with_noise(None)
        return []
    last = _gain_factor(again, better) or 1.0
    source.with_noise(before * factor * last)
    gain = source.gain
    return [f"gain estimated from the noise of the first images: {gain:.4g} stored units per photon (--gain)"]


def find_response(source: ImageSource, bench: Bench, experiment: Experiment) -> list[str]:
    """Set a source's response, an exponent and a ceiling, to what the first images and their fits say.

    Returns:
        what the user should know.

    Raises:
        InputError: log images, whose exponent is their decades, or no fit that is like its image.
    """
    if source.kind != "counts":
        raise InputError("--fit-response is for counts; fit the decades of log images by --nuisance decades")
    response = source.response or Response()
    for _ in range(RESPONSE_ROUNDS):
        source.response, source.steps = response, False
        unit = max(source.estimate_noise()[0], 1e-12)
        source.with_noise(unit)
        problem, answer = bench.fitted(experiment)
        curves = []
        for mean, counts, _ in _pairs(problem, answer):
            if (curve := _curve(mean, counts, unit, response)) is not None:
                curves.append(curve)
        if not curves:
            raise InputError(
                f"{source.where}: no fit is like its image, so the response cannot be found; a detector that "
                "sees less at large angles needs its --efficiency"
            )
        before, response = response, _fitted_response(curves, response)
        bend = abs(1 / response.saturation - 1 / before.saturation) * max(float(r.max()) for _, r in curves)
        if max(abs(response.gamma - before.gamma), bend) < RESPONSE_TOLERANCE:
            break
    source.response = response
    source.with_noise(None)
    ceiling = "" if math.isinf(response.saturation) else f" --soft-saturation {response.saturation:.4g}"
    return [f"response of the detector found from the first images: --gamma {response.gamma:.3f}{ceiling}"]


def _curve(
    mean: np.ndarray, counts: np.ndarray, unit: float, response: Response
) -> tuple[np.ndarray, np.ndarray] | None:
    """Expected photons and average readings of bins of like brightness."""
    bright = mean > BRIGHT
    if bright.sum() < 4 * LEVELS:
        bright = mean >= np.sort(mean)[-min(mean.size, 12 * LEVELS)]
    order = np.argsort(mean[bright])
    parts = [part for part in np.array_split(order, LEVELS) if part.size]
    expected = np.array([mean[bright][part].mean() for part in parts])
    photons = np.array([counts[bright][part].mean() for part in parts])
    good = (expected > 0) & (photons > 0)
    return (expected[good], response.readings(photons[good] * unit)) if good.sum() > 3 else None


def _fitted_response(curves: list[tuple[np.ndarray, np.ndarray]], start: Response) -> Response:
    """The response that makes the readings of all images powers of their expected photons."""
    from scipy.optimize import least_squares

    largest = max(float(readings.max()) for _, readings in curves)

    def differences(values: np.ndarray) -> np.ndarray:
        ceiling = largest * (1 + math.exp(values[1]))
        parts = []
        for expected, readings in curves:
            share = np.minimum(readings / ceiling, 0.999)
            logs = np.log(readings / (1 - share)) - values[0] * np.log(expected)
            parts.append(logs - logs.mean())
        return np.concatenate(parts)

    ceiling = start.saturation if math.isfinite(start.saturation) else 3 * largest
    begin = [start.gamma, math.log(max(ceiling / largest - 1, 1e-2))]
    solution = least_squares(
        differences, begin, bounds=([0.2, -4], [2.5, 9]), loss="soft_l1", f_scale=0.05, x_scale="jac"
    )
    gamma, height = (float(value) for value in solution.x)
    return Response(gamma, math.inf if height > 5 else largest * (1 + math.exp(height)))
