"""Commands on a cluster: the options they share, what became of them, and bringing shards together."""

import functools
import inspect
import json
import sys
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from icobench.commands.options import console, examples, progress_bar, say
from icobench.errors import InputError

if TYPE_CHECKING:
    from icobench.runs.cluster import ClusterRun

app = typer.Typer()

PANEL = "Cluster (with --executor slurm)"


def _option(kind: Any, help: str, **more: Any) -> Any:
    return Annotated[kind, typer.Option(help=help, rich_help_panel=PANEL, **more)]


OPTIONS: dict[str, tuple[Any, Any]] = {
    "executor": (_option(str, "local, or slurm: shards in job arrays."), "local"),
    "shards": (_option(int, "Number of shards.", min=1), 8),
    "partition": (_option(str | None, "Of the cluster; its default if not given."), None),
    "time": (
        _option(str, "Limit of a shard, hh:mm:ss or minutes; one that meets it is requeued and goes on."),
        "1:00:00",
    ),
    "cpus": (_option(int, "Cores of a shard; sweep and tune use several with --workers 0.", min=1), 1),
    "gpus": (_option(int, "GPUs of a shard.", min=0), 0),
    "memory": (_option(str | None, "Memory of a shard, such as 8G."), None),
    "account": (_option(str | None, "To be charged."), None),
    "qos": (_option(str | None, "Quality of service."), None),
    "constraint": (_option(str | None, "Features of the nodes."), None),
    "max_running": (_option(int, "Shards at the same time; 0 for no bound.", min=0), 0),
    "retries": (_option(int, "Times a failed shard is submitted again.", min=0), 2),
    "setup": (_option(list[str] | None, "Shell line before the work; repeat for more."), None),
}
"""Type and default of the options that every command with shards has."""

KEPT = {
    "sweep": ("points/*.json", "training/*/checkpoint.pt"),
    "compare": ("**/parts/*.parquet",),
    "generate": ("{shard}.parts/*.h5",),
    "tune": ("finished/*",),
}
"""Where in a run folder the finished pieces of a command's work are; of a search, marks that trials ended."""

Words = list[str]
Values = dict[str, Any]
Command = Callable[..., None]


class _Good(Exception):  # noqa: N818 (no error)
    """Raised where a command would begin that is only checked."""

    def __init__(self, pieces: int | None) -> None:
        self.pieces = pieces


_CHECKING: ContextVar[bool] = ContextVar("checking", default=False)


def arguments_are_good(pieces: int | None = None, more: Callable[[], None] = lambda: None) -> None:
    """Called by every command with shards, between the checks of its arguments and the first thing it writes.

    With ``--executor slurm`` the command is first called here, up to this line: what it refuses is refused
    before anything is submitted.

    Args:
        pieces: into how many the work can be divided, if that is known.
        more: checks that the command makes by itself while it begins.
    """
    if _CHECKING.get():
        more()
        raise _Good(pieces)


def _here(values: Values) -> Values:
    """A command's values on this machine: the nodes may have a GPU although it has none."""
    import torch

    absent = values["device"] == "cuda" and not torch.cuda.is_available()
    return {**values, "device": "cpu"} if absent else values


def _check(function: Command, values: Values) -> int | None:
    """Let a command check its arguments; the number of pieces of its work, if known.

    Raises:
        InputError: what the command would say without a cluster.
    """
    from icobench.methods.registry import METHODS
    from icobench.sets.test_sets import TEST_SETS

    # What a user's file adds is added again by the command itself.
    tables: tuple[dict[str, Any], ...] = (METHODS, TEST_SETS)
    known = [dict(table) for table in tables]
    token = _CHECKING.set(True)
    try:
        function(**_here(values))
    except _Good as good:
        return good.pieces
    finally:
        _CHECKING.reset(token)
        for table, before in zip(tables, known, strict=True):
            table.clear()
            table.update(before)
    raise AssertionError("a command with shards must call arguments_are_good")


def _own_words(words: Words) -> Words:
    """The command line without the options of the cluster."""
    names = {"--" + name.replace("_", "-") for name in OPTIONS}
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word.split("=", 1)[0] in names:
            skip = "=" not in word
        else:
            kept.append(word)
    return kept


