"""Best, median and worst image of every method: target, reconstruction, residual and the body."""

import io
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from icobench.images.pixels import expected_counts
from icobench.reporting.agreement import ANSWER
from icobench.reporting.body_drawing import body_svg
from icobench.reporting.gallery import shown_decades
from icobench.reporting.page import data_uri, heading, paragraph
from icobench.reporting.run_folder import RunFolder
from icobench.reporting.tables import number
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

if TYPE_CHECKING:
    from pandas import DataFrame, Series

__all__ = ["chosen_images", "examples"]

INTENSITY_MAP, RESIDUAL_MAP = "viridis", "PuOr"
GREY = (153, 153, 153)

RESIDUAL_SIGMAS = 4.0
"""Where the colours of a residual of photon counts end."""

RESIDUAL_DECADES = 1.0
"""The same for a ratio of intensities without noise."""

TRUTH = [f"true_{name}" for name in ANSWER]

NOTE = (
    "Of each method the image with the smallest, the median and the largest {measure} among those it "
    "answered. The reconstruction is simulated anew without noise and scaled to the target's sum over "
    "usable pixels; other pixels are grey. {residual} The body is seen from the detector, against the "
    "beam, x to the right and y up as in the images; {truth}"
)
COUNTS_RESIDUAL = (
    f"Residual: (counts - expected) / sqrt(expected), from -{RESIDUAL_SIGMAS:g} to {RESIDUAL_SIGMAS:g}; "
    "speckle is photon noise, structure is error."
)
OTHER_RESIDUAL = "Residual: log10 of reconstruction over target, from -1 to 1."


