"""Training networks and judging them."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from icobench.commands.options import (
    Device,
    Machine,
    Seed,
    changed,
    complex_index,
    examples,
    progress_bar,
    say,
    with_options,
)
from icobench.errors import InputError

app = typer.Typer()


@app.command(
    cls=with_options(Machine),
    epilog=examples(
        "icobench train --preset compact --run runs/compact", "icobench train --preset paper --data paper.h5"
    ),
)
def train(
    context: typer.Context,
    preset: Annotated[
        str,
        typer.Option(
            help="compact, compact-counts, compact-realistic, compact-silver, paper, paper-small or smoke."
        ),
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
            help="Weights to go on from: a preset with fixed norms, in float32, at a quarter of its learning"
            " rate; a --config as it says."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps instead of the preset's.", min=1)] = None,
    max_minutes: Annotated[float | None, typer.Option(help="Stop, resumable, after this long.")] = None,
    fast: Annotated[bool, typer.Option(help="bfloat16, and compiled networks on CUDA.")] = True,
    refractive_index: Annotated[
        str | None, typer.Option("--refractive-index", help="Complex n; that of --data by default.")
    ] = None,
    wavelength: Annotated[
        float | None, typer.Option("--wavelength", help="Wavelength in nm; 13.5, or that of --data.")
    ] = None,
    physics: Annotated[
        str | None, typer.Option(help="straight, or propagated; straight by default, or that of --data.")
    ] = None,
) -> None:
    """Train a network, on images streamed from the simulator or on a stored set.

    A stored set is of whole, noise-free images with a centred beam: generate --detector clean, or --preset
    paper.
    """
    from icobench.network.checkpoint import read_weights
    from icobench.network.recipe import RECIPES, read_recipe
    from icobench.network.training import train as run_training
    from icobench.simulator.compiled import prepare_kernel
    from icobench.simulator.experiment import Experiment

    if preset not in RECIPES:
        raise InputError(f"unknown preset {preset!r}; choose from {', '.join(RECIPES)}")
    recipe, search = RECIPES[preset], None
    if config is not None:
        recipe, search = read_recipe(config)
        preset = config.stem
    if steps is not None:
        recipe = changed(recipe, steps=steps)
    weights = None
    if start is not None:
        weights = read_weights(start)
        if config is None:
            recipe = replace(recipe, settle_share=1.0, learning_rate=recipe.learning_rate / 4)
    folder = run or Path("runs") / f"train-{preset}"
    machine = Machine.of(context)
    where = machine.chosen()
    experiment, images, held_out = Experiment(), None, None
    if data is not None:
        from icobench.runs.training_set import read_training_set

        stored = read_training_set(data, recipe.decades)
        experiment, images, held_out = stored.experiment, stored.train, stored.held_out
        recipe = stored.fitting(recipe)
    elif preset != "smoke":
        prepare_kernel(where)
    if refractive_index is not None:
        experiment = changed(experiment, refractive_index=complex_index(refractive_index))
    if wavelength is not None:
        experiment = changed(experiment, wavelength_nm=wavelength)
    if physics is not None:
        experiment = changed(experiment, physics=physics)
    if data is not None:
        stored.require(experiment)
    with progress_bar(f"training {preset}") as update:
        result = run_training(
            recipe, experiment, folder, machine.seed, where, max_minutes, fast, data=images,
            held_out=held_out, start=weights, search=search,
            report=lambda step, loss, _: update(
                step / recipe.steps, f"step {step}/{recipe.steps}, loss {loss:.4g}"
            ),
        )  # fmt: skip
    state = "finished" if result.finished else "stopped, run again to resume"
    say(f"{state} after {result.seconds / 60:.1f} min; weights in {folder / 'network.safetensors'}")


@app.command(epilog=examples("icobench evaluate --images 5000 --out reports/evaluation"))
def evaluate(
    out: Annotated[
        Path | None, typer.Option(help="Folder for evaluation.json, .md and .parquet; made if missing.")
    ] = None,
    images: Annotated[int, typer.Option(help="Images of each test set.", min=2, max=10_000_000)] = 5000,
    sets: Annotated[str, typer.Option(help="Comma-separated test sets: clean, realistic, counting, ...")] = (
        "clean,realistic,counting"
    ),
    model: Annotated[
        list[str] | None,
        typer.Option(help="Weights, or paper; repeat for several. Four shipped networks by default."),
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
    from icobench.runs.evaluation import evaluate as judge
    from icobench.runs.evaluation import speed
    from icobench.runs.pool import chosen_device
    from icobench.sets.patterns import generate_patterns
    from icobench.sets.test_sets import find_icosahedra
    from icobench.simulator.compiled import prepare_kernel
    from icobench.simulator.experiment import PHYSICS, Experiment

    where = chosen_device(device)
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, not a folder")
    networks, experiment = load_network(model, where), Experiment()
    test_sets = [find_icosahedra(name.strip()) for name in sets.split(",")]
    if files := [test_set.name for test_set in test_sets if test_set.path is not None]:
        raise InputError(f"{files[0]}: networks are judged on fresh images; icobench compare takes files")
    for test_set in test_sets:
        test_set.options(images)  # refuses numbers that make no sense, before any work
    prepare_kernel(where)
    # First: shared machines get slower after minutes of work on all cores.
    say("measuring the speed of the networks, some ten seconds")
    pace = speed(networks, experiment)
    judged = []
    for test_set in test_sets:
        # Networks are judged by images of the physics that they were trained for.
        known = test_set.believed(experiment)
        if test_set.method in PHYSICS:
            known = replace(known, physics=test_set.method)
        with progress_bar(f"{test_set.name}, {images} images") as update:
            truth = generate_patterns(
                test_set.options(images), known, seed, where, lambda share: update(0.5 * share)
            )
            judged.append(
                judge(networks, truth, test_set.name, where, versions, lambda share: update(0.5 + share / 2))
            )
        if converted := networks.choose(known, truth.kind).conversion(truth.kind):
            say(f"{test_set.name}: {converted}")
    typer.echo(evaluation_table(judged, pace))
    if out is not None:
        write_evaluation(out, judged, pace, networks.cards, experiment, seed, where)
        say(f"wrote {out}")
