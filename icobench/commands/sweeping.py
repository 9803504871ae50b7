"""Sweeps along one axis."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icobench.commands.cluster import Sharing, planning_device, run_on_slurm
from icobench.commands.options import (
    TEST_SET_NAMES,
    Machine,
    Physics,
    Workers,
    changed,
    examples,
    progress_bar,
    say,
    with_options,
)
from icobench.errors import InputError
from icobench.storage import Shard, share

if TYPE_CHECKING:
    from icobench.runs.sweep import Sweep

app = typer.Typer()

TEST_SETS = {"clean": "clean", "counts": "counting", "realistic": "realistic", "augmented": "realistic"}
"""What networks are tested on by default, by the images of their training."""


def _compute_shard(sweep: "Sweep", device: str, workers: int, shard: Shard) -> None:
    """A shard of a sweep in a job of a cluster."""
    from icobench.runs.pieces import execute
    from icobench.runs.pool import chosen_device, default_workers

    where = chosen_device(device)
    part = replace(sweep, shards=shard[1])
    part.open()
    execute(part, where, workers or default_workers(where), shard)


@app.command(
    cls=with_options(Physics, Machine, Sharing),
    epilog=examples(
        "icobench sweep --axis starts --run runs/starts",
        "icobench sweep --axis dataset --preset compact --steps 1500 --workers 2",
    ),
)
def sweep(
    context: typer.Context,
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
        typer.Option(help=f"One of {TEST_SET_NAMES} (log images)."),
    ] = None,
    method: Annotated[str | None, typer.Option(help="Of the axes dictionary and photons.")] = None,
    starts: Annotated[int, typer.Option(help="Of the simplex on the axis iterations.", min=1)] = 50,
    iterations: Annotated[int, typer.Option(help="Of the simplex on the axis starts.", min=1)] = 50,
    preset: Annotated[str, typer.Option(help="Training recipe for the axis dataset.")] = "compact",
    steps: Annotated[int | None, typer.Option(help="Optimiser steps instead of the preset's.", min=1)] = None,
    training_set: Annotated[
        int, typer.Option(help="Images in the complete training set; the paper's by default.", min=1)
    ] = 20_046,
    data: Annotated[
        Path | None, typer.Option(help="Stored set to train on portions of instead of simulating.")
    ] = None,
    workers: Workers = 1,
) -> None:
    """Accuracy against what costs simulations: training set, dictionary, simplex budget; or against photons.

    Started again, the same command computes what is missing. Every worker has one thread, so that results on
    a CPU are the same for every number of workers; --workers 0 uses all cores.
    """
    from icobench.methods import find_method
    from icobench.network.inputs import require_canonical
    from icobench.network.recipe import RECIPES
    from icobench.reporting.sweeps import sweep_markdown, write_sweep
    from icobench.runs.pieces import execute
    from icobench.runs.pool import chosen_device, default_workers
    from icobench.runs.sweep import Sweep, parse_points
    from icobench.runs.sweep_points import AXES, SweepSettings
    from icobench.runs.training_set import read_training_set
    from icobench.sets.patterns import PatternSource
    from icobench.sets.test_sets import find_icosahedra

    machine, sharing = Machine.of(context), Sharing.of(context)
    if axis not in AXES:
        raise InputError(f"unknown axis {axis!r}; choose from {', '.join(AXES)}")
    if preset not in RECIPES:
        raise InputError(f"unknown preset {preset!r}; choose from {', '.join(RECIPES)}")
    if method is not None and axis not in ("dictionary", "photons"):
        raise InputError(f"--method has no meaning on the axis {axis}")
    measured = find_method(method or AXES[axis].method)
    if axis == "dictionary" and "candidates" not in measured.option_names:
        raise InputError(
            f"the axis dictionary measures dictionary+simplex, +lm or +mle, not {measured.name!r}"
        )
    if measured.chooses_shape:
        raise InputError(f"{measured.name}: sweeps are of icosahedra; icobench compare takes it")
    where = chosen_device(planning_device(sharing, machine.device))
    recipe = RECIPES[preset] if axis == "dataset" else None
    if recipe is not None and steps is not None:
        recipe = changed(recipe, steps=steps)
    chosen = find_icosahedra(test_set or ("counting" if recipe is None else TEST_SETS[recipe.images]))
    if chosen.path is not None:
        raise InputError(f"{chosen.path}: a sweep needs a test set that is simulated")
    if axis == "photons":
        chosen.options(images, 1.0)  # refuses sets without noise
    experiment, complete = Physics.of(context).experiment(context), None
    if axis == "dataset":
        require_canonical(experiment)
        complete = training_set
        if data is not None and recipe is not None:
            stored = read_training_set(data, recipe.decades)
            stored.require(experiment)
            recipe, complete = stored.fitting(recipe), len(stored.train)
    settings = SweepSettings(
        axis, images, chosen.name, machine.seed, measured.name, starts, iterations, recipe,
        data and data.resolve(), experiment,
    )  # fmt: skip
    PatternSource(chosen.options(images), experiment, machine.seed)  # refuses what cannot be simulated
    folder, shard = run or Path("runs") / f"sweep-{axis}", sharing.part
    values = parse_points(points or AXES[axis].points, complete)
    work = Sweep(folder, settings, values, seeds or AXES[axis].seeds, shard[1])
    work.check()
    if sharing.on_slurm:
        if run is None:
            raise InputError("--executor slurm needs --run, where the shards meet")
        call = partial(_compute_shard, work, machine.device, workers)
        kept = ["points/*.json", "training/*/checkpoint.pt"]
        run_on_slurm(context, folder, call, kept, work)
    work.open()
    try:
        with progress_bar(f"sweep over {axis}", remaining=False) as update:
            execute(work, where, workers or default_workers(where), shard, update)
    except KeyboardInterrupt:
        say(f"stopped; finished points are kept, continue with --run {folder}")
        raise typer.Exit(130) from None
    if shard[1] > 1:
        say(f"shard {sharing.shard}: {len(share(work.pieces(), shard))} points are in {folder / 'points'}")
        return
    typer.echo(sweep_markdown(write_sweep(folder)), nl=False)
    say(f"figure: {folder / 'sweep.png'}")
