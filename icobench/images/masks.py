"""Which stored pixels are no measurement: masks with their bits, and values that stand for a gap."""

import numpy as np

from icobench.errors import InputError
from icobench.images.frames import Frames, first_line

__all__ = ["bad_pixels", "checked_mask", "gap_values", "hole_of_zeros", "mask_remarks"]

CXI_BITS = {
    0: "invalid", 1: "saturated", 2: "hot", 3: "dead", 4: "shadowed", 5: "in the peak mask",
    6: "to be ignored", 7: "bad", 8: "out of resolution limits", 9: "missing", 10: "noisy",
    11: "artefact corrected", 12: "artefact correction failed", 13: "a peak for the hit finder",
    14: "photon background corrected", 15: "in the jet",
}  # fmt: skip
"""Bits of a CXI mask, version 1.5 and later (Maia 2012; the list that Cheetah and Condor share)."""

GOOD_BITS = 1 << 11 | 1 << 13 | 1 << 14
"""Bits that say something of a pixel, but not that its value cannot be used: it was corrected, or is a
peak."""

SENTINELS = (-1, -2, -9999)
"""Negative numbers that detectors' software writes where there is no measurement."""

HIDES_MOST = 0.9
"""Share of the pixels beyond which a mask is spoken of."""

MOST_OF_HOLE = 0.2
"""Share of a frame that a hole for the beam covers at most."""

FEW_NEGATIVE = 3
"""So many different negative values at most are gaps; dark-subtracted images have more."""


def checked_mask(mask: Frames, shape: tuple[int, ...]) -> Frames:
    """A mask for every image of a stack with this shape.

    Raises:
        InputError: another shape, no numbers, or unreadable.
    """
    if mask.shape not in (shape, (1, *shape[1:])):
        mask_shape = mask.shape[mask.shape[0] == 1 :]
        raise InputError(f"{mask.where}: mask of shape {mask_shape} does not fit images of shape {shape}")
    if mask.dtype.kind not in "buif":
        raise InputError(f"{mask.where}: a mask must hold numbers, got {mask.dtype}")
    if mask.shape[0] > 1:
        return mask
    try:
        common = mask.read(0, 1)
    except Exception as error:
        if shape[0] == 1:  # the frame will say so
            return mask
        raise InputError(f"{mask.where}: mask unreadable ({first_line(error)})") from error

    def read(start: int, stop: int) -> np.ndarray:
        return np.broadcast_to(common[0], (stop - start, *shape[1:]))

    return Frames(mask.where, shape, mask.dtype, read)


def has_bits(mask: Frames, values: np.ndarray) -> bool:
    """Whether a mask's values are CXI's bits: whole numbers of 16 or 32 bits, not only 0 and 1.

    A mask of the European XFEL, beside data of several modules, has bits of its own, all of which are bad.
    """
    return mask.dtype.kind in "ui" and mask.dtype.itemsize > 1 and bool((values > 1).any())


def bad_pixels(values: np.ndarray, bits: bool, inverted: bool) -> np.ndarray:
    """Where the values of a mask (n, H, W) mean bad: bool, same shape."""
    if inverted:
        return values == 0
    return (values.astype(np.int64) & ~GOOD_BITS) != 0 if bits else values != 0


def mask_remarks(
    mask: Frames, values: np.ndarray, bad: np.ndarray, images: np.ndarray, bits: bool
) -> list[str]:
    """What should be said of a mask, a line each.

    Args:
        mask: for its name.
        values: of the mask for some frames, (n, H, W).
        bad: what it hides of them.
        images: the same frames as stored.
        bits: whether its values are CXI's bits.
    """
    lines = []
    if bits:
        total = values[0].size
        named = []
        for bit, word in CXI_BITS.items():
            if number := int((values[0].astype(np.int64) >> bit & 1).sum()):
                used = ", kept" if GOOD_BITS >> bit & 1 else ""
                named.append(f"{word} {100 * number / total:.2g} %{used}")
        if higher := int((values[0].astype(np.int64) >> 16 != 0).sum()):
            named.append(f"bits of the user's {100 * higher / total:.2g} %")
        lines.append(f"{mask.where}: CXI mask bits: {'; '.join(named)}")
    hidden = float(bad.mean())
    with np.errstate(invalid="ignore"):
        signal = np.nan_to_num(images.astype(np.float64)) > 0
    if hidden > 0 and signal[bad].any() and not signal[~bad].any():
        lines.append(
            f"{mask.where}: the mask may be inverted: the pixels that it leaves hold nothing, those that it "
            "hides hold the signal; non-zero means bad here, --invert-mask reads it the other way"
        )
    elif hidden > HIDES_MOST:
        lines.append(
            f"{mask.where}: the mask hides {100 * hidden:.3g} % of the pixels; non-zero means bad here"
        )
    return lines


def hole_of_zeros(
    images: np.ndarray, usable: np.ndarray, x: float, y: float, least: float
) -> np.ndarray | None:
    """A hole for the direct beam that nobody masked: pixels around (x, y) that are 0 in all frames (n, H, W).

    Args:
        images, usable: frames and where they are usable.
        x, y: of the beam, in pixels of the frames.
        least: what the pixels at the rim hold in the middle, at least, where it is a hole.

    Returns:
        (H, W) bool, True in the hole; None if there is none.
    """
    from scipy.ndimage import binary_dilation, label

    zeros = ((images == 0) | ~usable).all(0) & (images == 0).any(0)
    labels, _ = label(zeros, np.ones((3, 3)))
    row, column = round(y), round(x)
    if not (0 <= row < labels.shape[0] and 0 <= column < labels.shape[1]) or not labels[row, column]:
        return None
    hole = labels == labels[row, column]
    rim = binary_dilation(hole, iterations=2) & ~hole
    inside = hole.sum() < MOST_OF_HOLE * hole.size and not (hole[[0, -1]].any() or hole[:, [0, -1]].any())
    values = images[:, rim][usable[:, rim]]
    return hole if inside and values.size and np.median(values) >= least else None


def gap_values(images: np.ndarray, usable: np.ndarray, counts: bool) -> list[float]:
    """The values that stand for gaps in some frames (n, H, W), as stored.

    Those are the largest that the type of the numbers holds, for photon counts, and -1, -2 and -9999 where
    there are hardly any other negative values.
    """
    values = images[usable]
    gaps: list[float] = []
    if images.dtype.kind in "ui" and counts and images.dtype.itemsize > 1:
        largest = np.iinfo(images.dtype).max
        if (values == largest).any():
            gaps.append(int(largest))
        if images.dtype.kind == "u" and images.dtype.itemsize == 4 and (values == largest - 1).any():
            gaps.append(int(largest) - 1)  # Eiger: defective pixels beside gaps
    if images.dtype.kind in "if":
        negative = np.unique(values[values < 0])
        if 0 < negative.size <= FEW_NEGATIVE:
            lowest = float(np.iinfo(images.dtype).min) if images.dtype.kind == "i" else -np.inf
            gaps += [float(value) for value in negative if value in SENTINELS or value == lowest]
    return gaps