def shard_name(shard: int) -> str:
    """Of the file that a shard of a set writes."""
    return f"shard-{shard:05d}.h5"


def _sharded_file(words: Words, values: Values) -> tuple[Path, Callable[[int, int], tuple[Words, Values]]]:
    """generate: every shard writes a file of its own, in a folder beside the set's.

    Returns the folder, and from a shard's number and their total its words and values.
    """
    out: Path = values["out"]
    folder = out.with_name(out.name + ".shards")
    place = next(i for i, word in enumerate(words) if i and Path(word) == out)

    def command(shard: int, total: int) -> tuple[Words, Values]:
        file, own = folder / shard_name(shard), f"{shard}/{total}"
        own_words = [*words[:place], str(file), *words[place + 1 :], "--shard", own]
        return own_words, {**values, "out": file, "shard": own}

    return folder, command


def _shared_folder(words: Words, values: Values) -> tuple[Path, Callable[[int, int], tuple[Words, Values]]]:
    """sweep, compare and tune: all shards write parts of one run folder."""
    if values["run"] is None:
        raise InputError("--executor slurm needs --run, where the shards meet")

    def command(shard: int, total: int) -> tuple[Words, Values]:
        own = f"{shard}/{total}"
        return [*words, "--shard", own], {**values, "shard": own}

    return values["run"], command


def _kept(kind: str, folder: Path, shard: int) -> tuple[tuple[Path, str], ...]:
    return tuple((folder, pattern.format(shard=shard_name(shard))) for pattern in KEPT.get(kind, ()))


def _carry_out(command: Command, values: Values) -> None:
    """In a job: a command as if it had been given without a cluster."""
    local = {name: default for name, (_, default) in OPTIONS.items()}
    try:
        command(**values, **local)
    except typer.Exit as end:
        if end.exit_code:
            raise RuntimeError(f"icobench ended with code {end.exit_code}") from end


def on_cluster(kind: str) -> Callable[[Command], Command]:
    """Give a command the options of the cluster; with ``--executor slurm`` its shards run there.

    Args:
        kind: "generate" for a file of shards, anything else for a run folder.
    """

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def command(**values: Any) -> None:
            asked = {name: values.pop(name) for name in OPTIONS}
            if asked["executor"] == "local":
                changed = [name for name, (_, default) in OPTIONS.items() if asked[name] != default]
                if changed:
                    raise InputError(f"--{changed[0].replace('_', '-')} needs --executor slurm")
                function(**values)
                return
            if asked["executor"] != "slurm":
                raise InputError(f"--executor must be local or slurm, got {asked['executor']!r}")
            if values["shard"] != "1/1":
                raise InputError("--executor slurm makes the shards itself; leave out --shard")
            _on_slurm(kind, function, command, values, asked)

        own = inspect.signature(function)
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=type)
            for name, (type, default) in OPTIONS.items()
        ]
        command.__signature__ = own.replace(parameters=[*own.parameters.values(), *added])  # type: ignore[attr-defined]
        command.__annotations__ = {
            **function.__annotations__,
            **{name: type for name, (type, _) in OPTIONS.items()},
        }
        return command

    return decorate


def _meaning(function: Command, values: Values) -> Values:
    """A command with its values as JSON has them; paths are absolute, however they were spelled."""
    from icobench.provenance import without_passwords

    def plain(value: Any) -> str:
        return str(Path(value).resolve())

    shown = {name: without_passwords(one) if isinstance(one, str) else one for name, one in values.items()}
    return json.loads(json.dumps({"command": function.__name__, **shown}, default=plain))


