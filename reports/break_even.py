"""When a network pays: images to break-even against what one simulation costs.

    python reports/break_even.py [--run reports/laptop] [--test-set paper] [--out reports/break_even.svg]

From the stored results of a run of `icobench compare` with networks, and with the simplex, the dictionary or
both; by default on the paper's test images, or the run's first ones if it lacks them. Only the cost of a
simulation varies: all other times are those of the run. A `.json` beside the figure has the numbers at the
marked costs, and where these come from.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from icobench.reporting.break_even import (
    EXCHANGE,
    Account,
    BreakEven,
    break_even,
    break_even_curve,
    not_worse,
    trained_and_competitors,
)
from icobench.reporting.figures import plot_break_even, svg
from icobench.reporting.ledger import PUBLISHED_SECONDS, accounts_of
from icobench.reporting.page import write_file
from icobench.reporting.run_folder import RunFolder, read_runs
from icobench.storage import write_json

__all__ = ["marks", "not_charged"]

HERE = Path(__file__).resolve().parent
TRAINED = ("paper-network", "paper-network+lm", "network", "network+lm")


def marks() -> dict[str, dict[str, Any]]:
    """Costs of one simulation, seconds and their source by what takes them."""
    gpu = json.loads((HERE / "gpu_facts.json").read_text())
    peers = json.loads((HERE / "peers.json").read_text())
    origin, threads = peers["origin"], peers["origin"]["machine"]["threads"]
    machine = (
        f"{origin['machine']['processor']}, {threads} threads, commit {origin['commit'][:10]} (peers.json)"
    )
    exact, sliced = (
        threads * peers["results"][f"icobench {name}"]["seconds"] for name in ("exact, compiled", "sliced")
    )
    source = f"core-seconds, at most: time on the clock times threads; {machine}"
    return {
        "exact, H200": {
            "seconds": 1 / gpu["exact"]["images_per_second"],
            "source": f"seconds of the GPU; {gpu['exact']['what']}; {gpu['origin']} (gpu_facts.json)",
        },
        "exact, CPU": {"seconds": exact, "source": source},
        "sliced, CPU": {"seconds": sliced, "source": source},
        "the paper": {
            "seconds": PUBLISHED_SECONDS,
            "source": "Stielow et al. 2020: seconds on a hexa-core Xeon, taken as they are stated",
        },
    }


def not_charged() -> dict[str, Any]:
    """What was spent before the shipped networks and is in nobody's account, as far as results are stored."""
    stored = [json.loads(path.read_text()) for path in sorted((HERE / "ablation").glob("*.json"))]
    seconds = sum(row["training_seconds"] * row["machine"]["threads"] for row in stored)
    trainings, hours = len(stored), seconds / 3600
    simulations = sum(row["simulations"] for row in stored)
    return {
        "trainings": trainings, "core_hours": hours, "simulations": simulations,
        "text": f"Not charged: at least {trainings} trainings of the ablation, {hours:.1f} core-hours and "
        f"{simulations:,} simulations; nor the earlier versions of the networks, whose costs were not kept.",
    }  # fmt: skip


def chosen(runs: dict[str, RunFolder], test_set: str | None) -> RunFolder:
    """The run of a test set; by default of the paper's, else the first one."""
    by_name = {name or run.test_set: run for name, run in runs.items()}
    if test_set and test_set not in by_name:
        raise SystemExit(f"no test set {test_set}; there are {', '.join(by_name)}")
    return by_name.get(test_set or "paper") or next(iter(by_name.values()))


def numbers(crossing: BreakEven) -> dict[str, Any]:
    """As JSON: null is never."""
    ends = {**crossing.images._asdict(), "runs": crossing.runs}
    none = {name: None for name, end in ends.items() if name != "runs" and math.isinf(end)}
    return {
        **ends, **none, "runs": [count if math.isfinite(count) else None for count in crossing.runs],
        "text": crossing.text,
    }  # fmt: skip


def compared(run: RunFolder, first: Account, second: Account, costs: dict[str, float]) -> dict[str, Any]:
    """Break-even of two methods: at the marked costs, as measured, and at both ends."""
    free = float(break_even_curve(first, second, [0.0])[0, 0])
    return {
        "method": first.method, "against": second.method,
        "as_accurate": not_worse(run.results, first.method, second.method),
        "measured": numbers(break_even(first, second)),
        "at": {name: numbers(break_even(first, second, cost=seconds)) for name, seconds in costs.items()},
        "free_simulations": free if math.isfinite(free) else None,
        "dear_simulations": numbers(break_even(first, second, "simulations")),
    }  # fmt: skip


def described(costs: Account) -> dict[str, Any]:
    """An account's means."""
    names = ("fixed_seconds", "fixed_other_seconds", "foreign_seconds", "fixed_simulations")
    means = {name: float(getattr(costs, name).mean()) for name in ("evaluations", "seconds", "other_seconds")}
    return {**{name: float(getattr(costs, name)) for name in names}, **means}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("reports/laptop"))
    parser.add_argument("--test-set")
    parser.add_argument("--out", type=Path, default=Path("reports/break_even.svg"))
    arguments = parser.parse_args()
    run = chosen(read_runs(arguments.run), arguments.test_set)
    accounts = [
        costs for costs in accounts_of(run.results, run.run) if not costs.trained or costs.method in TRAINED
    ]
    accounts.sort(key=lambda costs: TRAINED.index(costs.method) if costs.trained else len(TRAINED))
    trained, competitors = trained_and_competitors(accounts)
    marked = marks()
    costs = {name: mark["seconds"] for name, mark in marked.items()}
    figure = plot_break_even(run.results, accounts, costs)
    if figure is None:
        raise SystemExit(f"{arguments.run}: no network, or neither the simplex nor the dictionary")
    write_file(arguments.out.resolve(), svg(figure))
    write_json(
        arguments.out.with_suffix(".json").resolve(),
        {
            "command": f"python reports/break_even.py --run {arguments.run} --test-set {run.test_set}",
            "run": {name: run.run.get(name) for name in ("command", "commit", "created", "machine", "seed")},
            "networks": [card["digest"] for card in run.run.get("networks") or []],
            "test_set": run.test_set, "images": run.count,
            "seconds": f"core-seconds; a second of a GPU counts as {EXCHANGE:g}, as one of the machine that "
            "simulates (foreign_seconds)",
            "seconds_per_simulation": trained[0].seconds_per_simulation,
            "marks": marked,
            "accounts": {costs.method: described(costs) for costs in (*trained, *competitors)},
            "break_even": [compared(run, one, other, costs) for other in competitors for one in trained],
            "not_charged": not_charged(),
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
