"""Best, median and worst image of every method: target, reconstruction, residual and the body."""

import io
import math
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from icobench.reporting.body_drawing import body_svg
from icobench.reporting.page import data_uri, heading, paragraph
from icobench.reporting.run_folder import RunFolder
from icobench.reporting.tables import number

if TYPE_CHECKING:
    from pandas import DataFrame, Series

    from icobench.simulator.experiment import Experiment
    from icobench.simulator.simulator import Simulator

__all__ = ["chosen_images", "examples"]

INTENSITY_MAP, RESIDUAL_MAP = "viridis", "PuOr"
GREY = (153, 153, 153)

RESIDUAL_SIGMAS = 4.0
"""Where the colours of a residual of photon counts end."""

RESIDUAL_DECADES = 1.0
"""The same for a ratio of intensities without noise."""

ANSWER = ["radius_nm", "q_w", "q_x", "q_y", "q_z"]
TRUTH = ["true_radius_nm", "true_q_w", "true_q_x", "true_q_y", "true_q_z"]

NOTE = (
    "Of each method the image with the smallest, the median and the largest {measure} among those it "
    "answered. The reconstruction is simulated anew without noise and scaled to the target's sum over "
    "usable pixels; other pixels are grey. {residual} The body is seen from the detector, against the "
    "beam, x to the right and y up as in the images; {truth}"
)
RESIDUALS = {
    "counts": f"Residual: (counts - expected) / sqrt(expected), from -{RESIDUAL_SIGMAS:g} to "
    f"{RESIDUAL_SIGMAS:g}; speckle is photon noise, structure is error.",
    "other": "Residual: log10 of reconstruction over target, from -1 to 1.",
}


