"""What a user's own images show, before any fit."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from icobench.answer import Progress
from icobench.images.image_source import FEWEST_UNITS, ImageSource
from icobench.images.prepare import Prepared, prepare
from icobench.images.reading import Reading
from icobench.network.classifier import Labels, label_images, load_classifier
from icobench.runs.calibrate import BLOCK
from icobench.runs.pool import chosen_device
from icobench.simulator.experiment import Experiment, FlatDetector

__all__ = ["classify"]


def classify(
    images: Any,
    mask: Any = None,
    kind: str = "auto",
    experiment: Experiment | Mapping[str, Any] | None = None,
    *,
    detector: FlatDetector | None = None,
    centre: tuple[float, float] | None = None,
    pixels: int | None = None,
    reading: Reading | None = None,
    geometry: Path | str | None = None,
    panels: str | None = None,
    polar: bool = False,
    override: bool = False,
    model: Path | str | None = None,
    device: str | torch.device = "auto",
    progress: Progress = lambda share: None,
) -> Labels:
    """Empty, a sphere, an icosahedron, another body with facets, or several bodies, with probabilities.

    Images are checked and brought to a grid as for :func:`~icobench.runs.reconstruct.reconstruct`, whose
    arguments have the same meaning.

    Args:
        model: weights of a classifier; those of the package by default.

    Raises:
        InputError: images or weights that cannot be used.

    Example:
        >>> import icobench
        >>> labels = icobench.classify(icobench.simulate(60.0, photons=1e5).images, kind="counts")
        >>> list(labels.to_frame().columns[:2]), labels.names
        (['index', 'label'], ['icosahedron'])
    """
    classifier = load_classifier(model, chosen_device(str(device)))
    with ExitStack() as files:
        opened = images
        if not isinstance(images, Prepared):
            opened = prepare(
                images, mask, kind, experiment, detector=detector, centre=centre, pixels=pixels,
                reading=reading, geometry=geometry, panels=panels, polar=polar, override=override,
            )  # fmt: skip
            if not isinstance(images, ImageSource):
                files.enter_context(opened)
        notes = _find_noise(opened)
        parts, start, total = [], 0, len(opened.grid)
        while start < total:
            numbers = range(start, min(start + BLOCK, total))
            block = opened.grid.read(numbers)
            block.experiment = opened.experiment
            parts.append(label_images(block, classifier))
            start = numbers.stop
            progress(start / total)
        labels = Labels.join(parts)
        labels.notes += [*notes, *(f"warning: {line}" for line in opened.grid.warnings())]
    return labels


def _find_noise(opened: Prepared) -> list[str]:
    """Set the gain of numbers that do not show it, roughly; what the user should know."""
    source = opened.source
    if source.kind != "counts" or source.gain is not None or source.steps:
        return []
    gain, _ = source.estimate_noise()
    first = opened.grid.read(range(min(8, len(source)))).images.clamp_min(0).sum((-2, -1))
    if gain <= FEWEST_UNITS * float(first.median()) and source.readout == 0:
        source.kind = opened.grid.kind = "intensity"
        return ["no noise of photons shows: taken as intensities without noise"]
    source.with_noise(gain)
    return [f"gain estimated from neighbouring pixels, roughly: {gain:.4g} stored units per photon (--gain)"]
