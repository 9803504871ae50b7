"""From a detector's frames to the orthographic grid that simulations are compared on.

Every source pixel is split into s x s subpixels, none larger than a quarter of a target pixel. Each is taken
as a box around its direction (k_x / k, k_y / k) and shared among the target pixels that it overlaps, so one
sparse matrix A (source pixels x target pixels) holds the share of each source pixel that falls into each
target pixel. With n_p the counts of source pixel p, a_p its area in the plane (k_x / k, k_y / k) in target
pixels, and u_p whether it is usable,

    coverage_t = sum_p A_pt a_p u_p,    counts_t = sum_p A_pt n_p u_p / coverage_t.

Target pixels of little coverage are masked. Equal pitch gives an exact cut: the fraction of the beam's offset
goes to the experiment's ``centre_offset``.

**Counts.** A flat detector's pixel counts photons in its own solid angle: intensity x cos^3(theta). Their sum
over a target pixel is intensity x the target pixel's solid angle, intensity x k / k_z. So they are compared
with an experiment that has ``solid_angle_factor`` set. Frames that were divided by the solid angle are
multiplied by it again. Orthographic frames keep the factor they have.

**Log images** show what pixels counted, on a scale of their own. Their relative intensities, of a flat
detector divided by cos^3(theta), are averaged over the target pixel by area and made a log image again, which
is compared with the intensity itself, without factor.

**Averages.** A target pixel holds the average over its area, which has less contrast than the intensity at
its centre where fringes are narrow. The experiment says so by its ``pixel_average``. Without it, fits of
exact counts of a flat detector (512 x 512, sin(theta) up to 0.8, onto 128 pixels for the half space) found
radii of 40, 80 and 150 nm too small by 0.034, 0.16 and 0.80 nm; with it by 0.001, 0.019 and 0.09 nm. (What is
left is the average over the detector's own pixels, which the simulated frames did not have.)
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack

from icobench.errors import InputError
from icobench.images.geometry import FrameGeometry, Panels
from icobench.images.image_set import ImageSet
from icobench.images.image_source import ImageSource
from icobench.images.pixels import intensity_from_log, log_image
from icobench.simulator.experiment import Experiment, FlatDetector

__all__ = ["FrameGeometry", "PolarResampler", "Resampler", "on_grid"]

FINENESS = 4
"""Subpixels per target pixel and axis, at least."""

COARSEST = 16
"""Source pixels wider than this many target pixels are refused."""

LEAST_COVERAGE = 0.97
"""Share of a target pixel that usable source pixels must cover. A pixel at the rim of the beam's hole that is
covered in part shows the average over that part, where the intensity is another: with 0.75, bright images of
bodies of 110 nm were poor fits. (512 x 512, 1e6 photons, hole of 3 degrees: deviance 1.32 a pixel, now
0.9.)"""

OWN_GRID = 256
"""Even square frames up to this size are fitted on their own grid."""

PIXELS_A_SIDE = 128

SUBPIXELS = 1 << 18
"""Subpixels handled at once while the shares are computed."""

MOST_SUBPIXELS = 4e9
"""Of a frame; a minute's work."""

PIXELS = 1 << 24
"""Pixels of frames held at once (64 MiB in float32)."""


