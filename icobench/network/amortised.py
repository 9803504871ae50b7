"""The posterior that a network gives at once: a mixture around its hypotheses, fitted by likelihood.

All of the network but one head is frozen, so that no answer changes. The head sees images that training never
saw, and maximises the density that its mixture gives to the true poses: a density of radius and orientation
modulo the body's rotations (:class:`~icobench.geometry.mixture.PoseMixture`). Its expectation is largest for
the posterior given all that the head sees. That is less than the image: where the network's errors are larger
than photon noise makes them, so is this posterior.

The components have the network's hypotheses as centres, which are free of the ambiguity of equivalent
orientations, and there is no choice of an equivalent in the loss: it sums over them.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from icobench.errors import InputError
from icobench.geometry.convex import icosahedron
from icobench.geometry.mixture import PoseMixture
from icobench.images.image_set import ImageSet
from icobench.network.architectures import CompactNetwork, single_precision
from icobench.network.checkpoint import TrainedNetwork
from icobench.network.heads import PosteriorHead, Shape, turned_vectors
from icobench.network.inputs import brightness, network_input
from icobench.network.orbit import decode
from icobench.network.selection import CHUNK, Networks, with_twin
from icobench.network.stream import TrainingBatch
from icobench.seeds import Purpose, seed_word

__all__ = ["POSTERIOR_STEP", "amortised", "fit_posterior", "mixture_of", "with_posterior"]

POSTERIOR_STEP = 3 * 10**9
"""Number of the first step whose images the head sees; nothing else gets there."""

HIDDEN, ROUNDS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 128, 15, 256, 2e-3, 0.1


class _Seen(NamedTuple):
    """What a network gives for N images; the last two fields are :meth:`PoseMixture.offsets`.

    Attributes:
        features: (N, F).
        vector: (N, 13).
        log_spreads: (N, 2) without corrections.
        steps: (N, 2, E, 4) from both hypotheses to the truth.
        measure: (N, 2, E).
    """

    features: Tensor
    vector: Tensor
    log_spreads: Tensor
    steps: Tensor
    measure: Tensor


def _centred(
    network: CompactNetwork, output: Tensor, shape: Shape, range_nm: tuple[float, float]
) -> PoseMixture:
    """The mixture around the hypotheses of an output (N, D + S + 2)."""
    orientation, size = network.layout.split(output)
    radius = network.layout.size.decode(size).double()
    decoded = with_twin(orientation, decode(orientation, 2))
    return PoseMixture(
        radius[:, None].expand(-1, 2), decoded.quaternion, *shape, icosahedron(), range_nm
    )  # fmt: skip


@single_precision()
@torch.no_grad()
def _seen(network: CompactNetwork, head: PosteriorHead, batches: Iterable[TrainingBatch]) -> _Seen:
    rows = []
    for inputs, quaternion, radius_nm in batches:
        output, features = network.with_features(inputs)
        vector, _ = network.layout.split(output)
        log_spreads = torch.stack(network.layout.log_spreads(output), 1)
        around = _centred(network, output, head.shape(features, vector, log_spreads), (0.0, 1.0))
        steps, measure = around.offsets(radius_nm.double()[:, None], quaternion.double()[:, None])
        rows.append(_Seen(features, vector, log_spreads, steps[:, :, 0].float(), measure[:, :, 0].float()))
    return _Seen(*(torch.cat(column) for column in zip(*rows, strict=True)))


def fit_posterior(
    network: CompactNetwork, batches: Iterable[TrainingBatch], range_nm: tuple[float, float], seed: int
) -> None:
    """Give a network a head for the posterior and fit it; nothing else of the network changes.

    In every round each image is turned about the beam by another angle, with its orbit vector and its error:
    the other features hardly depend on that angle.

    Args:
        network: in evaluation mode, for the target "orbit"; a head that it has is replaced.
        batches: images that it was not trained with.
        range_nm: of the radii of these.
        seed: of the head's start, of the turns and of the order of the images.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed_word(seed, Purpose.WEIGHTS, 2))
        head = network.add_posterior_head(HIDDEN).eval()
        seen = _seen(network, head, batches)
        standard = torch.cat((seen.features, seen.vector), 1)
        head.centre.copy_(standard.mean(0))
        head.scale.copy_(standard.std(0) + 1e-6)
        _fit(head, seen, range_nm)


