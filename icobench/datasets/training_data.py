"""A stored set as what training learns from and is judged by."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from icobench.datasets.pattern_file import read_patterns
from icobench.datasets.patterns import PatternSet
from icobench.errors import InputError
from icobench.images.log_image import intensity_from_log
from icobench.simulator.experiment import Experiment

__all__ = ["training_data"]

Resident = tuple[Tensor, Tensor, Tensor]


def _resident(patterns: PatternSet, decades: float) -> Resident:
    images = intensity_from_log(patterns.images, decades) if patterns.kind == "log" else patterns.images
    return images * patterns.mask, patterns.radius_nm, patterns.quaternion


def training_data(path: Path, decades: float) -> tuple[Resident, Resident]:
    """Intensities (N, 128, 128), radii (N,) and orientations (N, 4) to train on, and to validate on.

    The parts "train" and "validation" of a set, or the first four fifths and the rest of a set without parts.

    Args:
        path: of ``icobench generate``.
        decades: dynamic range of log images.

    Raises:
        InputError: not such a file, or its images are not what networks see: whole, centred, 128 x 128.
    """
    try:
        train, held_out = read_patterns(path, "train"), read_patterns(path, "validation")
    except InputError:
        whole = read_patterns(path)
        numbers, cut = torch.arange(len(whole)), 4 * len(whole) // 5
        if not 0 < cut < len(whole):
            raise InputError(f"{path}: too few images to train on") from None
        train, held_out = whole.subset(numbers[:cut]), whole.subset(numbers[cut:])
    own = train.experiment
    if own != replace(Experiment(), refractive_index=own.refractive_index):
        raise InputError(f"{path}: training needs 128 x 128 pixels over the whole forward half space")
    return _resident(train, decades), _resident(held_out, decades)
