"""The paper's claims one by one, its figures, and where every result here comes from: reports/README.md.

    python reports/claims.py [--run reports/laptop] [--figures reports] [--out reports/README.md]

Every number is read from results stored in reports/, words are in `README.md.j2`; what is not there yet is
called so. The paper is Stielow et al., Mach. Learn.: Sci. Technol. 1, 045007 (2020).
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from figure4b import ERRORS
from network_targets import targets_text
from origins import origins_table
from paper_scale.claims import CORNERS, PAPER
from stored import HERE, digests_of, evaluation_rows, retired_text, stored, text_table, value_at
from tuned_network import tuned_text
from warm_start import starts
from worse import what_got_worse

from icobench.network.checkpoint import training_core_seconds
from icobench.reporting.evaluation import typical
from icobench.reporting.findings import overview, verdict
from icobench.reporting.ledger import PUBLISHED_SECONDS, accounts_of, published_text
from icobench.reporting.page import environment
from icobench.reporting.run_folder import RunFolder, read_run, read_runs
from icobench.reporting.shapes import shape_table
from icobench.reporting.statistics import Interval, bootstrap, median
from icobench.reporting.tables import Table, interval_text, number, summary_markdown, summary_table
from icobench.storage import atomic_path

SAME = 1.05
"""Within this factor a claim is reproduced; beyond it, bettered or not reached."""


@dataclass(frozen=True)
class Row:
    """A claim of the paper beside what was measured here. Lower is better in all of them.

    Attributes:
        what: in words.
        paper: its number.
        ours: None where nothing was measured.
        unit: of both.
        note: how ours came about.
        unlike: why the two cannot be compared, where they cannot.
        limit: whether the paper's number is an upper limit ("well below").
        tested: the judgement, where a test made it.
    """

    what: str
    paper: float
    ours: Interval | float | None
    unit: str
    note: str
    unlike: str = ""
    limit: bool = False
    tested: str = ""

    @property
    def ratio(self) -> float | None:
        """The paper's number over ours."""
        value = self.ours.value if isinstance(self.ours, Interval) else self.ours
        return self.paper / value if value and not self.unlike else None

    @property
    def judgement(self) -> str:
        if self.ours is None:
            return "not measured yet"
        if self.unlike or self.ratio is None:
            return f"not comparable: {self.unlike}"
        if self.tested or self.limit:
            return self.tested or ("reproduced, below the limit" if self.ratio >= 1 else "not reached")
        if self.ratio >= SAME:
            return "bettered"
        return "reproduced" if self.ratio > 1 / SAME else "not reached"

    @property
    def cells(self) -> list[str]:
        ours = interval_text(self.ours) if isinstance(self.ours, Interval) else number(self.ours or np.nan)
        paper = f"{'< ' * self.limit}{number(self.paper)} {self.unit}".strip()
        ratio = "-" if self.ratio is None else number(self.ratio)
        note = self.note if self.ours is not None else ""
        return [self.what, paper, f"{ours} {self.unit}".strip(), ratio, self.judgement, note]


def scaled(values: Any, factor: float) -> Any:
    """A number or an interval times a factor; None stays None."""
    if values is None:
        return None
    return (
        Interval(*(factor * np.array(values)).tolist()) if isinstance(values, Interval) else factor * values
    )


def timed(rounds: Any) -> Any:
    """A stored time as an interval: the median of its rounds, the lowest and the highest."""
    if isinstance(rounds, list):
        return Interval(float(np.median(rounds)), min(rounds), max(rounds))
    return Interval(rounds["median"], rounds["low"], rounds["high"]) if isinstance(rounds, dict) else rounds


def simulated(name: str) -> Any:
    """Seconds of one pattern, see `benchmarks/peers/compare.py`; older results have the best round alone."""
    row = value_at(stored("peers.json"), "results", name) or {}
    return timed(row.get("rounds") or row.get("seconds"))


def simplex_costs(run: RunFolder | None) -> tuple[Interval | None, Interval | None]:
    """Simulations for an image and for an iteration of one simplex, over the images of a run."""
    if run is None or "simplex" not in set(run.results["method"]):
        return None, None
    spent = run.results[run.results["method"] == "simplex"]["evaluations"].to_numpy(dtype=float)
    course = run.curves[run.curves["method"] == "simplex"].sort_values("step").groupby("image")
    first, last, steps = (getattr(course[name], end)() for name, end in
                          (("evaluations", "first"), ("evaluations", "last"), ("step", "last")))  # fmt: skip
    each = (last - first) / (first / CORNERS * steps)
    return tuple(bootstrap(np.asarray(values), lambda drawn: drawn.mean(-1)) for values in (spent, each))


