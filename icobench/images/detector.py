"""What a real detector does to a pattern."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icobench.errors import InputError
from icobench.images.pixels import expected_counts, usable_pixels
from icobench.images.response import Response
from icobench.seeds import Purpose, random_generator
from icobench.simulator.experiment import Experiment

__all__ = ["CLEAN_PHOTONS", "DETECTORS", "Detector", "DetectorModel"]

CLEAN_PHOTONS = 1e6
"""Noise-free images are scaled as if they held this many photons."""


@dataclass(frozen=True)
class Detector:
    """Settings of a photon-counting detector.

    Attributes:
        photons: expected on the usable pixels of an image; 0 leaves all noise out.
        hole_degrees: central hole for the direct beam, scattering angle of its rim.
        sine: angle range, the square |k_x|, |k_y| <= sine k.
        readout_noise: standard deviation per pixel in photons. Readings are then rounded to whole
            photons, and negative ones to 0, as photon-finding software does.
        saturation: photons; a pixel that reads as many or more is masked in that image. 0 for none.
        dead_share: share of the pixels, at random places, that are dead and masked.
        gain_variation: relative standard deviation of the pixels' gains, which are not corrected.
        centre_offset: (x, y) of the beam from the middle in pixels, which a reconstruction does not know.
        efficiency: share of the photons that is seen, by scattering angle, as of
            :class:`~icobench.simulator.experiment.Experiment`; that of a multichannel plate falls with the
            angle, and a hole with a soft edge is a part of it.
        gamma, ceiling: response to photons, see :class:`~icobench.images.response.Response`; readings are
            then no whole numbers.
    """

    photons: float = 0.0
    hole_degrees: float = 0.0
    sine: float = 1.0
    readout_noise: float = 0.0
    saturation: float = 0.0
    dead_share: float = 0.0
    gain_variation: float = 0.0
    centre_offset: tuple[float, float] = (0.0, 0.0)
    efficiency: tuple[tuple[float, float], ...] = ()
    gamma: float = 1.0
    ceiling: float = 0.0

    def __post_init__(self) -> None:
        bounds = {
            "photons": (0, 1e12), "hole_degrees": (0, 80), "sine": (0.01, 1), "readout_noise": (0, 1e6),
            "saturation": (0, 1e12), "dead_share": (0, 0.9), "gain_variation": (0, 0.5),
            "gamma": (0.1, 3), "ceiling": (0, 1e12),
        }  # fmt: skip
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"a detector's {name} must lie in {low:g} to {high:g}, got {value:g}")
        noisy = self.readout_noise or self.gain_variation or self.saturation or self.response
        if self.photons == 0 and noisy:
            raise InputError("read-out noise, gains, saturation and a response need a number of photons")

    @property
    def response(self) -> Response | None:
        """What readings are of photons; None for the numbers of photons themselves."""
        linear = self.gamma == 1 and self.ceiling == 0
        return None if linear else Response(self.gamma, self.ceiling or math.inf)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they are stored; without the entries that earlier versions did not have, if
        unused."""
        new = {"efficiency": (), "gamma": 1.0, "ceiling": 0.0}
        return {name: value for name, value in asdict(self).items() if value != new.get(name, ...)}


MCP_EFFICIENCY = (
    (0.0, 0.0), (2.5, 0.0), (3.0, 0.2), (3.5, 0.7), (4.0, 0.95), (5.0, 1.0),
    (15.0, 0.95), (25.0, 0.82), (35.0, 0.66), (45.0, 0.5), (60.0, 0.3), (90.0, 0.1),
)  # fmt: skip
"""Of a multichannel plate with a phosphor screen behind a hole with a soft edge. The fall with the angle is
of the kind that Langbehn et al. (Phys. Rev. Lett. 121, 255301, 2018) correct for; the numbers are ours."""

DETECTORS = {
    "clean": Detector(),
    "counting": Detector(photons=1e5, hole_degrees=3.0),
    "experiment": Detector(
        photons=1e5,
        hole_degrees=3.0,
        sine=0.8,
        readout_noise=0.15,
        saturation=2000.0,
        dead_share=0.005,
        gain_variation=0.03,
        centre_offset=(0.4, -0.3),
    ),
    "mcp": Detector(photons=1e5, efficiency=MCP_EFFICIENCY, gamma=0.75, ceiling=300.0),
}


class DetectorModel:
    """One detector with its own dead pixels and gains, which the seed decides and all images share.

    It has the experiment's grid, without the beam's offset.

    Attributes:
        mask: (pixels, pixels) True where usable before any exposure.
        gain: (pixels, pixels) float32.
    """

    def __init__(self, detector: Detector, experiment: Experiment, seed: int) -> None:
        self.detector = detector
        rng = random_generator(seed, Purpose.DETECTOR)
        shape = experiment.pixels, experiment.pixels
        dead = torch.from_numpy(rng.random(shape) < detector.dead_share)
        # Log-normal: gains are positive.
        width = math.sqrt(math.log1p(detector.gain_variation**2))
        self.gain = torch.from_numpy(np.exp(width * rng.standard_normal(shape) - width**2 / 2)).float()
        self.mask = usable_pixels(experiment, detector.hole_degrees, detector.sine) & ~dead
        self.seen = None
        if detector.efficiency:
            self.seen = replace(experiment, efficiency=detector.efficiency).seen_share(experiment.sin_theta())
            self.mask &= self.seen > 0
        if not self.mask.any():
            raise InputError("the detector has no usable pixel: look at its hole and its angle range")

    def record(self, intensity: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Expose the detector to patterns (B, H, W) of any unit.

        Each image has a random generator on the CPU of its own, so that it does not depend on the others. A
        detector without photons needs none.

        Returns:
            readings (B, H, W) float32, whole photons (or what the response makes of them) on the CPU, or
            noise-free on the patterns' device and scaled to :data:`CLEAN_PHOTONS`, 0 where masked; and the
            mask (B, H, W), True where usable.
        """
        detector = self.detector
        if detector.photons:
            intensity = intensity.cpu()
        if self.seen is not None:
            intensity = intensity * self.seen.to(intensity)
        mask = self.mask.to(intensity.device)
        mean = expected_counts(intensity, mask, detector.photons or CLEAN_PHOTONS)
        mask = mask.expand(mean.shape)
        if detector.photons == 0:
            return mean.float(), mask
        # torch draws in one thread, and without holding Python's lock.
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            counts = torch.stack(list(pool.map(self._expose, mean, generators)))
        mask = mask & (counts < (detector.saturation or math.inf))
        if detector.response is not None:
            counts = detector.response.readings(counts).float()
        return torch.where(mask, counts, 0.0), mask

    def _expose(self, mean: Tensor, generator: torch.Generator) -> Tensor:
        """Readings (H, W) of one image, given its mean counts."""
        counts = torch.poisson(mean, generator=generator).float() * self.gain
        if noise := self.detector.readout_noise:
            counts = counts + noise * torch.randn(counts.shape, generator=generator)
        return counts.round().clamp_min(0)
