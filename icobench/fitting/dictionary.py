"""Dictionary: patterns simulated once, of which the nearest start a fit.

What is stored covers the radius and the direction of the beam in the body; turns about the beam come free
(:mod:`~icobench.fitting.polar_match`). A thousand stored patterns stand for the hundred thousand that a list
of whole orientations would need.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icobench.errors import InputError
from icobench.fitting.polar_match import (
    SHIFTS,
    PolarSpread,
    Spectra,
    log_scores,
    poisson_scores,
    sample_polar,
    spectra,
)
from icobench.geometry.convex import ConvexBody
from icobench.geometry.orientation import disorientation, to_fundamental_domain
from icobench.geometry.rotations import (
    matrix_to_quaternion,
    quaternion_to_matrix,
    rotate_about_beam,
)
from icobench.images.log_image import log_image
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from icobench.storage import atomic_path, cache_folder

__all__ = ["Candidates", "Dictionary", "DictionaryOptions", "build_dictionary", "dictionary_for", "sample"]

FORMAT = "icobench-dictionary-1"

ASPECT = 2.0
"""Arc between neighbouring directions at the body's surface over the step of the radius. A step of the radius
moves the fringes at all azimuths, a turn moves some of them."""

COARSEST = math.radians(5.0)
"""Largest step between directions, which small bodies would otherwise get."""

GENERIC = (0.2113, 0.5419, 0.8135)
"""A direction without symmetry: what is nearer to it than to its images is one of every orbit."""

SIMULATED, MATCHED_IMAGES, MATCHED_PATTERNS = 256, 16, 512
"""Rows at once: patterns simulated; images by patterns that are scored."""

DEEPEST = -7.0
"""Stored decades."""

MOST_CACHED = 16
"""Dictionaries kept in a cache, of 16 MB each; the oldest make room."""

SHORTLIST = 96
APART_DEG, APART_NM = 4.0, 4.0
"""Candidates nearer than both to a better one tell nothing new."""


@dataclass(frozen=True)
class DictionaryOptions:
    """What is stored.

    Attributes:
        size: about how many patterns.
        radius_range_nm: of the radii.
    """

    size: int = 1000
    radius_range_nm: tuple[float, float] = (28.0, 162.0)


def _directions(count: int, body: ConvexBody) -> Tensor:
    """About ``count`` directions, evenly over one of every orbit of the body's group: (K, 3) float64."""
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

    Shells of constant radius a step apart; in each, directions as far apart as the step asks for at that
    radius. The step is the one that gives about the size asked for.
    """
    low, high = options.radius_range_nm
    area = 4 * math.pi / len(body.group)

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


class Candidates(NamedTuple):
    """The best stored patterns of N images, best first.

    Attributes:
        radius_nm: (N, k).
        quaternion: (N, k, 4), turned about the beam.
        score: (N, k).
    """

    radius_nm: Tensor
    quaternion: Tensor
    score: Tensor


def best_apart(found: Candidates, count: int) -> Candidates:
    """The ``count`` best of each image's candidates that are apart from each other."""
    radius, quaternion, score = found
    left = score.clone()
    chosen = []
    for _ in range(min(count, score.shape[1])):
        best = left.argmax(1, keepdim=True)
        chosen.append(best)
        near = (radius - radius.gather(1, best)).abs() < APART_NM
        centre = torch.take_along_dim(quaternion, best.unsqueeze(-1), 1)
        near &= disorientation(quaternion, centre) < APART_DEG
        # What is suppressed stays below all others, for dictionaries too small to have enough.
        left = torch.where(near, left - 1e12, left)
        left = left.scatter(1, best, -math.inf)
    picked = torch.cat(chosen, 1)
    return Candidates(
        radius.gather(1, picked),
        torch.take_along_dim(quaternion, picked.unsqueeze(-1), 1),
        score.gather(1, picked),
    )


