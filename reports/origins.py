"""Where every stored result comes from: command, commit, date, machine, seed and networks."""

from typing import Any

from stored import HERE, digests_of, retired, stored, text_table

from icobench.provenance import short_commit

__all__ = ["origins_table"]

RESULTS = (
    "laptop", "paper_network", "paper_network.json", "evaluation_paper/paper-network",
    "evaluation_paper/network", "evaluation", "silver", "evaluation_silver", "physics",
    "mcp", "told",
    "sweep_dataset", "compare_quick", "compare_tuned", "compare_bodies", "tune_simplex", "tune_network",
    "fitters", "choices",
    "photon_numbers", "paper_set", "scaling", "live", "peers", "bodies", "facets", "paper_scale/small",
)  # fmt: skip
FIGURES = ("figure2", "figure3", "figure4a", "figure4b", "figure5", "break_even")

DESCRIBED = ("origin.json", "campaign.json", "run.json", "evaluation.json", "sweep.json", "summary.json",
             "fitters.json", "search.json", "simulators/pieces/ceilings.json")  # fmt: skip
"""Files that say where the results of a folder come from, the first that is there."""

TRAINED_ALONG = {
    "sweep_dataset": "trains its own", "tune_network": "trains its own",
    "paper_scale/small": "trains its own",
    "paper_network": "the published one, before its weights were rounded",
}  # fmt: skip


def _described(name: str) -> dict[str, Any]:
    """What is stored of a result's origin, empty if there is no such result."""
    folder = HERE / name
    if not folder.is_dir():
        return stored(name if name.endswith(".json") else f"{name}.json")
    return next((found for file in DESCRIBED if (found := stored(f"{name}/{file}"))), {})


def _origin(described: dict[str, Any]) -> dict[str, Any]:
    """The part that names command, commit and machine."""
    origin = described.get("origin", described)
    if not isinstance(origin, dict):
        return described
    origins = origin.get("origins")
    return origins[0] if isinstance(origins, list) else origin


def _runs_in(name: str) -> list[dict[str, Any]]:
    """The descriptions of the runs inside of a folder of a comparison."""
    return [stored(str(path.relative_to(HERE))) for path in sorted((HERE / name).glob("*/run.json"))]


def _networks(name: str, described: dict[str, Any]) -> str:
    if name in TRAINED_ALONG:
        return TRAINED_ALONG[name]
    digests = [digest for one in (described, *_runs_in(name)) for digest in digests_of(one)]
    if not digests:
        return "-"
    gone = retired(digests)
    return f"**retired**: {', '.join(gone)}" if gone else "as shipped"


def _commits(name: str, origin: dict[str, Any]) -> str:
    """All commits of the runs of a comparison; a plus sign is a tree with changes."""
    commits = [run.get("commit") for run in _runs_in(name)] or origin.get("commits") or [origin.get("commit")]
    return ", ".join(dict.fromkeys(map(short_commit, commits)))


def origins_table() -> str:
    """Markdown, a row for each result and figure that is there."""
    rows: list[tuple[str, ...]] = []
    for name in (*RESULTS, *FIGURES):
        described = _described(name)
        origin = _origin(described)
        if not origin:
            continue
        made_from = described.get("run") or {} if name in FIGURES else {}
        origin = {**origin, **made_from, "command": origin.get("command")}
        machine = origin.get("machine") or {}
        processor = f"{machine.get('processor', '?')}, {machine.get('cores', '?')} cores"
        cells = (
            f"`{name}`", f"`{origin.get('command', '?')}`", _commits(name, origin),
            (origin.get("created") or "?")[:10],
            machine.get("gpu", processor), str(origin.get("seed", "?")), _networks(name, described),
        )  # fmt: skip
        rows.append(cells)
    return text_table(("result", "command", "commit", "date", "machine", "seed", "networks"), rows)
