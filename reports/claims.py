"""The paper's claims one by one, its figures, and where every result here comes from: reports/README.md.

    python reports/claims.py [--run reports/laptop] [--out reports/README.md]

Every number is read from the results stored in reports/; what is not there yet is called so. The paper is
Stielow et al., Mach. Learn.: Sci. Technol. 1, 045007 (2020).
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from network_targets import targets_text
from paper_scale.claims import PAPER
from tuned_network import tuned_text
from warm_start import starts_text

from icobench.provenance import short_commit
from icobench.reporting.evaluation import typical
from icobench.reporting.findings import overview, verdict
from icobench.reporting.ledger import accounts_of, published_text
from icobench.reporting.run_folder import RunFolder, read_runs
from icobench.reporting.tables import number, summary_markdown, summary_table
from icobench.storage import atomic_path

HERE = Path(__file__).resolve().parent
SAME = 1.05
"""Within this factor a claim is reproduced; beyond it, bettered or not reached."""

LOADED = (
    "laptop", "warm_start", "compare_quick", "compare_tuned", "fitters", "evaluation",
    "evaluation_paper_small", "sweep_dataset", "tune_simplex", "tune_network",
    "tune_network/found_against_shipped", "paper_scale/small", "paper_set", "scaling", "peers", "figure2",
    "figure3", "figure5", "photon_numbers", "choices",
)  # fmt: skip
DESCRIBED = ("campaign.json", "run.json", "evaluation.json", "sweep.json", "summary.json", "fitters.json")


@dataclass(frozen=True)
class Row:
    """A claim: the paper's number, ours (None if not measured), its unit, and how ours came about."""

    what: str
    paper: float
    ours: float | None
    unit: str
    note: str

    @property
    def judgement(self) -> str:
        if self.ours is None:
            return "not measured yet"
        ratio = self.paper / self.ours
        if ratio >= SAME:
            return f"bettered, {number(ratio)} times"
        return "reproduced" if ratio > 1 / SAME else "not reached"


def stored(path: str) -> dict[str, Any]:
    """A JSON file of reports/, empty if there is none."""
    file = HERE / path
    return json.loads(file.read_text()) if file.is_file() else {}


def value_at(values: Any, *path: str) -> Any:
    """A value inside of nested dictionaries, None if it is not there."""
    for key in path:
        if not isinstance(values, dict) or key not in values:
            return None
        values = values[key]
    return values


def scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value


def iteration_cost(run: RunFolder) -> float:
    """Mean simulations for an iteration of one simplex, from the stored courses.

    A simplex in four dimensions begins with five points.
    """
    course = run.curves[run.curves["method"] == "simplex"].groupby("step")["evaluations"].mean()
    first, last, starts = course.iloc[0], course.iloc[-1], course.iloc[0] / 5
    return float((last - first) / (starts * (len(course) - 1)))


