"""What the numbers of an image mean: photon counts on some scale, or logarithms, told by their histogram.

The pixels of a diffraction image spread over decades: the standard deviation of the positive ones is larger
than their mean. Their logarithms spread little, square roots lie between. The thresholds below were chosen by
hand on simulated images (radii 20 to 160 nm, 1e4 to 1e7 photons and none, holes to 15 degrees, detectors to
sin(theta) 0.3 to 1) and leave a gap in which nothing is decided.
Counts show by their steps as well: all values are multiples of one, whatever the scale.
"""

from typing import NamedTuple

import numpy as np

__all__ = ["Kind", "kind_of", "lattice_unit"]

LOGARITHMIC, LOGARITHMIC_SHORT, LINEAR, ROOTS = 0.75, 0.5, 0.85, 3.5
"""Standard deviation over mean of the positive pixels: below the first are logarithms, of 16-bit numbers
below the second; above the third are counts, if they have steps; above the fourth are intensities without
steps, and no square roots."""

FEWEST_LEVELS = 3
"""Different whole numbers that show by their common divisor what a photon is."""

FEW_LEVELS = 24
"""Steps from 0 to the maximum of faint counts, whose spread decides nothing."""

REACHES = (20, 200, 2000)
"""Values up to so many steps are looked at, one after the other: beyond, float32 does not tell them apart."""

ENOUGH = 20
"""Pixels that must lie on steps."""

OFF_STEP = 0.02
"""Of a step, that values may lie beside it."""


class Kind(NamedTuple):
    """A decision.

    Attributes:
        kind: "counts" or "log"; empty where it is not sure.
        reason: in words.
    """

    kind: str
    reason: str


def lattice_unit(values: np.ndarray) -> float | None:
    """The largest step of which all positive values (n,) are multiples; None if there is none.

    Example:
        >>> lattice_unit(np.repeat([0.3, 0.9, 1.2], 20))
        0.3
    """
    values = values[values > 0]
    if values.size == 0:
        return None
    if values.dtype.kind in "ui" or (values == np.floor(values)).all():
        if values.max() >= 2**62:
            return None
        whole = np.unique(values).astype(np.int64)
        # Of one or two different numbers every common divisor is by chance.
        return float(np.gcd.reduce(whole)) if whole.size >= FEWEST_LEVELS else 1.0
    reaches = REACHES[:1] if values.dtype == np.float16 else REACHES
    values = values.astype(np.float64)
    levels = np.unique(values)[: REACHES[-1]]
    gaps = np.diff(np.concatenate(([0.0], levels)))
    gaps = gaps[gaps > 1e-4 * levels[0]]
    unit = float(np.median(gaps[gaps < 1.5 * gaps.min()]))
    for reach in reaches:  # the smallest gap has the largest error
        near = values[values < reach * unit]
        steps = np.round(near / unit)
        if near.size and ((steps < 1).any() or (np.abs(near / unit - steps) > OFF_STEP).mean() > 1e-3):
            return None
        unit = float((near * steps).sum() / (steps**2).sum()) if near.size else unit
    if near.size < min(ENOUGH, values.size):
        return None
    return float(f"{unit:.6g}")


def _root_of_counts(values: np.ndarray) -> str:
    """Which function of counts the values are, in words, if they are no multiples of one themselves."""
    smallest = values.min()
    if lattice_unit(values**2) is not None:
        return "square roots of photon counts (--gamma 0.5)"
    shown = values[values < 8 * smallest]
    if shown.size >= ENOUGH and lattice_unit(np.expm1(shown / smallest * np.log(2))) is not None:
        return "logarithms of 1 + photon counts; give the counts themselves"
    return ""


def kind_of(values: np.ndarray) -> Kind:
    """Whether usable pixels of an image or of several are counts or log images.

    Args:
        values: (n,) as stored, gaps left out.

    Example:
        >>> kind_of(np.random.default_rng(0).poisson(3.0, 500) / 11).kind
        'counts'
    """
    dtype, values = values.dtype, values[values > 0]
    if dtype.kind in "uib" and dtype.itemsize > 2:
        return Kind("counts", f"whole numbers of {8 * dtype.itemsize} bits")
    if values.size < ENOUGH:
        return Kind("counts", "hardly any pixel is above 0")
    short = dtype.kind == "u" and dtype.itemsize == 2
    full = float(np.iinfo(dtype).max) if dtype.kind in "ui" else 1.0
    real = values.astype(np.float64)
    largest, spread = float(real.max()), float(real.std() / real.mean())
    unit = lattice_unit(values)
    levels = np.inf if unit is None else largest / unit
    scaled = (0.995 if short else 0.25) * full <= largest <= full
    seen = f"the positive pixels spread by {spread:.2g} of their mean"
    if unit is not None and levels <= FEW_LEVELS:
        return Kind("counts", f"all values are multiples of {unit:g}, up to {levels:.0f} of them")
    if dtype.kind in "ui" and not scaled:
        return Kind("counts", f"whole numbers up to {largest:g}")
    if dtype.kind == "f" and unit is not None and largest > 1 and (real == np.floor(real)).all():
        return Kind("counts", f"whole numbers up to {largest:g}")
    # Images of 8 bits are logarithms as a rule, those of 16 bits counts.
    limit = LOGARITHMIC_SHORT if short else LINEAR if dtype == np.uint8 else LOGARITHMIC
    if spread < limit:
        if dtype.kind == "f" and (text := "" if unit is not None else _root_of_counts(real)):
            return Kind("", f"they look like {text}")
        if largest <= full:
            return Kind("log", f"{seen}, as logarithms do")
        return Kind("", f"{seen}, as logarithms do, but values reach {largest:.3g}, not 1")
    if unit is not None and spread >= LINEAR:
        return Kind("counts", f"all values are multiples of {unit:g}; {seen}, as intensities do")
    if dtype.kind == "f" and unit is None and (text := _root_of_counts(real)):
        return Kind("", f"they look like {text}")
    if spread >= (LINEAR if largest > full else ROOTS):
        return Kind("counts", f"{seen}, as intensities do")
    if short:
        return Kind("counts", f"whole numbers up to {largest:g}; {seen}")
    return Kind("", f"{seen}, which logarithms, square roots and intensities may do")
