"""The parts of an HTML page that needs nothing else: tables that sort, figures, the frame around them."""

import base64
import io
import json
import re
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Headers",
    "document",
    "facts",
    "heading",
    "lines",
    "paragraph",
    "svg",
    "svg_figure",
    "table",
    "text",
]

Headers = list[tuple[str, str]]
"""Name and unit of each column."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #d5dae0; --page: #ffffff;
  --card: #f5f7f9; --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa5b1; --line: #39424c;
  --page: #14181c; --card: #1d2329; --accent: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 76rem; background: var(--page);
  color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif;
  overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
p, figcaption { max-width: 52rem; }
code { overflow-wrap: anywhere; }
.soft, figcaption, .note { color: var(--soft); font-size: .9rem; }
.reading { border-left: 4px solid var(--accent); background: var(--card); padding: .8rem 1.1rem;
  max-width: none; }
ul.reading { padding-left: 2.2rem; }
ul.reading li { margin: .3rem 0; }
h1.run { margin-top: 3.5rem; padding-top: 1rem; border-top: 3px solid var(--accent); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
thead th { vertical-align: bottom; border-bottom-width: 2px; white-space: normal; padding: 0; }
th button { all: unset; box-sizing: border-box; display: block; width: 100%; padding: .35rem .7rem;
  cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--accent); outline-offset: -2px; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
th small { display: block; font-weight: normal; color: var(--soft); }
td:first-child, th:first-child { text-align: left; }
.sortable td:first-child { position: sticky; left: 0; background: var(--page); }
.facts td, .facts th { text-align: left; white-space: normal; vertical-align: top;
  overflow-wrap: anywhere; }
.facts th { font-weight: 600; min-width: 6rem; }
figure { margin: 1rem 0; }
figure .wide img { display: block; width: 100%; min-width: 42rem; max-width: 66rem; height: auto;
  background: #ffffff; border: 1px solid var(--line); border-radius: 4px; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)); gap: 1rem; }
.card { margin: 0; padding: .7rem; background: var(--card); border-radius: 4px; break-inside: avoid; }
.four { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem; }
.four div { font-size: .75rem; color: var(--soft); min-width: 0; }
.four img, .four svg { display: block; width: 100%; height: auto; aspect-ratio: 1; background: #999999; }
.four svg { background: none; color: var(--ink); }
.scales { display: flex; flex-wrap: wrap; gap: .5rem 2rem; font-size: .8rem; color: var(--soft); }
.scales span { display: inline-block; width: 10rem; height: .8rem; margin: 0 .4rem; vertical-align: middle; }
@media print { body { max-width: none; padding: 0; } .wide { overflow: visible; } h2 { break-after: avoid; } }
"""

SORTING = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(one => one.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const order = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      const difference = Number(a) - Number(b);
      const sign = a === b ? 0 : Number.isNaN(difference) ? a.localeCompare(b) : difference;
      return up ? sign : -sign;
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => order(value(a), value(b))));
  }));
}
"""
"""Sorts a table by a click on a header: by ``data-value`` as a number where there is one, empty ones last."""

LEADING = re.compile(r"[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")


def sorting_value(cell: str) -> str | None:
    """What a cell is sorted by: the number it begins with; None for its text, "" for nothing."""
    if cell in ("", "-"):
        return ""
    if cell.startswith(("inf", "never")):
        return "Infinity"
    found = LEADING.match(cell)
    return found.group().replace(",", "") if found else None


def text(value: Any) -> str:
    """A fact as words: JSON for what is no text, "not recorded" for nothing."""
    if value is None or value == "":
        return "not recorded"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def heading(words: str, level: int = 2, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f"<h{level}{attribute}>{escape(words)}</h{level}>\n"


def paragraph(words: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f"<p{attribute}>{escape(words)}</p>\n"


def lines(words: list[str], kind: str = "reading") -> str:
    items = "".join(f"<li>{escape(line)}</li>\n" for line in words)
    return f'<ul class="{kind}">\n{items}</ul>\n'


def table(headers: Headers, rows: list[list[str]]) -> str:
    """A table that sorts by a click on a header."""
    head = "".join(
        f'<th scope="col"><button type="button">{escape(name)}'
        f"{f'<small>{escape(unit)}</small>' if unit else ''}</button></th>"
        for name, unit in headers
    )

    def cell(words: str) -> str:
        value = sorting_value(words)
        attribute = "" if value is None else f' data-value="{value}"'
        return f"<td{attribute}>{escape(words)}</td>"

    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>\n" for row in rows)
    head = f"<thead><tr>{head}</tr></thead>"
    return f'<div class="wide"><table class="sortable">\n{head}\n<tbody>\n{body}</tbody></table></div>\n'


def facts(known: dict[str, Any]) -> str:
    """Names and values, a line each."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(text(value))}</td></tr>\n'
        for name, value in known.items()
    )
    return f'<div class="wide"><table class="facts">\n{rows}</table></div>\n'


def svg(figure: "Figure") -> bytes:
    """A figure as SVG with its letters as outlines; the same figure gives the same bytes."""
    import matplotlib

    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "icobench"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def svg_figure(content: bytes, alternative: str, caption: str) -> str:
    """An SVG as a picture of its own, so that names inside it meet no others."""
    return (
        f'<figure><div class="wide"><img src="{data_uri(content, "svg+xml")}" alt="{escape(alternative)}">'
        "</div>\n"
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def document(title: str, parts: list[str]) -> str:
    """The whole page; nothing in it is loaded from anywhere."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Without an icon of its own a page makes browsers ask for one.
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{''.join(parts)}<script>{SORTING}</script>\n</body>\n</html>\n"
    )
