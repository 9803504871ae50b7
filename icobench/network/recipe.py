"""Training recipes: all settings of a training but the experiment and the seed."""

from dataclasses import asdict, dataclass, field, fields
from numbers import Integral
from pathlib import Path
from typing import Any

from icobench.errors import InputError
from icobench.network.outputs import LOSSES
from icobench.storage import read_toml

__all__ = ["RECIPES", "Recipe", "read_recipe"]

CHOICES = {
    "images": ("clean", "augmented", "realistic", "counts"),
    "loss": tuple(LOSSES),
    "optimiser": ("adamw", "muon"),
}

WHOLE_NUMBERS = ("steps", "batch", "variants", "pool", "patience", "validate_steps")

LARGEST_NUMBER = 10**9
"""Of steps, images and bodies; a thousand times what a training takes."""

BOUNDS = {
    "learning_rate": (1e-30, 1e30), "weight_decay": (0, 1e12), "average": (0, 0.999999),
    "settle_share": (0, 1), "radius_nm": (1e-3, 1e6), "decades": (1e-3, 300), "background": (0, 1),
    "photons": (1e-3, 1e12), "hole_degrees": (0, 80), "sine": (0.01, 1), "whole_share": (0, 1),
    "refraction": (-10, 0.999), "absorption": (0, 10), "default_index_share": (0, 1), "warm_share": (0, 1),
    "polarised": (0, 1), "spread_share": (0, 1), "posterior_share": (0, 1),
}  # fmt: skip
"""Least and largest sensible values, for detectors as in :class:`~icobench.images.detector.Detector`."""