def _on_slurm(kind: str, function: Command, command: Command, values: Values, asked: Values) -> None:
    """Carry out ``function`` on a cluster; ``command`` is it as its module has it, for the jobs to find."""
    from icobench.provenance import without_passwords
    from icobench.runs.cluster import ClusterRun
    from icobench.runs.shard_job import ShardCommand
    from icobench.runs.slurm import ClusterOptions, check_cluster, parse_minutes

    words = [without_passwords(word) for word in _own_words(sys.argv[1:])]
    if kind == "generate" and values["out"].exists():
        function(**values)  # which says whether it is this set
        return
    folder, part = (_sharded_file if kind == "generate" else _shared_folder)(words, values)
    del asked["executor"]
    minutes, setup = parse_minutes(asked.pop("time")), tuple(asked.pop("setup") or ())
    options = ClusterOptions(minutes=minutes, setup=setup, **asked)
    check_cluster()
    pieces = _check(function, values)
    if pieces is not None and pieces < options.shards:
        say(f"{pieces} shards, as there are no more pieces of work")
        options = replace(options, shards=pieces)
    run = ClusterRun(folder, words, options, _meaning(function, values))
    total = len(run.shards)

    def shard_command(shard: int) -> ShardCommand:
        own_words, own_values = part(shard, total)
        output = (folder / shard_name(shard)).resolve() if kind == "generate" else None
        call = functools.partial(_carry_out, command, own_values)
        return ShardCommand(own_words, call, output, _kept(kind, folder.resolve(), shard))

    try:
        with progress_bar(f"{total} shards on SLURM") as update:
            trouble = ""

            def progress(states: dict[int, str]) -> None:
                nonlocal trouble
                if run.trouble and run.trouble != trouble:
                    say(f"{run.trouble}; waiting for it, nothing is submitted again meanwhile")
                trouble = run.trouble
                counted = Counter(states.values())
                text = ", ".join(f"{count} {state.lower()}" for state, count in sorted(counted.items()))
                update(counted["DONE"] / total, text)

            states = run.wait(shard_command, progress)
    except KeyboardInterrupt:
        _stopped(run, folder)
        raise typer.Exit(130) from None
    refused = [run.refused(shard) for shard, state in states.items() if state == "REFUSED"]
    if refused:
        raise InputError(str(refused[0]))
    failed = {shard: state for shard, state in states.items() if state != "DONE"}
    if failed:
        for shard, state in failed.items():
            say(f"shard {shard}/{total} {state.lower()}: {run.last_line(shard)} ({run.log(shard)})")
        say(f"{len(failed)} of {total} shards failed; the same command tries them again")
        raise typer.Exit(1)
    if kind == "generate":
        from icobench.sets.generation import merge_shards

        files = [folder / shard_name(shard) for shard in run.shards]
        say(f"wrote {merge_shards(values['out'], files)} images to {values['out']}")
        for file in files:
            file.unlink()
        return
    function(**_here(values))


def _stopped(run: "ClusterRun", folder: Path) -> None:
    """After Ctrl-C: leave the jobs or take them back."""
    leave = True
    if sys.stdin.isatty():
        try:
            leave = typer.confirm("\nleave the jobs running?", default=True, err=True)
        except typer.Abort:
            leave = True
    if leave:
        say(f"the jobs go on; icobench status {folder} looks at them, the same command waits again")
    else:
        run.cancel()
        say("the jobs are cancelled; finished shards are kept, the same command goes on")


@app.command(epilog=examples("icobench status runs/sweep"))
def status(
    run: Annotated[Path, typer.Argument(help="Folder of a sweep, search or comparison, or file of a set.")],
) -> None:
    """What of a run is done, running, waiting or failed, with the last line of its log."""
    from rich.table import Table

    from icobench.runs.status import describe

    lines, shards = describe(run)
    for line in lines:
        typer.echo(line)
    if shards:
        table = Table("shard", "state", "job", "attempt", "seconds", "last line of the log", box=None)
        for row in shards:
            table.add_row(*row)
        console().print(table)


@app.command(
    epilog=examples("icobench merge train.h5 shard1.h5 shard2.h5; icobench merge runs/whole runs/a runs/b")
)
def merge(
    out: Annotated[Path, typer.Argument(help="HDF5 file, or folder, to write.")],
    shards: Annotated[list[Path], typer.Argument(help="All shards of one set or sweep, in any order.")],
) -> None:
    """Join the shards of a set (icobench generate --shard) or of a sweep (icobench sweep --shard)."""
    if any(shard.is_dir() for shard in shards):
        from icobench.reporting.studies import write_sweep
        from icobench.runs.merge import merge_sweeps

        count = merge_sweeps(out, shards)
        write_sweep(out)
        say(f"{count} points of {len(shards)} folders are in {out}")
        return
    from icobench.sets.generation import merge_shards

    say(f"wrote {merge_shards(out, shards)} images to {out}")
