"""Commands on a cluster: the options they share, what became of them, and bringing shards together."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from icobench.commands.options import OptionGroup, console, examples, progress_bar, say
from icobench.errors import InputError
from icobench.storage import WHOLE, Shard, parse_shard

if TYPE_CHECKING:
    from icobench.runs.cluster import ClusterRun
    from icobench.runs.pieces import Work

app = typer.Typer()


def _option(text: str, **more: Any) -> Any:
    return typer.Option(help=text, rich_help_panel="Cluster (with --executor slurm)", **more)


@dataclass(frozen=True)
class Sharing(OptionGroup):
    """Work in shards: one of them here, or all of them on a cluster."""

    shard: Annotated[str, typer.Option(help="i/n: the i-th of n parts, counted from 1.")] = "1/1"
    executor: Annotated[str, _option("local, or slurm: shards in job arrays.")] = "local"
    shards: Annotated[int, _option("Number of shards.", min=1)] = 8
    partition: Annotated[str | None, _option("Of the cluster; its default if not given.")] = None
    time: Annotated[str, _option("Limit of a shard, hh:mm:ss or minutes; then it is requeued.")] = "1:00:00"
    cpus: Annotated[int, _option("Cores of a shard; sweep and tune use them with --workers 0.", min=1)] = 1
    gpus: Annotated[int, _option("GPUs of a shard.", min=0)] = 0
    memory: Annotated[str | None, _option("Memory of a shard, such as 8G.")] = None
    account: Annotated[str | None, _option("To be charged.")] = None
    qos: Annotated[str | None, _option("Quality of service.")] = None
    constraint: Annotated[str | None, _option("Features of the nodes.")] = None
    max_running: Annotated[int, _option("Shards at the same time; 0 for no bound.", min=0)] = 0
    retries: Annotated[int, _option("Times a failed shard is submitted again.", min=0)] = 2
    setup: Annotated[list[str] | None, _option("Shell line before the work; repeat for more.")] = None

    @property
    def part(self) -> Shard:
        """The shard that is computed here."""
        return parse_shard(self.shard)

    @property
    def on_slurm(self) -> bool:
        """Whether the work goes to a cluster.

        Raises:
            InputError: unknown executor, options of the cluster without one, or a shard for it.
        """
        if self.executor not in ("local", "slurm"):
            raise InputError(f"--executor must be local or slurm, got {self.executor!r}")
        defaults = Sharing()
        changed = [
            field.name for field in fields(self)
            if field.name not in ("shard", "executor")
            and (getattr(self, field.name) or None) != (getattr(defaults, field.name) or None)
        ]  # fmt: skip
        if self.executor == "local" and changed:
            raise InputError(f"--{changed[0].replace('_', '-')} needs --executor slurm")
        if self.executor == "slurm" and self.part != WHOLE:
            raise InputError("--executor slurm makes the shards itself; leave out --shard")
        return self.executor == "slurm"


SHARING = {field.name for field in fields(Sharing)}


def planning_device(sharing: Sharing, name: str) -> str:
    """The device for checks on this machine, which may lack the GPU that a cluster's nodes have."""
    import torch

    return "cpu" if sharing.on_slurm and name == "cuda" and not torch.cuda.is_available() else name


def _meaning(context: typer.Context) -> dict[str, Any]:
    """A command with its values as JSON has them; paths are absolute, however they were spelled."""
    from icobench.provenance import without_passwords

    def plain(value: Any) -> str:
        return str(Path(value).resolve())

    values = {
        name: without_passwords(value) if isinstance(value, str) else value
        for name, value in context.meta["values"].items()
        if name not in SHARING
    }
    return json.loads(json.dumps({"command": context.info_name, **values}, default=plain))


def _words() -> list[str]:
    """The command line without the options of the cluster, and without passwords."""
    from icobench.provenance import without_passwords

    options = {"--" + name.replace("_", "-") for name in SHARING}
    kept, skip = [], False
    for word in sys.argv[1:]:
        if skip:
            skip = False
        elif word.split("=", 1)[0] in options:
            skip = "=" not in word
        else:
            kept.append(without_passwords(word))
    return kept


def run_on_slurm(
    context: typer.Context,
    folder: Path,
    call: Callable[[Shard], object],
    kept: Sequence[Path | str],
    work: "Work | None" = None,
) -> None:
    """Let a cluster compute the shards of some work, and wait for them.

    Everything that the command refuses must have been refused before: here jobs are submitted.

    Args:
        context: of the command.
        folder: where the shards meet; the state of the jobs is kept there.
        call: computes a shard; a picklable function or ``functools.partial``.
        kept: patterns of paths in the folder or beside it: the files from which a later attempt goes on.
        work: whose pieces are computed, if it has pieces.

    Raises:
        InputError: no SLURM here, a folder of another command, or work that the shards refuse.
        typer.Exit: interrupted, or shards that failed.
    """
    from icobench.runs.cluster import ClusterRun
    from icobench.runs.pieces import missing_pieces
    from icobench.runs.shard_job import ShardCommand
    from icobench.runs.slurm import ClusterOptions, check_cluster, parse_minutes

    sharing = Sharing.of(context)
    values = {name: getattr(sharing, name) for name in SHARING - {"shard", "executor", "time", "setup"}}
    options = ClusterOptions(minutes=parse_minutes(sharing.time), setup=tuple(sharing.setup or ()), **values)
    check_cluster()
    if work is not None and len(work.pieces()) < options.shards:
        options = replace(options, shards=len(work.pieces()))
        say(f"{options.shards} shards, as there are no more pieces of work")
    words = _words()
    run = ClusterRun(folder, words, options, _meaning(context))
    total = len(run.shards)
    patterns = tuple((Path(folder).resolve(), str(pattern)) for pattern in kept)

    def command(shard: int) -> ShardCommand:
        return ShardCommand([*words, "--shard", f"{shard}/{total}"], call, (shard, total), patterns)

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

            def finished(shard: int) -> bool:
                return work is None or not missing_pieces(work, (shard, total))

            states = run.wait(command, progress, finished)
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
    epilog=examples("icobench merge train.h5 shard1.h5 shard2.h5; icobench merge runs/all runs/a runs/b")
)
def merge(
    out: Annotated[Path, typer.Argument(help="HDF5 file, or folder, to write.")],
    shards: Annotated[list[Path], typer.Argument(help="All shards of one set or sweep, in any order.")],
) -> None:
    """Join the shards of a set (icobench generate --shard) or of a sweep (icobench sweep --shard)."""
    if any(shard.is_dir() for shard in shards):
        from icobench.reporting.sweeps import write_sweep
        from icobench.runs.sweep import merge_sweeps

        count = merge_sweeps(out, shards)
        write_sweep(out)
        say(f"{count} points of {len(shards)} folders are in {out}")
        return
    from icobench.sets.generation import merge_shards

    say(f"wrote {merge_shards(out, shards)} images to {out}")
