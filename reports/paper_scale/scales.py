"""How large everything is: the paper's numbers, and the same in small for two CPU cores."""

from dataclasses import dataclass, replace
from typing import Any

from icobench.network.recipe import RECIPES, Recipe
from icobench.sets.generation import PAPER_SPLITS

__all__ = ["SCALES", "Scale"]

PAPER_NETWORK = replace(
    RECIPES["paper"], steps=200_000, batch=256, learning_rate=1e-3, patience=4, validate_steps=430
)
"""The published recipe under a plateau rule; half an epoch of 11 x 20,046 images between validations."""

COMPACT = RECIPES["compact"]
LARGE_BATCHES = replace(COMPACT, batch=256, learning_rate=2e-3)


@dataclass(frozen=True)
class Scale:
    """Sizes of every stage.

    Attributes:
        name: as on the command line.
        splits: of the data set, names and numbers of images.
        sliced_images: of the same set made by the paper's own algorithm, to time it.
        batches: of the scan of batch sizes.
        bodies: that correctness is checked on.
        fits: images fitted on the device and on the CPU.
        probe_seconds: for repetitions of every timing.
        paper_network: its recipe.
        compact: recipe of the networks on streamed images, steps aside.
        compact_minutes: its training.
        sizes: options of the networks among which the largest that pays off is looked for.
        size_minutes: training of each of them.
        evaluation_images: of fresh test sets for networks.
        repeats: of timings of a network.
        fit_images, fit_block: images of the fits, and how many at once.
        starts, iterations: of the Monte Carlo simplex.
        race: whether the race of simplices is run beside it.
        dictionaries: numbers of stored patterns.
        dictionary_images: matched with each of them.
        sweep_sizes, sweep_seeds: training images; repetitions.
        sweep_minutes: training of each point.
        sweep_images: test images of each point.
        own_network: whether the hybrids use the compact network trained here (else the shipped ones).
        export: whether weights are kept with the results.
    """

    name: str
    splits: tuple[tuple[str, int], ...] = PAPER_SPLITS
    sliced_images: int = 512
    batches: tuple[int, ...] = (1, 8, 64, 512, 4096, 16_384)
    bodies: int = 24
    fits: int = 32
    probe_seconds: float = 2.0
    paper_network: Recipe = PAPER_NETWORK
    compact: Recipe = LARGE_BATCHES
    compact_minutes: float = 6.0
    sizes: tuple[tuple[str, dict[str, Any]], ...] = (
        ("2 M", {}),
        ("3 M", {"widths": [40, 80, 160], "hidden": 320}),
        ("6 M", {"widths": [56, 112, 224], "hidden": 448}),
    )
    size_minutes: float = 6.5
    evaluation_images: int = 5000
    repeats: int = 5
    fit_images: int = 500
    fit_block: int = 100
    starts: int = 50
    iterations: int = 50
    race: bool = True
    dictionaries: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    dictionary_images: int = 200
    sweep_sizes: tuple[int, ...] = (156, 313, 626, 1_253, 2_506, 5_012, 10_023, 20_046)
    sweep_seeds: int = 3
    sweep_minutes: float = 0.8
    sweep_images: int = 2000
    own_network: bool = True
    export: bool = True


SMALL = Scale(
    name="small",
    splits=(("train", 1_600), ("validation", 400), ("test", 200)),
    sliced_images=4,
    batches=(1, 8, 64),
    bodies=2,
    fits=4,
    probe_seconds=0.5,
    paper_network=replace(
        PAPER_NETWORK, steps=24, batch=16, learning_rate=5e-4, patience=1, validate_steps=8
    ),
    compact=replace(COMPACT, batch=32),
    compact_minutes=1.0,
    sizes=(("2 M", {}), ("3 M", {"widths": [40, 80, 160], "hidden": 320})),
    size_minutes=0.5,
    evaluation_images=200,
    repeats=1,
    fit_images=8,
    fit_block=4,
    dictionaries=(300, 1_000, 3_000),
    dictionary_images=16,
    sweep_sizes=(8, 16, 32, 64, 128, 256, 512, 1_024),
    sweep_seeds=3,
    sweep_minutes=0.08,
    sweep_images=100,
    own_network=False,
    export=False,
)
"""Every stage, in minutes: shows that the script works, not what the methods can do."""

SCALES = {"paper": Scale("paper"), "small": SMALL}