def claims(runs: dict[str, RunFolder]) -> list[Row]:
    """Everything the paper puts a number to and that can be measured here."""
    peers, made = stored("peers.json"), stored("paper_set.json")
    evaluated = stored("evaluation/evaluation.json")
    networks = {card["recipe"]["images"]: card for card in evaluated.get("networks", [])}
    clean = networks.get("clean", {})
    spent = iteration = crossing = None
    learned = clean.get("training_simulations", 0)
    if "clean" in runs:
        accounts = {costs.method: costs for costs in accounts_of(runs["clean"].results, runs["clean"].run)}
        if "simplex" in accounts:
            spent = float(accounts["simplex"].evaluations.mean())
            iteration = iteration_cost(runs["clean"])
            crossing = learned / spent if learned else None
    sets = evaluated.get("sets", {})
    good = [
        int(size)
        for size, errors in stored("figure4b.json").get("training_sets", {}).items()
        if errors["appendix_c_mean_median"] <= PAPER["mean_error"]
    ]
    frugal = min(good) / spent if good and spent else None

    def error(name: str) -> float | None:
        return scaled(value_at(sets, name, "appendix_c_mean", "median"), 100)

    return [
        Row(
            "one pattern by the multi-slice Fourier transform", PAPER["simulation_seconds"],
            value_at(peers, "results", "icobench sliced", "seconds"), "s",
            "192 slices of voxels, as the paper; its time is that of six cores (`peers.md`)",
        ),
        Row(
            "the same pattern, any way", PAPER["simulation_seconds"],
            value_at(peers, "results", "icobench exact, compiled", "seconds"), "s",
            "closed form, no voxels; batches of 64 (`peers.md`)",
        ),
        Row(
            "making the data set", PAPER["data_seconds"], value_at(made, "results", "seconds"), "s",
            f"{value_at(made, 'results', 'images') or 0:,} images with the test set, on disk "
            "(`paper_set.json`)",
        ),
        Row(
            "training a network", PAPER["training_seconds"], clean.get("training_seconds"), "s",
            f"another network: `compact`, CPU threads: {clean.get('threads')}, streamed images; the "
            "paper's takes a GPU, on which its training is still owed (`paper_scale.md`)",
        ),
        Row(
            "mean error over 5,000 patterns (figure 4a), clean", 100 * PAPER["mean_error"],
            error("clean"), "%",
            "the paper: well below; median of the mean of the five components (`evaluation/`)",
        ),
        Row(
            "the same under a realistic chain of flaws", 100 * PAPER["mean_error"], error("realistic"), "%",
            "the shipped network for log images (`evaluation/`)",
        ),
        Row(
            "reconstructing one image with the network", 1000 * PAPER["network_seconds"],
            typical(value_at(evaluated, "speed", "one_image_ms")), "ms",
            "two CPU cores; the paper's time is a GPU's (`evaluation/`)",
        ),
        Row(
            "simulations for an image, 50 x 50 simplex", PAPER["simplex_simulations"], spent, "",
            "counted in the simulator, not estimated (`laptop/clean`)",
        ),
        Row(
            "simulations for an iteration of the simplex", PAPER["evaluations_per_iteration"],
            iteration, "",
            "why the line above is lower: the reflection alone suffices mostly (`laptop/clean`)",
        ),
        Row(
            "images from which the network needs fewer simulations than the simplex", PAPER["break_even"],
            crossing, "",
            f"the network learned from {learned:,} images, not 31,000, for its accuracy; the next "
            "line has fewer",
        ),
        Row(
            "the same for the smallest training set of figure 4b with a median error of at most 1 %",
            PAPER["break_even"], frugal, "",
            f"{min(good) if good else 0:,} images, turned and mirrored, seen again and again "
            "(`sweep_dataset`)",
        ),
    ]  # fmt: skip


def claims_table(rows: list[Row]) -> str:
    lines = ["| claim | the paper | here | judgement | how, and why |", "|---|---|---|---|---|"]
    for row in rows:
        here = "-" if row.ours is None else f"{number(row.ours)} {row.unit}".strip()
        paper = f"{number(row.paper)} {row.unit}".strip()
        lines.append(f"| {row.what} | {paper} | {here} | {row.judgement} | {row.note} |")
    return "\n".join(lines)


def figure_2() -> str:
    return (
        "The paper shows one pattern under its eleven augmentations. The same here, with ranges as in "
        "`icobench/images/augment.py`: reproduced.\n\n![Augmentations](figure2.png)"
    )


def figure_3() -> str:
    shown = stored("figure3.json").get("images", [])
    if not shown:
        return "Not made yet."
    angles = [image["disorientation_deg"] for image in shown]
    return (
        "The paper shows targets beside what its network makes of them. "
        f"Here {len(shown)} images with photon noise from the network's best to its worst of the run, "
        f"{number(min(angles))} to {number(max(angles))} degrees off.\n\n"
        "![Targets, reconstructions, differences](figure3.png)"
    )


def _published_network() -> str:
    owed = "its training at the paper's scale is still owed (`paper_scale.md`)"
    evaluated = stored("evaluation_paper_small/evaluation.json")
    if not evaluated:
        return f"The published network is not among the curves: {owed}."
    card, clean = evaluated["networks"][0], evaluated["sets"]["clean"]
    return (
        f"The published network is there after {card['steps']:,} steps on "
        f"{card['training_simulations']:,} images in {number(card['training_seconds'] / 60)} "
        "minutes of a CPU (preset `paper-small`), clean: median "
        f"{number(clean['disorientation_deg']['median'])} degrees, "
        f"{number(clean['radius_error_nm']['median'])} nm, "
        f"{number(100 * clean['appendix_c_mean']['median'])} %. It shows that it learns the size, and says "
        f"nothing of what it can do: {owed}."
    )


