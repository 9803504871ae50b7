"""The simulator as fits see it: evaluations are counted here, where they happen, and nowhere else.

Where the beam has moved by a fraction of a pixel, images are shifted by local interpolation.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from icobench.devices import joined
from icobench.fitting.nuisance import NUISANCES, Nuisance
from icobench.geometry.shapes import shape_of
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

__all__ = ["FURTHER_COST", "JACOBIAN_COST", "CountingSimulator", "inner_pixels", "shifted"]

FURTHER_COST = 1
"""Charged for every further derivative."""

JACOBIAN_COST = 4
"""Evaluations charged for one image with its four derivatives: 3 to 4 by the time of ``intensity_jacobian``
over that of ``intensity`` in batches of 8 to 64 on two cores (``benchmarks/bench_ratios.py``)."""

PROPAGATED_COST = 20
"""Evaluations charged for one propagated image: about its time over that of one by straight rays, 5 at 40 nm,
22 at 95 nm and 47 at 150 nm (``benchmarks/bench_ratios.py``); core-seconds are charged beside it."""

DIFFERENCES = 5
"""Propagated images in one with its four derivatives."""

SHAPE_STEP = 0.01
"""Step to either side of the differences that are the derivatives by a shape's parameter."""

TAPS = 10

MARGIN = TAPS // 2 + NUISANCES["centre"]["centre_x"][1]
"""Pixels nearer than this to the edge of the grid or of the half space may depend on what lies beyond it."""


