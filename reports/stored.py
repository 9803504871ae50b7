"""Results stored in reports/, and which of them were made with networks that are no longer shipped."""

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from icobench.errors import InputError
from icobench.network.selection import load_network

__all__ = [
    "HERE", "digests_of", "evaluation_rows", "retired", "retired_text", "shipped_digests", "stored",
    "text_table", "value_at",
]  # fmt: skip

HERE = Path(__file__).resolve().parent


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


def text_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of words, all columns left."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def evaluation_rows(folder: str, test_set: str) -> pd.DataFrame:
    """The rows of one test set of a stored evaluation in reports/; empty if there are none."""
    path = HERE / folder / "evaluation.parquet"
    table = pd.read_parquet(path) if path.is_file() else pd.DataFrame({"test_set": []})
    return table[table["test_set"].astype(str) == test_set]


@cache
def shipped_digests() -> frozenset[str]:
    """Of the networks in the package, and of the published one before its weights were rounded.

    Also those before `reports/spreads.py` changed their error bars alone, or `reports/amortised.py` gave them
    a head: the answers are the same.
    """
    members = list(load_network().members)
    try:
        members += load_network("paper").members
    except InputError:
        print("the published network's weights are not in the package; still owed")
    trained = digests_of(stored("paper_network/full/evaluation.json"))
    changes = [
        member.card[name] for member in members for name in ("spreads", "posterior") if name in member.card
    ]
    same = [change["answers_of"] for change in changes]
    return frozenset([*trained, *same, *(member.digest for member in members)])


def digests_of(described: dict[str, Any]) -> list[str]:
    """Of the networks behind a stored result, as its description names them; none if none answered."""
    networks = described.get("networks") or [described.get("network")]
    if isinstance(networks, str):
        return networks.split("-")
    return [network if isinstance(network, str) else network["digest"] for network in networks if network]


def retired(digests: Iterable[str]) -> list[str]:
    """Those that are no longer shipped."""
    return [digest for digest in dict.fromkeys(digests) if digest not in shipped_digests()]


def retired_text(digests: Iterable[str]) -> str:
    """A sentence to stand beside what was made with them, empty if all are shipped."""
    gone = retired(digests)
    if not gone:
        return ""
    return f"**Made with networks that are no longer shipped** ({', '.join(gone)})."