def figure_4a() -> str:
    sets = stored("evaluation/evaluation.json").get("sets", {})
    if not sets:
        return "Not made yet."
    parts = [
        f"{name} {number(100 * errors['appendix_c_mean']['median'])} % "
        f"(99 % of images below {number(100 * errors['appendix_c_mean']['99'])} %)"
        for name, errors in sets.items()
    ]
    return (
        "The paper's mean error peaks well below 1 % of the allowed range, with a tail. "
        f"Here, on 5,000 images each: {'; '.join(parts)}. {_published_network()}\n\n"
        "![Histograms](figure4a.png)"
    )


def figure_4b() -> str:
    shown = stored("figure4b.json")
    methods, sizes = shown.get("methods", {}), shown.get("training_sets", {})
    if not methods:
        return "Not made yet."
    parts = [
        f"{name} {number(answers['appendix_c_mean_median'] * 100)} % for {number(answers['simulations'])}"
        for name, answers in methods.items()
    ]
    text = f"Median appendix C error for so many simulations an image: {'; '.join(parts)}."
    if {"simplex", "network+simplex", "dictionary+lm"} <= set(methods):
        random, warm, stored_start = (
            methods[name]["simulations"] for name in ("simplex", "network+simplex", "dictionary+lm")
        )
        text += (
            f" Started from the network, the simplex needs {number(random / warm)} times fewer simulations. "
            "What the paper does not show: a dictionary of 1,000 patterns is a start, too, which needs no "
            f"training; from there Levenberg-Marquardt takes {number(stored_start)}."
        )
    if sizes:
        ordered = sorted(sizes.items(), key=lambda pair: int(pair[0]))
        texts = [
            f"{int(size):,}: {number(100 * errors['appendix_c_mean_median'])} %" for size, errors in ordered
        ]
        text += (
            f" The network by size of its training set, at a fixed number of steps: {'; '.join(texts)}. "
            "Three seeds each scatter as much as sizes differ: so short a training (1,500 steps, eight "
            "minutes of one core; with the logarithmic loss of then) is bound by its steps, not by its "
            "images, seen turned and mirrored."
        )
    else:
        text += " The network's points by size of the training set are still owed."
    return text + "\n\n![Error against simulations](figure4b.svg)"


def figure_5() -> str:
    answers = stored("figure5.json").get("answers", [])
    if not answers:
        return "Not made yet."
    last = [answer for answer in answers if answer["method"] == answers[-1]["method"]]
    parts = [
        f"{answer['made_with']} (R = {number(answer['true_radius_nm'])} nm) off by "
        f"{number(answer['disorientation_deg'])} degrees and {number(answer['radius_error_nm'])} nm, "
        f"{answer['status']}"
        for answer in last
    ]
    return (
        "The paper's experimental images are not published. In their place stand four that pyMSFT 1.0.2 "
        "made, so that neither simulator nor noise is ours. "
        f"By {last[0]['method']}: {'; '.join(parts)}. They have a truth, which the paper's have not, but "
        "none of an experiment's surprises: this claim cannot be checked further.\n\n"
        "![Reconstructions of images that others made](figure5.png)"
    )


def search_text() -> str:
    """What the search of the simplex found, and how that does on images it had not seen."""
    summary = stored("tune_simplex/summary.json")
    if not summary:
        return "The search of the simplex is still owed."
    cost = summary["search"]
    points = [
        f"{number(row['objectives'][1])} simulations, 10^{row['objectives'][0]:.2f} "
        f"({row['named'] or 'found'}: {row['values']['starts']} starts, {row['values']['rounds']} rounds)"
        for row in summary["front"]
    ]
    text = (
        f"{cost['trials']} trials of accuracy against simulations, {cost['simulations']:,} simulations and "
        f"{cost['seconds']:,.0f} s of work. Nothing tried was better in both than these, with their "
        f"logarithmic mean of the error over 1 degree and 1 nm: {'; '.join(points)}."
    )
    compared = HERE / "compare_tuned"
    if compared.is_dir():
        (run,) = read_runs(compared).values()
        text += f"\n\nThe frugal one beside the others, on {run.count} other images:\n\n"
        text += summary_markdown(summary_table(run.results)).strip()
    return text + "\n\n![Accuracy against simulations of all trials](tune_simplex/pareto.png)"


FIGURES: tuple[tuple[str, Callable[[], str]], ...] = (
    ("Figure 2: augmentation", figure_2), ("Figure 3: patterns and reconstructions", figure_3),
    ("Figure 4a: errors of the network", figure_4a), ("Figure 4b: accuracy against simulations", figure_4b),
    ("Figure 5: images from elsewhere", figure_5),
)  # fmt: skip


