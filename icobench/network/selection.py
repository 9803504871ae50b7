"""From images to radius, orientation hypotheses and error bars, with one network or the choice of several."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from icobench.answer import AMBIGUOUS, OK, UNTRAINED, Answer, Hypotheses
from icobench.devices import Recorded, by_device, has_triton, joined, sent
from icobench.errors import InputError
from icobench.geometry.orientation import disorientation, to_fundamental_domain
from icobench.geometry.rotations import random_quaternions
from icobench.images.image_set import KINDS, ImageSet
from icobench.images.symmetry import DIHEDRAL, dihedral_images, dihedral_orientations
from icobench.network.architectures import Network, single_precision
from icobench.network.checkpoint import TrainedNetwork, load_trained
from icobench.network.inputs import CANONICAL_PIXELS, brightness, is_canonical, network_input, valid_pixels
from icobench.network.orbit import DIMENSION, Decoded, decode, embed
from icobench.network.recipe import Recipe
from icobench.simulator.experiment import Experiment

__all__ = [
    "CHUNK", "GPU_CHUNK", "SHIPPED", "Networks", "agreeing", "answer", "complete", "load_network", "predict",
    "with_twin", "within_angles", "within_training",
]  # fmt: skip

logger = logging.getLogger("icobench")

SHIPPED = Path(__file__).parent / "weights"
"""The default networks, a file each; and folders, whose names :func:`load_network` knows."""

CHUNK, GPU_CHUNK = 32, 2048
"""Images at a time: on a CPU their features stay in its caches, on a GPU they take 3 GiB."""

RECORDED_SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64, 128)
"""Numbers of images for which a GPU's work is recorded and replayed: launching it would take longer than the
work. Other numbers are filled up to the next one."""

MOST_RECORDS = 24
"""Of a network, for its numbers of images and detectors; each takes some memory."""

RECORD_AFTER = 2
"""Calls of the same kind, after which recording pays."""

VERSIONS = (0, 4, 2, 6, 1, 5, 3, 7)
"""Dihedral versions in the order in which they are averaged. The output of a network in polar coordinates
turns with quarter turns of the image anyway; only the mirror image adds information: two are enough."""

AMBIGUOUS_SCORE_GAP = 0.1
"""The network alone cannot decide between two hypotheses whose scores are closer than this."""

COARSEST = 1.25
"""Pixels in units of the canonical ones; coarser ones blur the fringes of large bodies."""

CHAIN_HOLE_DEGREES, CHAIN_REACH = 14.5, 0.5
"""Largest hole of the eleven filters, an eighth of the image, and the least sin(theta) at a crop's edge."""

MARGIN_PIXELS = 1.5

LEAST_PHOTON_SHARE = 0.8
"""Of the least photon number in training: counts scatter, and masks differ."""

LEAST_LOG_MEAN = 0.1
"""Of the pixels with light: log images have more, distorted ones too, intensities over their maximum less
(``tests/network/test_within_training.py``)."""

AGREEMENT = 2.0
"""Largest difference in orientation and in radius between the network for clean images and the robust one, in
standard deviations of the robust one, at which the first is used: 99 % of clean images agree."""

CLEAN_SCORE = 1 - 2.5e-5
"""Least score at which the network for clean images is used on log images. All of 400 clean images reach it,
also with 8 bits and over a background of 1 % of the scale, where this network's radius is five times more
precise; realistic images do not. See `reports/choices.py`."""

ORDERS = {
    "counts": ("counts", "realistic", "augmented", "clean"),
    "intensity": ("clean", "counts", "realistic", "augmented"),
    "log": ("clean", "realistic", "augmented", "counts"),
}
"""For each kind of image, the training images of the networks that are preferred for it, best first."""

SEEN = {
    "counts": ("counts", "intensity"),
    "clean": ("intensity", "log"),
    "realistic": ("log",),
    "augmented": ("log",),
}
"""For each kind of training images, the kinds of image that they stand for; others are converted."""

KIND_WORDS = {"counts": "photon counts", "intensity": "noise-free intensities", "log": "log images"}


