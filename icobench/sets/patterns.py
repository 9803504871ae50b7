"""Test and training sets: simulated patterns with their truth."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icobench.answer import Progress
from icobench.devices import by_device
from icobench.errors import InputError
from icobench.geometry.convex import icosahedron
from icobench.geometry.orientation import to_fundamental_domain
from icobench.geometry.rotations import uniform_quaternions
from icobench.geometry.shapes import SHAPES, shape
from icobench.images.augment import FILTERS, augment
from icobench.images.detector import DETECTORS, Detector, DetectorModel
from icobench.images.image_set import ImageSet
from icobench.images.philox import draws_for
from icobench.images.pixels import log_image
from icobench.seeds import Purpose, torch_generator
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

__all__ = [
    "PAPER_BACKGROUND",
    "PatternOptions",
    "PatternSource",
    "Truth",
    "changed",
    "draw_truth",
    "generate_patterns",
]

CHUNK, GPU_CHUNK = 128, 1024
"""Images made at once, on a CPU and on a GPU."""

MOST_IMAGES = 10**9
"""Of a set; they fill ten terabytes."""

PAPER_BACKGROUND = 0.02
"""Of the paper's log images. Stielow et al. 2020 do not say how strong their background noise is; this one is
faint."""


@dataclass(frozen=True)
class PatternOptions:
    """What a set consists of.

    Attributes:
        images: number of patterns.
        kind: "counts" (photon counts, or noise-free intensities from a detector without photons) or "log"
            (log images, of 8 bits without an augmentation).
        detector: what records them.
        radius_range_nm: smallest and largest radius; radii are uniform in between.
        decades: dynamic range of log images.
        background: standard deviation of the noise on log images (half-normal, added before rounding).
        method: simulator; "exact" stands for that of the experiment's physics.
        splits: names and numbers of images of consecutive parts, such as (("train", 800), ("test", 200)).
        augmentation: one of :data:`~icobench.images.augment.FILTERS`, or "random", that is applied to log
            images at the end; empty for none.
        calibrated: whether readings of a detector with a response are brought back to photons.
        shapes: names of :data:`~icobench.geometry.shapes.SHAPES`, which the images show in turn, parameters
            uniform in their ranges; icosahedra alone if empty. Bodies have the volume of an icosahedron with
            the radius that is drawn.
    """

    images: int
    kind: str = "counts"
    detector: Detector = DETECTORS["counting"]
    radius_range_nm: tuple[float, float] = (30.0, 160.0)
    decades: float = 6.0
    background: float = 0.0
    method: str = "exact"
    splits: tuple[tuple[str, int], ...] = ()
    augmentation: str = ""
    calibrated: bool = False
    shapes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.shapes) - set(SHAPES)):
            raise InputError(f"unknown shape {unknown[0]!r}; choose from {', '.join(SHAPES)}")
        if self.images < 1:
            raise InputError(f"the number of images must be positive, got {self.images}")
        if self.images > MOST_IMAGES:
            raise InputError(f"the number of images must be at most {MOST_IMAGES:,}, got {self.images:,}")
        if self.kind not in ("counts", "log"):
            raise InputError(f"kind must be counts or log, got {self.kind!r}")
        low, high = self.radius_range_nm
        if not (0 < low <= high and math.isfinite(high)):
            raise InputError(f"the range of radii must be positive and ordered, got {low:g} to {high:g}")
        if not 0 <= self.background <= 1:
            raise InputError(f"the background must lie in 0 to 1, got {self.background:g}")
        if self.background and self.kind != "log":
            raise InputError("a background is for log images; counts have photons and read-out noise")
        if self.augmentation and self.kind != "log":
            raise InputError("an augmentation is for log images")
        if self.augmentation not in ("", "random", *FILTERS):
            raise InputError(
                f"unknown augmentation {self.augmentation!r}; choose from {', '.join(FILTERS)}, random"
            )
        if self.splits and sum(count for _, count in self.splits) != self.images:
            raise InputError(f"the splits {dict(self.splits)} do not add up to {self.images} images")

    @property
    def stored_kind(self) -> str:
        """Kind of the images that are made: "counts", "log", or "intensity"."""
        return "intensity" if self.kind == "counts" and self.detector.photons == 0 else self.kind

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they are stored beside a set; without entries that earlier versions did not have,
        where they are not used."""
        values = asdict(self) | {"detector": self.detector.to_dict()}
        for name in ("augmentation", "calibrated", "shapes"):
            if not values[name]:
                del values[name]
        return values


def changed(settings: Any, **changes: Any) -> Any:
    """A copy of options or of a detector with those changes that are not None."""
    return replace(settings, **{name: value for name, value in changes.items() if value is not None})


class Truth(NamedTuple):
    """What images show: radii (N,), orientations (N, 4), and names as :class:`ImageSet` has them."""

    radius_nm: Tensor
    quaternion: Tensor
    bodies: list[str] | None = None


