"""The parts of an HTML page that needs no other file: tables that sort, figures, the frame around them."""

import base64
import json
import re
from html import escape
from pathlib import Path
from typing import Any

from icobench.reporting.tables import Headers

__all__ = [
    "bullets", "data_uri", "document", "facts", "heading", "paragraph", "svg_figure", "table", "text",
]  # fmt: skip

STYLE, SCRIPT = Path(__file__).with_name("page.css"), Path(__file__).with_name("page.js")

LEADING_NUMBER = re.compile(r"[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")


def sorting_value(cell: str) -> str | None:
    """What a cell is sorted by: the number it begins with; None for its text, "" for an empty cell."""
    if cell in ("", "-"):
        return ""
    if cell.startswith(("inf", "never")):
        return "Infinity"
    match = LEADING_NUMBER.match(cell)
    return match.group().replace(",", "") if match else None


def text(value: Any) -> str:
    """A fact as words: JSON for what is not text, "not recorded" for a missing one."""
    if value is None or value == "":
        return "not recorded"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _element(name: str, words: str, kind: str) -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f"<{name}{attribute}>{escape(words)}</{name}>\n"


def heading(words: str, level: int = 2, kind: str = "") -> str:
    return _element(f"h{level}", words, kind)


def paragraph(words: str, kind: str = "") -> str:
    return _element("p", words, kind)


def bullets(lines: list[str], kind: str = "reading") -> str:
    items = "".join(f"<li>{escape(line)}</li>\n" for line in lines)
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


def facts(values: dict[str, Any]) -> str:
    """Names and values, a line each."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(text(value))}</td></tr>\n'
        for name, value in values.items()
    )
    return f'<div class="wide"><table class="facts">\n{rows}</table></div>\n'


def data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def svg_figure(content: bytes, alternative: str, caption: str) -> str:
    """An SVG as a picture of its own, so that names inside it cannot clash with others."""
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
        # Browsers ask the server for an icon unless the page names one.
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE.read_text()}</style>\n</head>\n"
        f"<body>\n{''.join(parts)}<script>\n{SCRIPT.read_text()}</script>\n</body>\n</html>\n"
    )