@dataclass(frozen=True)
class Networks:
    """Trained networks, at least one, each for its kind of images."""

    members: tuple[TrainedNetwork, ...]

    @property
    def digest(self) -> str:
        """The digests of the members' weights, 12 hexadecimal digits each."""
        return "-".join(member.digest for member in self.members)

    @property
    def cards(self) -> list[dict[str, Any]]:
        """The cards of the members, with their digests."""
        return [{**member.card, "digest": member.digest} for member in self.members]

    def choose(self, experiment: Experiment, kind: str, complete: bool = False) -> "Networks":
        """The members for images of a kind of :data:`~icobench.images.image_set.KINDS`, most special first.

        Photon counts need a network for counts. Noise-free intensities and log images need the network for
        clean images and, for images that are not clean or not complete, a robust one: for counts or for
        realistic images; intensities that are known to be ``complete`` do without. A network that was not
        trained for the experiment (another refractive index, a cropped detector) is left out.

        Raises:
            InputError: no member was trained for this experiment.
        """
        fitting = [member for member in self.members if not member.misfits(experiment)]
        if not fitting:
            problems = [member.misfits(experiment) for member in self.members]
            fewest = min(map(len, problems))
            reasons = dict.fromkeys("; ".join(words) for words in problems if len(words) == fewest)
            raise InputError(
                f"the network's weights were made for {'; or for '.join(reasons)}; "
                "--method dictionary+lm needs no network"
            )
        fitting.sort(key=lambda member: ORDERS[kind].index(member.recipe.images))
        enough = fitting[0].recipe.images != "clean" or (kind == "intensity" and complete)
        return Networks(tuple(fitting[: 1 if enough else 2]))

    def conversion(self, kind: str) -> str:
        """What images of a kind are converted to for members that learned from others; empty if nothing."""
        recipes = [member.recipe for member in self.members if kind not in SEEN[member.recipe.images]]
        if not recipes:
            return ""
        log_images = f"log images over {recipes[0].decades:g} decades"
        shown = log_images if recipes[0].log_images else "photon counts"
        return f"{KIND_WORDS[kind]} were converted to {shown}, which the network learned from"


def load_network(
    path: Path | str | Sequence[Path | str] | None = None, device: torch.device | str = "cpu"
) -> Networks:
    """Load one or several files of weights; the shipped ones by default.

    Args:
        path: of one or several ``network.safetensors`` of :func:`~icobench.network.training.train`, or of
            folders of parts; the string "paper" is the published network, which is shipped as well.
        device: where the networks will run.

    Raises:
        InputError: a file is missing, damaged or holds no network of icobench, or the name of a shipped
            network is also that of weights in the working directory.

    Example:
        >>> networks = load_network()
        >>> sorted(member.recipe.images for member in networks.members)
        ['clean', 'counts', 'counts', 'realistic']
        >>> [member.recipe.images for member in networks.choose(Experiment(), "counts").members]
        ['counts']
    """
    if path is None:
        path = sorted(SHIPPED.glob("*.safetensors"))
    paths = [path] if isinstance(path, str | Path) else path
    return Networks(tuple(load_trained(_place(path), device) for path in paths))


def _place(path: Path | str) -> Path:
    """Where weights are; a string that is a name alone, without ./ before it, may be that of shipped ones."""
    if not isinstance(path, str) or path not in {folder.name for folder in SHIPPED.glob("*/")}:
        return Path(path)
    here = Path(path)
    if here.is_file() or any(here.glob("*.safetensors")):
        raise InputError(f"{path}: a shipped network, but weights here have this name; ./{path} are these")
    return SHIPPED / path


