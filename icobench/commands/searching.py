"""Searches of hyperparameters."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icobench.commands.cluster import Sharing, planning_device, run_on_slurm
from icobench.commands.options import (
    TEST_SET_NAMES,
    Machine,
    OptionGroup,
    Workers,
    examples,
    progress_bar,
    say,
    with_options,
)
from icobench.errors import InputError
from icobench.storage import WHOLE

if TYPE_CHECKING:
    from icobench.runs.search_tasks import NetworkTask, SimplexTask

MOST_TRIALS = 1_000_000

app = typer.Typer()
tune = typer.Typer(help="Search hyperparameters with Optuna.", no_args_is_help=True)
app.add_typer(tune, name="tune")

Trials = Annotated[int, typer.Option(help="Trials in total, pruned ones included.", min=1)]


@dataclass(frozen=True)
class Searching(OptionGroup):
    """What all searches have in common."""

    run: Annotated[Path | None, typer.Option(help="Folder; the same command continues in it.")] = None
    multi: Annotated[
        bool, typer.Option("--multi", help="Accuracy against cost: a Pareto front, nothing is pruned.")
    ] = False
    space: Annotated[
        Path | None, typer.Option(help="Your own search space; copy one of icobench/runs/spaces.")
    ] = None
    storage: Annotated[
        str | None,
        typer.Option(help="Optuna storage URL, such as sqlite:///search.db, instead of a journal in --run."),
    ] = None
    study: Annotated[
        str | None,
        typer.Option(help="Name in the storage, where a database holds several; simplex or network."),
    ] = None
    workers: Workers = 1


def _tune(context: typer.Context, task: "SimplexTask | NetworkTask", trials: int) -> None:
    """Do a search and print its best trials."""
    if trials > MOST_TRIALS:
        raise InputError(f"--trials must be at most {MOST_TRIALS:,}, got {trials:,}")
    from icobench.reporting.searches import write_search_figures
    from icobench.runs.pool import chosen_device
    from icobench.runs.search import FINISHED, Search, count, run_search, write_best
    from icobench.runs.search_space import read_space
    from icobench.runs.search_storage import MARKS

    options, machine, sharing = Searching.of(context), Machine.of(context), Sharing.of(context)
    if options.study is not None and not options.study.strip():
        raise InputError("--study must be a name")
    folder, space = options.run or Path(f"runs/tune-{task.kind}"), read_space(task.kind, options.space)
    search = Search(folder, options.storage, task, space, trials, machine.seed, options.multi, options.study)
    search.check()
    device, shard = planning_device(sharing, machine.device), sharing.part
    chosen_device(device)  # refuses it before anything is submitted
    if sharing.on_slurm:
        if options.run is None:
            raise InputError("--executor slurm needs --run, where the shards meet")
        call = partial(run_search, search, machine.device, options.workers)
        run_on_slurm(context, folder, call, [f"{MARKS}/*"])
    try:
        with progress_bar(f"tuning the {task.kind}") as update:
            study = run_search(search, device, options.workers, shard, update)
    except KeyboardInterrupt:
        say(f"stopped; finished trials are kept, continue with --run {folder}")
        raise typer.Exit(130) from None
    missing, elsewhere = trials - count(study, *FINISHED), count(study, "RUNNING")
    at_work = f"; {elsewhere} of {trials} are at work elsewhere" if elsewhere else ""
    if shard != WHOLE:
        say(f"shard {sharing.shard}: no trial is left to begin{at_work}")
        return
    if missing > 0:
        say(f"{missing} of {trials} trials are missing{at_work}; the same command looks again")
    summary = write_best(search, study)
    figures = write_search_figures(folder, study, summary["objectives"])
    for title, rows in (("best", summary["front"]), ("tried first", summary["named"])):
        for row in rows:
            numbers = ", ".join(f"{number:.4g}" for number in row["objectives"])
            settings = " ".join(
                f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
                for name, value in row["values"].items()
            )
            typer.echo(f"{title}: trial {row['trial']} {row['named'] or ''} {numbers} {settings}")
    cost = summary["search"]
    if failed := summary["states"]["fail"]:
        say(f"{failed} trials failed or were lost with their workers; the storage says why")
    took = f"{cost['core_seconds']:.0f} core-seconds and {cost['simulations']:,} simulations"
    say(f"{cost['trials']} trials took {took}")
    say(f"preset: {folder / 'best.toml'}; figures: {', '.join(figures)}")


@tune.command(
    "simplex",
    cls=with_options(Searching, Machine, Sharing),
    epilog=examples("icobench tune simplex --trials 60 --run runs/tune-simplex"),
)
def tune_simplex_command(
    context: typer.Context,
    trials: Trials = 60,
    images: Annotated[int, typer.Option(help="Test images per trial.", min=2, max=100_000)] = 32,
    test_set: Annotated[str, typer.Option(help=f"One of {TEST_SET_NAMES}.")] = "counting",
    budget: Annotated[
        int,
        typer.Option(
            help="Nelder-Mead iterations per image; the paper's 50 x 50 by default.", min=10, max=10**7
        ),
    ] = 2500,
) -> None:
    """Search starts, races and first simplices of the Monte Carlo simplex at a fixed budget.

    Hopeless settings are stopped early: a Wilcoxon test over the images, against the best.
    A setting's value does not depend on --workers, each of one thread; which settings are tried does.
    """
    from icobench.runs.search_tasks import SimplexTask
    from icobench.sets.test_sets import find_icosahedra
    from icobench.simulator.experiment import Experiment

    name, seed = find_icosahedra(test_set).name, Machine.of(context).seed
    _tune(context, SimplexTask(images, name, budget, seed, Experiment()), trials)


@tune.command(
    "network",
    cls=with_options(Searching, Machine, Sharing),
    epilog=examples("icobench tune network --preset compact --steps 500 --trials 30"),
)
def tune_network_command(
    context: typer.Context,
    trials: Trials = 30,
    images: Annotated[int, typer.Option(help="Validation images.", min=2)] = 512,
    preset: Annotated[str, typer.Option(help="Training recipe that is varied.")] = "compact",
    steps: Annotated[
        int | None, typer.Option(help="Steps instead of the preset's; with its batch, the budget.", min=9)
    ] = None,
) -> None:
    """Search architecture and training settings at a fixed number of training images.

    Hopeless networks are stopped early: Hyperband on the validation disorientation.
    A setting's value does not depend on --workers, each of one thread; which settings are tried does.
    """
    from icobench.network.recipe import RECIPES
    from icobench.runs.search_tasks import NetworkTask
    from icobench.simulator.experiment import Experiment

    if preset not in RECIPES:
        raise InputError(f"unknown preset {preset!r}; choose from {', '.join(RECIPES)}")
    recipe = RECIPES[preset] if steps is None else replace(RECIPES[preset], steps=steps)
    _tune(context, NetworkTask(images, recipe, Machine.of(context).seed, Experiment()), trials)
