"""Dictionary: patterns simulated once; fits start from the stored patterns nearest to an image.

The stored patterns cover the radius and the direction of the beam in the body; turns about the beam cost no
pattern (:mod:`~icobench.fitting.polar_match`). A thousand stored patterns stand for the hundred thousand that
all orientations would need.
"""

import contextlib
import hashlib
import json
import logging
import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icobench.answer import Hypotheses, Progress
from icobench.cache import cache_folder
from icobench.errors import InputError
from icobench.fitting import polar_match
from icobench.fitting.objective import pieces
from icobench.geometry.convex import ConvexBody, icosahedron
from icobench.geometry.orientation import disorientation, to_fundamental_domain
from icobench.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix, rotate_about_beam
from icobench.images.pixels import log_image
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from icobench.stopwatch import Stopwatch
from icobench.storage import atomic_path

__all__ = ["Dictionary", "DictionaryOptions", "best_apart", "build_dictionary", "dictionary_for", "sample"]

FORMAT = "icobench-dictionary-2"

ASPECT = 2.0
"""Arc between neighbouring directions at the body's surface over the step of the radius. A step of the radius
moves the fringes at all azimuths, a rotation only some of them."""

COARSEST = math.radians(5.0)
"""Largest step between directions; small bodies would otherwise get larger ones."""

GENERIC = (0.2113, 0.5419, 0.8135)
"""A direction without symmetry. Of directions that the group maps onto each other, the one nearest to it is
stored."""

SIMULATED, MATCHED_IMAGES, MATCHED_PATTERNS = 256, 16, 512
"""How many at once on a CPU: patterns that are simulated; images and patterns that are compared."""

GPU_SIMULATED, GPU_MATCHED_IMAGES, GPU_MATCHED_PATTERNS = 1024, 256, 2048
"""The same on a GPU: arrays have 134 MB for a thousand patterns."""

DEEPEST = -7.0
"""Stored decades."""

MOST_CACHED = 64
"""Dictionaries kept in a cache, of 16 MB for 1,000 patterns; the oldest make room. A race of all shapes needs
33 with 73,000 patterns."""

SHORTLIST = 96
"""Patterns of an image among which the best that are apart are chosen."""

APART_DEG, APART_NM = 4.0, 4.0
"""Patterns nearer than both to a better one tell nothing new."""


@dataclass(frozen=True)
class DictionaryOptions:
    """What is stored: about ``size`` patterns of radii in a range."""

    size: int = 1000
    radius_range_nm: tuple[float, float] = (28.0, 162.0)


def _directions(count: int, body: ConvexBody) -> Tensor:
    """About ``count`` even directions that the body's group does not map onto each other: (K, 3) float64."""
    group = quaternion_to_matrix(torch.as_tensor(body.group, dtype=torch.float64))
    number = torch.arange(count * len(group), dtype=torch.float64)
    height = 1 - (2 * number + 1) / len(number)
    turn = number * math.pi * (3 - math.sqrt(5))
    across = (1 - height**2).sqrt()
    sphere = torch.stack((across * torch.cos(turn), across * torch.sin(turn), height), 1)
    reference = torch.nn.functional.normalize(torch.tensor(GENERIC, dtype=torch.float64), dim=0)
    return sphere[(sphere @ (group @ reference).mT).argmax(1) == 0]


def _towards_beam(direction: Tensor) -> Tensor:
    """Orientations that turn body directions (K, 3) onto +z: (K, 4)."""
    aside = torch.eye(3, dtype=direction.dtype)[direction.abs().argmin(1)]
    first = torch.nn.functional.normalize(torch.linalg.cross(aside, direction), dim=1)
    second = torch.linalg.cross(direction, first)
    return matrix_to_quaternion(torch.stack((first, second, direction), 1))


def sample(options: DictionaryOptions, body: ConvexBody) -> tuple[Tensor, Tensor]:
    """Radii (K,) and orientations (K, 4) to store, float64.

    Shells of constant radius, a step apart, hold directions whose distance is in proportion to the step over
    the radius. The step follows from the size.
    """
    low, high = options.radius_range_nm
    area = 0.0 if body.round else 4 * math.pi / len(body.group)

    def counts(step: float) -> tuple[Tensor, Tensor]:
        shells = max(1, round((high - low) / step))
        radius = low + (torch.arange(shells, dtype=torch.float64) + 0.5) * (high - low) / shells
        angle = (ASPECT * step / radius).clamp_max(COARSEST)
        return radius, (area / angle**2).round().clamp_min(1)

    shortest, longest = 1e-2, high - low
    for _ in range(60):
        step = math.sqrt(shortest * longest)
        if float(counts(step)[1].sum()) > options.size:
            shortest = step
        else:
            longest = step
    radii, turns = [], []
    for radius, count in zip(*counts(longest), strict=True):
        direction = _directions(int(count), body)
        radii.append(radius.expand(len(direction)))
        turns.append(_towards_beam(direction))
    return torch.cat(radii), torch.cat(turns)


