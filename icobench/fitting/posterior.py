"""The posterior of radius and orientation, image by image, by importance sampling with the exact likelihood.

Given its sum, an image of photon counts is multinomial, whatever the unknown scale, and the Poisson deviance
is minus twice the logarithm of that likelihood. The prior is uniform over orientations (SO(3) modulo the
body's rotations) and over the searched radii. Draws come from a mixture: around each mode, a fit from one of
several starts, a Student t distribution with the curvature of the fit, and a small uniform share. It is
adapted twice to what was drawn (adaptive multiple importance sampling: Cornuet et al., Scand. J. Stat. 39,
798, 2012), and all draws count with the mixture of all rounds in the denominator.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from icobench.answer import RADII_NM, Answer, Hypotheses
from icobench.errors import InputError
from icobench.fitting.least_squares import (
    LevenbergMarquardtOptions,
    levenberg_marquardt,
    normal_equations,
)
from icobench.fitting.nuisance import Nuisance
from icobench.fitting.objective import CHUNK, Objective
from icobench.fitting.objectives import PoissonDeviance
from icobench.geometry.convex import ConvexBody
from icobench.geometry.mixture import PoseMixture
from icobench.geometry.orientation import to_fundamental_domain
from icobench.geometry.rotations import rotate_about_beam, turned
from icobench.seeds import Purpose, torch_generator

__all__ = ["Posterior", "check_samples", "log_likelihood", "sample_posterior", "starts_of"]

FEWEST, MOST = 100, 100_000
"""Samples of an image."""

ROUNDS = (0.2, 0.3, 0.5)
"""Shares of the samples; the mixture is adapted after each round."""

FREEDOM = 5.0
"""Degrees of freedom of the Student t distributions: their tails are wider than those of a posterior."""

WIDER = 1.2
"""Factor of the standard deviations of the first round."""

UNIFORM = 0.02
"""Share of draws from the prior: a mode that no start found shows as a large weight."""

FITS = ((LevenbergMarquardtOptions(iterations=3), 4), (LevenbergMarquardtOptions(iterations=8), 4))
"""Steps from every start, and how many of an image's fits go on."""

SAME = 3.0
"""Fits whose distance, in standard deviations, is below this are one mode."""

HOPELESS = 60.0
"""A mode whose log likelihood lacks this much is left out."""

LEAST_SHARE = 0.02
"""Of the draws, for every mode that is left in."""

WIDEST_RAD, WIDEST_NM = 0.35, 20.0
"""Standard deviations of a component are bounded by these: wider ones would wrap around."""

LARGE_K = 0.7
"""From this shape of the weights' tail the samples are not to be trusted (Vehtari et al., J. Mach. Learn.
Res. 25, 1, 2024)."""

FEWEST_EFFECTIVE = 50.0
"""Effective samples below which they are not to be trusted, either."""

MODE_SHARE = 0.01
"""Least probability of what counts as a mode."""


class Posterior(NamedTuple):
    """Weighted samples for N images, S each.

    Attributes:
        radius_nm: (N, S) float64.
        quaternion: (N, S, 4) in the fundamental domain.
        weight: (N, S), with a sum of 1 for each image.
        mode: (N, S) to which mode a sample belongs, 0 for the most likely one, by the starts' fits.
        effective: (N,) effective number of samples, 1 / sum of squared weights.
        pareto_k: (N,) shape of the generalised Pareto distribution of the largest weights; from 0.7 a part of
            the posterior may have been missed.
    """

    radius_nm: Tensor
    quaternion: Tensor
    weight: Tensor
    mode: Tensor
    effective: Tensor
    pareto_k: Tensor

    @property
    def samples(self) -> dict[str, Tensor]:
        """The samples as columns (N S,): radius_nm, q_w to q_z, weight, mode."""
        turns = {f"q_{axis}": self.quaternion[..., i].flatten() for i, axis in enumerate("wxyz")}
        return {"radius_nm": self.radius_nm.flatten(), **turns, "weight": self.weight.flatten(),
                "mode": self.mode.flatten()}  # fmt: skip

    @property
    def columns(self) -> dict[str, Tensor]:
        """What a table says of each image, (N,) each: effective samples, Pareto k, number of modes and the
        probability of the most likely one."""
        modes = int(self.mode.max()) + 1
        share = torch.zeros(len(self.weight), modes, dtype=torch.float64).scatter_add(
            1, self.mode, self.weight
        )
        return {
            "posterior_effective": self.effective, "posterior_k": self.pareto_k,
            "posterior_modes": (share >= MODE_SHARE).sum(1).double(), "posterior_best": share.amax(1),
        }  # fmt: skip


