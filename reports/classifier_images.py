"""Images with labels for the classifier: a pool of simulated fields, and what detectors make of them.

Bodies have radii of 30 to 160 nm and all orientations; absorption as in the paper for three in four, silver's
refractive index for the others; straight rays. Fields are simulated once and kept. Every batch draws some of
them, adds up two or three for "several", and applies stray light, photon noise and a detector's flaws, or the
paper's filters for log images. All labels are equally common.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from icobench.geometry.convex import ConvexBody, icosahedron
from icobench.geometry.rotations import quaternion_to_matrix, random_quaternions
from icobench.geometry.shapes import shape
from icobench.images.augment import augment
from icobench.images.symmetry import dihedral_images
from icobench.network.classifier import FEWEST_PHOTONS, LABELS
from icobench.network.inputs import MOST_PHOTONS, count_brightness
from icobench.seeds import Purpose, seed_word, torch_generator
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

__all__ = ["Batch", "Images", "bodies", "spheroid_field"]

RADII_NM = (30.0, 160.0)
SILVER, SILVER_SHARE = complex(0.89, 0.0859), 0.25

FACETED = ("cube", "octahedron", "truncated-octahedron", "cuboctahedron", "dodecahedron", "tetrahedron")
STRETCHES = (0.75, 1.3)
"""Of bodies along their z axis."""
ASPECTS = (0.5, 1.0, 2.0)
"""Height of hexagonal prisms over the diameter of the circle in them."""
RANDOM_BODIES = 8

NEARLY_ROUND = (0.93, 1.07)
"""Semi-axes of ellipsoids over their mean, for two of three spheres."""
NODES = 96

PHOTONS, FAINT_PHOTONS, FAINT_SHARE = (1e3, 1e7), (30.0, 1e3), 0.12
EMPTY_PHOTONS = (1.0, 1e6)
STRAY_SHARE = (1e-3, 0.3)
"""Photons of stray light over those of the body, for half of the images with bodies."""

FARTHEST_NM, DEPTH_NM = 1500.0, 300.0
"""Largest distance of several bodies across the beam; standard deviation of that along it."""
WEAKEST = 0.05
"""Photons of any of several bodies over those of the first, at least: bodies off the focus get less light."""

GATHERED = 2048
"""Fields simulated at once on a GPU; 64 on a CPU."""


def _halfspaces(name: str, normals: np.ndarray, offsets: np.ndarray) -> ConvexBody:
    return ConvexBody.from_halfspaces(name, normals, offsets, np.array([[1.0, 0, 0, 0]]))


def _stretched(body: ConvexBody, factor: float) -> ConvexBody:
    """Stretched along z."""
    normals = body.normals / np.array([1.0, 1.0, factor])
    return _halfspaces(f"{body.name}-{factor:g}", normals, body.offsets)


def _prism(aspect: float) -> ConvexBody:
    turn = np.arange(6) * math.pi / 3
    sides = np.stack((np.cos(turn), np.sin(turn), np.zeros(6)), 1)
    ends = np.array([[0, 0, 1.0], [0, 0, -1.0]])
    return _halfspaces(f"prism-{aspect:g}", np.vstack((sides, ends)), np.r_[np.ones(6), aspect, aspect])


def _decahedron() -> ConvexBody:
    """Five tetrahedra round a common edge: a pentagonal bipyramid."""
    turn = np.arange(5) * 2 * math.pi / 5
    steep = math.cos(math.radians(36)) / math.sqrt(4 * math.sin(math.radians(36)) ** 2 - 1)
    normals = [[math.cos(a), math.sin(a), side * steep] for a in turn for side in (1, -1)]
    return _halfspaces("decahedron", np.array(normals), np.ones(10))


def _random_body(number: int) -> ConvexBody:
    """8 to 16 random facets at 0.75 to 1 of the largest distance."""
    rng = np.random.default_rng(1000 + number)
    while True:
        normals = rng.standard_normal((int(rng.integers(8, 17)), 3))
        normals /= np.linalg.norm(normals, axis=1)[:, None]
        try:
            body = _halfspaces(f"random-{number}", normals, rng.uniform(0.75, 1.0, len(normals)))
        except ValueError:  # unbounded, or a facet that others hide
            continue
        if body.inradius > 0.4:
            return body


def bodies() -> list[ConvexBody]:
    """The bodies with the label "faceted"."""
    regular = [shape(name) for name in FACETED]
    stretched = [_stretched(body, factor) for body in regular for factor in STRETCHES]
    others = [_prism(aspect) for aspect in ASPECTS] + [_decahedron()]
    return regular + stretched + others + [_random_body(number) for number in range(RANDOM_BODIES)]


def spheroid_field(axes: Tensor, quaternion: Tensor, experiment: Experiment) -> Tensor:
    """Fields (B, H, W) of ellipsoids by straight rays, as the simulator's for polyhedra.

    An ellipsoid is a ball after a linear map, and so is its projection. With semi-axes (B, 3) in nm and
    orientation (B, 4) the entrance of a ray through (x, y) lies at a plane less half the chord 2 h s, where
    s^2 = 1 - t^2 and t is the distance from the middle of the ellipse, 1 at its edge. The integral round
    the ellipse gives a Bessel function, that over s is a sum over Gauss's nodes.
    """
    device = axes.device
    root = quaternion_to_matrix(quaternion) * axes[:, None, :]
    form = root @ root.mT  # the ellipsoid is r^T form^-1 r <= 1
    across, mixed = form[:, :2, :2], form[:, :2, 2]
    slope = torch.linalg.solve(across, mixed[..., None])[..., 0]
    half = (form[:, 2, 2] - (mixed * slope).sum(-1)).sqrt()[:, None, None]
    k, n = experiment.wave_number, experiment.refractive_index
    x, y = experiment.transverse()
    valid = experiment.valid().to(device)
    q_x, q_y = (k * side.to(device, torch.float64) for side in (x, y))
    q_z = (k * (experiment.cos_theta().to(device, torch.float64) - 1)) * valid
    p_x = q_x + q_z * slope[:, 0, None, None]
    p_y = q_y + q_z * slope[:, 1, None, None]
    a, b, c = (across[:, i, j, None, None] for i, j in ((0, 0), (0, 1), (1, 1)))
    length = (a * p_x**2 + 2 * b * p_x * p_y + c * p_y**2).clamp_min(0).sqrt().float()
    w = q_z - k * (n - 1)
    rise, fall = (
        (1j * q_z * half).to(torch.complex64),
        (1j * (2 * k * (n - 1) - q_z) * half).to(torch.complex64),
    )
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    total = torch.zeros(length.shape, dtype=torch.complex64, device=device)
    for s, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        wave = torch.special.bessel_j0(length * math.sqrt(1 - s * s))
        total += (weight * s) * wave * (torch.exp(s * rise) - torch.exp(s * fall))
    area = 2 * math.pi * torch.linalg.det(across).sqrt()[:, None, None]
    return (area * total / (1j * w)).to(torch.complex64) * valid  # w is never 0: the body absorbs


@dataclass
class Batch:
    """Images as the network sees them, with their truth.

    Attributes:
        inputs: (B, 2, 128, 128), brightness and mask.
        log_images: (B,) float, 1 for log images.
        label: (B,) int64, place in :data:`~icobench.network.classifier.LABELS`.
        photons: (B,) scattered by bodies, expected; NaN for log images without noise, 0 for no body.
    """

    inputs: Tensor
    log_images: Tensor
    label: Tensor
    photons: Tensor


class Images:
    """Batches that depend on seed and number alone (and on the device, which draws).

    Args:
        seed: of the bodies and of all draws.
        pool: number of simulated bodies.
        device: where to simulate.
    """

    def __init__(self, seed: int, pool: int, device: torch.device | str = "cpu") -> None:
        self.seed, self.device = seed, torch.device(device)
        self.experiment = Experiment()
        self.valid = self.experiment.valid().to(self.device)
        x, y = self.experiment.transverse(torch.float32)
        self.x, self.y = x.to(self.device), y.to(self.device)
        self.sine = self.experiment.sin_theta(torch.float32).to(self.device)
        self.cosine = self.experiment.cos_theta(torch.float32).to(self.device)
        self.edge = torch.maximum(self.x.abs(), self.y.abs())
        self._make_pool(pool // 3)

    # -- bodies -------------------------------------------------------------------------------------------

    def _make_pool(self, each: int) -> None:
        """``each`` fields of spheres, as many of icosahedra, as many of other bodies, in this order."""
        pixels = self.experiment.pixels
        self.each = each
        self.fields = torch.empty(3 * each, pixels, pixels, dtype=torch.complex64, device=self.device)
        generator = torch_generator(self.seed, Purpose.TRAINING_POOL, 0)
        draw = torch.rand(3 * each, generator=generator, dtype=torch.float64)
        self.radius = RADII_NM[0] + (RADII_NM[1] - RADII_NM[0]) * draw
        turns = random_quaternions(3 * each, generator)
        axes = torch.rand(each, 3, generator=generator, dtype=torch.float64)
        axes = NEARLY_ROUND[0] + (NEARLY_ROUND[1] - NEARLY_ROUND[0]) * axes
        axes[::3] = 1.0
        others = bodies()
        groups: list[tuple[ConvexBody | None, Tensor]] = [
            (None, torch.arange(each)),
            (icosahedron(), torch.arange(each, 2 * each)),
        ]
        groups += [
            (body, torch.arange(2 * each, 3 * each)[number :: len(others)])
            for number, body in enumerate(others)
        ]
        step = GATHERED if self.device.type == "cuda" else 64
        for body, places in groups:
            if not len(places):
                continue
            silver = round(SILVER_SHARE * len(places))
            plain = None if body is None else Simulator(self.experiment, device=self.device, body=body)
            default = self.experiment.refractive_index
            for index, rows in ((SILVER, places[:silver]), (default, places[silver:])):
                experiment = replace(self.experiment, refractive_index=index)
                simulator = plain and plain.with_refractive_index(index)
                for part in rows.split(step if body is not None else step // 8):
                    if not len(part):
                        continue
                    radius, turn = self.radius[part].to(self.device), turns[part].to(self.device)
                    with torch.no_grad():
                        if simulator is None:
                            semi = radius[:, None] * axes[part].to(self.device)
                            field = spheroid_field(semi, turn, experiment)
                        else:
                            field = simulator.field(radius, turn)
                    self.fields[part.to(self.device)] = field
        self.radius = self.radius.to(self.device, torch.float32)

    def _several(self, count: int, generator: torch.Generator) -> Tensor:
        """Patterns (count, H, W) of two bodies, or three for every third image.

        The fields add up with the phases of the bodies' places. Over a pixel the fringes between two bodies
        average out by sinc functions.
        """
        rows = torch.randint(len(self.fields), (3, count), generator=generator, device=self.device)
        field, radius = self.fields[rows], self.radius[rows]
        power = (field.real.square() + field.imag.square()).sum((-2, -1))
        ratio = self._log_uniform((2, count), WEAKEST, 1.0, generator)
        amplitude = torch.cat((torch.ones_like(power[:1]), (ratio * power[:1] / power[1:]).sqrt()))
        amplitude[2] *= torch.arange(count, device=self.device) % 3 == 0
        field = field * amplitude[:, :, None, None]
        total = (field.real.square() + field.imag.square()).sum(0)
        near = radius[:1] + radius[1:]
        share = torch.rand(2, count, generator=generator, device=self.device)
        distance = near * (FARTHEST_NM / near).pow(share)
        angle = 2 * math.pi * torch.rand(2, count, generator=generator, device=self.device)
        depth = DEPTH_NM * torch.randn(2, count, generator=generator, device=self.device)
        nothing = torch.zeros(1, count, device=self.device)
        place = torch.stack(
            [
                torch.cat((nothing, part.float()))
                for part in (distance * angle.cos(), distance * angle.sin(), depth)
            ]
        )  # (axes, bodies, images)
        k = self.experiment.wave_number
        pitch = k / (self.experiment.pixels // 2)
        q = k * self.x, k * self.y, k * (self.cosine - 1)
        tilt = self.x / self.cosine.clamp_min(0.05), self.y / self.cosine.clamp_min(0.05)
        for first, second in ((0, 1), (0, 2), (1, 2)):
            apart = (place[:, first] - place[:, second])[:, :, None, None]
            phase = sum(side * wave for side, wave in zip(apart, q, strict=True))
            # How fast the phase runs across a pixel, along x and y.
            seen = torch.sinc((apart[0] - apart[2] * tilt[0]) * pitch / (2 * math.pi))
            seen = seen * torch.sinc((apart[1] - apart[2] * tilt[1]) * pitch / (2 * math.pi))
            product = field[first] * field[second].conj()
            total = total + 2 * seen * (product.real * phase.cos() + product.imag * phase.sin())
        return total.clamp_min(0)

    # -- light --------------------------------------------------------------------------------------------

    def _uniform(self, count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
        draw = torch.rand(count, 1, 1, generator=generator, device=self.device)
        return low + (high - low) * draw

    def _log_uniform(
        self, shape: tuple[int, ...], low: float, high: float, generator: torch.Generator
    ) -> Tensor:
        draw = torch.rand(shape, generator=generator, device=self.device)
        return (math.log(low) + math.log(high / low) * draw).exp()

    def _chosen(self, count: int, share: float, generator: torch.Generator) -> Tensor:
        return torch.rand(count, 1, 1, generator=generator, device=self.device) < share

    def _stray(self, count: int, generator: torch.Generator) -> Tensor:
        """Stray light (count, H, W) of sum 1: an elliptical halo, a streak and a level in random shares."""
        angle = self._uniform(count, 0, math.pi, generator)
        along = self.x * angle.cos() + self.y * angle.sin()
        beyond = self.y * angle.cos() - self.x * angle.sin()
        narrow = self._uniform(count, 0.5, 1.0, generator)
        distance = (along.square() + (beyond / narrow).square()).sqrt()
        steep = self._log_uniform((count, 1, 1), 0.03, 0.6, generator)
        power = (distance + 0.03).pow(-self._uniform(count, 0.5, 4.0, generator))
        halo = torch.where(self._chosen(count, 0.5, generator), torch.exp(-distance / steep), power)
        width = self._log_uniform((count, 1, 1), 0.01, 0.1, generator)
        streak = torch.exp(-beyond.abs() / width) / (along.abs() + 0.03)
        total = 0
        for part, share in ((halo, 0.8), (streak, 0.3), (torch.ones_like(halo), 0.7)):
            part = part * self.valid
            weight = self._uniform(count, 0.05, 1.0, generator) * self._chosen(count, share, generator)
            total = total + weight * part / part.sum((-2, -1), keepdim=True)
        total = total + 1e-3 * self.valid / self.valid.sum()
        return total / total.sum((-2, -1), keepdim=True)

    def batch(self, number: int, each: int) -> Batch:
        """``each`` images of every label as photon counts, then as many as log images."""
        word = seed_word(self.seed, Purpose.TRAINING, number)
        generator = torch.Generator(self.device).manual_seed(word)
        parts = []
        for make in (self._counts, self._log_images):
            single = torch.randint(self.each, (3 * each,), generator=generator, device=self.device)
            single += self.each * torch.arange(3, device=self.device).repeat_interleave(each)
            field = self.fields[single]
            pattern = field.real.square() + field.imag.square()
            nothing = pattern.new_zeros(each, *pattern.shape[1:])
            pattern = torch.cat((nothing, pattern, self._several(each, generator)))
            pattern[1::2] = dihedral_images(pattern[1::2], 4)
            label = torch.arange(len(LABELS), device=self.device).repeat_interleave(each)
            parts.append(make(pattern, label, number, generator))
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        kind = torch.arange(2, device=self.device).repeat_interleave(len(label)).float()
        return Batch(torch.stack(columns[:2], 1), kind, *columns[2:])

    def _photons(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, 1, 1) scattered by bodies."""
        shape = count, 1, 1
        bright, faint = (self._log_uniform(shape, *ends, generator) for ends in (PHOTONS, FAINT_PHOTONS))
        return torch.where(self._chosen(count, FAINT_SHARE, generator), faint, bright)

    def _mean(
        self, pattern: Tensor, mask: Tensor, label: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Expected photons (B, H, W) on usable pixels, stray light included, and (B,) the bodies'."""
        count, hit = len(pattern), (label > 0)[:, None, None]
        photons = self._photons(count, generator) * hit
        usable = pattern * mask
        mean = usable * (photons / usable.sum((-2, -1), keepdim=True).clamp_min(1e-30))
        share = self._log_uniform((count, 1, 1), *STRAY_SHARE, generator)
        share = share * self._chosen(count, 0.5, generator)
        empty = self._log_uniform((count, 1, 1), *EMPTY_PHOTONS, generator)
        stray = self._stray(count, generator) * torch.where(hit, share * photons, empty)
        return mean + stray * mask, photons[:, 0, 0]

    def _counts(
        self, pattern: Tensor, label: Tensor, number: int, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Brightness, mask, label and photons of photon counts."""
        count = len(pattern)

        def chosen(share: float) -> Tensor:
            return self._chosen(count, share, generator)

        def uniform(low: float, high: float) -> Tensor:
            return self._uniform(count, low, high, generator)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=self.device)

        # A beam up to two pixels off, and a distance that is wrong by some per cent, for half of them.
        move = torch.zeros(count, 2, 3, device=self.device)
        wrong = chosen(0.5)[:, 0, 0]
        move[:, 0, 0] = move[:, 1, 1] = 1 + 0.01 * normal(count) * wrong
        move[:, :, 2] = (normal(count, 2) * wrong[:, None]).clamp(-2, 2) / (pattern.shape[-1] / 2)
        places = torch.nn.functional.affine_grid(move, [count, 1, *pattern.shape[1:]], align_corners=False)
        pattern = torch.nn.functional.grid_sample(
            pattern[:, None] / pattern.amax((-2, -1), keepdim=True)[:, None].clamp_min(1e-30), places,
            align_corners=False,
        )[:, 0].clamp_min(0)  # fmt: skip
        # Polarisation and a detector's efficiency, which nobody corrected, for half of them.
        angle = uniform(0, math.pi)
        along = self.x * angle.cos() + self.y * angle.sin()
        pattern = pattern * torch.where(chosen(0.25), 1 - along.square(), 1.0)
        fall = uniform(-1.0, 3.0) * chosen(0.25)
        pattern = pattern * self.cosine.clamp_min(0.05).pow(fall)

        hole = torch.sin(torch.deg2rad(uniform(0, 12))) * chosen(0.75)
        reach = torch.where(chosen(0.5), 1.0, uniform(0.5, 1.0))
        mask = self.valid & (self.sine >= hole) & (self.edge <= reach + 1e-6)
        draw = torch.rand(pattern.shape, generator=generator, device=self.device)
        mask = mask & ((draw > 0.01) | ~chosen(0.5))
        mean, photons = self._mean(pattern, mask, label, generator)
        counts = torch.poisson(mean, generator=generator)
        counts = counts * (1 + 0.03 * normal(*counts.shape) * chosen(0.5)).clamp_min(0)
        # Read-out noise of photon finding, or a larger one that is known, below which nothing is seen.
        quiet = uniform(0, 0.35) * chosen(0.5)
        loud = self._log_uniform((count, 1, 1), 0.3, 10.0, generator)
        noise = normal(*counts.shape)
        found = (counts + quiet * noise).round().clamp_min(0)
        clear = counts + loud * noise
        counts = torch.where(chosen(0.15), torch.where(clear > 2 * loud, clear, 0.0), found)
        struck = torch.rand(counts.shape, generator=generator, device=self.device)
        counts = counts + torch.where((struck < 3e-4) & chosen(0.2), 5 + 5e5 * struck, 0.0)
        # A response that nobody corrected, and a gain that is known roughly.
        counts = torch.where(chosen(0.15), counts.pow(uniform(0.6, 1.0)), counts)
        gain = self._log_uniform((count, 1, 1), 0.5, 2.0, generator)
        counts = torch.where(chosen(0.15), counts * gain, counts)
        ceiling = self._log_uniform((count, 1, 1), 0.02, 1.0, generator) * counts.amax((-2, -1), keepdim=True)
        mask = mask & ((counts < ceiling.clamp_min(4)) | ~chosen(0.25))
        counts = counts * mask
        total = counts.sum((-2, -1), keepdim=True).clamp_min(1)
        counts = counts * (MOST_PHOTONS / total).clamp_max(1)
        label = torch.where(photons < FEWEST_PHOTONS, 0, label)
        return count_brightness(counts) * mask, mask.float(), label, photons

    def _log_images(
        self, pattern: Tensor, label: Tensor, number: int, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """The same of log images, most of them of photon counts."""
        count = len(pattern)
        mask = self.valid.expand(pattern.shape)
        mean, photons = self._mean(pattern, mask, label, generator)
        counted = self._chosen(count, 0.75, generator)
        seen = torch.where(counted, torch.poisson(mean, generator=generator), mean)
        # Half of them scaled by the brightest pixel outside of a hidden centre.
        hidden = torch.sin(torch.deg2rad(self._uniform(count, 0, 9.0, generator)))
        hidden = torch.where(self._chosen(count, 0.5, generator), hidden, -1.0)
        scale = (seen * (self.sine > hidden)).amax((-2, -1))
        other = self._uniform(count, 3.0, 7.0, generator)
        decades = torch.where(self._chosen(count, 0.7, generator), 6.0, other)
        tiny = torch.finfo(seen.dtype).tiny
        relative = (seen / scale[:, None, None].clamp_min(tiny)).clamp_min(1e-7)
        images = (1 + relative.log10() / decades).clamp(0, 1)
        faint = self._uniform(count, 0, 0.03, generator) * self._chosen(count, 0.5, generator)
        noise = torch.randn(images.shape, generator=generator, device=self.device).abs()
        eight_bits = ((images + faint * noise).clamp(0, 1) * 255).round() / 255
        images = torch.where(self._chosen(count, 0.5, generator), eight_bits, images) * mask
        numbers = torch.arange(number * count, (number + 1) * count)
        shown, usable = images.clone(), mask.clone()
        place = torch.arange(count, device=self.device) % 10
        for name, chosen in (("realistic", place < 6), ("random", (place >= 6) & (place < 9))):
            rows = chosen.nonzero()[:, 0]
            changed = augment(images[rows], name, self.seed, numbers.to(rows.device)[rows], mask[rows])
            shown[rows], usable[rows] = changed.images, changed.mask
        photons = torch.where(counted[:, 0, 0], photons, photons.new_full((), torch.nan) * (label > 0))
        label = torch.where((photons < FEWEST_PHOTONS) & (label > 0), 0, label)
        return shown * usable, usable.float(), label, photons