@dataclass
class Dictionary:
    """Stored patterns and what they are of.

    Attributes:
        radius_nm: (K,).
        quaternion: (K, 4).
        patterns: (K, RINGS, SECTORS) float16, log10 of the intensity over its maximum.
        card: experiment, body, options; simulations and seconds that the making took.
    """

    radius_nm: Tensor
    quaternion: Tensor
    patterns: Tensor
    card: dict[str, Any]

    def __post_init__(self) -> None:
        self._spectra: dict[tuple[str, str], Spectra] = {}

    @property
    def digest(self) -> str:
        """Names the contents, 12 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.card["identity"], sort_keys=True).encode()).hexdigest()[:12]

    def _stored(self, kind: str, device: torch.device) -> Spectra:
        key = ("counts" if kind == "counts" else "log", str(device))
        if key not in self._spectra:
            parts = [spectra(part.to(device), kind) for part in self.patterns.split(MATCHED_PATTERNS)]
            self._spectra[key] = Spectra(*(torch.cat(own, -1) for own in zip(*parts, strict=True)))
        return self._spectra[key]

    @torch.no_grad()
    def match(
        self, images: Tensor, mask: Tensor, kind: str, experiment: Experiment, count: int = 4
    ) -> Candidates:
        """The ``count`` best stored patterns that are apart from each other; no simulation.

        Args:
            images: (N, H, W) of the experiment's detector.
            mask: (N, H, W) True where usable.
            kind: "counts", "log" or "intensity".
            experiment: whose detector recorded them; its physics must be the dictionary's.
            count: candidates per image.

        Raises:
            InputError: the dictionary is of other physics.
        """
        known = _physics(experiment)
        own = self.card["identity"]["physics"]
        if differing := [name for name in known if known[name] != own.get(name)]:
            name = differing[0]
            raise InputError(f"the dictionary was made for {name} {own.get(name)}, not {known[name]}")
        spread = PolarSpread(experiment, images.device)
        factor = experiment.solid_angle() if experiment.solid_angle_factor else torch.ones(mask.shape[1:])
        factor = (factor.nan_to_num(posinf=0.0) * experiment.valid()).float().to(images.device)
        stored = self._stored(kind, images.device)
        found = [
            self._best(spread, images[piece], mask[piece], factor, kind, stored, count)
            for piece in torch.arange(len(images)).split(MATCHED_IMAGES)
        ]
        return Candidates(*(torch.cat(part) for part in zip(*found, strict=True)))

    def _best(
        self,
        spread: PolarSpread,
        images: Tensor,
        mask: Tensor,
        factor: Tensor,
        kind: str,
        stored: Spectra,
        count: int,
    ) -> Candidates:
        if kind == "intensity":
            images = log_image(images * mask)
        scores, shifts = [], []
        for rows in torch.arange(len(self.radius_nm)).split(MATCHED_PATTERNS):
            part = Spectra(*(spectrum[..., rows[0] : rows[-1] + 1] for spectrum in stored))
            if kind == "counts":
                own = poisson_scores(spread, images, mask, factor, part)
            else:
                own = log_scores(spread, images, mask, part)
            value, place = own.max(-1)
            scores.append(value)
            shifts.append(place)
        # Every candidate is an image's own business from here on: small tensors, on the CPU.
        score, shift = torch.cat(scores, 1).double().cpu(), torch.cat(shifts, 1).cpu()
        score, index = score.topk(min(SHORTLIST, score.shape[1]), dim=1)
        angle = shift.gather(1, index).double() * (2 * math.pi / SHIFTS)
        quaternion = to_fundamental_domain(rotate_about_beam(self.quaternion[index], angle))
        return best_apart(Candidates(self.radius_nm[index], quaternion, score), count)

    def save(self, path: Path) -> None:
        """Write as safetensors, whole or not at all."""
        from safetensors.torch import save_file

        tensors = {"radius_nm": self.radius_nm, "quaternion": self.quaternion, "patterns": self.patterns}
        with atomic_path(Path(path)) as temporary:
            save_file(tensors, temporary, {"format": FORMAT, "card": json.dumps(self.card)})

    @classmethod
    def load(cls, path: Path) -> "Dictionary":
        """Read what :meth:`save` wrote.

        Raises:
            InputError: missing, damaged or foreign file.
        """
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


def _physics(experiment: Experiment) -> dict[str, Any]:
    index = experiment.refractive_index
    return {"wavelength_nm": experiment.wavelength_nm, "refractive_index": [index.real, index.imag]}


def _identity(experiment: Experiment, body: ConvexBody, options: DictionaryOptions) -> dict[str, Any]:
    return json.loads(
        json.dumps({"physics": _physics(experiment), "body": body.name, "options": asdict(options)})
    )


def build_dictionary(
    simulator: Simulator,
    options: DictionaryOptions | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Dictionary:
    """Simulate and store; some milliseconds a pattern on two cores.

    Args:
        simulator: whose physics, body and device to use. Patterns are those of the whole half space, whatever
            detector the images will come from.
        options: what to store.
        progress: called with the finished share.
    """
    options = options or DictionaryOptions()
    begin = time.perf_counter()
    radius, quaternion = sample(options, simulator.body)
    parts = []
    whole = whole_half_space(simulator)
    for rows in torch.arange(len(radius)).split(SIMULATED):
        parts.append(polar_patterns(whole, radius[rows], quaternion[rows]).cpu())
        progress(float(rows[-1] + 1) / len(radius))
    return Dictionary(
        radius, quaternion, torch.cat(parts), dictionary_card(simulator, options, len(radius), begin)
    )


def whole_half_space(simulator: Simulator) -> Simulator:
    """The same physics and body, on the detector whose patterns a dictionary stores."""
    whole = replace(
        simulator.experiment, pixels=128, sin_theta_max=1.0, centre_offset=(0.0, 0.0), detector=None,
        solid_angle_factor=False, pixel_average=False,
    )  # fmt: skip
    if whole == simulator.experiment and simulator.method == "exact":
        return simulator  # and its tables
    return Simulator(whole, device=simulator.device, body=simulator.body)


def polar_patterns(whole: Simulator, radius_nm: Tensor, quaternion: Tensor) -> Tensor:
    """Simulate what is stored: (B, RINGS, SECTORS) float16, log10 of the intensity over its maximum."""
    intensity = whole.intensity(radius_nm, quaternion)
    relative = intensity / intensity.amax((-2, -1), keepdim=True)
    logs = torch.log10(relative.clamp_min(10**DEEPEST))
    return sample_polar(logs).clamp(DEEPEST, 0).half()


def dictionary_card(
    simulator: Simulator, options: DictionaryOptions, simulations: int, begin: float
) -> dict[str, Any]:
    """What is stored beside the patterns; ``begin`` is when the making began, by ``time.perf_counter``."""
    return {
        "identity": _identity(simulator.experiment, simulator.body, options),
        "simulations": simulations,
        "seconds": time.perf_counter() - begin,
        "device": str(simulator.device),
    }


@lru_cache(maxsize=2)
def _load_cached(path: Path) -> Dictionary:
    return Dictionary.load(path)


def dictionary_for(
    simulator: Simulator,
    options: DictionaryOptions | None = None,
    folder: Path | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Dictionary:
    """The stored dictionary for this physics, built first if there is none.

    Args:
        simulator: whose physics, body and device to use.
        options: what to store.
        folder: where it is kept, :func:`cache_folder` by default.
        progress: called with the finished share of the building.
    """
    options = options or DictionaryOptions()
    identity = _identity(simulator.experiment, simulator.body, options)
    name = hashlib.sha256(json.dumps([FORMAT, identity], sort_keys=True).encode()).hexdigest()[:16]
    path = (folder or cache_folder()) / f"dictionary-{name}.safetensors"
    if path.exists():
        try:
            return _load_cached(path)
        except InputError:
            path.unlink()  # cut off or of an older version: a cache, made again
    built = build_dictionary(simulator, options, progress)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        built.save(path)
        stored = sorted(path.parent.glob("dictionary-*.safetensors"), key=lambda one: one.stat().st_mtime)
        for oldest in stored[:-MOST_CACHED]:
            oldest.unlink(missing_ok=True)
    except OSError:
        return built  # a read-only home costs the next process the building again
    return _load_cached(path)