def _adapted(mixture: PoseMixture, radius: Tensor, quaternion: Tensor, weight: Tensor) -> PoseMixture:
    """The mixture with centres, covariances and shares of weighted samples (N, S)."""
    log = mixture.log_densities(radius, quaternion)
    member = log.softmax(1)[:, :-1] * weight.unsqueeze(1)  # (N, K, S)
    mass = member.sum(2)
    steps = mixture.offsets(radius, quaternion)[0][:, :, :, 0]
    part = member / mass.clamp_min(1e-300).unsqueeze(2)
    effective = 1 / part.square().sum(2).clamp_min(1e-300)
    mean = (part.unsqueeze(-1) * steps).sum(2)
    away = steps - mean.unsqueeze(2)
    spread = (part[..., None] * away).mT @ away
    # Few samples say little: the present covariance counts as twenty of them.
    trust = torch.where(mass > 1e-12, effective / (effective + 20), 0.0)
    present = mixture.factor @ mixture.factor.mT
    covariance = trust[..., None, None] * spread + (1 - trust[..., None, None]) * present
    mean = trust.unsqueeze(-1) * mean
    share = torch.where(mixture.share > 0, mass.clamp_min(LEAST_SHARE), 0.0)
    return replace(
        mixture, radius=(mixture.radius + mean[..., 3]).clamp(*RADII_NM),
        quaternion=turned(mixture.quaternion, mean[..., :3]),
        factor=torch.linalg.cholesky(_bounded(covariance)),
        share=(1 - UNIFORM) * share / share.sum(1, keepdim=True),
    )  # fmt: skip


def _bounded(covariance: Tensor) -> Tensor:
    """Covariances (..., 4, 4) that are not wider than :data:`WIDEST_RAD` and :data:`WIDEST_NM`."""
    size = covariance.new_tensor([WIDEST_RAD] * 3 + [WIDEST_NM])
    scaled = covariance / (size[:, None] * size)
    values, vectors = torch.linalg.eigh((scaled + scaled.mT) / 2)
    bounded = (vectors * values.clamp(1e-12, 1.0).unsqueeze(-2)) @ vectors.mT
    return bounded * (size[:, None] * size)


def check_samples(samples: int) -> None:
    """Refuse a number of samples that is out of range.

    Raises:
        InputError: it is.
    """
    if not FEWEST <= samples <= MOST:
        raise InputError(f"a posterior needs {FEWEST} to {MOST} samples, got {samples}")


def log_likelihood(objective: Objective, image: Tensor, radius_nm: Tensor, quaternion: Tensor) -> Tensor:
    """Logarithms (B,) of the likelihood, but for a constant of each image; one evaluation each.

    Args:
        objective: of photon counts.
        image: (B,) indices of its images.
        radius_nm, quaternion: (B,) and (B, 4).
    """
    values = []
    for rows in torch.arange(len(image)).split(CHUNK):
        none = Nuisance.none(len(rows))
        intensity = objective.model(image[rows], radius_nm[rows], quaternion[rows], none).double()
        deviance = objective.compare(image[rows], intensity) * objective.usable[image[rows]]
        values.append(-0.5 * deviance.cpu())
    return torch.cat(values)


def starts_of(answer: Answer, nearest: Hypotheses) -> Hypotheses:
    """Where modes are searched: at the fits to N images, at their near twins, at the hypotheses behind them,
    and at the K nearest stored patterns (N, K)."""
    radius, quaternion = answer.radius_nm.double()[:, None], answer.quaternion.double()[:, None]
    twin = rotate_about_beam(quaternion, torch.full_like(radius, math.pi))
    further = [nearest] if answer.hypotheses is None else [answer.hypotheses, nearest]
    radii = torch.cat((radius, radius, *(guess.radius_nm.double().cpu() for guess in further)), 1)
    turns = torch.cat((quaternion, twin, *(guess.quaternion.double().cpu() for guess in further)), 1)
    return Hypotheses(radii, turns, torch.zeros_like(radii))


