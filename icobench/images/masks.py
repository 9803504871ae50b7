"""Which detector pixels may be used. A mask is True where a pixel is usable."""

import math

import torch
from torch import Tensor

from icobench.simulator.experiment import Experiment

__all__ = ["central_hole", "cropped", "usable_pixels"]


def central_hole(experiment: Experiment, degrees: float) -> Tensor:
    """True outside the hole through which the direct beam leaves: (pixels, pixels).

    Args:
        degrees: scattering angle of the hole's rim.
    """
    return (
        experiment.sin_theta() >= math.sin(math.radians(degrees))
        if degrees > 0
        else torch.ones(experiment.pixels, experiment.pixels, dtype=torch.bool)
    )


def cropped(experiment: Experiment, sine: float) -> Tensor:
    """True inside the square |k_x|, |k_y| <= sine * k, a smaller detector: (pixels, pixels)."""
    x, y = experiment.transverse()
    return (x.abs() <= sine + 1e-9) & (y.abs() <= sine + 1e-9)


def usable_pixels(experiment: Experiment, hole_degrees: float = 0.0, sine: float = 1.0) -> Tensor:
    """Valid pixels outside the central hole and inside the cropped range: (pixels, pixels)."""
    return experiment.valid() & central_hole(experiment, hole_degrees) & cropped(experiment, sine)
