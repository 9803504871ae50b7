"""Compare two commits; see :mod:`benchmarks.interleaved`."""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.interleaved.measure import MeasuringError, Side, git, labels, left_out
from benchmarks.interleaved.verdict import Case, Comparison, regressions, report

REPETITIONS = 2
"""How often a suspicion must repeat."""

PASSED, REGRESSED, IMPOSSIBLE, NOTHING = 0, 1, 2, 3
"""Exit codes: no regression; one; the comparison cannot be carried out or a benchmark broke; none was run."""


def commit_of(name: str) -> str:
    """Its hash.

    Raises:
        MeasuringError: there is no such commit.
    """
    try:
        return git("rev-parse", "--verify", f"{name}^{{commit}}")
    except MeasuringError as error:
        raise MeasuringError(f"{name!r} is no commit") from error


@contextmanager
def checkout(commit: str, folder: Path) -> Iterator[Path]:
    """A worktree of the commit."""
    git("worktree", "add", "--detach", "--force", str(folder), commit)
    try:
        yield folder
    finally:
        git("worktree", "remove", "--force", str(folder))


class Interleaved:
    """Base and head in turns.

    Args:
        base, head: the sides.
        regex: which benchmarks, all by default.
    """

    def __init__(self, base: Side, head: Side, regex: list[str]) -> None:
        self.base, self.head = base, head
        self.benchmarks = head.discover(regex)
        self.labels = labels(self.benchmarks)

    def rounds(self, chosen: list[Case], count: int, note: str) -> dict[Case, Comparison]:
        """Measure the cases round by round, base and head first in turns."""
        found = {case: Comparison(self.labels[case]) for case in chosen}
        for number in range(count):
            for place, case in enumerate(chosen):
                own = found[case]
                if None in own.base + own.head or any(map(left_out, own.base)):
                    continue
                sides = [(self.base, own.base), (self.head, own.head)]
                for side, values in sides if number % 2 == 0 else sides[::-1]:
                    values.append(side.measure(self.benchmarks[case[0]], case[1]))
                    if values[-1] is None and side.output:
                        print(f"{own.label}:\n{side.output}", file=sys.stderr)
                said = f"{own.ratio:.2f}" if own.comparable else "-"
                where = f"{note}, round {number + 1}/{count}, {place + 1}/{len(chosen)}"
                print(f"[{where}] {own.label}: {said}", file=sys.stderr, flush=True)
        return found

    def run(self, rounds: int, factor: float) -> dict[Case, Comparison]:
        """Everything, then suspects anew until they are cleared or have repeated often enough."""
        cases = self.rounds(list(self.labels), rounds, "all")
        suspects = [case for case, own in cases.items() if own.comparable and own.ratio > factor]
        for repetition in range(REPETITIONS):
            if not suspects:
                break
            again = self.rounds(suspects, 2 * rounds, f"suspects, {repetition + 1}/{REPETITIONS}")
            for case, own in again.items():
                if own.comparable:
                    cases[case].repeats.append(own.ratio)
                elif own.broken:
                    cases[case] = own
            suspects = [case for case in suspects if again[case].comparable and again[case].ratio > factor]
        return cases


def main() -> int:
    """Parse, check out, measure, judge."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.interleaved", description=__doc__)
    parser.add_argument("base", help="commit to compare with")
    parser.add_argument("--head", default="HEAD", help="commit to judge (default: HEAD)")
    parser.add_argument("-b", "--bench", action="append", default=[], metavar="REGEX",
                        help="only matching benchmarks, as for asv run; may be repeated")  # fmt: skip
    parser.add_argument("--factor", type=float, default=1.15, help="a regression is beyond (default: 1.15)")
    parser.add_argument("--rounds", type=int, default=2, help="of the first pass (default: 2)")
    given = parser.parse_args()
    begin = time.monotonic()
    try:
        if given.factor <= 1 or given.rounds < 1:
            raise MeasuringError("--factor must be above 1 and --rounds at least 1")
        if changed := git("status", "--porcelain"):
            first = changed.splitlines()[0].split(maxsplit=1)[-1]
            raise MeasuringError(f"the working tree has changes ({first}): commits are compared")
        commits = [commit_of(name) for name in (given.base, given.head)]
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="icobench-compare-")))
            trees = [
                stack.enter_context(checkout(commit, folder / name))
                for commit, name in zip(commits, ("base", "head"), strict=True)
            ]
            sides = []
            for tree in trees:
                sides.append(Side(tree, trees[1]))
                stack.callback(sides[-1].close)
            both = Interleaved(*sides, given.bench)
            cases = both.run(given.rounds, given.factor)
    except MeasuringError as error:
        print(f"error: {error}", file=sys.stderr)
        return IMPOSSIBLE
    if not any(own.comparable or own.broken for own in cases.values()):
        print(f"no benchmark ran at both commits ({len(cases)} matched)", file=sys.stderr)
        return NOTHING
    names = " and ".join(commit[:10] for commit in commits)
    print(f"{names}, {time.monotonic() - begin:.0f} s")
    print("\n".join(report(cases, given.factor)))
    if regressions(cases, given.factor):
        return REGRESSED
    return IMPOSSIBLE if any(own.broken for own in cases.values()) else PASSED


if __name__ == "__main__":
    sys.exit(main())