def best_apart(matches: Hypotheses, count: int, body: ConvexBody | None = None) -> Hypotheses:
    """The ``count`` best of each image's matches that are apart from each other."""
    radius, quaternion, score = matches
    left = score.clone()
    chosen = []
    for _ in range(min(count, score.shape[1])):
        best = left.argmax(1, keepdim=True)
        chosen.append(best)
        near = (radius - radius.gather(1, best)).abs() < APART_NM
        centre = torch.take_along_dim(quaternion, best.unsqueeze(-1), 1)
        near &= disorientation(quaternion, centre, body) < APART_DEG
        # Below all others, but still there for dictionaries too small to have enough.
        left = torch.where(near, left - 1e12, left)
        left = left.scatter(1, best, -math.inf)
    index = torch.cat(chosen, 1)
    turns = torch.take_along_dim(quaternion, index.unsqueeze(-1), 1)
    return Hypotheses(radius.gather(1, index), turns, score.gather(1, index))


@dataclass
class Dictionary:
    """Stored patterns with their radii and orientations.

    Attributes:
        radius_nm: (K,).
        quaternion: (K, 4).
        patterns: (K, RINGS, SECTORS) float16, log10 of the intensity over its maximum.
        card: physics, body and options; what the making took: simulations, seconds, and core_seconds of all
            processor cores together, on a GPU the time of the GPU.
    """

    radius_nm: Tensor
    quaternion: Tensor
    patterns: Tensor
    card: dict[str, Any]

    def __post_init__(self) -> None:
        self._spectra: dict[tuple[str, str], list[polar_match.Spectra]] = {}

    def _stored(self, kind: str, device: torch.device) -> list[polar_match.Spectra]:
        """polar_match.Spectra of the patterns, some at a time; kept for the next images of the same kind."""
        key = ("counts" if kind == "counts" else "log", str(device))
        if key not in self._spectra:
            parts = self.patterns.split(MATCHED_PATTERNS if device.type == "cpu" else GPU_MATCHED_PATTERNS)
            self._spectra[key] = [polar_match.spectra(part.to(device), kind) for part in parts]
        return self._spectra[key]

    def forget(self) -> None:
        """Drop the spectra that are kept for the next images."""
        self._spectra.clear()

    @torch.no_grad()
    def match(
        self, images: Tensor, mask: Tensor, kind: str, experiment: Experiment, count: int = 4,
        body: ConvexBody | None = None,
    ) -> Hypotheses:  # fmt: skip
        """The ``count`` best stored patterns that are apart from each other, turned about the beam.

        Args:
            images, mask: (N, H, W), True where usable.
            kind: "counts", "log" or "intensity".
            experiment: whose detector recorded them; its physics must be the dictionary's.
            count: patterns per image.
            body: whose patterns they are; the icosahedron by default.

        Raises:
            InputError: the dictionary is of other physics or of another body.
        """
        body, stored = body or icosahedron(), self.card["identity"]
        for name, value in (_physics(experiment) | {"body": body.name}).items():
            there = stored["body"] if name == "body" else stored["physics"].get(name)
            if value != there:
                raise InputError(f"the dictionary was made for {name} {there}, not {value}")
        device = images.device
        spread, factor = _spread(experiment, device)
        if kind == "intensity":
            images = log_image(images * mask)

        def scores(rows: slice, patterns: polar_match.Spectra) -> Tensor:
            if kind == "counts":
                return polar_match.poisson_scores(spread, images[rows], mask[rows], factor, patterns)
            return polar_match.log_scores(spread, images[rows], mask[rows], patterns)

        patterns = self._stored(kind, device)
        radius_nm, quaternion = (
            part.to(device, non_blocking=True) for part in (self.radius_nm, self.quaternion)
        )
        matches = []
        for rows in pieces(len(images), MATCHED_IMAGES if device.type == "cpu" else GPU_MATCHED_IMAGES):
            best = [scores(rows, part).max(-1) for part in patterns]
            score, shift = (torch.cat(tensors, 1) for tensors in zip(*best, strict=True))
            score, index = score.double().topk(min(SHORTLIST, score.shape[1]), dim=1)
            angle = shift.gather(1, index).double() * (2 * math.pi / polar_match.SECTORS)
            turns = to_fundamental_domain(rotate_about_beam(quaternion[index], angle), body)
            matches.append(best_apart(Hypotheses(radius_nm[index], turns, score), count, body))
        return Hypotheses(*(torch.cat(tensors).cpu() for tensors in zip(*matches, strict=True)))

    def save(self, path: Path) -> None:
        """Write as safetensors, whole or not at all."""
        from safetensors.torch import save_file

        tensors = {"radius_nm": self.radius_nm, "quaternion": self.quaternion, "patterns": self.patterns}
        with atomic_path(Path(path)) as temporary:
            save_file(tensors, temporary, {"format": FORMAT, "card": json.dumps(self.card)})

    @classmethod
    def load(cls, path: Path) -> "Dictionary":
        """Read what :meth:`save` wrote; a missing, damaged or foreign file is an :class:`InputError`."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), "pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: not a readable dictionary") from error
        if header.get("format") != FORMAT:
            raise InputError(f"{path}: not a dictionary of this version of icobench")
        return cls(**tensors, card=json.loads(header["card"]))


@lru_cache(maxsize=4)
def _spread(experiment: Experiment, device: torch.device) -> tuple[polar_match.PolarSpread, Tensor]:
    """To polar cells, and the gain of the pixels."""
    return polar_match.PolarSpread(experiment, device), experiment.gain().float().to(device)


def _physics(experiment: Experiment) -> dict[str, Any]:
    index = experiment.refractive_index
    return {"wavelength_nm": experiment.wavelength_nm, "refractive_index": [index.real, index.imag]}


def _identity(simulator: Simulator, options: DictionaryOptions) -> dict[str, Any]:
    """All that the patterns depend on, as JSON returns it."""
    body = simulator.body
    identity = {"physics": _physics(simulator.experiment), "body": body.name, "options": asdict(options)}
    if body is not icosahedron():  # two bodies of a user may have the same name
        facets = np.round(np.c_[body.normals, body.offsets], 9) + 0.0
        identity["facets"] = hashlib.sha256(facets.tobytes()).hexdigest()[:16]
    return json.loads(json.dumps(identity))


def half_space_simulator(simulator: Simulator) -> Simulator:
    """The same physics and body, on the detector whose patterns a dictionary stores."""
    experiment = Experiment(simulator.experiment.wavelength_nm, simulator.experiment.refractive_index)
    if experiment == simulator.experiment and simulator.method == "exact":
        return simulator  # whose tables may be there already
    return Simulator(experiment, device=simulator.device, body=simulator.body)


def simulate_dictionary(
    simulator: Simulator,
    options: DictionaryOptions,
    radius_nm: Tensor,
    quaternion: Tensor,
    batch: int | None = None,
    progress: Progress = lambda share: None,
) -> Dictionary:
    """A dictionary of the given radii (K,) and orientations (K, 4), such as a part of :func:`sample`.

    The simulator is that of the whole half space, see :func:`half_space_simulator`; ``batch`` patterns are
    simulated at once, and the options are stored on the card.
    """
    watch = Stopwatch(simulator.device)
    patterns = []
    device = simulator.device
    batch = batch or (SIMULATED if device.type == "cpu" else GPU_SIMULATED)
    radii, turns = radius_nm.to(device, non_blocking=True), quaternion.to(device, non_blocking=True)
    for rows in pieces(len(radii), batch):
        intensity = simulator.intensity(radii[rows], turns[rows])
        relative = intensity / intensity.amax((-2, -1), keepdim=True)
        logs = torch.log10(relative.clamp_min(10**DEEPEST))
        patterns.append(polar_match.sample_polar(logs).clamp(DEEPEST, 0).half())
        progress(min(rows.stop, len(radii)) / len(radii))
    stored = torch.cat(patterns).cpu()
    seconds, core_seconds = watch.read()
    card = {
        "identity": _identity(simulator, options), "simulations": len(radius_nm), "seconds": seconds,
        "core_seconds": core_seconds, "device": str(simulator.device),
    }  # fmt: skip
    return Dictionary(radius_nm, quaternion, stored, card)


def build_dictionary(
    simulator: Simulator, options: DictionaryOptions | None = None, progress: Progress = lambda share: None
) -> Dictionary:
    """A dictionary for a simulator's physics and body; some milliseconds a pattern on two cores.

    Patterns are those of the whole half space, whatever detector the images will come from.
    """
    options = options or DictionaryOptions()
    half_space, bodies = half_space_simulator(simulator), sample(options, simulator.body)
    return simulate_dictionary(half_space, options, *bodies, progress=progress)


_load_cached = lru_cache(maxsize=2)(Dictionary.load)


_UNSTORED: dict[str, Dictionary] = {}
"""Dictionaries that could not be written, for the rest of the process."""

logger = logging.getLogger("icobench")


def dictionary_for(
    simulator: Simulator,
    options: DictionaryOptions | None = None,
    folder: Path | None = None,
    progress: Progress = lambda share: None,
) -> Dictionary:
    """The stored dictionary, built first if there is none in ``folder`` (by default :func:`cache_folder`)."""
    options = options or DictionaryOptions()
    key = json.dumps([FORMAT, _identity(simulator, options)], sort_keys=True)
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    path = (folder or cache_folder()) / f"dictionary-{name}.safetensors"
    if name in _UNSTORED:
        return _UNSTORED[name]
    if path.exists():
        try:
            return _load_cached(path)
        except InputError:  # damaged or of an older version
            with contextlib.suppress(OSError):
                path.unlink()
    built = build_dictionary(simulator, options, progress)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        built.save(path)
        files = sorted(path.parent.glob("dictionary-*.safetensors"), key=lambda file: file.stat().st_mtime)
        for oldest in files[:-MOST_CACHED]:
            oldest.unlink(missing_ok=True)
    except (OSError, InputError) as error:
        reason = getattr(error, "strerror", None) or error
        logger.warning("the dictionary is not kept for the next time: %s (%s)", path.parent, reason)
        _UNSTORED[name] = built
        return built
    return _load_cached(path)
