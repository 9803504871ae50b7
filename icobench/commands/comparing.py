"""The comparison of methods and its report."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icobench.commands.cluster import arguments_are_good, on_cluster
from icobench.commands.options import (
    Device,
    Index,
    Model,
    Seed,
    Shard,
    Sine,
    SolidAngle,
    Wavelength,
    Workers,
    chosen_device,
    chosen_experiment,
    console,
    examples,
    progress_bar,
    say,
)
from icobench.errors import InputError

if TYPE_CHECKING:
    import torch

    from icobench.runs.campaign import Campaign
    from icobench.runs.comparison import Comparison
    from icobench.runs.comparison_workers import Inputs

app = typer.Typer()


@app.command(epilog=examples("icobench compare --preset quick --run runs/quick"))
@on_cluster("compare")
def compare(
    preset: Annotated[
        str, typer.Option(help="quick (16 images), laptop (200) or paper (30, noise-free).")
    ] = "quick",
    config: Annotated[
        Path | None, typer.Option(help="TOML file of your own instead of a preset; copy one of those.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder; continued if it exists.")] = None,
    images: Annotated[int | None, typer.Option(help="Number of test images.", min=1)] = None,
    photons: Annotated[float | None, typer.Option(help="Photons per image.")] = None,
    test_sets: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated: clean, counting, experiment, voxels, propagated, or files of images."
        ),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="Table (.csv, .parquet) with the truth of such a file, if known.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Sets of images of each kind, with consecutive seeds.", min=1)
    ] = None,
    methods: Annotated[str | None, typer.Option(help="Comma-separated names, or all.")] = None,
    method_file: Annotated[
        list[Path] | None,
        typer.Option(help="Python file that defines methods or test sets; may be repeated."),
    ] = None,
    model: Model = None,
    shard: Shard = "1/1",
    workers: Workers = 0,
    seed: Seed = 0,
    device: Device = "auto",
    refractive_index: Index = None,
    sin_theta_max: Sine = 1.0,
    solid_angle_factor: SolidAngle = False,
    wavelength: Wavelength = 13.5,
) -> None:
    """Reconstruct the same test images with every method; table, figures and report."""
    from dataclasses import replace

    from icobench.methods import available_methods, find_method
    from icobench.methods.plugin_file import add_file
    from icobench.network.selection import load_network
    from icobench.reporting.html import write_report
    from icobench.runs.campaign import Campaign, check_runs
    from icobench.runs.comparison import Comparison
    from icobench.runs.comparison_workers import Inputs, automatic_workers
    from icobench.runs.pool import one_thread
    from icobench.runs.settings import read_preset, read_settings
    from icobench.runs.shards import WHOLE, parse_shard
    from icobench.sets.test_sets import find_test_set

    chosen_shard = parse_shard(shard)
    settings = read_preset(preset) if config is None else read_settings(config)
    if images is not None:
        settings = replace(settings, images=images)
    if photons is not None:
        settings = replace(settings, photons=photons)
    if test_sets is not None:
        settings = replace(settings, test_sets=tuple(name.strip() for name in test_sets.split(",")))
    if truth is not None:
        settings = replace(settings, truth=str(truth))
    if seeds is not None:
        settings = replace(settings, seeds=seeds)
    if methods is not None:
        settings = replace(settings, methods=tuple(name.strip() for name in methods.split(",")))
    experiment = chosen_experiment(refractive_index, sin_theta_max, solid_angle_factor, wavelength)
    where = chosen_device(device)
    for path in method_file or ():
        add_file(path)
    names = available_methods() if settings.methods == ("all",) else settings.methods
    needed = any(find_method(name).needs_network for name in names)
    network = load_network(model, where) if needed else None
    own = "" if test_sets is None else "".join(f"-{find_test_set(name).name}" for name in settings.test_sets)
    folder = run or Path("runs") / f"{settings.preset}{own}"
    several = len(settings.test_sets) * settings.seeds > 1
    arguments_are_good(more=lambda: check_runs(folder, settings, experiment, seed, where, network))
    with one_thread():
        made = (Campaign if several else Comparison)(
            folder, settings, experiment, seed, where, network, workers or automatic_workers(where)
        )
        made.shard = chosen_shard
        if chosen_shard != WHOLE and not made.missing():
            say(f"shard {shard}: nothing is missing")
            return
        inputs = Inputs(experiment, model, config, tuple(method_file or ()))
        _compute(made, inputs, where)
    if chosen_shard != WHOLE:
        say(f"shard {shard}: finished; the command without --shard makes the report")
        return
    _show(folder)
    for name, reason in made.failures.items():
        say(f"{name} failed: {reason}")
    say(f"report: {write_report(folder)}")


def _compute(made: "Comparison | Campaign", inputs: "Inputs", device: "torch.device") -> None:
    """Compute what is missing, with a progress bar."""
    from icobench.runs.campaign import Campaign
    from icobench.runs.comparison_workers import compute_blocks

    total = max(1, len(made.missing()))
    part = ""
    finished = 0
    try:
        with progress_bar("preparing") as update:

            def announce(method: str, block: int, blocks: int, share: float) -> None:
                nonlocal finished
                finished += share >= 1.0
                text = f"{part}{method} block {block + 1}/{blocks}"
                update((finished + (share if share < 1 else 0)) / total, text)

            def begin(name: str) -> None:
                nonlocal part
                part = f"{name}: "

            def stored(text: str, blocks: int) -> None:
                nonlocal finished
                finished = blocks
                update(finished / total, text)

            if made.workers > 1 and total > 1:
                compute_blocks(made, inputs, device, stored)
            if isinstance(made, Campaign):
                made.run(announce, begin)
            else:
                made.run(announce)
    except KeyboardInterrupt:
        say(f"stopped; finished blocks are kept, continue with --run {shlex.quote(str(made.folder))}")
        raise typer.Exit(130) from None


@app.command(
    epilog=examples(
        "icobench report runs/quick; icobench report runs/quick --format latex; "
        "icobench report runs/here runs/there --out both.html"
    )
)
def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folder of icobench compare; several: side by side.")
    ],
    format: Annotated[
        str | None, typer.Option(help="Only the table, to standard output: md, latex or csv.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Page to write for several runs; that of one goes into its folder.")
    ] = Path("side-by-side.html"),
) -> None:
    """Table, figures and HTML report from stored results; several runs side by side."""
    from icobench.reporting.html import write_report
    from icobench.reporting.run_folder import read_runs
    from icobench.reporting.tables import FORMATS, summary_table

    if format is not None and format not in FORMATS:
        raise InputError(f"--format must be one of {', '.join(FORMATS)}, got {format!r}")
    if format is not None:
        for folder in runs:
            for name, one in read_runs(folder).items():
                if label := "/".join([str(folder)] * (len(runs) > 1) + [name] * bool(name)):
                    typer.echo(f"\n{label}\n")
                typer.echo(FORMATS[format](summary_table(one.results)), nl=False)
        return
    if len(runs) > 1:
        from icobench.reporting.side_by_side import write_side_by_side

        say(f"report: {write_side_by_side(runs, out)}")
        return
    path = write_report(runs[0])
    _show(runs[0])
    say(f"report: {path}")


def _show(folder: Path) -> None:
    """Print the summary of every run in a folder."""
    from icobench.reporting.run_folder import read_runs
    from icobench.reporting.tables import print_summary, summary_table

    for name, one in read_runs(folder).items():
        if name:
            console().print(f"\n{name}", style="bold")
        print_summary(summary_table(one.results), console())
