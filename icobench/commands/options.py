"""What the commands share: groups of options that are declared once, checks, and the progress bar.

A group is a dataclass whose fields are options. ``@app.command(cls=with_options(Physics, Machine))`` gives a
command the options of some groups; the command finds the values by ``Physics.of(context)``. Heavy imports
stay inside functions, so that ``--help`` is fast.
"""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer
from typer.core import TyperCommand

from icobench.errors import InputError

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from icobench.simulator.experiment import Experiment, FlatDetector

__all__ = [
    "METHOD_NAMES", "TEST_SET_NAMES",
    "Centre", "Detector", "Device", "Machine", "Model", "OptionGroup", "Physics", "Seed", "Workers",
    "changed", "complex_index", "console", "examples", "names", "progress_bar", "say", "with_options",
]  # fmt: skip

METHOD_NAMES = (
    "network, paper-network, simplex, simplex-race, cma-es; dictionary, network or paper-network, + simplex, "
    "lm or mle"
)
TEST_SET_NAMES = "paper, clean, counting, experiment, voxels, propagated, realistic"
"""For help, which must not load the registries; a test compares them."""

Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Model = Annotated[
    str | None,
    typer.Option(
        help="Weights: a file, a folder of parts, or paper, the published network (a folder here: ./paper). "
        "By default four shipped networks. Methods of paper-network keep theirs."
    ),
]
Workers = Annotated[
    int, typer.Option(help="Processes, of one thread each, on a GPU each; 0 for all cores or GPUs.", min=0)
]


class OptionGroup:
    """A dataclass whose fields are options of several commands."""

    @classmethod
    def of(cls, context: typer.Context) -> Self:
        """The values that the user gave, or the defaults."""
        return context.obj[cls]


def _parameters(group: type[OptionGroup]) -> list[Any]:
    """The options of a group, as typer makes them for a command of that signature."""
    app = typer.Typer(add_completion=False)
    app.command()(group)
    return [parameter for parameter in typer.main.get_command(app).params if parameter.name != "help"]


def with_options(*groups: type[OptionGroup]) -> type[TyperCommand]:
    """A class of commands that have the options of these groups beside those of their own function.

    ``context.obj`` has a value for each group, and ``context.meta["values"]`` all values by name.
    """

    class Command(TyperCommand):
        def __init__(self, *arguments: Any, params: list[Any] | None = None, **more: Any) -> None:
            added = [parameter for group in groups for parameter in _parameters(group)]
            super().__init__(*arguments, params=[*(params or []), *added], **more)

        def invoke(self, context: Any) -> Any:
            context.meta["values"] = dict(context.params)
            context.obj = {
                group: group(**{field.name: context.params.pop(field.name) for field in fields(group)})  # type: ignore[arg-type]
                for group in groups
            }
            return super().invoke(context)

    return Command


@dataclass(frozen=True)
class Machine(OptionGroup):
    """Random numbers, and where to work."""

    seed: Seed = 0
    device: Device = "auto"

    def chosen(self) -> "torch.device":
        """The device.

        Raises:
            InputError: unknown, or not here.
        """
        from icobench.runs.pool import chosen_device

        return chosen_device(self.device)


@dataclass(frozen=True)
class Physics(OptionGroup):
    """What the images are believed to come from."""

    refractive_index: Annotated[
        str | None, typer.Option("--refractive-index", help="Complex n, e.g. 0.89+0.0859j.")
    ] = None
    material: Annotated[
        str | None, typer.Option(help="n by scattering factors: an element, or a compound as SiO2@2.2.")
    ] = None
    physics: Annotated[
        str,
        typer.Option(help="straight rays, or propagated waves: refraction and multiple scattering."),
    ] = "straight"
    polarization: Annotated[str, typer.Option(help="none, x, y, degrees from x towards y, or circular.")] = (
        "none"
    )
    sin_theta_max: Annotated[
        float, typer.Option("--sin-theta-max", help="Sine of the scattering angle at the edge.")
    ] = 1.0
    solid_angle_factor: Annotated[
        bool, typer.Option("--solid-angle-factor/--no-solid-angle-factor", help="Intensity times k / k_z.")
    ] = False
    wavelength: Annotated[float, typer.Option("--wavelength", help="Wavelength in nm.")] = 13.5

    def experiment(self, pixels: int = 128, detector: "FlatDetector | None" = None) -> "Experiment":
        """The experiment that these options describe.

        Raises:
            InputError: a number that makes no sense.
        """
        from icobench.simulator.experiment import Experiment
        from icobench.simulator.material import refractive_index

        changes: dict[str, Any] = {
            "wavelength_nm": self.wavelength, "sin_theta_max": self.sin_theta_max,
            "solid_angle_factor": self.solid_angle_factor, "pixels": pixels, "detector": detector,
            "physics": self.physics, "polarization": polarization_of(self.polarization),
        }  # fmt: skip
        if self.refractive_index is not None and self.material is not None:
            raise InputError("give --refractive-index or --material, not both")
        if self.refractive_index is not None:
            changes["refractive_index"] = complex_index(self.refractive_index)
        if self.material is not None:
            changes["refractive_index"] = refractive_index(self.material, self.wavelength)
        return changed(Experiment(), **changes)