def _weights(offset: Tensor, pixels: int) -> Tensor:
    """Lagrange interpolation at i - offset: (B, pixels, pixels) band matrices."""
    place = torch.arange(pixels, dtype=torch.float64, device=offset.device) - offset[:, None]
    first = torch.floor(place) - (TAPS // 2 - 1)
    taps = first[..., None] + torch.arange(TAPS, dtype=torch.float64, device=offset.device)
    distance = place[..., None] - taps
    weights = torch.ones_like(distance)
    for tap in range(TAPS):
        for other in range(TAPS):
            if other != tap:
                weights[..., tap] *= distance[..., other] / (tap - other)
    columns = taps.long()
    inside = (columns >= 0) & (columns < pixels)
    matrix = torch.zeros(*place.shape, pixels, dtype=torch.float64, device=offset.device)
    return matrix.scatter_add_(-1, columns.clamp(0, pixels - 1), weights * inside)


def inner_pixels(experiment: Experiment) -> Tensor:
    """(pixels, pixels) True where a shifted image can be trusted: away from edge and horizon."""
    return experiment.inner(math.ceil(MARGIN))


def shifted(values: Tensor, offset: Tensor) -> Tensor:
    """Values that the detector sees when the beam has moved by ``offset`` pixels.

    Better applied to the field than to the intensity, whose fringes are half as wide. Below 53 degrees the
    field's relative error stays below 2e-4 at R = 40 nm and 2e-3 at 95 nm (``tests/fitting/test_shift.py``);
    larger bodies and angles are worse.

    Args:
        values: (B, ..., pixels, pixels), real or complex, [y, x].
        offset: (B, 2), x and y.

    Returns:
        the same shape; values from beyond the grid count as 0.
    """
    pixels = values.shape[-1]
    real = values.real.dtype if values.is_complex() else values.dtype
    across, down = (_weights(offset[:, axis].double(), pixels).to(real) for axis in (0, 1))
    shape = len(values), *(1,) * (values.ndim - 3), pixels, pixels
    across, down = across.reshape(shape).mT, down.reshape(shape)
    if values.is_complex():
        return torch.complex(down @ values.real @ across, down @ values.imag @ across)
    return down @ values @ across


class Memory(NamedTuple):
    """The last propagated image of each of N images: parameters (N, 5 + P) and intensity (N, H, W)."""

    given: Tensor
    intensity: Tensor


@dataclass
class CountingSimulator:
    """The simulator as fits see it: every call is counted.

    A propagated image, which takes long, is not made again for the same parameters, and not counted again.

    Attributes:
        simulator: does the work; ``experiment``, ``body`` and ``device`` are its.
        images: number of images to reconstruct; evaluations are counted for each.
        counts: (images,) evaluations counted so far, int64, on the simulator's device.
    """

    simulator: Simulator
    images: int

    def __post_init__(self) -> None:
        self.experiment, self.device = self.simulator.experiment, self.simulator.device
        self.body = self.simulator.body
        self.counts = torch.zeros(self.images, dtype=torch.long, device=self.device)
        self._one = torch.ones(1, dtype=torch.long, device=self.device)
        self.propagated = self.simulator.method == "propagated"
        self.memory: Memory | None = None

    def charge(self, image: Tensor, cost: int = 1) -> None:
        """Count ``cost`` evaluations for each entry of ``image`` (indices, repeats allowed)."""
        image = image.to(self.device, non_blocking=True)
        self.counts.index_add_(0, image, self._one.expand(len(image)), alpha=cost)

    @property
    def evaluations(self) -> Tensor:
        """(images,) counted so far, int64; a copy on the CPU."""
        return self.counts.clone().cpu()

    def intensity(
        self, image: Tensor, radius_nm: Tensor, quaternion: Tensor, nuisance: Nuisance | None = None
    ) -> Tensor:
        """Intensities (B, H, W), counted for the images with the given indices (B,).

        A refractive index, a centre and a shape among the nuisance parameters (B, P) are taken into account,
        a background is not: the objective adds it.
        """
        nuisance = nuisance or Nuisance.none(len(radius_nm))
        if not self.propagated:
            self.charge(image)
            return self._simulated(radius_nm, quaternion, nuisance)
        # Fits ask for the derivatives where they have just asked for the intensity.
        given = torch.cat((radius_nm[:, None], quaternion, nuisance.values.to(radius_nm)), 1).double()
        if self.memory is None or self.memory.given.shape[1] != given.shape[1]:
            self.memory = Memory(
                given.new_full((self.images, given.shape[1]), torch.nan),
                self.simulator.factor.new_zeros(self.images, *self.simulator.factor.shape),
            )
        place = image.to(self.device)
        rows = (self.memory.given[place] != given).any(1).nonzero()[:, 0]
        self.charge(place[rows], PROPAGATED_COST)
        intensity = self.memory.intensity[place]
        if len(rows):
            intensity[rows] = self._simulated(radius_nm[rows], quaternion[rows], nuisance.take(rows))
        self.memory.given[place], self.memory.intensity[place] = given, intensity
        return intensity

    def _simulated(self, radius_nm: Tensor, quaternion: Tensor, nuisance: Nuisance) -> Tensor:
        """Intensities (B, H, W) for the refractive indices, centres and shapes among the nuisance
        parameters."""
        offset = nuisance.of("centre")
        parts = []
        for rows, simulator in self._materials(nuisance):
            if offset is None:
                parts.append(simulator.intensity(radius_nm[rows], quaternion[rows]))
            else:
                field = simulator.field(radius_nm[rows], quaternion[rows])
                parts.append(simulator.read(shifted(field, offset[rows].to(field.device))))
        return joined(parts)

    def intensity_jacobian(
        self,
        image: Tensor,
        radius_nm: Tensor,
        quaternion: Tensor,
        also: tuple[str, ...] = (),
        nuisance: Nuisance | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Intensities (B, H, W) and derivatives (B, T, H, W), T = 4 and 2 for each name in ``also``, 1 for a
        shape among the nuisance parameters.

        An image is charged :data:`JACOBIAN_COST`, and :data:`FURTHER_COST` for every further derivative; a
        propagated one :data:`DIFFERENCES` images, and 2 more for the refractive index. Two images are the
        difference that is the derivative by the shape's parameter.
        """
        nuisance = nuisance or Nuisance.none(len(radius_nm))
        images = 2 * len(also) + 2 * ("shape" in nuisance.names)
        if self.propagated:
            self.charge(image, PROPAGATED_COST * (DIFFERENCES + images))
        else:
            self.charge(image, JACOBIAN_COST + FURTHER_COST * images)
        parts = [
            simulator.intensity_jacobian(radius_nm[rows], quaternion[rows], also)
            for rows, simulator in self._materials(nuisance)
        ]
        intensity, slopes = (joined(tensors) for tensors in zip(*parts, strict=True))
        offset = nuisance.of("centre")
        if offset is not None:
            both = shifted(torch.cat((intensity.unsqueeze(1), slopes), 1), offset.to(intensity.device))
            intensity, slopes = both[:, 0], both[:, 1:]
        if "shape" in nuisance.names:
            step = torch.zeros_like(nuisance.values)
            step[:, nuisance.columns.index("shape")] = SHAPE_STEP
            ends = [nuisance.moved(step), nuisance.moved(-step)]
            high, low = (self._simulated(radius_nm, quaternion, end) for end in ends)
            width = (ends[0].values - ends[1].values).sum(1).to(high)
            slopes = torch.cat((slopes, ((high - low) / width[:, None, None]).unsqueeze(1)), 1)
        return intensity, slopes

    def _materials(self, nuisance: Nuisance) -> Iterator[tuple[slice, Simulator]]:
        """Rows of one material and body, and their simulator: its kernels take one of each for a batch."""
        index, shape = nuisance.of("refractive_index"), nuisance.of("shape")
        if (index is None and shape is None) or not len(nuisance.values):
            yield slice(None), self.simulator
            return
        for row in range(len(nuisance.values)):
            simulator = self.simulator if shape is None else self._shaped(float(shape[row, 0]))
            if index is not None:
                simulator = simulator.with_refractive_index(complex(*index[row].tolist()))
            yield slice(row, row + 1), simulator

    def _shaped(self, share: float) -> Simulator:
        """The simulator of the body of this family at a share of its parameter's range."""
        family, _ = shape_of(self.body.name)
        one = self.simulator
        return Simulator(one.experiment, one.method, one.device, one.dtype, family.at(share))