@dataclass(frozen=True)
class Recipe:
    """One training; recipe, experiment and seed determine the network.

    Attributes:
        steps: optimiser steps.
        architecture: a key of :data:`~icobench.network.architectures.ARCHITECTURES`.
        network: its options.
        images: "clean": noise-free log images; "augmented": each changed by one of the eleven filters of
            :mod:`icobench.images.augment` at random; "realistic": three in four changed by the realistic
            chain, the others by a random filter; "counts": photon counts as described below.
        pool: number of different simulated bodies, each with its own refractive index, that are used again
            and again; None simulates new bodies in every step.
        batch: images per step, a multiple of ``variants``.
        variants: turned and mirrored versions of each simulated image, 2 to 8; 1 takes it as it is.
        loss: a key of :data:`~icobench.network.outputs.LOSSES`.
        optimiser: "adamw" or "muon", see :mod:`icobench.network.optimisers`.
        learning_rate, weight_decay: of the optimiser; one cycle of warm-up and cosine decay, unless there
            is a ``patience``.
        patience: validations without progress after which the learning rate falls to a fifth; after three
            falls the next plateau ends the training, and ``steps`` is a ceiling only. None for the one cycle.
        validate_steps: steps between those validations.
        average: decay of the exponential moving average of the weights, which is the trained network.
        settle_share: last share of the steps, in which the batch norms keep their statistics and all is
            computed in float32: the norms' batch noise and bfloat16's rounding would limit the precision.
        spread_share: images for the error bars, which are fitted at the end (see
            :mod:`icobench.network.spreads`), over those of the training before; fewer than 2,048 are none.
        posterior_share: the same for the head of the posterior (:mod:`icobench.network.amortised`); photon
            counts and the target "orbit" alone.
        radius_nm: range of the uniform radius.
        decades: dynamic range of log images.
        background: largest standard deviation of the half-normal noise of 8-bit log images; half of the
            clean images have such noise and rounding. 0 for neither.
        hidden_peak: share of log images scaled by the brightest pixel outside of a random centre, as if a
            hole hid the forward peak or the detector were saturated there.
        counted: share of log images that show photon counts.
        photons: range of the log-uniform photon number on the usable pixels.
        hole_degrees: range of the uniform central hole.
        sine: range of the cropped detector's half width over k.
        whole_share: share of images on the whole detector.
        refraction: range of 1 - Re n of the bodies that do not have the experiment's refractive index.
        absorption: range of their Im n.
        default_index_share: share of bodies with the experiment's refractive index.
        polarised: share of photon counts from a beam that is polarised along a random direction; the network
            sees them with the polarisation factor divided out.
        warm_share: share of the steps over which photon counts get harder, from bright, whole images to the
            full range.

    Raises:
        ValueError: a value without sense; the message names it.
    """

    steps: int
    architecture: str = "compact"
    network: dict[str, Any] = field(default_factory=dict)
    images: str = "counts"
    pool: int | None = None
    batch: int = 64
    variants: int = 2
    loss: str = "square"
    optimiser: str = "adamw"
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    average: float = 0.999
    settle_share: float = 0.15
    spread_share: float = 0.05
    posterior_share: float = 0.0
    radius_nm: tuple[float, float] = (28.0, 164.0)
    decades: float = 6.0
    background: float = 0.0
    hidden_peak: float = 0.0
    counted: float = 0.0
    photons: tuple[float, float] = (4e4, 1e7)
    hole_degrees: tuple[float, float] = (0.0, 5.0)
    sine: tuple[float, float] = (0.5, 1.0)
    whole_share: float = 0.6
    refraction: tuple[float, float] = (0.0, 0.12)
    absorption: tuple[float, float] = (0.075, 0.095)
    default_index_share: float = 0.8
    polarised: float = 0.0
    warm_share: float = 0.35
    patience: int | None = None
    validate_steps: int = 500

    def __post_init__(self) -> None:
        for name in WHOLE_NUMBERS:
            value = getattr(self, name)
            if value is not None and not isinstance(value, Integral):
                raise ValueError(f"{name} must be a whole number, got {value!r}")
            if value is not None and int(value) > LARGEST_NUMBER:
                raise ValueError(f"{name} must be at most {LARGEST_NUMBER:,}, got {value:,}")
        if min(self.steps, self.batch) < 1 or not 1 <= self.variants <= 8 or self.batch % self.variants:
            raise ValueError("steps must be positive and batch a multiple of variants (1 to 8)")
        for name in ("pool", "patience", "validate_steps"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; choose from {', '.join(choices)}")
        if self.posterior_share and (self.log_images or self.network.get("target", "orbit") != "orbit"):
            raise ValueError("posterior_share needs photon counts and the target orbit")
        for name, (least, most) in BOUNDS.items():
            value, is_range = getattr(self, name), isinstance(getattr(Recipe, name), tuple)
            pair = value if is_range else (value, value)
            # Written so that NaN is refused.
            if not isinstance(pair, tuple) or len(pair) != 2 or not least <= pair[0] <= pair[1] <= most:
                form = "two ordered numbers" if is_range else "a number"
                raise ValueError(f"{name} must be {form} from {least:g} to {most:g}, got {value}")

    @property
    def log_images(self) -> bool:
        """Whether the network sees log images (else photon counts)."""
        return self.images != "counts"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """Undo :meth:`to_dict`; an InputError names what is wrong with the values."""
        if unknown := set(values) - {field.name for field in fields(cls)}:
            raise InputError(f"a recipe has no {', '.join(sorted(unknown))}")
        arguments: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        try:
            return cls(**arguments)
        except (TypeError, ValueError) as error:
            raise InputError(f"not a recipe: {error}") from error


def read_recipe(path: Path) -> tuple[Recipe, dict[str, Any] | None]:
    """A recipe from a TOML file, and the cost of finding it, if the file has a table ``search``.

    An InputError says whether the file is missing, damaged, or not a recipe.
    """
    values = read_toml(path)
    search = values.pop("search", None)
    if search is not None and not {"seconds", "simulations"} <= set(search):
        raise InputError(f"{path}: search needs seconds and simulations")
    try:
        return Recipe.from_dict(values), search
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


_FILES = (Path(__file__).parent / "recipes").glob("*.toml")
RECIPES = {path.stem: read_recipe(path)[0] for path in sorted(_FILES, key=lambda path: path.stem)}
"""The recipes of the package by name; a comment in each file says what it is for."""