def _fit(head: PosteriorHead, seen: _Seen, range_nm: tuple[float, float]) -> None:
    """Maximise the density at the truth over rounds of all images."""
    optimiser = torch.optim.AdamW(head.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    count, device = len(seen.features), seen.features.device
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=ROUNDS * -(-count // BATCH)
    )
    head.train()
    for _ in range(ROUNDS):
        for rows in torch.randperm(count, device=device).split(BATCH):
            part = _Seen(*(column[rows] for column in seen))
            loss = -_log_density(head, _turned(part), range_nm).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    head.eval()


def _turned(seen: _Seen) -> _Seen:
    """The same after turns about the beam by random angles."""
    angle = 2 * math.pi * torch.rand(len(seen.vector), device=seen.vector.device)
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    x, y, *rest = seen.steps.unbind(-1)
    steps = torch.stack((cosine * x - sine * y, sine * x + cosine * y, *rest), -1)
    return seen._replace(vector=turned_vectors(seen.vector, angle), steps=steps)


def _log_density(head: PosteriorHead, seen: _Seen, range_nm: tuple[float, float]) -> Tensor:
    """Logarithm of the density (N,) at the truth."""
    shape = head.shape(seen.features, seen.vector, seen.log_spreads)
    nothing = torch.zeros(len(seen.vector), 2, dtype=torch.float64, device=seen.vector.device)
    mixture = PoseMixture(nothing, nothing, *shape, icosahedron(), range_nm)
    near = mixture.log_components(seen.steps.double().unsqueeze(2), seen.measure.double().unsqueeze(2))
    return torch.cat((near[..., 0], mixture.log_uniform[:, None]), 1).logsumexp(1)


def with_posterior(networks: Networks, images: ImageSet) -> TrainedNetwork:
    """The network for photon counts that has a head for the posterior.

    Raises:
        InputError: there is none for this kind of images or their experiment.
    """
    if images.kind != "counts":
        raise InputError("a posterior needs photon counts: only their noise is known")
    chosen = networks.choose(images.known_experiment, images.kind).members[0]
    if getattr(chosen.network, "posterior_head", None) is None:
        raise InputError(
            "the network for these images has no head for the posterior (posterior_share of its recipe); "
            "--method network+lm --posterior 1000 needs none"
        )
    return chosen


@torch.no_grad()
@single_precision()
def mixture_of(network: CompactNetwork, inputs: Tensor, range_nm: tuple[float, float]) -> PoseMixture:
    """The posteriors from inputs (B, 3, 128, 128) of a network with a head, on the CPU: a component at each
    of both hypotheses, and a uniform one over a range of radii."""
    assert network.posterior_head is not None
    output, features = network.with_features(inputs)
    vector, log_spreads = network.layout.split(output)[0], torch.stack(network.layout.log_spreads(output), 1)
    shape = network.posterior_head.shape(features, vector, log_spreads)
    return _centred(network, output.cpu(), Shape(*(part.cpu() for part in shape)), range_nm)


def amortised(trained: TrainedNetwork, images: ImageSet) -> PoseMixture:
    """The posteriors of N images, as :func:`mixture_of`.

    Args:
        trained: of :func:`with_posterior`.
        images: with the masks that the network may see.
    """
    network, recipe = trained.network, trained.recipe
    assert isinstance(network, CompactNetwork)
    refraction, device = 1 - images.known_experiment.refractive_index.real, network.material.device
    parts = []
    for rows in torch.arange(len(images)).split(CHUNK):
        chunk = images.subset(rows)
        chunk = replace(chunk, images=chunk.images.to(device), mask=chunk.mask.to(device))
        shown, usable = brightness(chunk, recipe.log_images, recipe.decades)
        parts.append(mixture_of(network, network_input(shown, usable, refraction), recipe.radius_nm))
    columns = zip(
        *((one.radius, one.quaternion, one.factor, one.share, one.uniform) for one in parts), strict=True
    )
    radius, quaternion, factor, share, uniform = map(torch.cat, columns)
    return replace(
        parts[0], radius=radius, quaternion=quaternion, factor=factor, share=share, uniform=uniform
    )