def changed(experiment: "Experiment", **changes: Any) -> "Experiment":
    """An experiment with some values changed.

    Raises:
        InputError: a number that makes no sense.
    """
    try:
        return replace(experiment, **changes)
    except ValueError as error:
        raise InputError(str(error)) from error


def polarization_of(text: str) -> float | str | None:
    """The polarisation in a text such as x, 45 or circular.

    Raises:
        InputError: it is none.
    """
    words: dict[str, float | str | None] = {"none": None, "x": 0.0, "y": 90.0, "circular": "circular"}
    if text in words:
        return words[text]
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"--polarization must be {', '.join(words)} or degrees, got {text!r}") from error


def complex_index(text: str) -> complex:
    """The number in a text such as 0.89+0.0859j.

    Raises:
        InputError: it is none.
    """
    try:
        return complex(text.replace(" ", "").replace("i", "j"))
    except ValueError as error:
        raise InputError(
            f"--refractive-index must be a complex number such as 0.89+0.0859j, got {text!r}"
        ) from error


Centre = tuple[float, float]


@dataclass(frozen=True)
class Detector(OptionGroup):
    """A flat detector across the beam, and where the beam meets the image."""

    distance_mm: Annotated[
        float | None, typer.Option("--distance-mm", "--distance", help="Flat detector: distance in mm.")
    ] = None
    pixel_mm: Annotated[
        float | None, typer.Option("--pixel-mm", "--pixel-size", help="Flat detector: pixel size in mm.")
    ] = None
    centre: Annotated[
        str | None,
        typer.Option(
            "--centre", "--beam",
            help="x,y of the beam in pixels, whole at pixel centres; the middle by default.",
        ),
    ] = None  # fmt: skip

    def beam(self) -> Centre | None:
        """The (x, y) of ``--centre``.

        Raises:
            InputError: not two finite numbers.
        """
        if self.centre is None:
            return None
        try:
            x, y = map(float, self.centre.split(","))
        except ValueError:
            x = y = math.nan
        if not (math.isfinite(x) and math.isfinite(y)):
            raise InputError(f"--centre must be two numbers x,y, got {self.centre!r}")
        return x, y

    @property
    def is_flat(self) -> bool:
        """Whether a flat detector is described."""
        return self.distance_mm is not None or self.pixel_mm is not None

    def flat(self) -> "FlatDetector":
        """The flat detector.

        Raises:
            InputError: only a part of it is given, or it makes no sense.
        """
        from icobench.simulator.experiment import FlatDetector

        if self.distance_mm is None or self.pixel_mm is None:
            raise InputError("a flat detector needs --distance-mm and --pixel-mm")
        try:
            return FlatDetector(self.distance_mm, self.pixel_mm, self.beam())
        except ValueError as error:
            raise InputError(str(error)) from error


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[..., None]]:
    """A progress bar on standard error; the function takes the finished share and a text."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as progress:
        task = progress.add_task(description, total=1.0)

        def update(share: float, text: str | None = None) -> None:
            progress.update(task, completed=share, description=text or description)

        yield update


def names(text: str) -> tuple[str, ...]:
    """The names of a comma-separated list."""
    return tuple(name.strip() for name in text.split(","))


def say(text: str) -> None:
    """A line on standard error."""
    typer.echo(text, err=True)


def console() -> "Console":
    """Standard output, wide enough for the table also where it is no terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120)


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "Example: " + "; ".join(lines)
