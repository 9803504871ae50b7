"""Pages and sentences from the templates in this folder. A page needs no other file."""

import base64
import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icobench.errors import InputError
from icobench.reporting.tables import number
from icobench.storage import atomic_path

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["data_uri", "environment", "render", "sentences", "sorting_value", "text", "write_file"]

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


def data_uri(content: bytes, kind: str) -> str:
    """An image of kind "png" or "svg+xml" as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


@cache
def environment() -> "Environment":
    """Where the templates are found, and their filters."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=lambda name: bool(name and name.endswith(".html.j2")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "sorting_value": sorting_value, "text": text}
    return environment


def render(template: str, **values: Any) -> str:
    """A template of this folder with its values filled in; what stands in HTML is escaped."""
    return environment().get_template(template).render(values)


def sentences(macro: str, **values: Any) -> str:
    """The paragraph that a macro of ``sentences.j2`` makes of these values."""
    template: Any = environment().get_template("sentences.j2").module
    return " ".join(getattr(template, macro)(**values).split())


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    with atomic_path(path) as temporary:
        try:
            temporary.write_bytes(content)
        except OSError as error:
            raise InputError(f"{path}: could not be written ({error})") from error
