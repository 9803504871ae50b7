"""Sweeps and searches."""

from pathlib import Path
from typing import Annotated

import typer

from icobench.errors import InputError
from icobench.options import (
    Device,
    Seed,
    chosen_device,
    examples,
    progress_bar,
)

app = typer.Typer()
tune = typer.Typer(help="Search hyperparameters with Optuna.", no_args_is_help=True)
app.add_typer(tune, name="tune")


@app.command(epilog=examples("icobench sweep --axis starts --run runs/sweep"))
def sweep(
    axis: Annotated[str, typer.Option(help="dataset, starts or iterations.")] = "starts",
    run: Annotated[Path, typer.Option(help="Folder of points; missing ones are computed.")] = Path(
        "runs/sweep"
    ),
    points: Annotated[str | None, typer.Option(help="Comma-separated values of the axis.")] = None,
    images: Annotated[int, typer.Option(help="Test images.", min=1)] = 16,
    seeds: Annotated[int, typer.Option(help="Repetitions of each point.", min=1)] = 1,
    preset: Annotated[str, typer.Option(help="Training recipe for --axis dataset.")] = "smoke",
    device: Device = "auto",
) -> None:
    """Accuracy against number of simulations: training set, simplex starts or iterations."""
    from icobench.images.files import atomic_path
    from icobench.network.recipe import RECIPES
    from icobench.simulator.experiment import Experiment
    from icobench.studies.sweep import AXES, Sweep

    if preset not in RECIPES:
        raise InputError(f"unknown preset {preset!r}; choose from {', '.join(RECIPES)}")
    study = Sweep(run, axis, Experiment(), images, seeds, RECIPES[preset], chosen_device(device))
    try:
        chosen = AXES[axis] if points is None else tuple(int(x) for x in points.split(","))
    except ValueError as error:
        raise InputError(f"--points must be whole numbers, got {points!r}") from error
    if min(chosen) < 1:
        raise InputError(f"--points must be positive, got {points!r}")
    with progress_bar(f"sweep over {axis}") as update:
        table = study.run(chosen, update)
    with atomic_path(run / f"{axis}.csv") as temporary:
        table.to_csv(temporary, index=False)
    typer.echo(table.to_string(index=False))


@tune.command("simplex", epilog=examples("icobench tune simplex --trials 20 --run runs/tune"))
def tune_simplex_command(
    run: Annotated[Path, typer.Option(help="Folder of the journal; continued if it exists.")] = Path(
        "runs/tune"
    ),
    trials: Annotated[int, typer.Option(help="Trials in total.", min=1)] = 20,
    images: Annotated[int, typer.Option(help="Test images per trial.", min=1)] = 8,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Search starts and initial size of the Monte Carlo simplex."""
    from icobench.simulator.experiment import Experiment
    from icobench.studies.tune import tune_simplex

    with progress_bar("tuning the simplex") as update:
        best = tune_simplex(run, Experiment(), trials, images, seed, chosen_device(device), update)
    typer.echo(f"best of {best['trials']}: success rate {best['value']:.3f} with {best['options']}")


@tune.command("network", epilog=examples("icobench tune network --trials 10 --run runs/tune"))
def tune_network_command(
    run: Annotated[Path, typer.Option(help="Folder of the journal; continued if it exists.")] = Path(
        "runs/tune"
    ),
    trials: Annotated[int, typer.Option(help="Trials in total.", min=1)] = 10,
    images: Annotated[int, typer.Option(help="Test images per trial.", min=1)] = 128,
    preset: Annotated[str, typer.Option(help="Training recipe that is varied.")] = "smoke",
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Search the network's training settings."""
    from icobench.network.recipe import RECIPES
    from icobench.simulator.experiment import Experiment
    from icobench.studies.tune import tune_network

    if preset not in RECIPES:
        raise InputError(f"unknown preset {preset!r}; choose from {', '.join(RECIPES)}")
    with progress_bar("tuning the network") as update:
        best = tune_network(
            run, Experiment(), RECIPES[preset], trials, images, seed, chosen_device(device), update
        )
    typer.echo(f"best of {best['trials']}: median {best['value']:.3f} deg with {best['recipe']}")