def predict(
    networks: Networks, images: ImageSet, mask: Tensor | None = None, hypotheses: int = 2, versions: int = 1
) -> Answer:
    """Reconstruct images with the networks that were trained for them.

    The network for clean images is far more precise on those, and wrong on others, so it is only used for
    complete images: for all such intensities, and for log images, which may be clean or not, where its score
    is high and its answer lies within the error bars of the robust network.

    Args:
        networks: to choose from.
        images: N images of any kind, with their experiment.
        mask: (N, H, W) True where the networks may use a pixel; that of the images by default.
        hypotheses: K, orientations per image; where the network's output suggests fewer, the near twin (a
            half turn about the beam) is the last one.
        versions: turned and mirrored versions to average, 1 to 8.

    Returns:
        radius, orientation, error bars (NaN from a network without) and hypotheses, whose scores are the
        cosines of predicted and decoded orbit vectors. The status is "outside-training" for images unlike
        those of training, "ambiguous" where two hypotheses have nearly the same score, else "ok".

    Raises:
        InputError: no network was trained for this experiment.
        ValueError: wrong shapes, kind or number of versions.
    """
    if mask is not None:
        images = replace(images, mask=mask)
    clean_only = images.kind == "intensity" and bool(complete(images).all())
    chosen = networks.choose(images.known_experiment, images.kind, clean_only).members
    robust = answer(chosen[-1], images, hypotheses, versions)
    if len(chosen) == 1:
        return robust
    rows = complete(images).nonzero().squeeze(1)
    if not len(rows):
        return robust
    clean = answer(chosen[0], images.subset(rows), hypotheses, versions)
    used = torch.ones(len(rows), dtype=torch.bool)
    assert robust.hypotheses is not None and clean.hypotheses is not None
    if images.kind == "log":
        used = agreeing(clean, robust, rows) & (clean.hypotheses.score[:, 0] >= CLEAN_SCORE)
    for name in ("radius_nm", "quaternion", "radius_std_nm", "orientation_std_deg"):
        getattr(robust, name)[rows[used]] = getattr(clean, name)[used]
    for column, clean_column in zip(robust.hypotheses, clean.hypotheses, strict=True):
        column[rows[used]] = clean_column[used]
    for place in used.nonzero().squeeze(1).tolist():
        robust.status[int(rows[place])] = clean.status[place]
    return robust


def agreeing(clean: Answer, robust: Answer, rows: Tensor | slice = slice(None)) -> Tensor:
    """Where the answer for M clean images lies within twice the error bars of the robust one, (M,) bool.

    ``rows`` (M,) are the places of these images in the robust answer; by default both have the same images.
    """
    angle = disorientation(clean.quaternion, robust.quaternion[rows])
    distance = (clean.radius_nm - robust.radius_nm[rows]).abs()
    near = angle <= AGREEMENT * robust.orientation_std_deg[rows]
    return near & (distance <= AGREEMENT * robust.radius_std_nm[rows])


def complete(images: ImageSet) -> Tensor:
    """(N,) which images have all pixels of the canonical grid, as in training with clean images."""
    return _complete(images).cpu()


def _complete(images: ImageSet) -> Tensor:
    """The same on the images' device."""
    experiment, device = images.known_experiment, images.mask.device
    if not is_canonical(experiment) or experiment.pixel_average:
        return torch.zeros(len(images), dtype=torch.bool, device=device)
    return (images.mask | ~valid_pixels(experiment, device)).flatten(1).all(1)


def within_training(recipe: Recipe, images: ImageSet) -> Tensor:
    """(N,) which images have a hole, a reach, photons and pixels like a recipe's: error bars hold there."""
    return _within_training(recipe, images).cpu()


@lru_cache(maxsize=8)
def _sines(experiment: Experiment, device: torch.device) -> Tensor:
    return experiment.sin_theta(torch.float32).to(device)


def _within_training(recipe: Recipe, images: ImageSet) -> Tensor:
    """The same on the images' device."""
    if recipe.images == "clean":
        return _complete(images)
    experiment, device = images.known_experiment, images.images.device
    # Networks for counts were not trained with flawed log images, nor the others with photon counts.
    other_kind = images.kind != "intensity" and (images.kind == "log") is not recipe.log_images
    pixel = 2 * experiment.sin_theta_max / experiment.pixels
    if other_kind or pixel / 2 > COARSEST / CANONICAL_PIXELS:
        return torch.zeros(len(images), dtype=torch.bool, device=device)
    hole, reach = recipe.hole_degrees[1], recipe.sine[0]
    if recipe.log_images:
        hole, reach = CHAIN_HOLE_DEGREES, CHAIN_REACH
    within = within_angles(images, hole, reach)
    if images.kind == "counts":
        usable = images.mask & valid_pixels(experiment, device)
        photons = torch.where(usable, images.images, 0.0).sum((-2, -1))
        within &= photons >= LEAST_PHOTON_SHARE * recipe.photons[0]
    elif images.kind == "log":
        lit = images.mask & (images.images > 0)
        total = torch.where(lit, images.images, 0.0).sum((-2, -1))
        within &= total >= LEAST_LOG_MEAN * lit.sum((-2, -1))
    return within