def simulators_and_data() -> Iterator[Row]:
    """What simulating costs."""
    made = stored("paper_set.json")
    yield Row(
        "one pattern by the multi-slice Fourier transform", PAPER["simulation_seconds"],
        simulated("icobench sliced"), "s",
        "192 slices of voxels as in the paper, on two cores; the paper: six older ones (`peers.md`)",
    )  # fmt: skip
    yield Row(
        "the same pattern, any way", PAPER["simulation_seconds"],
        simulated("icobench exact, compiled"), "s",
        "closed form of the same model, no voxels; batches of 64 (`peers.md`)",
    )  # fmt: skip
    yield Row(
        "making the data set", PAPER["data_seconds"], value_at(made, "results", "seconds"), "s",
        f"{value_at(made, 'results', 'images') or 0:,} images with the test set, on disk, by the closed form "
        "(`paper_set.json`)",
    )  # fmt: skip


def trainings() -> Iterator[Row]:
    """What training costs."""
    trained = stored("paper_network/summary.json")
    published = value_at(trained, "points", "full") or {}
    yield Row(
        "training the paper's network", PAPER["training_seconds"], published.get("training_seconds"), "s",
        f"{published.get('images_seen', 0):,} images seen; making the set took "
        f"{number(trained.get('set_seconds', 0))} s before (`paper_network/`)",
        "an H200 against a GTX 1060",
    )  # fmt: skip
    evaluated = stored("evaluation_paper/network/evaluation.json")
    answering = str(value_at(evaluated, "sets", "paper", "networks"))
    cards = [card for card in evaluated.get("networks", []) if card["digest"] in answering]
    yield Row(
        "training `compact`", PAPER["training_seconds"], sum(map(training_core_seconds, cards)) or None, "s",
        f"core-seconds of the {len(cards)} networks that answer such images: "
        f"{sum(card['training_simulations'] for card in cards):,} simulated images",
        "another network, on a processor",
    )  # fmt: skip


def accuracy() -> Iterator[Row]:
    """Figure 4a, on the paper's images."""
    for what, folder, note in (
        ("mean error, the paper's network", "paper_network/full", "trained at full scale on one H200"),
        ("the same in the weights shipped here", "evaluation_paper/paper-network", "rounded"),
        (
            "mean error, `compact`, on the same images",
            "evaluation_paper/network",
            "another network, same task",
        ),
    ):
        errors = evaluation_rows(folder, "paper").get("appendix_c_mean", np.array([]))
        ours = bootstrap(np.asarray(errors, dtype=float), median) if len(errors) else None
        words = f"{note}; median of {len(errors):,} images (`{folder}/`)"
        yield Row(what, 100 * PAPER["mean_error"], scaled(ours, 100), "%", words, limit=True)


def speeds() -> Iterator[Row]:
    """One image with a network."""
    for name, folder, unlike in (
        ("the paper's network", "evaluation_paper/paper-network", "two processor cores against a GPU"),
        ("`compact`", "evaluation_paper/network", "another network, on two processor cores"),
        ("the paper's network on an H200", "paper_network/full", "an H200 against a GTX 1060"),
    ):
        rounds = value_at(stored(f"{folder}/evaluation.json"), "speed", "log_one_image_ms")
        note = (
            "a log image, median of the rounds, lowest and highest"
            if isinstance(rounds, dict)
            else "best round"
        )
        yield Row(
            f"one image with {name}", 1000 * PAPER["network_seconds"], timed(rounds), "ms",
            f"{note} (`{folder}/`)", unlike,
        )  # fmt: skip


def crossings(spent: Interval | None, shown: dict[str, Any]) -> Iterator[Row]:
    """From how many images on a network needs fewer simulations than the simplex, training time included."""
    prices = shown.get("seconds_of_a_simulation", {})
    for method, name in (("paper-network", "the paper's network"), ("network", "`compact`")):
        row = value_at(shown, "methods", method) or {}
        for panel, words in (
            ("paper", f"at the paper's {PUBLISHED_SECONDS:g} s a simulation"),
            ("here", "at the time of one here"),
        ):
            before, ours = value_at(row, "before", panel), None
            if before is not None and spent:
                ours = Interval(before / spent.value, before / spent.high, before / spent.low)
            images = row.get("simulated_before", 0)
            cores, gpu = (number(row.get(f"{kind}_seconds_before", 0)) for kind in ("core", "gpu"))
            note = (
                f"{images:,.0f} images; {cores} core-s and {gpu} s of a GPU in training count as "
                f"{(before or 0) - images:,.0f} more"
            )
            price = "; ".join(
                f"{1000 * price:.3g} ms on a {kind.upper()}" for kind, price in prices.get(panel, {}).items()
            )
            unlike = "" if panel == "paper" else f"a simulation takes {price}, not {PUBLISHED_SECONDS:g} s"
            yield Row(
                f"images to break-even with the simplex, {name}, {words}",
                PAPER["break_even"],
                ours,
                "",
                note,
                unlike,
            )


