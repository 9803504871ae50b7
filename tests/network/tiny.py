"""A training of seconds and sets of images, for several test files."""

from torch import Tensor

from icobench.images.image_set import ImageSet
from icobench.network.recipe import Recipe
from icobench.simulator.experiment import Experiment

TINY = Recipe(
    steps=4, batch=16, variants=8, network={"widths": [4, 4, 8], "hidden": 8}, radius_nm=(28.0, 32.0),
    warm_share=0.5,
)  # fmt: skip
EXPERIMENT = Experiment()


def image_set(images, kind="counts", mask=None, experiment=EXPERIMENT, **truth: Tensor) -> ImageSet:
    """Images (N, H, W), by default with all valid pixels usable."""
    mask = experiment.valid() if mask is None else mask
    return ImageSet(images, mask.expand(images.shape), kind, experiment, **truth)