def older_networks(runs: dict[str, RunFolder]) -> str:
    """A sentence where a run has another network than the shipped one that would answer now."""
    evaluated = stored("evaluation/evaluation.json")
    shipped = {card["recipe"]["images"]: card["digest"] for card in evaluated.get("networks", [])}
    older = [
        name
        for name, run in runs.items()
        if run.network and run.network["digest"] != shipped.get(run.network["recipe"]["images"])
    ]
    if not older:
        return ""
    return (
        f"\n\nThe network of {' and '.join(older)} is an earlier one than that of `evaluation/`, where the "
        "shipped one's errors stand; its fits end at the same place. What it cost and saved is its own: see "
        "[the network as a start](#the-network-as-a-start) for the shipped one's."
    )


def runs_text(runs: dict[str, RunFolder], folder: Path) -> str:
    if not runs:
        return "The laptop run is still owed."
    headers, rows = overview(runs)
    lines = ["".join(f"| {title} " for title, _ in headers) + "|", "|---" * len(headers) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    table, sentences = "\n".join(lines), "\n".join(f"- {line}" for line in verdict(runs))
    accounts = accounts_of(runs["clean"].results, runs["clean"].run) if "clean" in runs else []
    images = next(iter(runs.values())).count
    return (
        f"{sentences}\n\nShare of images solved (within 1 degree and 1 nm) in %, median disorientation in "
        f"degrees and median radius error in nm, {images} images each:\n\n{table}{older_networks(runs)}\n\n"
        f"On clean images: {published_text(accounts)}\n\n`icobench report {folder}` makes the page with "
        "intervals, ledger, break-even, paired tests and examples."
    )


def origins() -> str:
    """Where the results lie, and the command, commit, machine and seed of each."""
    lines = ["| result | command | commit | date | machine | seed |", "|---|---|---|---|---|---|"]
    for name in LOADED:
        folder = HERE / name
        files = [folder / file for file in DESCRIBED] if folder.is_dir() else [folder.with_suffix(".json")]
        if name == "paper_scale/small":
            files = [folder / "simulators" / "pieces" / "ceilings.json"]
        origin = next((json.loads(file.read_text()) for file in files if file.is_file()), None)
        if origin is None:
            continue
        origin = origin.get("origin", origin)
        if isinstance(origin.get("origins"), list):
            origin = origin["origins"][0]
        machine = origin.get("machine", {})
        device = f"{machine.get('processor', '?')}, {machine.get('cores', '?')} cores"
        lines.append(
            f"| `{name}` | `{origin.get('command', '?')}` | {short_commit(origin.get('commit'))} | "
            f"{(origin.get('created') or '?')[:10]} | {machine.get('gpu', device)} | "
            f"{origin.get('seed', '?')} |"
        )
    return "\n".join(lines)


def page(folder: Path) -> str:
    """The whole text."""
    runs = read_runs(folder) if folder.is_dir() else {}
    parts = [
        "# What the runs say",
        "Made by `python reports/claims.py` from the results in this folder; `make reports` makes "
        "figures and page anew.",
        "## The comparison",
        runs_text(runs, folder),
        "## The network as a start",
        starts_text(HERE / "warm_start"),
        "## The paper, claim by claim",
        claims_table(claims(runs)),
        "Stielow et al., Mach. Learn.: Sci. Technol. 1, 045007 (2020). Judgement: reproduced within 5 %.",
        "## The networks' targets",
        targets_text(stored("evaluation/evaluation.json")),
        "## Its figures",
        *(f"### {title}\n\n{text()}" for title, text in FIGURES),
        "## A better simplex",
        search_text(),
        "## A searched network",
        tuned_text(HERE / "tune_network"),
        "## Where everything comes from",
        origins(),
        "The other pages: [`ablation/ablation.md`](ablation/ablation.md) (what each choice in the network "
        "buys), [`fitters/fitters.md`](fitters/fitters.md), "
        "[`evaluation/evaluation.md`](evaluation/evaluation.md), [`paper_scale.md`](paper_scale.md), "
        "[`scaling.md`](scaling.md), [`peers.md`](peers.md).",
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("reports/laptop"))
    parser.add_argument("--out", type=Path, default=HERE / "README.md")
    arguments = parser.parse_args()
    text = page(arguments.run)
    with atomic_path(arguments.out.resolve()) as temporary:
        temporary.write_text(text)


if __name__ == "__main__":
    main()
