"""Numbers and tables in Markdown."""

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["number", "table"]


def number(found: Any, digits: int = 3) -> str:
    """For a cell: words as they are, - for nothing, never for infinity."""
    if found is None:
        return "-"
    if isinstance(found, str):
        return found
    if not np.isfinite(found):
        return "never" if found > 0 else "-"
    return f"{found:,.0f}" if abs(found) >= 1000 else f"{found:.{digits}g}"


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A header and rows of words, numbers or None."""
    lines = [f"| {' | '.join(headers)} |", "|" + "---|" * len(headers)]
    lines += [f"| {' | '.join(number(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)
