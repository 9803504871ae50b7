"""What an image shows, before any fit: nothing, a body of some kind, or several bodies.

A small network answers with calibrated probabilities. It was trained on simulated images with what detectors
do to them (``reports/classifier_images.py``): photon counts and log images, straight rays, radii of 30 to 160
nm at a wavelength of 13.5 nm, all five labels equally often.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from icobench.answer import FAILED, OK, UNTRAINED
from icobench.devices import by_device
from icobench.images.image_set import ImageSet
from icobench.images.reading import DARK
from icobench.network import polar
from icobench.network.architectures import OVERLAP, RINGS, SECTORS, STEM_RINGS, STEM_SECTORS, single_precision
from icobench.network.checkpoint import load_into, read_weights
from icobench.network.inputs import CANONICAL_PIXELS, brightness
from icobench.network.selection import CHAIN_HOLE_DEGREES, CHAIN_REACH, COARSEST, within_angles

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ARCHITECTURE", "FEWEST_PHOTONS", "LABELS", "MISSES", "Classifier", "ClassifierNetwork", "Labels",
    "label_images", "load_classifier",
]  # fmt: skip

LABELS = ("empty", "sphere", "icosahedron", "faceted", "several")
"""empty: stray light, background and read-out noise. sphere: a nearly round body. faceted: a body with facets
that is no icosahedron. several: more than one body."""

MISSES = ("empty", "several")
"""Labels of images that no fit of one body explains."""

FEWEST_PHOTONS = 200
"""Scattered by a body on usable pixels: a training image with fewer counts as empty."""

ARCHITECTURE = "classifier"

SHIPPED = Path(__file__).parent / "classifier.safetensors"

CHUNK, GPU_CHUNK = 32, 2048


class ClassifierNetwork(nn.Module):
    """From brightness and mask (B, 2, 128, 128), and (B,) 1 for log images and 0 for counts, to (B, 5).

    The results are logarithms of probabilities, but for a constant of each image. The image is resampled to
    polar coordinates as in :class:`~icobench.network.architectures.CompactNetwork`; features round the beam
    are averaged at the end, so that a turn of the image changes nothing.

    Args:
        widths: channels of the three stages.
        hidden: features of a sector.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, widths: tuple[int, int, int] = (24, 48, 96), hidden: int = 128) -> None:
        super().__init__()
        self.options: dict[str, Any] = {"widths": list(widths), "hidden": hidden}
        first, second, third = widths
        rings, sectors = RINGS // STEM_RINGS, SECTORS // STEM_SECTORS
        self.grid = polar.PolarGrid(RINGS, SECTORS, OVERLAP)
        field = rings + 2 * OVERLAP, sectors + 2 * OVERLAP
        self.stem = nn.Conv2d(2, first, field, (rings, sectors), (OVERLAP, 0), bias=False)
        self.stem_norm: nn.Module = polar.batch_norm(first)
        self.kind = nn.Parameter(torch.zeros(1, first, STEM_RINGS, 1))
        self.activation = nn.ReLU(inplace=True)
        self.stages = nn.Sequential(
            polar.RingBias(first, STEM_RINGS),
            polar.ResidualBlock(first, second, 2, nn.ReLU),
            polar.RingBias(second, STEM_RINGS // 2),
            polar.ResidualBlock(second, third, 2, nn.ReLU),
            polar.RingBias(third, STEM_RINGS // 4),
            polar.ResidualBlock(third, third, 1, nn.ReLU),
        )
        self.rings_to_features = nn.Conv1d(third * STEM_RINGS // 4, hidden, 1)
        self.round = polar.RoundConvolution(hidden, STEM_SECTORS // 4)
        self.last = nn.Sequential(
            nn.Linear(2 * hidden, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, len(LABELS))
        )
        # Of photon counts and of log images, fitted to images that training did not see.
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("shift", torch.zeros(2, len(LABELS)))

    def raw(self, x: Tensor, log_images: Tensor) -> Tensor:
        """The same before calibration."""
        with torch.autocast(x.device.type, enabled=False):
            image = self.grid(x).contiguous(memory_format=torch.channels_last)
        x = self.stem_norm(self.stem(image)) + log_images[:, None, None, None] * self.kind
        x = self.stages(self.activation(x))
        x = self.activation(self.rings_to_features(x.flatten(1, 2)))
        x = x + self.activation(self.round(x))
        return self.last(torch.cat((x.mean(-1), x.amax(-1)), 1)).float()

    def forward(self, x: Tensor, log_images: Tensor) -> Tensor:
        kind = log_images.long()
        return self.raw(x, log_images) * self.scale[kind, None] + self.shift[kind]

    def fold(self) -> "ClassifierNetwork":
        """Merge the batch norms into the convolutions, for inference only; returns itself."""
        self.stem = fuse_conv_bn_eval(self.stem, self.stem_norm)  # type: ignore[arg-type, type-var]
        self.stem_norm = nn.Identity()
        self.round.fold()
        for block in self.stages:
            if isinstance(block, polar.ResidualBlock):
                block.fold()
        return self


@dataclass(frozen=True)
class Classifier:
    """A trained network and its origin.

    Attributes:
        network: in evaluation mode.
        card: seed, images and cost of its training.
        digest: first 12 hexadecimal digits of the weights' SHA-256.
    """

    network: ClassifierNetwork
    card: dict[str, Any]
    digest: str


@dataclass
class Labels:
    """What N images show.

    Attributes:
        probabilities: (N, 5) float32, in the order of :data:`LABELS`, on the CPU; NaN for images that cannot
            be used. They suppose that all labels are equally common, as in training.
        familiar: (N,) bool, whether the hole, the range of angles and the pixels are like those of training.
        numbers: (N,) int64, of the images.
        problems: why an image cannot be used, by its number.
        notes: what the user should know of the images, a line each.
    """

    probabilities: Tensor
    familiar: Tensor
    numbers: Tensor
    problems: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.probabilities)

    @classmethod
    def join(cls, parts: Sequence["Labels"]) -> "Labels":
        """Those of consecutive parts of a set."""
        problems = {number: reason for part in parts for number, reason in part.problems.items()}
        names = ("probabilities", "familiar", "numbers")
        joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        return cls(joined["probabilities"], joined["familiar"], joined["numbers"], problems)

    @property
    def names(self) -> list[str]:
        """The most probable label of each image; empty for those that cannot be used."""
        best = self.probabilities.argmax(1).tolist()
        return [
            "" if number in self.problems else LABELS[place]
            for number, place in zip(self.numbers.tolist(), best, strict=True)
        ]

    @property
    def misses(self) -> Tensor:
        """(N,) bool: images that probably show no body, or several."""
        places = [LABELS.index(name) for name in MISSES]
        return self.probabilities[:, places].sum(1) > 0.5

    def reasons(self) -> dict[int, str]:
        """For each miss its number, and in words what is seen."""
        rows, names = self.misses.nonzero()[:, 0].tolist(), self.names
        numbers, best = self.numbers.tolist(), self.probabilities.amax(1).tolist()
        return {numbers[row]: f"{names[row]} ({best[row]:.0%})" for row in rows}

    def to_frame(self) -> "pd.DataFrame":
        """A table with a row for each image.

        Columns: index, label, the probabilities p_empty, p_sphere, p_icosahedron, p_faceted and p_several,
        and the status: "ok", "outside-training" or "failed: " with a reason.
        """
        import pandas as pd

        columns = {f"p_{name}": self.probabilities[:, place].numpy() for place, name in enumerate(LABELS)}
        numbers = self.numbers.tolist()
        status = [
            FAILED + self.problems[number] if number in self.problems else OK if familiar else UNTRAINED
            for number, familiar in zip(numbers, self.familiar.tolist(), strict=True)
        ]
        return pd.DataFrame({"index": numbers, "label": self.names, **columns, "status": status})


def load_classifier(path: Path | str | None = None, device: torch.device | str = "cpu") -> Classifier:
    """The network of the package, or that of a file.

    Raises:
        InputError: a file that is missing or damaged, or holds no such network.
    """
    return _shipped(torch.device(device)) if path is None else _load(Path(path), torch.device(device))


@lru_cache(maxsize=2)
def _shipped(device: torch.device) -> Classifier:
    return _load(SHIPPED, device)


def _load(path: Path, device: torch.device) -> Classifier:
    stored = read_weights(path)

    def build(architecture: str, options: dict[str, Any]) -> ClassifierNetwork:
        if architecture != ARCHITECTURE:
            raise ValueError(f"its architecture is {architecture!r}, not {ARCHITECTURE!r}")
        return ClassifierNetwork(**options)

    network = load_into(path, stored, build)
    return Classifier(network.eval().fold().to(device), stored.card, stored.digest)


@torch.no_grad()
@single_precision()
def label_images(images: ImageSet, classifier: Classifier | None = None) -> Labels:
    """What images show.

    Args:
        images: N images of any kind with their experiment. Of those with problems, the ones without any
            light are empty for sure.
        classifier: the package's by default.

    Example:
        >>> pattern = icobench.simulate(60.0, photons=1e5)
        >>> label_images(pattern).names
        ['icosahedron']
    """
    network = (classifier or load_classifier()).network
    device, log_images = network.kind.device, images.kind == "log"
    step = by_device(device, CHUNK, GPU_CHUNK)
    logits, familiar = [torch.zeros(0, len(LABELS))], [torch.zeros(0, dtype=torch.bool)]
    for start in range(0, len(images), step):
        part = images.subset(torch.arange(start, min(start + step, len(images))))
        part = replace(part, images=part.images.to(device), mask=part.mask.to(device))
        shown, usable = brightness(part, log_images)
        kind = torch.full((len(part),), float(log_images), device=device)
        logits.append(network(torch.stack((shown * usable, usable.to(shown)), 1), kind).cpu())
        familiar.append(_familiar(part).cpu())
    labels = Labels(torch.cat(logits).softmax(1), torch.cat(familiar), images.numbers)
    for row, number in enumerate(images.numbers.tolist()):
        if (problem := images.problems.get(number)) is None:
            continue
        if dark := problem.startswith(DARK):
            labels.familiar[row] = True
        else:
            labels.problems[number] = problem
        nothing = torch.tensor([float(name == "empty") for name in LABELS])
        labels.probabilities[row] = nothing if dark else torch.nan
    return labels


def _familiar(images: ImageSet) -> Tensor:
    """(N,) which images have a hole, a reach and pixels as in training."""
    experiment = images.known_experiment
    pixel = 2 * experiment.sin_theta_max / experiment.pixels
    if pixel / 2 > COARSEST / CANONICAL_PIXELS:
        return torch.zeros(len(images), dtype=torch.bool)
    return within_angles(images, CHAIN_HOLE_DEGREES, CHAIN_REACH)