def chosen_images(own: "DataFrame", column: str) -> list[tuple[str, "Series"]]:
    """Rows of the best, the median and the worst image by this column, of one method's answers."""
    answer = own[ANSWER].to_numpy(dtype=float)
    usable = np.isfinite(answer).all(1) & (answer[:, 0] > 0) & (np.abs(answer[:, 1:]).sum(1) > 0)
    ranked = own[usable].sort_values(column, kind="stable")
    if not len(ranked):
        return []
    names: dict[int, str] = {}
    for name, place in (("best", 0), ("median", (len(ranked) - 1) // 2), ("worst", len(ranked) - 1)):
        names.setdefault(place, name)  # fewer than three images are not shown twice
    return [(name, ranked.iloc[place]) for place, name in names.items()]


@lru_cache(maxsize=2)
def _simulator(experiment: "Experiment") -> "Simulator":
    """One for all runs of a report: its tables take longer than the images."""
    from icobench.simulator.simulator import Simulator

    return Simulator(experiment)


@lru_cache
def _palette(name: str) -> bytes:
    """255 colours of a colour map, then grey."""
    import matplotlib

    colours = (matplotlib.colormaps[name](np.linspace(0, 1, 255))[:, :3] * 255).round().astype(np.uint8)
    return bytes(colours.tobytes()) + bytes(GREY)


def _picture(values: np.ndarray, usable: np.ndarray, low: float, high: float, colours: str) -> str:
    """(H, W) as a PNG of one byte a pixel, y up, what is not usable grey."""
    from PIL import Image

    scaled = np.clip((np.nan_to_num(values) - low) / (high - low), 0, 1)
    index = np.where(usable, (254 * scaled).round(), 255).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(index[::-1]), mode="P")
    image.putpalette(_palette(colours))
    stream = io.BytesIO()
    image.save(stream, format="png", optimize=True)
    return data_uri(stream.getvalue(), "png")


def _residual(target: np.ndarray, fitted: np.ndarray, kind: str, floor: float) -> tuple[np.ndarray, float]:
    """(H, W) and where its colours end."""
    if kind == "counts":
        return (target - fitted) / np.sqrt(np.maximum(fitted, 1e-12)), RESIDUAL_SIGMAS
    low = floor * target.max()
    return np.log10(np.maximum(fitted, low) / np.maximum(target, low)), RESIDUAL_DECADES


def _label(name: str, row: "Series") -> str:
    words = [f"{name}: image {row['image']}, R = {row['radius_nm']:.2f} nm"]
    if np.isfinite(row["disorientation_deg"]):
        words.append(f"off by {number(row['disorientation_deg'])}° and {number(row['radius_error_nm'])} nm")
    words.append(str(row["status"]))
    return ", ".join(words)


def _card(
    run: RunFolder, name: str, row: "Series", target: np.ndarray, usable: np.ndarray, fitted: np.ndarray
) -> str:
    image = int(row["image"])
    # Counts end at one photon; below, a target knows nothing.
    decades = min(max(math.log10(max(target.max(), 1.0)), 1.0), 6.0) if run.kind == "counts" else 6.0
    floor = 10.0**-decades
    residual, end = _residual(target, fitted, run.kind, floor)

    def logarithm(image: np.ndarray) -> np.ndarray:
        return np.log10(np.maximum(image / max(target.max(), 1e-300), floor))

    truth: dict[str, Any] = {}
    if np.isfinite(row[TRUTH].to_numpy(dtype=float)).all():
        truth = {
            "true_radius_nm": row["true_radius_nm"],
            "true_quaternion": row[TRUTH[1:]].to_numpy(dtype=float),
        }
    body = body_svg(
        _simulator(run.experiment).body, row["radius_nm"], row[ANSWER[1:]].to_numpy(dtype=float), **truth
    )
    pictures = {
        "target": _picture(logarithm(target), usable, -decades, 0, INTENSITY_MAP),
        "reconstruction": _picture(logarithm(fitted), usable, -decades, 0, INTENSITY_MAP),
        "residual": _picture(residual, usable, -end, end, RESIDUAL_MAP),
    }
    images = "".join(
        f'<div><img src="{source}" alt="{what} of image {image}" width="{usable.shape[1]}" '
        f'height="{usable.shape[0]}">{what}</div>\n'
        for what, source in pictures.items()
    )
    return (
        f'<figure class="card"><div class="four">\n{images}<div>{body}body</div></div>\n'
        f"<figcaption>{escape(_label(name, row))}</figcaption></figure>\n"
    )


def _scale(colours: str, words: str) -> str:
    steps = np.frombuffer(_palette(colours), np.uint8).reshape(-1, 3)[:255:32]
    gradient = ", ".join(f"rgb({r} {g} {b})" for r, g, b in steps.tolist())
    return (
        f'<div><span style="background: linear-gradient(to right, {gradient})"></span>{escape(words)}</div>\n'
    )


def examples(run: RunFolder) -> str:
    """The section's HTML, all of a run's reconstructions simulated in one batch."""
    import torch

    from icobench.images.counts import expected_counts

    known = run.truth_known
    column = "disorientation_deg" if known else "objective"
    chosen = {
        str(method): chosen_images(own, column) for method, own in run.results.groupby("method", sort=False)
    }
    rows = [row for images in chosen.values() for _, row in images]
    if not rows:
        return paragraph("No method gave an answer that could be simulated.")
    pictures, usable = run.load([int(row["image"]) for row in rows])
    masks = torch.from_numpy(usable)
    targets = torch.from_numpy(pictures).double() * masks
    answers = torch.tensor(np.array([row[ANSWER].to_numpy(dtype=float) for row in rows]))
    with torch.no_grad():
        intensity = _simulator(run.experiment).intensity(answers[:, 0], answers[:, 1:]).double()
    fitted = expected_counts(intensity, masks, targets.sum((-2, -1))).numpy()
    shown = zip(targets.numpy(), usable, fitted, strict=True)
    note = NOTE.format(
        measure="disorientation" if known else "objective",
        residual=RESIDUALS.get(run.kind, RESIDUALS["other"]),
        truth="dashed orange: the true one." if known else "the truth is not known.",
    )
    ends = f"-{RESIDUAL_SIGMAS:g} to {RESIDUAL_SIGMAS:g}" if run.kind == "counts" else "-1 to 1"
    scales = _scale(INTENSITY_MAP, "log10 of intensity over target's maximum, down to 1 photon or 6 decades")
    parts = [
        paragraph(note, "note"),
        f'<div class="scales">{scales}{_scale(RESIDUAL_MAP, f"residual, {ends}")}</div>\n',
    ]
    for method, images in chosen.items():
        parts.append(heading(method, 3))
        if not images:
            parts.append(paragraph(f"{method} gave no answer that could be simulated."))
            continue
        cards = "".join(_card(run, name, row, *next(shown)) for name, row in images)
        parts.append(f'<div class="cards">\n{cards}</div>\n')
    return "".join(parts)
