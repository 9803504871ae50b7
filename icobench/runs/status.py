"""What of a run folder is done, running or failed."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from icobench.errors import InputError
from icobench.runs.cluster import FOLDER, ClusterRun
from icobench.runs.comparison import COMPARISON_FILE
from icobench.runs.sweep import Point

__all__ = ["describe"]


def _sweep(folder: Path) -> str:
    stored = json.loads((folder / "sweep.json").read_text())
    axis = stored["identity"]["axis"]
    names = [Point(point, seed).file(axis) for point in stored["points"] for seed in range(stored["seeds"])]
    done = sum((folder / "points" / name).exists() for name in names)
    return f"sweep over {axis}: {done} of {len(names)} points done"


def _comparison(folder: Path) -> str:
    stored = json.loads((folder / "run.json").read_text())
    parts = list((folder / "parts").glob("*.parquet"))
    text = f"comparison {folder.name}: {len(parts)} parts of {len(stored['methods'])} methods done"
    failures = "; ".join(f"{name} failed: {why}" for name, why in stored.get("failures", {}).items())
    return f"{text}; {failures}" if failures else text


def _search(folder: Path) -> str:
    from icobench.runs.search_storage import load_search

    study, description = load_search(folder)
    states = Counter(trial.state.name.lower() for trial in study.get_trials(deepcopy=False))
    text = ", ".join(f"{count} {name}" for name, count in sorted(states.items()))
    return f"search {study.study_name} of {description['trials']} trials: {text or 'none begun'}"


def _shards(run: ClusterRun) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for shard, state in run.states().items():
        job: dict[str, Any] = run.described["jobs"].get(str(shard), {})
        done = run.done(shard)
        line = "" if done else run.refused(shard) or run.last_line(shard)
        rows.append(
            (
                f"{shard}/{len(run.shards)}", state.lower(), str(job.get("id", "")),
                str(job.get("attempt", "")), f"{done['seconds']:.0f}" if done else "", line,
            )
        )  # fmt: skip
    return rows


def describe(run: Path) -> tuple[list[str], list[tuple[str, ...]]]:
    """Lines on what is stored, and a row for each shard on the cluster.

    Rows: shard, state, job, attempt, seconds if done, last line of the log if not.

    Args:
        run: folder of a sweep, search, comparison or campaign, or the file of a set.

    Raises:
        InputError: nothing of the kind is there.
    """
    run = Path(run)
    folder = run if run.is_dir() else run.with_name(run.name + ".shards")
    lines = [] if run.is_dir() or not run.is_file() else [f"{run}: complete"]
    try:
        if (folder / "sweep.json").exists():
            lines.append(_sweep(folder))
        if (folder / "search.json").exists():
            lines.append(_search(folder))
        if (folder / COMPARISON_FILE).exists():
            names = json.loads((folder / COMPARISON_FILE).read_text())["runs"]
            lines += [_comparison(folder / name) for name in names if (folder / name / "run.json").exists()]
        elif (folder / "run.json").exists():
            lines.append(_comparison(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder}: damaged ({error})") from error
    shards = []
    if (folder / FOLDER / "jobs.json").exists():
        run_there = ClusterRun(folder)
        shards = _shards(run_there)
        if run_there.trouble:
            lines.append(run_there.trouble)
    if shards:
        counted = Counter(row[1] for row in shards)
        lines.append("shards: " + ", ".join(f"{count} {state}" for state, count in sorted(counted.items())))
    if not lines:
        raise InputError(f"{run}: no run, search, sweep or shards of icobench")
    return lines, shards
