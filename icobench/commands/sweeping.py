"""Sweeps along one axis."""

from pathlib import Path
from typing import Annotated

import typer

from icobench.commands.cluster import arguments_are_good, on_cluster
from icobench.commands.options import (
    Device,
    Index,
    Seed,
    Shard,
    Sine,
    SolidAngle,
    Wavelength,
    Workers,
    chosen_device,
    chosen_experiment,
    examples,
    progress_bar,
    say,
)
from icobench.errors import InputError

app = typer.Typer()

TEST_SETS = {"clean": "clean", "counts": "counting", "realistic": "realistic", "augmented": "realistic"}
"""What networks are tested on, by what they were trained on."""


@app.command(
    epilog=examples(
        "icobench sweep --axis starts --run runs/starts",
        "icobench sweep --axis dataset --preset compact --steps 1500 --workers 2",
    )
)
@on_cluster("sweep")
def sweep(
    axis: Annotated[
        str, typer.Option(help="dataset, dictionary, starts, iterations or photons.")
    ] = "dataset",
    run: Annotated[Path | None, typer.Option(help="Folder of points; missing ones are computed.")] = None,
    points: Annotated[
        str | None, typer.Option(help="Comma-separated values; shares such as 1/8 of the training set.")
    ] = None,
    images: Annotated[int, typer.Option(help="Test images.", min=1)] = 100,
    seeds: Annotated[int | None, typer.Option(help="Repetitions of each point; 3 by default.", min=1)] = None,
    test_set: Annotated[
        str | None,
        typer.Option(help="clean, counting, experiment, voxels, propagated or realistic (log images)."),
    ] = None,
    method: Annotated[str | None, typer.Option(help="Of the axes dictionary and photons.")] = None,
    starts: Annotated[int, typer.Option(help="Of the simplex on the axis iterations.", min=1)] = 50,
    iterations: Annotated[int, typer.Option(help="Of the simplex on the axis starts.", min=1)] = 50,
    preset: Annotated[str, typer.Option(help="Training recipe for the axis dataset.")] = "compact",
    steps: Annotated[int | None, typer.Option(help="Optimiser steps instead of the preset's.", min=1)] = None,
    training_set: Annotated[
        int, typer.Option(help="Images in the whole training set; the paper's by default.", min=1)
    ] = 20_046,
    data: Annotated[
        Path | None, typer.Option(help="Stored set to train on portions of instead of simulating.")
    ] = None,
    shard: Shard = "1/1",
    workers: Workers = 1,
    seed: Seed = 0,
    device: Device = "auto",
    refractive_index: Index = None,
    sin_theta_max: Sine = 1.0,
    solid_angle_factor: SolidAngle = False,
    wavelength: Wavelength = 13.5,
) -> None:
    """Accuracy against what costs simulations: training set, dictionary, simplex budget; or against photons.

    Started again, the same command computes what is missing. Every worker has one thread, so that results on
    a CPU are the same for every number of workers; --workers 0 uses all cores.
    """
    from dataclasses import replace

    from icobench.methods import find_method
    from icobench.methods.hybrids import REFINEMENTS
    from icobench.network.canonical import require_canonical
    from icobench.network.recipe import RECIPES
    from icobench.reporting.studies import sweep_markdown, write_sweep
    from icobench.runs.points import LOG_SET, SweepSettings
    from icobench.runs.pool import default_workers
    from icobench.runs.shards import parse_shard
    from icobench.runs.sweep import AXES, Sweep, parse_points
    from icobench.sets.test_sets import TEST_SETS as COMPARED
    from icobench.sets.test_sets import find_test_set
    from icobench.sets.training_data import read_training_set

    if axis not in AXES:
        raise InputError(f"unknown axis {axis!r}; choose from {', '.join(AXES)}")
    if preset not in RECIPES:
        raise InputError(f"unknown preset {preset!r}; choose from {', '.join(RECIPES)}")
    if method is not None and axis not in ("dictionary", "photons"):
        raise InputError(f"--method has no meaning on the axis {axis}")
    measured = method or AXES[axis].method
    if axis == "dictionary" and measured not in [f"dictionary+{name}" for name, *_ in REFINEMENTS]:
        raise InputError(f"the axis dictionary measures dictionary+simplex, +lm or +mle, not {measured!r}")
    find_method(measured)
    where = chosen_device(device)
    recipe = RECIPES[preset] if axis == "dataset" else None
    if recipe is not None and steps is not None:
        recipe = replace(recipe, steps=steps)
    chosen = test_set or ("counting" if recipe is None else TEST_SETS[recipe.images])
    if chosen != LOG_SET and chosen not in COMPARED:
        raise InputError(f"unknown test set {chosen!r}; choose from {', '.join([*COMPARED, LOG_SET])}")
    if axis == "photons":
        if chosen == LOG_SET:
            raise InputError("log images have no photons to vary")
        find_test_set(chosen).options(images, 1.0)
    whole = None
    experiment = chosen_experiment(refractive_index, sin_theta_max, solid_angle_factor, wavelength)
    if axis == "dataset":
        require_canonical(experiment)
        whole = training_set
        if data is not None and recipe is not None:
            stored = read_training_set(data, recipe.decades)
            stored.require(experiment)
            recipe, whole = stored.fitting(recipe), len(stored.known[1])
    settings = SweepSettings(
        axis, images, chosen, seed, measured, starts, iterations, recipe, data and data.resolve(),
        experiment,
    )  # fmt: skip
    own = parse_shard(shard)
    folder = run or Path("runs") / f"sweep-{axis}"
    values, repetitions = parse_points(points or AXES[axis].points, whole), seeds or AXES[axis].seeds
    Sweep.check(folder, settings, own[1])
    arguments_are_good(len(values) * repetitions)
    study = Sweep(folder, settings, values, repetitions, own)
    try:
        with progress_bar(f"sweep over {axis}") as update:
            study.run(where, workers or default_workers(where), update)
    except KeyboardInterrupt:
        say(f"stopped; finished points are kept, continue with --run {folder}")
        raise typer.Exit(130) from None
    if own[1] > 1:
        say(f"shard {shard}: {len(study.jobs())} points are in {folder / 'points'}")
        return
    typer.echo(sweep_markdown(write_sweep(folder)), nl=False)
    say(f"figure: {folder / 'sweep.png'}")
