"""Images against stored patterns in all turns about the beam at once.

A turn of the body about the beam turns its pattern, so one stored pattern serves all such turns. In polar
coordinates a turn is a shift, and the scores of all shifts are one inverse Fourier transform of a matrix
product over the rings. Measured pixels are not interpolated: each is spread over the four polar cells around
it with the weights by which those cells would predict it, so that sum(pixels x prediction) is exactly
sum(cells x stored pattern), whatever the detector and its mask.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from icobench.simulator.experiment import Experiment

__all__ = ["RINGS", "SECTORS", "PolarSpread", "Spectra", "log_scores", "poisson_scores", "spectra"]

RINGS, SECTORS = 64, 128
"""Ring i lies at sin(theta) = (i + 1/2) / 64, as far apart as pixels of the half space's grid; sector j at
2 pi j / 128. Turns are scored by whole sectors, 2.8 degrees."""

HARMONICS = 49
"""Of the Fourier series round the beam that are kept."""


class PolarSpread:
    """From the pixels of an experiment's detector to polar cells, the adjoint of bilinear interpolation."""

    def __init__(self, experiment: Experiment, device: torch.device | str = "cpu") -> None:
        x, y = experiment.transverse()
        valid = experiment.valid().flatten()
        ring = (experiment.sin_theta().flatten() * RINGS - 0.5).clamp(0, RINGS - 1)
        sector = (torch.atan2(y, x).flatten() % (2 * math.pi)) / (2 * math.pi) * SECTORS
        low, left = ring.floor().clamp_max(RINGS - 2), sector.floor()
        up, right = ring - low, sector - left
        low, left = low.long(), left.long() % SECTORS
        cells, weights = [], []
        for next_ring, ring_weight in ((0, 1 - up), (1, up)):
            for next_sector, sector_weight in ((0, 1 - right), (1, right)):
                cells.append((low + next_ring) * SECTORS + (left + next_sector) % SECTORS)
                weights.append(ring_weight * sector_weight * valid)
        self.cells = torch.stack(cells).to(device)
        self.weights = torch.stack(weights).float().to(device)

    def __call__(self, images: Tensor) -> Tensor:
        """(B, H, W) -> (B, RINGS, SECTORS), sums preserved over valid pixels."""
        pixels = images.float().flatten(1)
        out = pixels.new_zeros(len(images), RINGS * SECTORS)
        for cells, weights in zip(self.cells, self.weights, strict=True):
            out.index_add_(1, cells, pixels * weights)
        return out.unflatten(1, (RINGS, SECTORS))


def sample_polar(image: Tensor) -> Tensor:
    """Patterns of the whole half space, (B, 128, 128), at the polar cells: (B, RINGS, SECTORS)."""
    half = image.shape[-1] // 2
    radius = (torch.arange(RINGS, dtype=torch.float64) + 0.5) / RINGS * half
    turn = torch.arange(SECTORS, dtype=torch.float64) / SECTORS * 2 * math.pi
    x, y = half + radius[:, None] * torch.cos(turn), half + radius[:, None] * torch.sin(turn)
    places = (torch.stack((x, y), -1) / (image.shape[-1] - 1) * 2 - 1).to(image)
    sampled = torch.nn.functional.grid_sample(
        image.unsqueeze(1), places.expand(len(image), -1, -1, -1), mode="bicubic", align_corners=True
    )
    return sampled[:, 0]


class Spectra(NamedTuple):
    """Stored patterns for matching: (HARMONICS, RINGS, K) complex of two functions of the intensity.

    Attributes:
        first: natural logarithm for photon counts; log image for log images.
        second: intensity over its maximum; log image squared.
    """

    first: Tensor
    second: Tensor


def _spectrum(polar: Tensor) -> Tensor:
    """(B, RINGS, SECTORS) -> (HARMONICS, B, RINGS): one matrix for every harmonic."""
    return torch.fft.rfft(polar, dim=-1)[..., :HARMONICS].permute(2, 0, 1).contiguous()


def spectra(log10_intensity: Tensor, kind: str, decades: float = 6.0) -> Spectra:
    """Spectra of stored patterns (K, RINGS, SECTORS), log10 of the intensity over its maximum.

    For photon counts, or for log images of so many decades if the kind is another.
    """
    logs = log10_intensity.float()
    shown = (1 + logs / decades).clamp(0, 1)
    pair = (logs * math.log(10), 10**logs) if kind == "counts" else (shown, shown.square())
    return Spectra(*(_spectrum(polar).mT.conj().resolve_conj().contiguous() for polar in pair))


def _correlate(data: Tensor, stored: Tensor) -> Tensor:
    """sum over cells of data(phi) stored(phi - shift) for all shifts: (B, K, SECTORS)."""
    product = torch.bmm(data, stored)
    return torch.fft.irfft(product.permute(1, 2, 0), n=SECTORS, dim=-1)


def _distinct(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Different masks (M, H, W), and which of them each image has (B,); work on shared masks is done once."""
    if bool((mask == mask[:1]).all()):
        return mask[:1], torch.zeros(len(mask), dtype=torch.long, device=mask.device)
    if mask.device.type != "cpu":
        return mask, torch.arange(len(mask), device=mask.device)  # to sort them takes longer there
    masks, which = torch.unique(mask.flatten(1), dim=0, return_inverse=True)
    return masks.unflatten(1, mask.shape[1:]), which


def poisson_scores(
    spread: PolarSpread, counts: Tensor, mask: Tensor, factor: Tensor, stored: Spectra
) -> Tensor:
    """Poisson log likelihood at the best scale, up to a constant of the image: (B, K, SECTORS).

    ``sum n log m - N log sum m`` over usable pixels, N photons in all. The detector multiplies intensities by
    ``factor`` (H, W), such as the solid angle.
    """
    counts = counts * mask
    total = counts.sum((-2, -1))[:, None, None]
    likely = _correlate(_spectrum(spread(counts)), stored.first)
    masks, which = _distinct(mask)
    expected = _correlate(_spectrum(spread(masks * factor)), stored.second).clamp_min(1e-12).log()
    return likely - total * expected[which]


def log_scores(spread: PolarSpread, images: Tensor, mask: Tensor, stored: Spectra) -> Tensor:
    """Correlation coefficient of log images (B, H, W) over usable pixels: (B, K, SECTORS)."""
    pixels = mask.sum((-2, -1))[:, None, None].clamp_min(1)
    shown = images * mask
    mean = shown.sum((-2, -1))[:, None, None] / pixels
    spreads = ((images - mean) * mask).square().sum((-2, -1))[:, None, None]
    masks, which = _distinct(mask)
    usable = _spectrum(spread(masks.float()))
    total = _correlate(usable, stored.first)[which]
    squares = _correlate(usable, stored.second)[which]
    both = _correlate(_spectrum(spread(shown)), stored.first)
    variance = (squares - total.square() / pixels).clamp_min(1e-6 * pixels)
    return (both - mean * total) / (variance * spreads.clamp_min(1e-12)).sqrt()
