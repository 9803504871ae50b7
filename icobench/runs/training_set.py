"""A stored set as what training learns from and is judged by."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from icobench.errors import InputError
from icobench.images.image_set import ImageSet
from icobench.images.log_image import intensity_from_log
from icobench.network.inputs import require_canonical
from icobench.network.recipe import Recipe
from icobench.sets.pattern_file import read_patterns, stored_settings
from icobench.simulator.experiment import Experiment
from icobench.storage import differences

__all__ = ["TrainingSet", "read_training_set", "training_data"]


@dataclass(frozen=True)
class TrainingSet:
    """A set that training can use: complete images, without photon noise, with the beam in the middle.

    Attributes:
        path: its file.
        known: intensities (N, 128, 128) with their truth, to train on.
        held_out: likewise, to validate on.
        experiment: physics and grid, which are the network's.
        log: whether the images are 8-bit log images, with whatever noise they were made with.
    """

    path: Path
    known: ImageSet
    held_out: ImageSet
    experiment: Experiment
    log: bool

    def require(self, experiment: Experiment) -> None:
        """Refuse a set that was not made for an experiment.

        Raises:
            InputError: it was made for another one; the message names what differs.
        """
        if changes := differences(self.experiment.to_dict(), experiment.to_dict()):
            raise InputError(f"{self.path}: made for another experiment ({'; '.join(changes)})")

    def fitting(self, recipe: Recipe) -> Recipe:
        """The recipe for this set. Log images have noise and rounding already and get no second background.

        Raises:
            InputError: the set is of log images and the recipe of photon counts.
        """
        if self.log and not recipe.log_images:
            raise InputError(
                f"{self.path}: log images cannot teach photon counts; make the set without --kind log,"
                " or take a recipe of log images"
            )
        return replace(recipe, background=0.0) if self.log else recipe


def read_training_set(path: Path, decades: float) -> TrainingSet:
    """Read what to train on, and what to validate on.

    These are the parts "train" and "validation" of a set, or the first four fifths and the rest of a set
    without parts.

    Args:
        path: of ``icobench generate``.
        decades: dynamic range of log images.

    Raises:
        InputError: not such a file, or its images are not what networks learn from: whole, centred, 128 x
            128, and noise-free unless they are log images.
    """
    try:
        train, held_out = read_patterns(path, "train"), read_patterns(path, "validation")
    except InputError:
        patterns = read_patterns(path)
        index, cut = torch.arange(len(patterns)), 4 * len(patterns) // 5
        if not 0 < cut < len(patterns):
            raise InputError(f"{path}: too few images to train on") from None
        train, held_out = patterns.subset(index[:cut]), patterns.subset(index[cut:])
    experiment, log = train.experiment, train.kind == "log"
    assert experiment is not None
    require_canonical(experiment, f"{path}: ")
    flaws = _flaws(train, path)
    flaws += [flaw for flaw in _flaws(held_out, path) if flaw not in flaws]
    if flaws:
        raise InputError(
            f"{path}: training needs whole, noise-free, centred images, and these have {', '.join(flaws)};"
            " make a set with icobench generate --detector clean (for log images also --kind log)"
        )
    return TrainingSet(path, _intensities(train, decades), _intensities(held_out, decades), experiment, log)


def training_data(
    path: Path, decades: float, experiment: Experiment | None = None
) -> tuple[ImageSet, ImageSet]:
    """Intensities with their truth to train on, and to validate on.

    Args:
        path, decades: of :func:`read_training_set`.
        experiment: of the training, for which the set must have been made; None for the default one.

    Raises:
        InputError: as :func:`read_training_set` does, or the set was made for another experiment.
    """
    training_set = read_training_set(path, decades)
    training_set.require(experiment or Experiment())
    return training_set.known, training_set.held_out


def _intensities(patterns: ImageSet, decades: float) -> ImageSet:
    images = intensity_from_log(patterns.images, decades) if patterns.kind == "log" else patterns.images
    return replace(patterns, images=images * patterns.mask, kind="intensity")


def _flaws(patterns: ImageSet, path: Path) -> list[str]:
    """Effects of the detector on a set, in words, that training does not expect or would apply again."""
    experiment = patterns.experiment or Experiment()
    valid, middle = experiment.valid(), experiment.pixels // 2
    lost = valid & ~patterns.mask.all(0)
    # The outermost pixels along the axes go with a crop, the middle one with the hole.
    rim = lost[middle, 1] and lost[1, middle]
    flaws = []
    if patterns.kind == "counts":
        flaws.append("photon noise")
    if lost[middle, middle]:
        flaws.append("a central hole")
    if rim:
        flaws.append("a cropped range of angles")
    if lost.any() and not (lost[middle, middle] or rim):
        flaws.append("dead or saturated pixels")
    detector = stored_settings(path).get("options", {}).get("detector", {})
    if any(detector.get("centre_offset", ())):
        flaws.append("an off-centre beam")
    return flaws