def _modes(objective: Objective, starts: Hypotheses, body: ConvexBody) -> PoseMixture:
    """Fits from all starts, each mode once."""
    count, radius, quaternion = len(starts.radius_nm), starts.radius_nm, starts.quaternion
    for options, kept_fits in FITS:
        image = torch.arange(count).repeat_interleave(radius.shape[1])
        fit = levenberg_marquardt(objective, radius.flatten(), quaternion.flatten(0, 1), options, image)
        value = fit.objective.nan_to_num(nan=torch.inf).unflatten(0, radius.shape)
        value, order = value.sort(dim=1, stable=True)
        value, order = value[:, :kept_fits], order[:, :kept_fits]
        radius = fit.radius_nm.unflatten(0, radius.shape).gather(1, order)
        quaternion = torch.take_along_dim(fit.quaternion.unflatten(0, (count, -1)), order.unsqueeze(-1), 1)
    number = radius.shape[1]
    image = torch.arange(count).repeat_interleave(number)
    log = -0.5 * value * objective.usable.cpu().unsqueeze(1)
    matrix, _, _ = normal_equations(objective, image, radius.flatten(), quaternion.flatten(0, 1))
    size = matrix.diagonal(dim1=1, dim2=2).clamp_min(1e-300).sqrt()
    inverse = torch.linalg.pinv(matrix / (size[:, :, None] * size[:, None]), hermitian=True)
    covariance = (inverse / (size[:, :, None] * size[:, None]))[:, :4, :4].cpu()
    finite = covariance.isfinite().flatten(1).all(1)[:, None, None]
    covariance = _bounded(torch.where(finite, covariance, torch.eye(4))).unflatten(0, (count, number))
    factor = torch.linalg.cholesky(covariance)
    uniform = torch.full((count,), UNIFORM, dtype=torch.float64)
    mixture = PoseMixture(
        radius, quaternion, WIDER * factor, torch.ones_like(radius), uniform, body, RADII_NM, FREEDOM
    )
    steps, _ = mixture.offsets(radius, quaternion)  # (N, K, K, E, 4)
    distance = torch.linalg.solve_triangular(factor, steps.flatten(2, 3).mT, upper=False).square().sum(2)
    near = distance.unflatten(2, steps.shape[2:4]).amin(-1) < SAME**2
    # Of a chain of neighbours only the best stays.
    kept = torch.zeros_like(radius, dtype=torch.bool)
    for place in range(number):
        kept[:, place] = ~(near[:, :, place] & kept).any(1) & (log[:, place] > log[:, 0] - HOPELESS)
    kept[:, 0] = True  # an image that no fit explains has no finite value
    volume = 0.5 * torch.logdet(covariance)
    share = torch.where(kept, log - log[:, :1] + volume - volume[:, :1], -torch.inf).softmax(1)
    share = torch.where(kept, share.clamp_min(LEAST_SHARE), 0.0)
    mixture.share = (1 - UNIFORM) * share / share.sum(1, keepdim=True)
    return mixture


def _tail(weight: Tensor) -> float:
    """Pareto k of normalised weights (S,)."""
    from scipy.stats import genpareto

    values = np.sort(weight.numpy())
    largest = min(len(values) // 5, math.ceil(3 * math.sqrt(len(values))))
    excess = values[-largest:] - values[-largest - 1]
    if excess[-1] <= 0:
        return -math.inf
    return float(genpareto.fit(excess / excess.mean(), floc=0)[0])


def sample_posterior(
    objective: Objective, starts: Hypotheses, samples: int, seed: int = 0, numbers: Tensor | None = None
) -> Posterior:
    """Samples of the posterior of all images of an objective.

    Args:
        objective: of photon counts; its counter counts every sample and every fit.
        starts: K for each of the N images. Modes are searched from these; give the fit, its near twin and
            whatever else may be as good.
        samples: S, 100 to 100,000.
        seed: of the draws.
        numbers: (N,) of the images within their set, which split the seed; 0 to N - 1 by default.

    Raises:
        InputError: images that are no photon counts, or a number of samples out of range.
    """
    if not isinstance(objective, PoissonDeviance):
        raise InputError("a posterior needs photon counts: only their noise is known")
    check_samples(samples)
    count, body = len(starts.radius_nm), objective.simulator.body
    numbers = torch.arange(count) if numbers is None else numbers
    generators = [torch_generator(seed, Purpose.POSTERIOR, number) for number in numbers.tolist()]
    mixture = _modes(objective, starts, body)
    first, mixtures, sizes = mixture, [], []
    radius = torch.zeros(count, 0, dtype=torch.float64)
    quaternion, log = torch.zeros(count, 0, 4, dtype=torch.float64), radius
    weight = radius
    for number, part in enumerate(ROUNDS):
        size = round(samples * part) if number + 1 < len(ROUNDS) else samples - radius.shape[1]
        drawn, turn = mixture.draw(size, generators)
        image = torch.arange(count).repeat_interleave(size)
        inside = (drawn >= RADII_NM[0]) & (drawn <= RADII_NM[1])
        value = log_likelihood(objective, image, drawn.clamp(*RADII_NM).flatten(), turn.flatten(0, 1))
        value = torch.where(inside, value.reshape(count, size), -torch.inf)
        radius, quaternion = torch.cat((radius, drawn), 1), torch.cat((quaternion, turn), 1)
        log = torch.cat((log, value.nan_to_num(nan=-torch.inf)), 1)
        mixtures.append(mixture)
        sizes.append(size)
        densities = torch.stack(
            [
                each.log_density(radius, quaternion) + math.log(size)
                for each, size in zip(mixtures, sizes, strict=True)
            ]
        ).logsumexp(0)
        weight = (log - densities).softmax(1)
        if number + 1 < len(ROUNDS):
            mixture = _adapted(mixture, radius, quaternion, weight)
    member = first.log_densities(radius, quaternion)[:, :-1].argmax(1)
    mass = torch.zeros_like(first.share).scatter_add(1, member, weight)
    rank = mass.argsort(1, descending=True).argsort(1)
    return Posterior(
        radius, to_fundamental_domain(quaternion, body), weight, rank.gather(1, member),
        1 / weight.square().sum(1), torch.tensor([_tail(row) for row in weight], dtype=torch.float64),
    )  # fmt: skip