def within_angles(images: ImageSet, hole_degrees: float, reach: float) -> Tensor:
    """(N,) which images see angles as small as a hole's rim, to a pixel or so, and as large as ``reach``, a
    sine; on the images' device."""
    experiment, device = images.known_experiment, images.images.device
    usable = images.mask & valid_pixels(experiment, device)
    sine = _sines(experiment, device)
    nearest = torch.where(usable, sine, 2.0).amin((-2, -1))
    farthest = torch.where(usable, sine, 0.0).amax((-2, -1))
    margin = MARGIN_PIXELS * 2 * experiment.sin_theta_max / experiment.pixels
    return (nearest <= math.sin(math.radians(hole_degrees)) + margin) & (farthest >= reach)


@lru_cache(maxsize=4)
def _version_matrices(device: torch.device) -> Tensor:
    """(8, 13, 13): from the orbit vector of each dihedral version to that of the original image."""
    quaternion = random_quaternions(400, torch.Generator().manual_seed(8))
    vectors = embed(quaternion).numpy()
    versions = [embed(dihedral_orientations(quaternion, index)).numpy() for index in range(DIHEDRAL)]
    matrices = [np.linalg.lstsq(vectors, turned, rcond=None)[0].T for turned in versions]
    return torch.as_tensor(np.stack(matrices), dtype=torch.float32, device=device)


def with_twin(vector: Tensor, decoded: Decoded) -> Decoded:
    """The same with the near twin wherever the decoder did not find a further maximum.

    A half turn about the beam is nearly invisible at small angles (small bodies, cropped detectors).
    """
    missing = decoded.score == -1
    if by_device(missing.device, True, False) and not missing.any():
        return decoded
    w, x, y, z = decoded.quaternion[:, 0].unbind(-1)
    twin = to_fundamental_domain(torch.stack((-z, -y, x, w), -1))
    unit = torch.nn.functional.normalize(vector.double(), dim=-1)
    score = (embed(twin) * unit).sum(-1, keepdim=True)
    return Decoded(
        torch.where(missing.unsqueeze(-1), twin.unsqueeze(1), decoded.quaternion),
        torch.where(missing, score, decoded.score),
    )


def _outputs(trained: TrainedNetwork, images: ImageSet, versions: int) -> tuple[Tensor, ...]:
    """Orbit vectors (N, 13), radii, variances of radius and orientation (N,), averaged over versions."""
    layout, refraction = trained.network.layout, 1 - images.known_experiment.refractive_index.real
    shown, usable = brightness(images, trained.recipe.log_images, trained.recipe.decades)
    matrices = _version_matrices(shown.device)
    vector = shown.new_zeros(len(shown), DIMENSION)
    # The average of the radius's numbers, not of the radii: these may lie on different turns of a circle.
    size = shown.new_zeros(len(shown), layout.size.dimension)
    variances = shown.new_zeros(2, len(shown))
    for index in VERSIONS[:versions]:
        turned = dihedral_images(shown, index), dihedral_images(usable, index)
        channels = network_input(*turned, refraction)
        with torch.inference_mode():  # only here: cached tables must stay usable in training
            output = trained.network(channels).float()
        orientation, numbers = layout.split(output)
        if layout.target.dimension != DIMENSION:
            orientation = embed(layout.target.decode(orientation)).float()
        vector = vector + orientation @ matrices[index] / versions
        size = size + numbers / versions
        variances = variances + torch.stack(layout.error_bars(output)).square() / versions
    return vector, layout.size.decode(size), *variances


def _pieces(images: ImageSet, device: torch.device) -> Iterator[ImageSet]:
    """Images with masks and noise, so many at a time, on a device."""
    chunk = by_device(device, CHUNK, GPU_CHUNK)
    for start in range(0, max(1, len(images)), chunk):
        part = slice(start, start + chunk)
        noise = None if images.readout is None else sent(images.readout[part], device)
        shown, mask = (sent(table[part], device) for table in (images.images, images.mask))
        yield ImageSet(shown, mask, images.kind, images.experiment, readout=noise)


def _numbers(trained: TrainedNetwork, images: ImageSet, hypotheses: int, versions: int) -> Tensor:
    """All that an answer has of each image: (N, 4 + 5 hypotheses), float64, on the network's device.

    Radius, variances of radius and orientation, whether the image is like those of training, orientations,
    their scores.
    """
    device = next(trained.network.parameters()).device
    outputs = []
    for piece in _pieces(images, device):
        outputs.append((*_outputs(trained, piece, versions), _within_training(trained.recipe, piece)))
    vector, *columns = (joined(column) for column in zip(*outputs, strict=True))
    decoded = with_twin(vector, decode(vector, hypotheses))
    table = torch.stack([column.double() for column in columns], 1)
    return torch.cat((table, decoded.quaternion.flatten(1), decoded.score), 1)


