"""The command line: which stages, at which scale, where."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from icobench.errors import InputError
from icobench.runs.pool import chosen_device
from paper_scale.data import data
from paper_scale.fits import dictionaries, hybrids, simplex
from paper_scale.ledger import ledger
from paper_scale.networks import compact_network, larger_network, paper_network
from paper_scale.report import report
from paper_scale.scales import SCALES
from paper_scale.simulators import simulators
from paper_scale.stage import Piece, Run, Stage, has_results, stored_pieces
from paper_scale.sweep import sweep

__all__ = ["STAGES", "main", "page_of", "run_stage"]

STAGES: dict[str, Callable[[Stage], list[Piece]]] = {
    "simulators": simulators,
    "data": data,
    "paper-network": paper_network,
    "compact-network": compact_network,
    "larger-network": larger_network,
    "simplex": simplex,
    "hybrids": hybrids,
    "dictionaries": dictionaries,
    "sweep": sweep,
    "ledger": ledger,
}
"""In the order in which they are best run; each can be run alone."""

DONE, FAILED, BAD_INPUT, MORE = 0, 1, 2, 3
HOME = Path(__file__).parents[1]


def run_stage(run: Run, name: str) -> int:
    """Make what is missing of one stage.

    Returns:
        0 where all is done, 1 where a piece failed, 3 where the clock stopped it.
    """
    stage = Stage(run, name)
    stage.execute(STAGES[name](stage))
    pieces = stored_pieces(run.out, name)
    failed = [title for title, piece in pieces.items() if piece["state"] == "failed"]
    spent = run.max_minutes - stage.minutes_left
    if failed:
        print(f"{name}: failed: {', '.join(failed)} ({spent:.1f} min)", flush=True)
        return FAILED
    if stage.left:
        print(f"{name}: run again for {', '.join(stage.left)} ({spent:.1f} min)", flush=True)
        return MORE
    print(f"{name}: done ({spent:.1f} min)", flush=True)
    return DONE


def page_of(scale: str, home: Path) -> Path:
    """The page of a scale: a small one has the page in front until there are results of the paper's."""
    if scale != "paper" and has_results(home / "paper_scale" / "paper"):
        return home / "paper_scale" / scale / "README.md"
    return home / "paper_scale.md"


def main(words: Sequence[str] | None = None, description: str | None = None) -> int:
    """Run stages; the exit code."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--stage", default="all", help=f"all, report, or some of {','.join(STAGES)}")
    parser.add_argument("--scale", choices=SCALES, default="paper")
    parser.add_argument("--out", type=Path, help="results; reports/paper_scale/SCALE by default")
    parser.add_argument("--work", type=Path, help="data and checkpoints; runs/paper_scale/SCALE by default")
    parser.add_argument(
        "--report",
        type=Path,
        help="page; in --out where that is given, else reports/paper_scale.md, or README.md beside a small\n"
        "scale's results once there are some of the paper's",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--max-minutes", type=float, default=7.5, help="of each stage in this call")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="forget what these stages have stored and trained; in the first of several calls only",
    )
    given = parser.parse_args(words)
    scale = SCALES[given.scale]
    out = given.out or HOME / "paper_scale" / scale.name
    page = given.report or (given.out / "report.md" if given.out else page_of(scale.name, HOME))
    try:
        names = list(STAGES) if given.stage == "all" else given.stage.split(",")
        if unknown := [name for name in names if name not in STAGES and name != "report"]:
            raise InputError(f"unknown stage {unknown[0]!r}; choose from {', '.join(STAGES)}, report, all")
        run = Run(
            scale, out, given.work or Path("runs/paper_scale") / scale.name, chosen_device(given.device),
            given.max_minutes, given.seed, given.fresh,
        )  # fmt: skip
        codes = [run_stage(run, name) for name in names if name != "report"]
        if has_results(out):  # else there is nothing to say, and an older page to lose
            report(out, scale, list(STAGES), page, not has_results(HOME / "paper_scale" / "paper"))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    return FAILED if FAILED in codes else MORE if MORE in codes else DONE