class Resampler:
    """Brings frames of one shape (H, W) and geometry to the grid of an orthographic experiment.

    Args:
        corrected: whether the frames of a flat detector were divided by the pixels' solid angle.

    Attributes:
        coarse: width of the frames' pixels on the beam, in pixels of the target.

    Raises:
        InputError: the frames' pixels are far coarser than the target's.
    """

    def __init__(
        self, shape: tuple[int, int], geometry: FrameGeometry, target: Experiment, corrected: bool = False
    ) -> None:
        self.target = target
        self.coarse = geometry.pitch * (target.pixels // 2) / target.sin_theta_max
        if self.coarse > COARSEST:
            raise InputError(
                f"a pixel of the images is as wide as {self.coarse:.3g} pixels of the fitted grid; "
                f"check the geometry or ask for fewer --pixels than {target.pixels}"
            )
        split = max(1, math.ceil(FINENESS * self.coarse - 1e-9))
        seen_rows, columns = _within(geometry, shape)
        if len(seen_rows) * len(columns) * split**2 > MOST_SUBPIXELS:
            raise InputError(
                f"frames of {shape[0]:,} x {shape[1]:,} pixels would be divided into more than "
                f"{MOST_SUBPIXELS:.0e} parts; check the geometry"
            )
        height = max(1, SUBPIXELS // (max(1, len(columns)) * split**2))
        self._area = np.zeros(shape, np.float32)
        self._solid_angle = np.ones(shape, np.float32)  # what a pixel counts, over the intensity
        pieces = []
        for first in range(0, shape[0], height):
            rows = np.arange(first, min(first + height, shape[0]))
            pieces.append(
                self._shares(geometry, rows, np.intersect1d(rows, seen_rows), columns, shape[1], split)
            )
            x, y, cosine = geometry.directions(np.arange(shape[1]), rows[:, None])
            self._area[rows] = np.where(x**2 + y**2 < 1, self.coarse**2 * cosine**4, 0)
            self._solid_angle[rows] = cosine**3
        self._shared = vstack(pieces, format="csr").T
        # What corrected frames must be multiplied by to hold photons again.
        self._counted = self._solid_angle if corrected else np.ones(shape, np.float32)
        if corrected:
            self._solid_angle = np.ones(shape, np.float32)

    def _shares(
        self, geometry: FrameGeometry, rows: np.ndarray, seen_rows: np.ndarray, columns: np.ndarray,
        width: int, split: int,
    ) -> Any:  # fmt: skip
        """Rows of the matrix A for some rows of the frame: sparse (len(rows) * width, pixels^2).

        Only the seen rows and the columns given have shares.
        """
        pixels = self.target.pixels
        inside = (np.arange(split) + 0.5) / split - 0.5
        across = (columns[:, None] + inside).ravel()
        x, y, cosine = geometry.directions(across, (seen_rows[:, None] + inside).reshape(-1, 1))
        place = np.repeat(seen_rows - rows[0], split)[:, None] * width + np.repeat(columns, split)
        scale = self.coarse / geometry.pitch
        sides = []
        for sine, offset in ((y, self.target.centre_offset[1]), (x, self.target.centre_offset[0])):
            # The derivative of k_x / k along x; the box leaves out the small shear off the axes.
            size = self.coarse / split * (cosine * (1 - sine**2) if geometry.flat else cosine)
            low = sine * scale + pixels / 2 + offset + 0.5 - size / 2
            first = np.floor(low)
            # Rounded: else the last digit would carry a box that ends at an edge across it.
            share = np.round(np.minimum(1, (first + 1 - low) / size), 9)
            sides.append(((first.astype(np.int64), share), (first.astype(np.int64) + 1, 1 - share)))
        parts = []
        for row, tall in sides[0]:
            for column, wide in sides[1]:
                share = tall * wide / split**2
                kept = (share > 0) & (row >= 0) & (row < pixels) & (column >= 0) & (column < pixels)
                parts.append((share[kept], place[kept], (row * pixels + column)[kept]))
        data, source, target = (np.concatenate(part) for part in zip(*parts, strict=True))
        shape = (len(rows) * width, pixels**2)
        return csr_matrix((data, (source, target)), shape=shape).astype(np.float32)

    def _gather(self, values: np.ndarray) -> np.ndarray:
        """Sums of source pixels by their shares: (n, H, W) -> (n, pixels, pixels)."""
        side = self.target.pixels
        return (self._shared @ values.reshape(len(values), -1).T).T.reshape(-1, side, side)

    def __call__(self, images: np.ndarray, mask: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Resample images (n, H, W) float32, 0 where masked, and their mask (n, H, W), True where usable.

        Returns:
            both on the grid: (n, pixels, pixels).
        """
        weight, coverage, covered = self._coverage(mask)
        if kind == "counts":
            frames = images * self._counted * (weight > 0)
        else:
            intensity = intensity_from_log(torch.from_numpy(images)).numpy() if kind == "log" else images
            frames = intensity / self._solid_angle * weight
        values = self._gather(frames)
        values = np.where(covered, values / np.maximum(coverage, LEAST_COVERAGE), 0).astype(np.float32)
        if kind == "log":
            tensor = torch.from_numpy(values)
            # The scale of the frame, unless the division by the solid angle leads beyond it.
            values = log_image(tensor, scale=tensor.amax((-2, -1)).clamp_min(1)).numpy()
        return values, np.broadcast_to(covered, values.shape).copy()

    def _coverage(self, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weights of source pixels, how much of target pixels they cover, and whether that is enough."""
        weight = mask * self._area
        same_mask = bool((mask == mask[:1]).all())
        coverage = self._gather(weight[:1] if same_mask else weight)
        return weight, coverage, (coverage >= LEAST_COVERAGE) & self.target.valid().numpy()

    def variance(self, variance: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Variance (n, pixels, pixels) of counts on the grid, given that of independent source pixels."""
        weight, coverage, covered = self._coverage(mask)
        side = self.target.pixels
        given = variance * self._counted**2 * (weight > 0)
        values = (self._shared.power(2) @ given.reshape(len(given), -1).T).T.reshape(-1, side, side)
        return np.where(covered, values / np.maximum(coverage, LEAST_COVERAGE) ** 2, 0).astype(np.float32)


def _within(geometry: FrameGeometry, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of frames (H, W) in which a pixel may look into the half space."""
    every = np.arange(shape[0]), np.arange(shape[1])
    if geometry.flat:
        return every
    x, y = geometry.centre
    rows, columns = (
        numbers[np.abs(numbers - middle) * geometry.pitch <= 1 + geometry.pitch]
        for numbers, middle in zip(every, (y, x), strict=True)
    )
    return rows, columns


class PolarResampler(Resampler):
    """The same for polar images (angles, radii), which hold what pixels of the detector would.

    Row i is at 2 pi i / H from x towards y, column j at a radius of j times the geometry's pitch. A target
    pixel gets the average of bilinear samples.

    Args:
        first: row at an angle of 0, 0 or -1.
    """

    def __init__(
        self, shape: tuple[int, int], geometry: FrameGeometry, target: Experiment, corrected: bool = False,
        first: int = 0,
    ) -> None:  # fmt: skip
        self.target = target
        self.coarse = geometry.pitch * (target.pixels // 2) / target.sin_theta_max
        pixels, (height, width) = target.pixels, shape
        split = max(2, math.ceil(1 / self.coarse))
        inside = (np.arange(split) + 0.5) / split - 0.5
        steps = ((np.arange(pixels)[:, None] + inside).ravel() - pixels // 2) / (pixels // 2)
        x, y = steps * target.sin_theta_max, steps[:, None] * target.sin_theta_max
        sine = np.hypot(x, y)
        cosine = np.sqrt(np.clip(1 - sine**2, 1e-6, None))
        radius = (sine / cosine if geometry.flat else sine) / geometry.pitch
        turn = (np.arctan2(y, x) / (2 * math.pi) * height + first) % height
        place = np.arange(pixels * split) // split
        target_pixel = place[:, None] * pixels + place
        column, row = np.floor(radius).astype(int), np.floor(turn).astype(int)
        right, down = radius - column, turn - row
        there = (sine < 1) & (column + 1 < width)
        parts = []
        for next_row, row_share in ((0, 1 - down), (1, down)):
            for next_column, column_share in ((0, 1 - right), (1, right)):
                source = (row + next_row) % height * width + np.minimum(column + next_column, width - 1)
                share = row_share * column_share / split**2
                parts.append((share[there], target_pixel[there], source[there]))
        data, rows, columns = (np.concatenate(part) for part in zip(*parts, strict=True))
        size = (pixels**2, height * width)
        self._shared = csr_matrix((data, (rows, columns)), shape=size).astype(np.float32)
        self._area = np.ones(shape, np.float32)
        self._solid_angle = self._counted = np.ones(shape, np.float32)
        # Pixels of the detector in a target pixel, and what they count.
        middle = cosine[split // 2 :: split, split // 2 :: split]
        self._detector_pixels = (
            1 / (self.coarse**2 * middle**4) if geometry.flat else 1 / self.coarse**2
        ) * (middle**3 if corrected else 1)
        self._seen = middle**3 if geometry.flat and not corrected else np.ones_like(middle)

    def __call__(self, images: np.ndarray, mask: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
        if kind == "log":
            images = intensity_from_log(torch.from_numpy(images)).numpy()
        values, covered = super().__call__(images, mask, "intensity")
        if kind == "counts":
            return (values * self._detector_pixels).astype(np.float32), covered
        values = (values / self._seen).astype(np.float32)
        if kind == "log":
            tensor = torch.from_numpy(values)
            values = log_image(tensor, scale=tensor.amax((-2, -1)).clamp_min(1)).numpy()
        return values, covered

    def variance(self, variance: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return super().variance(variance, mask) * self._detector_pixels**2


class _ResampledSource(ImageSource):
    """The frames of another source, brought to a grid as they are read."""

    def __init__(self, source: ImageSource, resampler: Resampler) -> None:
        self.path, self.where, self.kind, self.axes = source.path, source.where, source.kind, source.axes
        self.shape = (resampler.target.pixels, resampler.target.pixels)
        self._source, self._resampler = source, resampler

    def __len__(self) -> int:
        return len(self._source)

    def read(self, numbers: Sequence[int]) -> ImageSet:
        height, width = self._source.shape
        size = max(1, PIXELS // (height * width))
        parts = []
        for first in range(0, len(numbers), size):
            frames = self._source.read(numbers[first : first + size])
            usable = frames.mask.numpy()
            images, mask = self._resampler(frames.images.numpy(), usable, self.kind)
            changed = replace(frames, images=torch.from_numpy(images), mask=torch.from_numpy(mask))
            if frames.readout is not None:
                variance = self._resampler.variance(frames.readout.numpy(), usable)
                changed = replace(changed, readout=torch.from_numpy(variance))
            parts.append(changed)
        return ImageSet.join(parts)

    def warnings(self) -> list[str]:
        lines = self._source.warnings()
        if self._resampler.coarse > 1 + 1e-9:
            lines.append(
                f"{self.where}: pixels are {self._resampler.coarse:.3g} times as wide as those of the fitted "
                "grid, so the noise of its neighbouring pixels is correlated; fewer --pixels avoid that"
            )
        return lines


def on_grid(
    source: ImageSource,
    experiment: Experiment,
    detector: FlatDetector | None = None,
    centre: tuple[float, float] | None = None,
    pixels: int | None = None,
    panels: Panels | None = None,
    polar: bool = False,
    corrected: bool = False,
) -> tuple[ImageSource, Experiment]:
    """Frames on an orthographic grid, and the experiment to compare them with.

    Even square frames of at most 256 pixels stay as they are if no geometry is given. Others are cut around
    the beam and resampled to ``pixels``.

    Args:
        source: frames as measured.
        experiment: orthographic; its number of pixels does not matter.
        detector: the flat detector that took them; None for frames on an orthographic grid whose shorter side
            spans ``sin_theta_max`` to both sides.
        centre: (x, y) of the beam in pixel indices of an orthographic frame; (W / 2, H / 2) by default.
        pixels: a side of the target grid, 128 by default.
        panels: where the parts of the frames lie, if they are not one plane.
        polar: the frames are polar images (angles, radii) around the beam, see :class:`PolarResampler`.
        corrected: a flat detector's frames were divided by the pixels' solid angle.

    Raises:
        InputError: a geometry that makes no sense.
    """
    height, width = source.shape
    no_geometry = (detector, centre, pixels, panels) == (None,) * 4 and not polar
    if no_geometry and height == width <= OWN_GRID and width % 2 == 0:
        return source, replace(experiment, pixels=width)
    if panels is not None:
        panels.check(source.shape, source.where)
        if detector is None:
            raise InputError("panels lie on a flat detector: give --distance-mm and --pixel-mm")
        if detector.centre is None and panels.centre is None:
            raise InputError("panels need the pixel that the beam would hit: give --centre")
    if detector is not None:
        pitch = detector.pixel_mm / detector.distance_mm
        centre = detector.centre or (panels.centre if panels is not None else None)
        experiment = replace(experiment, solid_angle_factor=source.kind == "counts")
    elif polar:
        pitch = experiment.sin_theta_max / width
    else:
        pitch = experiment.sin_theta_max / (min(height, width) / 2)
    geometry = FrameGeometry(pitch, centre or (width / 2, height / 2), detector is not None, panels)
    try:
        target = replace(experiment, pixels=PIXELS_A_SIDE if pixels is None else pixels)
    except ValueError as error:
        raise InputError(str(error)) from error
    if polar:
        target = replace(target, pixel_average=True)
        if "x" in source.axes.flip:
            raise InputError(
                "polar images have no columns to mirror; --flip y is for angles that run the other way"
            )
        # Angles that run the other way: the mirrored row 0 is the last one's neighbour.
        polar_resampler = PolarResampler(
            source.shape, geometry, target, corrected, -1 if source.axes.flip else 0
        )
        return _ResampledSource(source, polar_resampler), target
    if geometry.pitch * (target.pixels // 2) == target.sin_theta_max and not geometry.flat:
        # The same pitch: an exact cut, the rest of the offset is left to the simulator.
        x, y = (position - round(position) for position in geometry.centre)
        target = replace(target, centre_offset=(x, y))
    else:
        target = replace(target, pixel_average=True)
    return _ResampledSource(source, Resampler(source.shape, geometry, target, corrected)), target
