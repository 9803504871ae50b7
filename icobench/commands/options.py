"""What the commands of :mod:`icobench.cli` share: options, checks and the progress bar.

Heavy imports stay inside the functions, so that ``--help`` is fast.
"""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from icobench.errors import InputError

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from icobench.simulator.experiment import Experiment, FlatDetector

__all__ = [
    "Centre",
    "DataWavelength",
    "Device",
    "DistanceMm",
    "Index",
    "Model",
    "PixelMm",
    "Seed",
    "Shard",
    "Sine",
    "SolidAngle",
    "Wavelength",
    "Workers",
    "chosen_centre",
    "chosen_detector",
    "chosen_device",
    "chosen_experiment",
    "console",
    "examples",
    "progress_bar",
    "say",
]

Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Index = Annotated[str | None, typer.Option("--refractive-index", help="Complex n, e.g. 0.89+0.0859j.")]
Sine = Annotated[float, typer.Option("--sin-theta-max", help="Sine of the scattering angle at the edge.")]
SolidAngle = Annotated[
    bool, typer.Option("--solid-angle-factor/--no-solid-angle-factor", help="Intensity times k / k_z.")
]
Wavelength = Annotated[float, typer.Option("--wavelength", help="Wavelength in nm.")]
DataWavelength = Annotated[
    float | None, typer.Option("--wavelength", help="Wavelength in nm; 13.5, or that of --data.")
]
Model = Annotated[Path | None, typer.Option(help="Weights (.safetensors); the shipped ones by default.")]
Shard = Annotated[str, typer.Option(help="i/n: the i-th of n parts, counted from 1.")]
Workers = Annotated[
    int, typer.Option(help="Processes, of one thread each, on a GPU each; 0 for all cores or GPUs.", min=0)
]
DistanceMm = Annotated[
    float | None, typer.Option("--distance-mm", "--distance", help="Flat detector: distance in mm.")
]
PixelMm = Annotated[
    float | None, typer.Option("--pixel-mm", "--pixel-size", help="Flat detector: pixel size in mm.")
]
Centre = Annotated[
    str | None,
    typer.Option(
        "--centre", "--beam", help="x,y of the beam in pixels, whole at pixel centres; the middle by default."
    ),
]


def chosen_device(name: str) -> "torch.device":
    """The device of ``--device``.

    Raises:
        InputError: unknown, or not here.
    """
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device must be auto, cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no CUDA device is available")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def chosen_centre(text: str | None) -> tuple[float, float] | None:
    """The (x, y) of ``--centre``.

    Raises:
        InputError: not two finite numbers.
    """
    if text is None:
        return None
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        x = y = math.nan
    if not (math.isfinite(x) and math.isfinite(y)):
        raise InputError(f"--centre must be two numbers x,y, got {text!r}")
    return x, y


def chosen_detector(
    distance_mm: float | None, pixel_mm: float | None, centre: tuple[float, float] | None
) -> "FlatDetector | None":
    """The flat detector that a user describes, None if nothing is given.

    Raises:
        InputError: only a part is given, or it makes no sense.
    """
    from icobench.simulator.experiment import FlatDetector

    if distance_mm is None and pixel_mm is None and centre is None:
        return None
    if distance_mm is None or pixel_mm is None:
        raise InputError("a flat detector needs --distance-mm and --pixel-mm")
    try:
        return FlatDetector(distance_mm, pixel_mm, centre)
    except ValueError as error:
        raise InputError(str(error)) from error


def chosen_experiment(
    index: str | None,
    sine: float,
    solid_angle: bool,
    wavelength: float,
    pixels: int = 128,
    detector: "FlatDetector | None" = None,
) -> "Experiment":
    """The experiment of ``--refractive-index`` and its like.

    Raises:
        InputError: a number that makes no sense.
    """
    from icobench.simulator.experiment import Experiment

    options: dict[str, Any] = {
        "wavelength_nm": wavelength,
        "sin_theta_max": sine,
        "solid_angle_factor": solid_angle,
        "pixels": pixels,
        "detector": detector,
    }
    if index is not None:
        try:
            options["refractive_index"] = complex(index.replace(" ", "").replace("i", "j"))
        except ValueError as error:
            raise InputError(
                f"--refractive-index must be a complex number such as 0.89+0.0859j, got {index!r}"
            ) from error
    try:
        return Experiment(**options)
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
