"""The comparison of methods and its report."""

import os
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from icobench.commands.cluster import Sharing, planning_device, run_on_slurm
from icobench.commands.options import (
    TEST_SET_NAMES,
    Machine,
    Model,
    Physics,
    Workers,
    console,
    examples,
    names,
    progress_bar,
    say,
    with_options,
)
from icobench.errors import InputError
from icobench.storage import WHOLE, Shard

if TYPE_CHECKING:
    from icobench.runs.comparison import Comparison

app = typer.Typer()


def _compute_shard(comparison: "Comparison", device: str, workers: int, shard: Shard) -> None:
    """A shard of a comparison in a job of a cluster."""
    from icobench.runs.comparison import automatic_workers, compute_comparison
    from icobench.runs.pool import chosen_device

    where = chosen_device(device)
    here = replace(comparison, device=str(where), workers=workers or automatic_workers(where))
    compute_comparison(here, shard)


@app.command(
    cls=with_options(Physics, Machine, Sharing),
    epilog=examples(
        "icobench compare --preset quick --run runs/quick; "
        "icobench compare --from runs/quick/run.json --run runs/again"
    ),
)
def compare(
    context: typer.Context,
    preset: Annotated[
        str, typer.Option(help="quick (16 images), laptop (six sets of 200) or paper (30, as the paper's).")
    ] = "quick",
    config: Annotated[
        Path | None, typer.Option(help="TOML file of your own instead of a preset; copy one of those.")
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            "--from", help="run.json of a comparison to compute again; other options replace its values."
        ),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder; continued if it exists.")] = None,
    images: Annotated[int | None, typer.Option(help="Number of test images.", min=1)] = None,
    photons: Annotated[float | None, typer.Option(help="Photons per image.")] = None,
    test_sets: Annotated[
        str | None,
        typer.Option(help=f"Comma-separated: {TEST_SET_NAMES}, or files of images."),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="Table (.csv, .parquet) with the truth of such a file, if known.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Sets of images of each kind, with consecutive seeds.", min=1)
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(help="Comma-separated names, or all; dictionary+lm-auto finds out which body it is."),
    ] = None,
    method_file: Annotated[
        list[Path] | None,
        typer.Option(help="Python file that defines methods or test sets; may be repeated."),
    ] = None,
    model: Model = None,
    workers: Workers = 0,
) -> None:
    """Reconstruct the same test images with every method; table, figures and report."""
    from icobench.reporting.report import write_report
    from icobench.runs.comparison import Comparison, automatic_workers, compute_comparison
    from icobench.runs.pieces import missing_pieces
    from icobench.runs.pool import chosen_device
    from icobench.runs.record import read_record
    from icobench.runs.settings import read_preset, read_settings

    machine, sharing = Machine.of(context), Sharing.of(context)
    recorded = None if record is None else read_record(record)
    if recorded is not None and {"preset", "config"} & context.meta["given"]:
        raise InputError("give --from, --preset or --config, not two of them")
    if recorded is not None and run is None:
        raise InputError("--from needs --run, a folder for the new results")
    given: dict[str, Any] = {
        "images": images, "photons": photons, "truth": None if truth is None else str(truth), "seeds": seeds,
        "test_sets": None if test_sets is None else names(test_sets),
        "methods": None if methods is None else names(methods),
    }  # fmt: skip
    changes = {name: value for name, value in given.items() if value is not None}
    where = chosen_device(planning_device(sharing, machine.device))
    files = tuple(path.resolve() for path in method_file or ())
    stated: tuple[str, ...] | None = tuple(Physics.of(context).stated(context))
    seed = machine.seed
    if recorded is None:
        settings = replace(read_preset(preset) if config is None else read_settings(config), **changes)
        catalogue, experiment = settings.catalogue(files), Physics.of(context).experiment(context)
    else:
        settings, catalogue = recorded.chosen(changes, files)
        experiment = Physics.of(context).experiment(context, base=recorded.experiment)
        stated = None if recorded.stated is None else (*recorded.stated, *(stated or ()))
        seed = machine.seed if "seed" in context.meta["given"] else recorded.seed
        model = recorded.weights(model)
    suffix = ""
    if test_sets is not None:
        suffix = "".join(f"-{catalogue.test_set(name).name}" for name in settings.test_sets)
    comparison = Comparison(
        run or Path("runs") / f"{settings.preset}{suffix}", settings, experiment, seed, str(where), model,
        catalogue, workers or automatic_workers(where), stated,
    )  # fmt: skip
    folder, shard = comparison.folder, sharing.part
    comparison.check()
    for line in recorded.check(comparison, context.meta["given"]) if recorded else ():
        say(line)
    if sharing.on_slurm:
        if run is None:
            raise InputError("--executor slurm needs --run, where the shards meet")
        call = partial(_compute_shard, comparison, machine.device, workers)
        run_on_slurm(context, folder, call, ["parts/*.parquet", "*/parts/*.parquet"], comparison)
    if shard != WHOLE and not missing_pieces(comparison, shard):
        say(f"shard {sharing.shard}: nothing is missing")
        return
    _say_if_busy()
    try:
        with progress_bar("preparing", remaining=False) as update:
            compute_comparison(comparison, shard, update)
    except KeyboardInterrupt:
        say(f"stopped; finished blocks are kept, continue with --run {shlex.quote(str(folder))}")
        raise typer.Exit(130) from None
    if shard != WHOLE:
        say(f"shard {sharing.shard}: finished; the command without --shard makes the report")
        return
    comparison.collect()
    _show(folder)
    for line in comparison.conversions:
        say(line)
    for name, reason in comparison.failures.items():
        say(f"{name} failed: {reason}")
    say(f"report: {write_report(folder)}")


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
    from icobench.reporting.report import write_report
    from icobench.reporting.run_folder import read_runs
    from icobench.reporting.tables import FORMATS, summary_table

    if format is not None and format not in FORMATS:
        raise InputError(f"--format must be one of {', '.join(FORMATS)}, got {format!r}")
    if format is not None:
        for folder in runs:
            for name, stored in read_runs(folder).items():
                if label := "/".join([str(folder)] * (len(runs) > 1) + [name] * bool(name)):
                    typer.echo(f"\n{label}\n")
                typer.echo(FORMATS[format](summary_table(stored.results)), nl=False)
        return
    if len(runs) > 1:
        from icobench.reporting.side_by_side import write_side_by_side
        from icobench.storage import check_output

        check_output(out)

        say(f"report: {write_side_by_side(runs, out)}")
        return
    path = write_report(runs[0])
    _show(runs[0])
    say(f"report: {path}")


BUSY = 0.5
"""Share of the cores that others keep busy from which on that is said."""


def _say_if_busy() -> None:
    """Say that others use the machine: this takes longer then, and the methods' seconds are too long."""
    import torch

    from icobench.runs.pool import default_workers

    try:
        load, cores = os.getloadavg()[0], default_workers(torch.device("cpu"))
    except OSError:
        return
    if load > BUSY * cores:
        say(
            f"in the last minute other programs kept {load:.1f} of {cores} cores busy; if they go on, this "
            "takes longer than usual, and the methods' seconds are too long"
        )


def _show(folder: Path) -> None:
    """Print the summary of every run in a folder, whether error bars and statuses hold, and named bodies."""
    from icobench.reporting.error_bars import print_error_bars
    from icobench.reporting.run_folder import read_runs
    from icobench.reporting.shapes import print_shapes
    from icobench.reporting.tables import print_summary, summary_table

    for name, stored in read_runs(folder).items():
        if name:
            console().print(f"\n{name}", style="bold")
        print_summary(summary_table(stored.results), console())
        if stored.truth_known:
            print_error_bars(stored.results, console())
            if stored.has_shapes:
                print_shapes(stored.results, console())
