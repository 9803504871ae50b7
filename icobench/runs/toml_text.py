"""Plain values as TOML; the standard library reads it only."""

import json
import re
from typing import Any

__all__ = ["toml_text"]


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float):
        return repr(value)  # inf and nan are TOML's words too
    return json.dumps(value)


def toml_text(values: dict[str, Any], above: tuple[str, ...] = ()) -> str:
    """Booleans, numbers, strings, lists of these, and tables.

    Args:
        values: what to write; None, which TOML does not have, is left out.
        above: names of the tables that contain them.
    """
    lines = []
    for name, value in values.items():
        if value is not None and not isinstance(value, dict):
            lines.append(f"{_key(name)} = {_value(value)}\n")
    for name, table in values.items():
        if isinstance(table, dict):
            path = (*above, _key(name))
            # A table that holds tables only needs no line of its own.
            if not all(isinstance(value, dict) for value in table.values()):
                lines.append(f"\n[{'.'.join(path)}]\n")
            lines.append(toml_text(table, path))
    return "".join(lines)