def levels(shown: dict[str, Any]) -> Iterator[Row]:
    """ "Both methods eventually achieve the same level of accuracy"."""
    for row in shown.get("ratios", []):
        ratio, mean = (Interval(**row[name]) for name in ("median", "mean"))
        worse = "not reached" if ratio.low > 1 else "bettered" if ratio.high < 1 else "undecided"
        yield Row(
            f"same accuracy as the simplex: {row['first']}, {ERRORS[row['error']]}, {row['test_set']} images",
            1.0, ratio, "",
            f"median of {row['images']} paired ratios; geometric mean {interval_text(mean)}, 90 %; same "
            f"within 10 %: p = {row['p_same']:.2g}",
            tested="reproduced, equivalent" if row["same"] else worse,
        )  # fmt: skip


def claims(runs: dict[str, RunFolder], shown: dict[str, Any]) -> list[Row]:
    """Everything the paper puts a number to and that can be measured here; ``shown`` is figure4b.json."""
    spent, iteration = simplex_costs(runs.get("paper"))
    return [
        *simulators_and_data(), *trainings(), *accuracy(), *speeds(),
        Row(
            "simulations for an image, 50 x 50 simplex", PAPER["simplex_simulations"], spent, "",
            "counted in the simulator, the paper's is an estimate; on its images",
        ),
        Row(
            "simulations for an iteration of one simplex", PAPER["evaluations_per_iteration"], iteration, "",
            "why the line above is lower: the reflection alone suffices mostly",
        ),
        *crossings(spent, shown), *levels(shown),
    ]  # fmt: skip


def table_text(table: Table) -> str:
    """A table of a report in Markdown."""
    headers, rows = table
    return text_table([f"{name} ({unit})" if unit else name for name, unit in headers], rows)


def ladder(runs: dict[str, RunFolder]) -> str:
    """Every method on every test set."""
    return table_text(overview(runs))


def tuned() -> str:
    """The methods of the run with the simplex that the search found."""
    folder = HERE / "compare_tuned"
    return (
        summary_markdown(summary_table(next(iter(read_runs(folder).values())).results))
        if folder.is_dir()
        else ""
    )


def page(folder: Path, figures: Path) -> str:
    """The text as a whole; ``figures`` is where figure4a.json and figure4b.json are."""
    runs = read_runs(folder) if folder.is_dir() else {}
    made = {path.stem: stored(str(path.resolve())) for path in figures.glob("*.json")}
    main_run = runs.get("paper") or next(iter(runs.values()), None)
    templates = environment().overlay(loader=jinja2.FileSystemLoader(HERE))
    titles = "claim", "the paper", "here (95 %)", "paper / here", "judgement", "how"
    rows = [row.cells for row in claims(runs, made.get("figure4b", {}))]
    answered = [digest for run in runs.values() for digest in digests_of(run.run)]
    return templates.get_template("README.md.j2").render(
        folder=folder, runs=runs, made=made, verdict=verdict(runs) if runs else [],
        ladder=ladder(runs) if runs else "", run_retired=retired_text(answered),
        published=published_text(accounts_of(main_run.results, main_run.run)) if main_run else "",
        silver=ladder(read_runs(HERE / "silver")) if (HERE / "silver").is_dir() else "",
        mcp=ladder(read_runs(HERE / "mcp")) if (HERE / "mcp").is_dir() else "",
        bodies=table_text(shape_table(read_run(HERE / "compare_bodies").results))
        if (HERE / "compare_bodies").is_dir() else "",
        starts=starts(runs), claims=text_table(titles, rows),
        targets=targets_text(stored("evaluation/evaluation.json"), stored("photon_numbers.json")),
        search=stored("tune_simplex/summary.json"),
        tuned=tuned(), tuned_network=tuned_text(HERE / "tune_network"), origins=origins_table(),
        worse=what_got_worse(runs, made),
        retired={name: retired_text(digests_of(described)) for name, described in made.items()},
        fitters_retired=retired_text(digest for name in ("clean", "counting")
                                     for digest in digests_of(stored(f"fitters/{name}/run.json"))),
        typical=typical,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("reports/laptop"))
    parser.add_argument("--figures", type=Path, default=HERE)
    parser.add_argument("--out", type=Path, default=HERE / "README.md")
    arguments = parser.parse_args()
    text = page(arguments.run, arguments.figures)
    with atomic_path(arguments.out.resolve()) as temporary:
        temporary.write_text(text)


if __name__ == "__main__":
    main()