def draw_truth(
    radius_range_nm: tuple[float, float], seed: int, numbers: range, shapes: Sequence[str] = ()
) -> Truth:
    """Radii, uniform, and orientations, Haar, of the images with these numbers, float64; their bodies if
    ``shapes`` has some: see :class:`PatternOptions`."""
    low, high = radius_range_nm
    drawn = torch.empty(len(numbers), 5 if shapes else 4, dtype=torch.float64)
    for row, number in zip(drawn, numbers, strict=True):
        torch.rand(len(row), generator=torch_generator(seed, Purpose.TEST_IMAGES, number, 0), out=row)
    radius, turn = low + (high - low) * drawn[:, 0], uniform_quaternions(drawn[:, 1:4])
    if not shapes:
        return Truth(radius, to_fundamental_domain(turn))
    entries = [SHAPES[shapes[number % len(shapes)]] for number in numbers]
    names = [
        f"{entry.name}={entry.low + (entry.high - entry.low) * share:.9g}" if entry.parameter else entry.name
        for entry, share in zip(entries, drawn[:, 4].tolist(), strict=True)
    ]
    bodies = list(map(shape, names))
    size = torch.tensor([body.equivalent_radius for body in bodies], dtype=torch.float64)
    turns = [to_fundamental_domain(one, body) for one, body in zip(turn, bodies, strict=True)]
    return Truth(radius * icosahedron().equivalent_radius / size, torch.stack(turns), names)


class PatternSource:
    """Patterns by their numbers: pattern i depends only on the seed and on i.

    The experiment is the one that a reconstruction assumes; the detector's offset of the beam comes on top.
    """

    def __init__(
        self, options: PatternOptions, experiment: Experiment, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        self.options, self.experiment, self.seed = options, experiment, seed
        true = replace(experiment, centre_offset=options.detector.centre_offset)
        if options.detector.efficiency:  # which a reconstruction may know: the detector applies it
            true = replace(true, efficiency=())
        try:
            own = options.method == "exact"
            self.simulator = Simulator(true, None if own else options.method, device)
        except ValueError as error:
            raise InputError(str(error)) from error
        largest, biggest = self.simulator.largest_radius_nm, options.radius_range_nm[1]
        if options.shapes:
            thin = [SHAPES[name].at(end).equivalent_radius for name in options.shapes for end in (0.0, 1.0)]
            biggest *= icosahedron().equivalent_radius / min(thin)
        if biggest > largest:
            raise InputError(
                f"radii up to {biggest:.4g} nm are larger than the grid can hold at "
                f"{experiment.wavelength_nm:g} nm, {largest:.4g} nm"
            )
        self.detector = DetectorModel(options.detector, experiment, seed)

    def block(self, numbers: range) -> ImageSet:
        """The patterns with these numbers, on the CPU; what draws no photons is computed on the device."""
        options, seed, device = self.options, self.seed, self.simulator.device
        truth = draw_truth(options.radius_range_nm, seed, numbers, options.shapes)
        sizes = truth.radius_nm.to(device), truth.quaternion.to(device)
        if truth.bodies is None:
            intensity = self.simulator.intensity(*sizes)
        else:
            intensity = self.simulator.intensity_of(list(map(shape, truth.bodies)), *sizes)
        drawn = numbers if options.detector.photons else ()
        generators = [torch_generator(seed, Purpose.TEST_IMAGES, number, 1) for number in drawn]
        images, mask = self.detector.record(intensity, generators)
        index = torch.tensor(list(numbers), dtype=torch.int64)
        if options.calibrated and (response := options.detector.response) is not None:
            images = torch.from_numpy(response.photons(images.numpy())).float()
        if options.kind == "log":
            images = log_image(images, options.decades)
            if options.background:
                draws = draws_for(seed, Purpose.BACKGROUND, index.to(images.device))
                noise = draws.half_normal(images[0].numel()).view(images.shape)
                images = torch.where(mask, images + options.background * noise, 0.0)
            images = images.clamp(0, 1)
            if options.augmentation:
                images, mask, _ = augment(images, options.augmentation, seed, index, mask)
            else:
                images = (images * 255).round() / 255
        kind = options.stored_kind
        return ImageSet(
            images.cpu(), mask.cpu(), kind, self.experiment, truth.radius_nm, truth.quaternion, index,
            bodies=truth.bodies,
        )  # fmt: skip


def generate_patterns(
    options: PatternOptions,
    experiment: Experiment,
    seed: int,
    device: torch.device | str = "cpu",
    progress: Progress = lambda share: None,
) -> ImageSet:
    """A complete set in memory; arguments as for :class:`PatternSource`.

    Raises:
        InputError: an unknown simulator, or a detector without usable pixels.
    """
    source = PatternSource(options, experiment, seed, device)
    parts = []
    chunk = by_device(torch.device(device), CHUNK, GPU_CHUNK)
    for start in range(0, options.images, chunk):
        parts.append(source.block(range(start, min(start + chunk, options.images))))
        progress((start + len(parts[-1])) / options.images)
    return ImageSet.join(parts)