def chosen_images(answers: "DataFrame", column: str) -> list[tuple[str, "Series"]]:
    """Rows of the best, the median and the worst image by this column, of one method's answers."""
    values = answers[ANSWER].to_numpy(dtype=float)
    usable = np.isfinite(values).all(1) & (values[:, 0] > 0) & (np.abs(values[:, 1:]).sum(1) > 0)
    ranked = answers[usable].sort_values(column, kind="stable")
    last = len(ranked) - 1
    names: dict[int, str] = {}
    for name, place in (("best", 0), ("median", last // 2), ("worst", last)):
        names.setdefault(place, name)  # fewer than three images are not shown twice
    return [(name, ranked.iloc[place]) for place, name in names.items() if len(ranked)]


@lru_cache(maxsize=2)
def _simulator(experiment: Experiment) -> Simulator:
    """One for all runs of a report: its tables take longer than the images."""
    return Simulator(experiment)


@lru_cache
def _palette(name: str) -> bytes:
    """255 colours of a colour map, then grey."""
    import matplotlib

    colours = (matplotlib.colormaps[name](np.linspace(0, 1, 255))[:, :3] * 255).round().astype(np.uint8)
    return bytes(colours.tobytes()) + bytes(GREY)


def _picture(values: np.ndarray, usable: np.ndarray, low: float, high: float, colours: str) -> str:
    """(H, W) as a PNG of one byte a pixel, y up; unusable pixels are grey."""
    from PIL import Image

    scaled = np.clip((np.nan_to_num(values) - low) / (high - low), 0, 1)
    index = np.where(usable, (254 * scaled).round(), 255).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(index[::-1]), mode="P")
    image.putpalette(_palette(colours))
    stream = io.BytesIO()
    image.save(stream, format="png", optimize=True)
    return data_uri(stream.getvalue(), "png")


def _pictures(target: np.ndarray, fitted: np.ndarray, usable: np.ndarray, kind: str) -> dict[str, str]:
    """Target, reconstruction and residual (H, W) as pictures, by name."""
    decades = shown_decades(kind, float(target.max()))
    floor = 10.0**-decades * target.max()
    if kind == "counts":
        residual, end = (target - fitted) / np.sqrt(np.maximum(fitted, 1e-12)), RESIDUAL_SIGMAS
    else:
        residual, end = np.log10(np.maximum(fitted, floor) / np.maximum(target, floor)), RESIDUAL_DECADES
    brightness = {
        name: np.log10(np.maximum(image, floor) / max(target.max(), 1e-300))
        for name, image in (("target", target), ("reconstruction", fitted))
    }
    return {
        **{name: _picture(image, usable, -decades, 0, INTENSITY_MAP) for name, image in brightness.items()},
        "residual": _picture(residual, usable, -end, end, RESIDUAL_MAP),
    }


def _card(name: str, row: "Series", body: str, pictures: dict[str, str], pixels: int) -> str:
    images = "".join(
        f'<div><img src="{source}" alt="{what} of image {int(row["image"])}" width="{pixels}" '
        f'height="{pixels}">{what}</div>\n'
        for what, source in pictures.items()
    )
    words = [f"{name}: image {row['image']}, R = {row['radius_nm']:.2f} nm"]
    if np.isfinite(row["disorientation_deg"]):
        words.append(f"off by {number(row['disorientation_deg'])}° and {number(row['radius_error_nm'])} nm")
    words.append(str(row["status"]))
    return (
        f'<figure class="card"><div class="four">\n{images}<div>{body}body</div></div>\n'
        f"<figcaption>{escape(', '.join(words))}</figcaption></figure>\n"
    )


def _scale(colours: str, words: str) -> str:
    steps = np.frombuffer(_palette(colours), np.uint8).reshape(-1, 3)[:255:32]
    gradient = ", ".join(f"rgb({r} {g} {b})" for r, g, b in steps.tolist())
    return (
        f'<div><span style="background: linear-gradient(to right, {gradient})"></span>{escape(words)}</div>\n'
    )


def _cards(run: RunFolder, rows: list[tuple[str, "Series"]]) -> list[str]:
    """A card for each named row; all of them are simulated in one batch."""
    images = run.load([int(row["image"]) for _, row in rows])
    targets = images.images.double() * images.mask
    answers = torch.tensor(np.array([row[ANSWER].to_numpy(dtype=float) for _, row in rows]))
    simulator = _simulator(run.experiment)
    with torch.no_grad():
        intensity = simulator.intensity(answers[:, 0], answers[:, 1:]).double()
    fitted = expected_counts(intensity, images.mask, targets.sum((-2, -1)))
    cards = []
    for (name, row), *shown in zip(rows, targets.numpy(), fitted.numpy(), images.mask.numpy(), strict=True):
        answer, true = (row[columns].to_numpy(dtype=float) for columns in (ANSWER, TRUTH))
        truth: tuple[Any, ...] = (true[0], true[1:]) if np.isfinite(true).all() else ()
        body = body_svg(simulator.body, answer[0], answer[1:], *truth)
        cards.append(_card(name, row, body, _pictures(*shown, run.kind), run.experiment.pixels))
    return cards


def examples(run: RunFolder) -> str:
    """The section's HTML: three images of each method."""
    counts = run.kind == "counts"
    measure, truth = "objective", "the truth is not known."
    if run.truth_known:
        measure, truth = "disorientation", "dashed orange: the true one."
    column = "disorientation_deg" if run.truth_known else "objective"
    chosen = {
        str(method): chosen_images(answers, column)
        for method, answers in run.results.groupby("method", sort=False)
    }
    rows = [named for images in chosen.values() for named in images]
    if not rows:
        return paragraph("No method gave an answer that could be simulated.")
    cards = iter(_cards(run, rows))
    residual = COUNTS_RESIDUAL if counts else OTHER_RESIDUAL
    ends = f"-{RESIDUAL_SIGMAS:g} to {RESIDUAL_SIGMAS:g}" if counts else "-1 to 1"
    scales = _scale(INTENSITY_MAP, "log10 of intensity over target's maximum, down to 1 photon or 6 decades")
    scales += _scale(RESIDUAL_MAP, f"residual, {ends}")
    note = paragraph(NOTE.format(measure=measure, residual=residual, truth=truth), "note")
    parts = [note, f'<div class="scales">{scales}</div>\n']
    for method, images in chosen.items():
        parts.append(heading(method, 3))
        if images:
            shown = "".join(next(cards) for _ in images)
            parts.append(f'<div class="cards">\n{shown}</div>\n')
        else:
            parts.append(paragraph(f"{method} gave no answer that could be simulated."))
    return "".join(parts)
