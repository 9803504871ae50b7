"""What the commands share: groups of options that are declared once, checks, and the progress bar.

A group is a dataclass whose fields are options. ``@app.command(cls=with_options(Physics, Machine))`` gives a
command the options of some groups; the command finds the values by ``Physics.of(context)``. Heavy imports
stay inside functions, so that ``--help`` is fast.
"""

import math
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
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
    "changed", "complex_index", "console", "examples", "names", "progress_bar", "say", "take_over",
    "told", "until_stopped", "with_options",
]  # fmt: skip

METHOD_NAMES = (
    "network, paper-network, posterior, simplex, simplex-race, cma-es; dictionary, network or paper-network, "
    "+ simplex, lm or mle"
)
TEST_SET_NAMES = "paper, clean, counting, experiment, voxels, propagated, mcp, mcp-known, realistic, bodies"
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


@dataclass(frozen=True)
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
            self.paths = {
                item.name
                for item in self.params
                if getattr(getattr(item, "type", None), "name", "") == "path"
            }

        def invoke(self, context: Any) -> Any:
            for name in self.paths:  # older typer converts paths only for a command's own function, later
                value = context.params[name]
                if isinstance(value, str):
                    context.params[name] = Path(value)
                elif isinstance(value, list | tuple):
                    context.params[name] = [Path(part) for part in value]
            context.meta["values"] = dict(context.params)
            context.meta["given"] = {
                name
                for name in context.params
                if getattr(context.get_parameter_source(name), "name", "") not in ("DEFAULT", "DEFAULT_MAP")
            }
            context.meta["paths"] = self.paths
            context.obj = {
                group: group(**{field.name: context.params.pop(field.name) for field in fields(group)})  # type: ignore[arg-type]
                for group in groups
            }
            return super().invoke(context)

    return Command


def told(context: typer.Context, *groups: type[OptionGroup]) -> dict[str, Any]:
    """What the user said of these groups' options, by name, as JSON has it; files by their whole path."""

    def plain(value: Any) -> Any:
        if isinstance(value, str | Path):
            return str(Path(value).resolve()) if str(value) and Path(value).is_file() else str(value)
        return value

    names = [field.name for group in groups for field in fields(group)]
    return {name: plain(context.meta["values"][name]) for name in names if name in context.meta["given"]}


def take_over(context: typer.Context, values: dict[str, Any], *groups: type[OptionGroup]) -> None:
    """Let what was told to an earlier command hold where this one's user says nothing.

    Raises:
        InputError: values that no command line gives.
    """
    given = context.meta["given"]
    for group in groups:
        known = {
            name: values[name] for field in fields(group) if (name := field.name) in values.keys() - given
        }
        if wrong := [
            name for name, value in known.items() if not isinstance(value, str | bool | int | float)
        ]:
            raise InputError(f"the option {wrong[0]} of the earlier command is damaged")
        paths = {name: Path(value) for name, value in known.items() if name in context.meta["paths"]}
        context.obj[group] = replace(group.of(context), **known | paths)
        given |= set(known)


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
        bool | None,
        typer.Option(
            "--solid-angle-factor/--no-solid-angle-factor",
            help="Pixels count in their solid angle; by default on a flat detector, not on the grid.",
        ),
    ] = None
    wavelength: Annotated[float, typer.Option("--wavelength", help="Wavelength in nm.")] = 13.5
    efficiency: Annotated[
        Path | None, typer.Option(help="Table of the detector's efficiency: degrees, share.")
    ] = None

    def stated(self, context: typer.Context) -> dict[str, Any]:
        """What the user said of the experiment, by the names of its fields; ``material`` is not looked up
        yet.

        Raises:
            InputError: a value that makes no sense.
        """
        if self.refractive_index is not None and self.material is not None:
            raise InputError("give --refractive-index or --material, not both")
        values: dict[str, Any] = {
            "wavelength_nm": self.wavelength, "sin_theta_max": self.sin_theta_max,
            "solid_angle_factor": self.solid_angle_factor, "physics": self.physics,
            "polarization": polarization_of(self.polarization), "material": self.material,
            "refractive_index": self.refractive_index and complex_index(self.refractive_index),
            "efficiency": () if self.efficiency is None else read_efficiency(self.efficiency),
        }  # fmt: skip
        given = {OPTION_OF.get(name, name) for name in context.meta["given"]}
        return {name: value for name, value in values.items() if name in given}

    def experiment(
        self, context: typer.Context, pixels: int = 128, detector: "FlatDetector | None" = None,
        base: "Experiment | None" = None,
    ) -> "Experiment":  # fmt: skip
        """The experiment that these options describe; what the user did not say is that of ``base``.

        Raises:
            InputError: a number that makes no sense.
        """
        from icobench.simulator.experiment import Experiment
        from icobench.simulator.material import refractive_index

        changes = self.stated(context)
        if (material := changes.pop("material", None)) is not None:
            wavelength = changes.get("wavelength_nm", base.wavelength_nm if base else self.wavelength)
            changes["refractive_index"] = refractive_index(material, wavelength)
        try:
            if base is not None:
                return replace(base, **changes)
            return Experiment(**changes, pixels=pixels, detector=detector)
        except ValueError as error:
            raise InputError(str(error)) from error


OPTION_OF = {"wavelength": "wavelength_nm"}
"""Fields of an experiment by options of another name."""


def read_efficiency(path: Path) -> tuple[tuple[float, float], ...]:
    """The table of a detector's efficiency: a line for each angle, degrees and share, by comma or blanks.

    Raises:
        InputError: no such file, or not such a table.
    """
    if not path.is_file():  # a pipe would be waited for
        raise InputError(f"{path}: {'not a file' if path.exists() else 'no such file'} (--efficiency)")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: {getattr(error, 'strerror', None) or 'not a text'} (--efficiency)"
        ) from error
    rows = []
    for number, line in enumerate(lines, 1):
        words = line.replace(",", " ").replace(";", " ").split()
        if not words or words[0].startswith("#"):
            continue
        try:
            angle, share = map(float, words)
        except ValueError as error:
            if number == 1:  # names of the columns
                continue
            raise InputError(f"{path}, line {number}: expected an angle in degrees and a share") from error
        rows.append((angle, share))
    if not rows:
        raise InputError(f"{path}: holds no angles and shares")
    return tuple(rows)


def changed(settings: Any, **changes: Any) -> Any:
    """An experiment, or a recipe, with some values changed.

    Raises:
        InputError: a number that makes no sense.
    """
    try:
        return replace(settings, **changes)
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

    def stated(self) -> dict[str, Any]:
        """What the user said of the detector, by the names of facts."""
        values = {"distance_mm": self.distance_mm, "pixel_mm": self.pixel_mm}
        return {name: value for name, value in values.items() if value is not None}

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
def progress_bar(description: str, remaining: bool = True) -> Iterator[Callable[..., None]]:
    """A progress bar on standard error; the function takes the finished share and a text.

    Args:
        description: the text until the function gives another.
        remaining: show the time that is left, by the pace of the share; not where the text knows better.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(), *([TimeRemainingColumn()] if remaining else []),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as progress:
        task = progress.add_task(description, total=1.0)

        def update(share: float, text: str | None = None) -> None:
            progress.update(task, completed=share, description=text or description)

        yield update


@contextmanager
def until_stopped(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and a SIGTERM call ``stop``, once; the second time they end the program as ever."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def asked(number: int, frame: Any) -> None:
        for other, handler in before.items():
            signal.signal(other, handler)
        stop()

    for number in before:
        signal.signal(number, asked)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
