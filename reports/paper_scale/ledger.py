"""Stage 6: what every method costs before the first image and for each: seconds, simulations, joules."""

import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from icobench.reporting.break_even import CURRENCIES, Account, break_even, not_worse
from icobench.reporting.evaluation import typical
from paper_scale.figures import figure_4b
from paper_scale.fits import table_of
from paper_scale.stage import Piece, Stage, stored_pieces

__all__ = ["ledger", "value"]

PAIRS = (
    ("paper network", "simplex"), ("network", "simplex"), ("network+lm", "simplex"),
    ("dictionary+lm", "simplex"), ("simplex-race", "simplex"), ("network+lm", "simplex-race"),
    ("network+lm", "dictionary+lm"),
)  # fmt: skip
METHODS = (
    ("simplex", "simplex"), ("simplex", "simplex-race"), ("hybrids", "network"),
    ("hybrids", "network+simplex"), ("hybrids", "network+lm"), ("hybrids", "network+mle"),
    ("hybrids", "dictionary+simplex"), ("hybrids", "dictionary+lm"),
)  # fmt: skip


def value(folder: Path, stage: str, piece: str, *path: str, unfinished: bool = False) -> Any:
    """A stored number, None if there is none; of a piece that the clock stopped, too, if asked for."""
    stored = stored_pieces(folder, stage).get(piece)
    states = ("done", "part") if unfinished else ("done",)
    if not stored or stored["state"] not in states:
        return None
    result = stored["result"]
    for key in path:
        if not isinstance(result, dict) or key not in result:
            return None
        result = result[key]
    return result


def _joules(folder: Path, stage: str, *starts: str) -> float | None:
    pieces = stored_pieces(folder, stage)
    joules = [piece["joules"] for name, piece in pieces.items() if name.startswith(starts)]
    return sum(joules) if joules and None not in joules else None


def _accounts(folder: Path) -> dict[str, tuple[Account, pd.DataFrame | None]]:
    """Of every method that was run, with its results."""
    per_simulation = math.nan
    speed = value(folder, "simulators", "speed exact 64", "images_per_second")
    if speed:
        per_simulation = 1 / speed
    networks = value(folder, "hybrids", "networks") or []
    dictionary = value(folder, "hybrids", "dictionary") or {}
    found: dict[str, tuple[Account, pd.DataFrame | None]] = {}
    for stage, method in METHODS:
        rows = table_of(folder, stage, method)
        if rows is None:
            continue
        seconds = simulations = 0.0
        if "network" in method:
            seconds += sum(float(card.get("training_seconds") or 0) for card in networks)
            simulations += sum(float(card.get("training_simulations") or 0) for card in networks)
        if method.startswith("dictionary"):
            seconds += float(dictionary.get("seconds", 0))
            simulations += float(dictionary.get("simulations", 0))
        rows = rows.sort_values("image").assign(method=method)
        times, spent = (rows[name].to_numpy(float) for name in ("seconds", "evaluations"))
        blocks = np.cumsum(np.diff(times, prepend=times[0]) != 0)  # whose images share their time
        costs = Account(method, seconds, simulations, times, spent, per_simulation, blocks=blocks)
        found[method] = costs, rows
    blocks = found["simplex"][0].blocks if "simplex" in found else np.zeros(1)
    paper = _paper_account(folder, per_simulation, blocks)
    if paper:
        found["paper network"] = (paper, None)
    return found


def _paper_account(folder: Path, per_simulation: float, blocks: np.ndarray) -> Account | None:
    """The published network: its data set, its training, its time for an image; no simulation after that."""
    trained = value(folder, "paper-network", "training paper", unfinished=True)
    pace = value(folder, "paper-network", "evaluation paper", "speed", unfinished=True)
    made = value(folder, "data", "paper set")
    if not (trained and pace and made):
        return None
    return Account(
        "paper network", trained["training_seconds"] + made["seconds"], float(made["images"]),
        np.full(len(blocks), typical(pace["one_image_ms"]) / 1000), np.zeros(len(blocks)), per_simulation,
        blocks=blocks,
    )  # fmt: skip


def _costs(folder: Path) -> dict[str, Any]:
    accounts = _accounts(folder)
    rows = {
        name: {
            "fixed_seconds": one.fixed_seconds, "fixed_simulations": one.fixed_simulations,
            "seconds": float(one.seconds.mean()), "simulations": float(one.evaluations.mean()),
            "images": len(one.seconds),
        }
        for name, (one, _) in accounts.items()
    }  # fmt: skip
    found = []
    for first, second in PAIRS:
        if first not in accounts or second not in accounts:
            continue
        (one, rows_of_one), (other, rows_of_other) = accounts[first], accounts[second]
        if len(one.seconds) != len(other.seconds):
            continue
        as_accurate = None
        if rows_of_one is not None and rows_of_other is not None:
            as_accurate = not_worse(pd.concat((rows_of_one, rows_of_other)), first, second)
        for currency in CURRENCIES:
            crossing = break_even(one, other, currency)
            images = crossing.images
            found.append(
                {
                    "first": first, "second": second, "currency": currency, "images": images.value,
                    "low": images.low, "high": images.high,
                    "as_accurate": as_accurate,
                }
            )  # fmt: skip
    return {"accounts": rows, "break_even": found}


def _energy(folder: Path) -> dict[str, Any]:
    """Joules of what was measured; None where the driver reports no power."""
    out: dict[str, Any] = {
        "data set": _joules(folder, "data", "paper set"),
        "training paper": _joules(folder, "paper-network", "training paper"),
        "training compact": _joules(folder, "compact-network", "training compact"),
    }
    for stage, method in METHODS:
        total = _joules(folder, stage, f"{method} ")
        rows = table_of(folder, stage, method)
        out[f"{method}, per image"] = None if total is None or rows is None else total / len(rows)
    return out


def _figure_4a(folder: Path) -> str:
    folders = {name: folder / f"evaluation-{name}" for name in ("paper", "compact")}
    stored = {name: path for name, path in folders.items() if (path / "evaluation.json").exists()}
    if not stored:
        return "no evaluation yet"
    reports = Path(__file__).parents[1]
    words = [sys.executable, str(reports / "figure4a.py")]
    words += [word for name, path in stored.items() for word in ("--network", f"{name}={path}")]
    # The package need not be installed; what is found by the path of this call is still needed.
    paths = [str(reports.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    subprocess.run(
        [*words, "--out", str(folder / "figure4a.png")],
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    return "figure4a.png"


def ledger(stage: Stage) -> list[Piece]:
    """From what the other stages stored; made anew in every call."""
    makers = {"costs": _costs, "energy": _energy, "figure 4a": _figure_4a, "figure 4b": figure_4b}
    return [Piece(name, partial(make, stage.run.out), wanted=lambda: True) for name, make in makers.items()]
