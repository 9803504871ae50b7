"""Searches of hyperparameters."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from icobench.commands.cluster import Sharing, planning_device, run_on_slurm
from icobench.commands.options import (
    TEST_SET_NAMES,
    Machine,
    Workers,
    examples,
    progress_bar,
    say,
    with_options,
)
from icobench.errors import InputError
from icobench.storage import WHOLE, Shard

if TYPE_CHECKING:
    from icobench.runs.search import Search
    from icobench.runs.search_tasks import NetworkTask, SimplexTask

app = typer.Typer()
tune = typer.Typer(help="Search hyperparameters with Optuna.", no_args_is_help=True)
app.add_typer(tune, name="tune")

Run = Annotated[Path | None, typer.Option(help="Folder; the same command continues in it.")]
Storage = Annotated[
    str | None,
    typer.Option(help="Optuna storage URL, such as sqlite:///search.db, instead of a journal in --run."),
]
Study = Annotated[
    str | None, typer.Option(help="Name in the storage, where a database holds several; simplex or network.")
]
Space = Annotated[Path | None, typer.Option(help="Your own search space; copy one of icobench/runs/spaces.")]
Multi = Annotated[
    bool, typer.Option("--multi", help="Accuracy against cost: a Pareto front, nothing is pruned.")
]
Trials = Annotated[int, typer.Option(help="Trials in total, pruned ones included.", min=1)]


def plan_search(
    kind: str,
    task: "SimplexTask | NetworkTask",
    run: Path | None,
    trials: int,
    multi: bool,
    space: Path | None,
    storage: str | None,
    study: str | None,
    seed: int,
) -> "Search":
    """The search of a command line, after all checks; nothing is written.

    Raises:
        InputError: no name for a study, an impossible search space, or a folder or study of another search.
    """
    from icobench.runs.search import Search
    from icobench.runs.search_space import read_space

    if study is not None and not study.strip():
        raise InputError("--study must be a name")
    folder = run or Path(f"runs/tune-{kind}")
    search = Search(folder, storage, task, read_space(kind, space), trials, seed, multi, study)
    search.check()
    return search


def _compute_shard(search: "Search", device: str, workers: int, shard: Shard) -> None:
    """A shard of a search in a job of a cluster."""
    from icobench.runs.pool import chosen_device, default_workers
    from icobench.runs.search import run_search

    where = chosen_device(device)
    run_search(search, where, workers or default_workers(where), shard)


def _run(context: typer.Context, search: "Search", workers: int) -> None:
    """Do a search and print what it found."""
    from icobench.reporting.searches import write_search_figures
    from icobench.runs.pool import chosen_device, default_workers
    from icobench.runs.search import run_search
    from icobench.runs.search_results import finished, running, write_best
    from icobench.runs.search_storage import FINISHED

    machine, sharing = Machine.of(context), Sharing.of(context)
    where, part = chosen_device(planning_device(sharing, machine.device)), sharing.part
    if sharing.on_slurm:
        if context.params["run"] is None:
            raise InputError("--executor slurm needs --run, where the shards meet")
        call = partial(_compute_shard, search, machine.device, workers)
        run_on_slurm(context, search.folder, call, [f"{FINISHED}/*"])
    try:
        with progress_bar(f"tuning the {search.task.kind}") as update:
            study = run_search(search, where, workers or default_workers(where), part, update)
    except KeyboardInterrupt:
        say(f"stopped; finished trials are kept, continue with --run {search.folder}")
        raise typer.Exit(130) from None
    missing, elsewhere = search.trials - finished(study), running(study)
    at_work = f"; {elsewhere} of {search.trials} are at work elsewhere" if elsewhere else ""
    if part != WHOLE:
        say(f"shard {sharing.shard}: no trial is left to begin{at_work}")
        return
    if missing > 0:
        say(f"{missing} of {search.trials} trials are missing{at_work}; the same command looks again")
    summary = write_best(search, study)
    figures = write_search_figures(search.folder, study, summary["objectives"])
    for title, rows in (("best", summary["front"]), ("tried first", summary["named"])):
        for row in rows:
            values = ", ".join(f"{value:.4g}" for value in row["objectives"])
            typer.echo(f"{title}: trial {row['trial']} {row['named'] or ''} {values} {_short(row['values'])}")
    cost = summary["search"]
    if failed := summary["states"]["fail"]:
        say(f"{failed} trials failed or were lost with their workers; the storage says why")
    say(f"{cost['trials']} trials took {cost['seconds']:.0f} s and {cost['simulations']:,} simulations")
    say(f"preset: {search.folder / 'best.toml'}; figures: {', '.join(figures)}")


def _short(values: dict[str, Any]) -> str:
    return " ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items())


@tune.command(
    "simplex",
    cls=with_options(Machine, Sharing),
    epilog=examples("icobench tune simplex --trials 60 --run runs/tune-simplex"),
)
def tune_simplex_command(
    context: typer.Context,
    run: Run = None,
    trials: Trials = 60,
    images: Annotated[int, typer.Option(help="Test images per trial.", min=2)] = 32,
    test_set: Annotated[str, typer.Option(help=f"One of {TEST_SET_NAMES}.")] = "counting",
    budget: Annotated[
        int, typer.Option(help="Nelder-Mead iterations per image; the paper's 50 x 50 by default.", min=10)
    ] = 2500,
    multi: Multi = False,
    space: Space = None,
    storage: Storage = None,
    study: Study = None,
    workers: Workers = 1,
) -> None:
    """Search starts, races and first simplices of the Monte Carlo simplex at a fixed budget.

    Hopeless settings are stopped early: a Wilcoxon test over the images, against the best.
    A setting's value does not depend on --workers, each of one thread; which settings are tried does.
    """
    from icobench.runs.search_tasks import SimplexTask
    from icobench.sets.test_sets import find_test_set
    from icobench.simulator.experiment import Experiment

    seed = Machine.of(context).seed
    task = SimplexTask(images, find_test_set(test_set).name, budget, seed, Experiment())
    search = plan_search("simplex", task, run, trials, multi, space, storage, study, seed)
    _run(context, search, workers)


@tune.command(
    "network",
    cls=with_options(Machine, Sharing),
    epilog=examples("icobench tune network --preset compact --steps 500 --trials 30"),
)
def tune_network_command(
    context: typer.Context,
    run: Run = None,
    trials: Trials = 30,
    images: Annotated[int, typer.Option(help="Validation images.", min=2)] = 512,
    preset: Annotated[str, typer.Option(help="Training recipe that is varied.")] = "compact",
    steps: Annotated[
        int | None, typer.Option(help="Steps instead of the preset's; with its batch, the budget.", min=9)
    ] = None,
    multi: Multi = False,
    space: Space = None,
    storage: Storage = None,
    study: Study = None,
    workers: Workers = 1,
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
    seed = Machine.of(context).seed
    task = NetworkTask(images, recipe, seed, Experiment())
    search = plan_search("network", task, run, trials, multi, space, storage, study, seed)
    _run(context, search, workers)
