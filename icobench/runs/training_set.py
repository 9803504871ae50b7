"""A stored set as what training learns from and is judged by."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from icobench.errors import InputError
from icobench.images.image_set import ImageSet
from icobench.images.pixels import intensity_from_log
from icobench.network.inputs import require_canonical
from icobench.network.recipe import Recipe
from icobench.sets.pattern_file import read_patterns, stored_settings
from icobench.simulator.experiment import Experiment
from icobench.storage import differences

__all__ = ["TrainingSet", "read_training_set"]


@dataclass(frozen=True)
class TrainingSet:
    """A set that training can use: complete images, without photon noise, with the beam in the middle.

    Attributes:
        path: its file.
        train: intensities (N, 128, 128) with their truth, to train on.
        held_out: likewise, to validate on.
        experiment: physics and grid, which are the network's.
        log: whether the images are 8-bit log images, with whatever noise they were made with.
    """

    path: Path
    train: ImageSet
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
    experiment, log = train.known_experiment, train.kind == "log"
    require_canonical(experiment, f"{path}: ")
    flaws = list(dict.fromkeys(_flaws(train, path) + _flaws(held_out, path)))
    if flaws:
        raise InputError(
            f"{path}: training needs whole, noise-free, centred images, and these have {', '.join(flaws)};"
            " make a set with icobench generate --detector clean (for log images also --kind log)"
        )
    return TrainingSet(path, _intensities(train, decades), _intensities(held_out, decades), experiment, log)


def _intensities(patterns: ImageSet, decades: float) -> ImageSet:
    images = intensity_from_log(patterns.images, decades) if patterns.kind == "log" else patterns.images
    return replace(patterns, images=images * patterns.mask, kind="intensity")


def _flaws(patterns: ImageSet, path: Path) -> list[str]:
    """Effects of the detector on a set, in words, that training does not expect or would apply again."""
    middle = patterns.known_experiment.pixels // 2
    lost = patterns.known_experiment.valid() & ~patterns.mask.all(0)
    # The outermost pixels along the axes go with a crop, the middle one with the hole.
    rim = lost[middle, 1] and lost[1, middle]
    detector = stored_settings(path).get("options", {}).get("detector", {})
    flaws = {
        "other bodies than icosahedra": patterns.bodies is not None,
        "photon noise": patterns.kind == "counts",
        "a central hole": lost[middle, middle],
        "a cropped range of angles": rim,
        "dead or saturated pixels": lost.any() and not (lost[middle, middle] or rim),
        "an off-centre beam": any(detector.get("centre_offset", ())),
    }
    return [flaw for flaw, present in flaws.items() if present]
