"""Training networks and judging them."""

from pathlib import Path
from typing import Annotated

import typer

from icobench.commands.options import (
    DataWavelength,
    Device,
    Index,
    Seed,
    chosen_device,
    chosen_experiment,
    examples,
    progress_bar,
    say,
)
from icobench.errors import InputError

app = typer.Typer()


@app.command(
    epilog=examples(
        "icobench train --preset compact --run runs/compact", "icobench train --preset paper --data paper.h5"
    )
)
def train(
    preset: Annotated[
        str, typer.Option(help="compact, compact-counts, compact-realistic, paper, paper-small or smoke.")
    ] = "compact",
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file of a recipe instead of a preset, such as a search's best.toml."),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Folder; a started training is resumed.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Set of icobench generate to learn from instead of simulations.")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            help="Weights to go on from, with fixed norms, in float32, at a quarter of the learning rate."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps instead of the preset's.", min=1)] = None,
    max_minutes: Annotated[float | None, typer.Option(help="Stop, resumable, after this long.")] = None,
    fast: Annotated[bool, typer.Option(help="bfloat16, and compiled networks on CUDA.")] = True,
    seed: Seed = 0,
    device: Device = "auto",
    refractive_index: Index = None,
    wavelength: DataWavelength = None,
) -> None:
    """Train a network, on images streamed from the simulator or on a stored set.

    A stored set is of whole, noise-free images with a centred beam: generate --detector clean, or --preset
    paper.
    """
    from dataclasses import replace

    from icobench.network.checkpoint import read_weights
    from icobench.network.recipe import RECIPES, read_recipe
    from icobench.network.training import train as run_training
    from icobench.simulator.compiled import prepare_kernel

    if preset not in RECIPES:
        raise InputError(f"unknown preset {preset!r}; choose from {', '.join(RECIPES)}")
    experiment = chosen_experiment(refractive_index, 1.0, False, 13.5 if wavelength is None else wavelength)
    recipe, search = RECIPES[preset], None
    if config is not None:
        recipe, search = read_recipe(config)
        preset = config.stem
    if steps is not None:
        recipe = replace(recipe, steps=steps)
    begun = None
    if start is not None:
        begun = read_weights(start)
        recipe = replace(recipe, settle_share=1.0, learning_rate=recipe.learning_rate / 4)
    folder = run or Path("runs") / f"train-{preset}"
    where = chosen_device(device)
    known = held_out = None
    if data is not None:
        from icobench.sets.training_data import read_training_set

        stored = read_training_set(data, recipe.decades)
        if refractive_index is None:
            experiment = replace(experiment, refractive_index=stored.experiment.refractive_index)
        if wavelength is None:
            experiment = replace(experiment, wavelength_nm=stored.experiment.wavelength_nm)
        # Averages over pixels have no option here: they are the set's.
        experiment = replace(experiment, pixel_average=stored.experiment.pixel_average)
        stored.require(experiment)
        recipe = stored.fitting(recipe)
        known, held_out = stored.known, stored.held_out
    elif preset != "smoke":
        prepare_kernel(where)
    with progress_bar(f"training {preset}") as update:
        result = run_training(
            recipe, experiment, folder, seed, where, max_minutes, fast, data=known, held_out=held_out,
            start=begun, search=search,
            progress=lambda step, steps, loss: update(
                step / steps, f"step {step}/{steps}, loss {loss:.4g}"
            ),
        )  # fmt: skip
    state = "finished" if result.finished else "stopped, run again to resume"
    say(f"{state} after {result.seconds / 60:.1f} min; weights in {folder / 'network.safetensors'}")


@app.command(epilog=examples("icobench evaluate --images 5000 --out reports/evaluation"))
def evaluate(
    out: Annotated[
        Path | None, typer.Option(help="Folder for evaluation.json, .md and .parquet; made if missing.")
    ] = None,
    images: Annotated[int, typer.Option(help="Images of each test set.", min=2)] = 5000,
    sets: Annotated[str, typer.Option(help="Comma-separated: clean, realistic, counting.")] = (
        "clean,realistic,counting"
    ),
    model: Annotated[
        list[Path] | None, typer.Option(help="Weights; repeat for several. The shipped ones by default.")
    ] = None,
    versions: Annotated[
        int, typer.Option(help="Turned and mirrored versions of an image to average.", min=1, max=8)
    ] = 1,
    seed: Seed = 20_000,
    device: Device = "auto",
) -> None:
    """Errors of trained networks on fresh test sets, beside the physical limit; and their speed."""
    from icobench.network.selection import load_network
    from icobench.reporting.evaluation import evaluation_table, write_evaluation
    from icobench.runs.evaluation import EVALUATION_SETS, evaluation_set, speed
    from icobench.runs.evaluation import evaluate as judge
    from icobench.simulator.compiled import prepare_kernel
    from icobench.simulator.experiment import Experiment

    where = chosen_device(device)
    networks = load_network(model, where)
    experiment = Experiment()
    names = [name.strip() for name in sets.split(",")]
    if unknown := [name for name in names if name not in EVALUATION_SETS]:
        raise InputError(f"unknown test set {unknown[0]!r}; choose from {', '.join(EVALUATION_SETS)}")
    prepare_kernel(where)
    # First: shared machines get slower after minutes of work on all cores.
    pace = speed(networks, experiment)
    done = []
    for name in names:
        with progress_bar(f"{name}, {images} images") as update:
            truth = evaluation_set(
                name, images, experiment, seed, where, lambda made: update(0.5 * made / images)
            )
            done.append(judge(networks, truth, name, where, versions, lambda share: update(0.5 + share / 2)))
    typer.echo(evaluation_table(done, pace))
    if out is not None:
        write_evaluation(out, done, pace, networks.cards, experiment, seed, where)
        say(f"wrote {out}")
