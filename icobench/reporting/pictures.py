"""Images as small PNG files that stand in their own addresses: a byte a pixel, grey where not usable."""

import io
from functools import cache

import numpy as np

from icobench.reporting.gallery import shown_decades
from icobench.reporting.page import data_uri

__all__ = [
    "INTENSITY_MAP", "RESIDUAL_SIGMAS", "UNUSABLE", "colours_of_scales", "palette", "picture", "pictures",
]  # fmt: skip

INTENSITY_MAP, RESIDUAL_MAP = "viridis", "PuOr"
GREY = (153, 153, 153)

UNUSABLE = 255
"""The shade that is drawn grey."""

RESIDUAL_SIGMAS = 4.0
"""Where the colours of a residual of photon counts end."""

RESIDUAL_DECADES = 1.0
"""The same for a ratio of intensities without noise."""


@cache
def palette(name: str) -> np.ndarray:
    """255 colours of a colour map, then grey: (256, 3) bytes."""
    import matplotlib

    colours = matplotlib.colormaps[name](np.linspace(0, 1, 255))[:, :3] * 255
    return np.vstack((colours.round(), GREY)).astype(np.uint8)


def colours_of_scales() -> dict[str, list[list[int]]]:
    """Some colours along both scales of the pictures."""
    scales = {"intensity_colours": INTENSITY_MAP, "residual_colours": RESIDUAL_MAP}
    return {name: palette(colours)[:255:32].tolist() for name, colours in scales.items()}


def picture(shades: np.ndarray, colours: str = INTENSITY_MAP) -> str:
    """Bytes (H, W), first row at the top, 255 for grey, in the colours of a map."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(shades, dtype=np.uint8), mode="P")
    image.putpalette(palette(colours).tobytes())
    stream = io.BytesIO()
    image.save(stream, format="png", optimize=True)
    return data_uri(stream.getvalue(), "png")


def _scaled(values: np.ndarray, usable: np.ndarray, low: float, high: float, colours: str) -> str:
    """(H, W) from ``low`` to ``high``, y up; unusable pixels are grey."""
    share = np.clip((np.nan_to_num(values) - low) / (high - low), 0, 1)
    return picture(np.where(usable, (254 * share).round(), UNUSABLE)[::-1], colours)


def pictures(
    target: np.ndarray,
    fitted: np.ndarray | None,
    usable: np.ndarray,
    kind: str,
    readout: np.ndarray | float = 0.0,
) -> dict[str, str]:
    """Target and, unless None, reconstruction and residual as pictures, by name; y up.

    Args:
        target: (H, W) counts or intensities, 0 where not usable.
        fitted: (H, W) in the same unit.
        usable: (H, W) bool; other pixels are grey.
        kind: "counts", whose residual is in standard deviations, or another, whose residual is in decades.
        readout: (H, W) variance of the read-out noise.
    """
    brightest = max(float(target.max()), 1e-300)
    decades = shown_decades(kind, brightest)
    floor = 10.0**-decades * brightest

    def shown(image: np.ndarray) -> str:
        logs = np.log10(np.maximum(image, floor) / brightest)
        return _scaled(logs, usable, -decades, 0, INTENSITY_MAP)

    if fitted is None:
        return {"target": shown(target)}
    if kind == "counts":
        noise = np.sqrt(np.maximum(fitted + readout, 1e-12))
        residual, end = (target - fitted) / noise, RESIDUAL_SIGMAS
    else:
        residual, end = np.log10(np.maximum(fitted, floor) / np.maximum(target, floor)), RESIDUAL_DECADES
    return {
        "target": shown(target),
        "reconstruction": shown(fitted),
        "residual": _scaled(residual, usable, -end, end, RESIDUAL_MAP),
    }
