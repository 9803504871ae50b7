"""Which body it is: how often methods name the right one, what for what, and what they say of themselves.

``results`` as in :mod:`icobench.reporting.statistics`, with the columns ``true_body``, ``body`` (names with
the value of a parameter, such as "hexagonal-prism=1.5") and ``size_error_nm``. A method that knows no other
body says icosahedron.
"""

from typing import TYPE_CHECKING

import numpy as np

from icobench.answer import AMBIGUOUS, UNKNOWN
from icobench.geometry.shapes import SHAPES
from icobench.reporting.error_bars import TRUSTED
from icobench.reporting.statistics import error_quantile, success_interval
from icobench.reporting.tables import Headers, Table, number

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console

__all__ = ["body_text", "confusion_table", "geometry_table", "named_shapes", "print_shapes", "shape_table"]


def body_text(name: str) -> str:
    """A name with a parameter of three digits, for captions."""
    shape, equals, value = name.partition("=")
    return f"{shape} {number(float(value))}" if equals else shape


def named_shapes(results: "DataFrame") -> "DataFrame":
    """The results with ``true_shape`` and ``shape``, names without parameters, and ``parameter_error``."""
    true, said = (results[name].str.partition("=") for name in ("true_body", "body"))
    values = [part[2].where(part[2] != "").astype(float) for part in (true, said)]
    error = (values[1] - values[0]).abs().where(true[0] == said[0])
    return results.assign(true_shape=true[0], shape=said[0], parameter_error=error)


def _percent(values: "np.ndarray") -> str:
    return f"{100 * values.mean():.1f}" if len(values) else "-"


def _quantiles(values: "np.ndarray") -> str:
    """Median and 90 % quantile."""
    return " / ".join(number(error_quantile(values, part)) for part in (0.5, 0.9)) if len(values) else "-"


def shape_table(results: "DataFrame") -> Table:
    """Per method: how often the shape is right, told to be doubtful, or wrong without a word; sizes."""
    headers: Headers = [
        ("method", ""), ("images", ""), ("right body", "%, 95 %"), ("right", "% of ok"),
        ("wrong, told", "%"), ("wrong, not told", "%"), (AMBIGUOUS, "%"), (UNKNOWN, "%"),
        ("size error", "nm"), ("disorientation", "deg, if right"),
    ]  # fmt: skip
    rows = []
    for method, answers in named_shapes(results).groupby("method", sort=False):
        right = (answers["shape"] == answers["true_shape"]).to_numpy()
        ok = answers["status"].isin(TRUSTED).to_numpy()
        low, high = success_interval(int(right.sum()), len(right))
        shares = [~right & ~ok, ~right & ok, *(answers["status"] == word for word in (AMBIGUOUS, UNKNOWN))]
        rows.append([
            str(method), str(len(right)), f"{_percent(right)} ({100 * low:.1f} to {100 * high:.1f})",
            _percent(right[ok]), *(_percent(np.asarray(share)) for share in shares),
            _quantiles(answers["size_error_nm"].to_numpy(dtype=float)),
            _quantiles(answers["disorientation_deg"].to_numpy(dtype=float)[right]),
        ])  # fmt: skip
    return headers, rows


def _present(names: "np.ndarray") -> list[str]:
    """The shapes among the names, in the order of the catalogue."""
    return [name for name in SHAPES if (names == name).any()]


def confusion_table(answers: "DataFrame") -> Table:
    """Of one method: a row for each true shape, a column for each named one, by its number in the catalogue.

    Further columns have the share that is right and what the statuses say.
    """
    table, numbers = named_shapes(answers), {name: str(place + 1) for place, name in enumerate(SHAPES)}
    said = _present(table["shape"].to_numpy())
    headers: Headers = [
        ("true body", ""), *((numbers[name], "") for name in said), ("right", "%"), (AMBIGUOUS, ""),
        (UNKNOWN, ""), ("other trouble", ""),
    ]  # fmt: skip
    rows = []
    for name in _present(table["true_shape"].to_numpy()):
        own = table[table["true_shape"] == name]
        counts = [int((own["shape"] == other).sum()) for other in said]
        doubts = [int((own["status"] == word).sum()) for word in (AMBIGUOUS, UNKNOWN)]
        other = int((~own["status"].isin((*TRUSTED, AMBIGUOUS, UNKNOWN))).sum())
        cells = [str(count) if count else "" for count in (*counts, *doubts, other)]
        right = f"{100 * (own['shape'] == name).mean():.0f}"
        rows.append([f"{numbers[name]} {name}", *cells[: len(said)], right, *cells[len(said) :]])
    return headers, rows


def geometry_table(answers: "DataFrame") -> Table:
    """Of one method: the errors of every true shape, median / 90 % quantile."""
    headers: Headers = [
        ("true body", ""), ("images", ""), ("size error", "nm"), ("right body", ""),
        ("disorientation", "deg"), ("circumradius error", "nm"), ("parameter error", ""),
    ]  # fmt: skip
    table, rows = named_shapes(answers), []
    for name in _present(table["true_shape"].to_numpy()):
        own = table[table["true_shape"] == name]
        right = own[own["shape"] == name]
        cells = [
            _quantiles(right[column].to_numpy(dtype=float))
            for column in ("disorientation_deg", "radius_error_nm", "parameter_error")
        ]
        if SHAPES[name].body().round:
            cells[0] = "-"
        if not SHAPES[name].parameter:
            cells[2] = "-"
        size = _quantiles(own["size_error_nm"].to_numpy(dtype=float))
        rows.append([name, str(len(own)), size, str(len(right)), *cells])
    return headers, rows


def print_shapes(results: "DataFrame", console: "Console") -> None:
    """Print the table without intervals, up to 120 columns wide."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table as RichTable

    caption = "right: the true body; told: with a status that is not ok; size: of a sphere of equal volume"
    printed = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    headers, rows = shape_table(results)
    for name, unit in (headers[0], *headers[2:]):
        words, unit = name.replace(", ", ",\n"), unit.removesuffix(", 95 %").replace("deg, ", "deg,\n")
        header = f"{words}\n({unit})" if unit else words
        printed.add_column(header, justify="left" if name == "method" else "right", vertical="bottom")
    for row in rows:
        cells = [cell.partition(" (")[0] for cell in (row[0], *row[2:])]  # without intervals
        printed.add_row(*map(escape, cells))
    console.print(printed)