RECORDED: WeakKeyDictionary[Network, dict[Any, int | Recorded | None]] = WeakKeyDictionary()
"""For each network, by kind of call: what was recorded, calls before that, or None where that failed."""


def _few_numbers(trained: TrainedNetwork, images: ImageSet, hypotheses: int, versions: int) -> Tensor:
    """As :func:`_numbers`, for a few images on a GPU: replays what was recorded."""
    device = next(trained.network.parameters()).device
    inputs = [sent(table, device) for table in (images.images, images.mask)]

    def compute(shown: Tensor, mask: Tensor) -> Tensor:
        piece = ImageSet(shown, mask, images.kind, images.experiment)
        return _numbers(trained, piece, hypotheses, versions)

    network = trained.network
    # A record reads the weights where they were.
    places = tuple(weights.data_ptr() for weights in (*network.parameters(), *network.buffers()))
    settings = images.kind, images.experiment, hypotheses, versions
    rows = next(size for size in RECORDED_SIZES if size >= len(images))
    key = rows, images.images.shape[1:], images.images.dtype, settings, places
    known = RECORDED.setdefault(network, {})
    if key not in known and len(known) >= MOST_RECORDS:
        known.clear()
    found = known.get(key, 0)
    if found == RECORD_AFTER:
        try:
            found = Recorded(compute, *inputs, rows=rows)
        except RuntimeError as error:
            logger.warning("the network's work for few images was not recorded: %s", error)
            found = None
    known[key] = found + 1 if isinstance(found, int) else found
    return found(*inputs) if isinstance(found, Recorded) else compute(*inputs)


@torch.no_grad()
@single_precision()
def answer(trained: TrainedNetwork, images: ImageSet, hypotheses: int = 2, versions: int = 1) -> Answer:
    """Reconstruct images with one trained network; arguments and errors as for :func:`predict`."""
    pixels = images.known_experiment.pixels
    shape = (len(images), pixels, pixels)
    if not images.images.shape == images.mask.shape == shape or images.mask.dtype != torch.bool:
        raise ValueError(
            f"images and bool masks must have the shape {shape}, got {tuple(images.images.shape)} and "
            f"{images.mask.dtype} {tuple(images.mask.shape)}"
        )
    if images.kind not in KINDS or not 1 <= versions <= len(VERSIONS):
        raise ValueError(
            f"kind must be one of {', '.join(KINDS)} and versions 1 to 8, got {images.kind!r} and {versions}"
        )
    if problems := trained.misfits(images.known_experiment):
        raise InputError(f"the network's weights were made for {'; '.join(problems)}")
    device = next(trained.network.parameters()).device
    few = 0 < len(images) <= RECORDED_SIZES[-1] and images.readout is None
    recordable = few and device.type == "cuda" and has_triton()
    numbers = (_few_numbers if recordable else _numbers)(trained, images, hypotheses, versions).cpu()
    turns = 4 * hypotheses
    table, turned, score = numbers.split((4, turns, hypotheses), 1)
    radius_nm, radius_variance, orientation_variance, within = table.T.contiguous()
    quaternion = turned.unflatten(1, (hypotheses, 4)).contiguous()
    score = score.contiguous()
    factors = trained.card.get("spread_factors", {})
    close = (score[:, :1] - score[:, 1:2] < AMBIGUOUS_SCORE_GAP).any(1).tolist()
    return Answer(
        radius_nm,
        quaternion[:, 0].clone(),
        status=[
            UNTRAINED if not familiar else AMBIGUOUS if ambiguous else OK
            for familiar, ambiguous in zip(within.tolist(), close, strict=True)
        ],
        radius_std_nm=float(factors.get("radius", 1.0)) * radius_variance.sqrt(),
        orientation_std_deg=float(factors.get("orientation", 1.0)) * orientation_variance.sqrt(),
        hypotheses=Hypotheses(radius_nm[:, None].repeat(1, hypotheses), quaternion, score),
        index=images.numbers,
    )
