"""A training of seconds, for several test files."""

from icobench.network.recipe import Recipe
from icobench.simulator.experiment import Experiment

TINY = Recipe(
    steps=4, batch=16, variants=8, network={"widths": [4, 4, 8], "hidden": 8}, radius_nm=(28.0, 32.0),
    warm_share=0.5,
)  # fmt: skip
EXPERIMENT = Experiment()
