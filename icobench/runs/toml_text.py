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
        above: names of the tables that these are in.
    """
    plain = {name: one for name, one in values.items() if one is not None and not isinstance(one, dict)}
    lines = [f"{_key(name)} = {_value(one)}\n" for name, one in plain.items()]
    for name, one in values.items():
        if isinstance(one, dict):
            inner = (*above, _key(name))
            # A table of tables alone needs no line of its own.
            head = f"\n[{'.'.join(inner)}]\n" if not all(isinstance(v, dict) for v in one.values()) else ""
            lines.append(head + toml_text(one, inner))
    return "".join(lines)
