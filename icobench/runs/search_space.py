"""Search spaces: TOML files that say what a search varies, and which settings it tries first."""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icobench.errors import InputError
from icobench.network.recipe import Recipe
from icobench.storage import read_toml

if TYPE_CHECKING:
    import optuna

__all__ = ["SearchSpace", "read_space"]

Parameter = dict[str, Any]
"""A table of the file: type, low and high (and log) or choices, and if wanted when and multi."""

KEYS = {"int": {"low", "high", "log"}, "float": {"low", "high", "log"}, "categorical": {"choices"}}

LIMITS: dict[str, dict[str, Parameter]] = {
    "simplex": {
        "starts": {"type": "int", "low": 1, "high": math.inf},
        "rounds": {"type": "int", "low": 0, "high": math.inf},
        "keep": {"type": "float", "low": 0.001, "high": 1.0},
        "rotation_deg": {"type": "float", "low": 1e-6, "high": 180.0},
        "radius_nm": {"type": "float", "low": 1e-6, "high": math.inf},
        "budget": {"type": "int", "low": 1, "high": math.inf},
    },
    # A recipe checks its values itself. Steps and network follow from the budget and from "network.*".
    "network": {
        **{field.name: {} for field in fields(Recipe) if field.name not in ("steps", "network")},
        "network.*": {},
        "budget_share": {"type": "float", "low": 1e-6, "high": 1.0},
    },
}
"""What a setting may consist of, by the kind of search, and which values make sense."""


@dataclass(frozen=True)
class SearchSpace:
    """What a search varies.

    Attributes:
        parameters: by name: type, bounds or choices; ``when`` makes it depend on another ("rounds": that is
            not 0; "architecture=compact": that has this value); ``multi``: varied with --multi only.
        enqueue: settings by name that are tried first.
    """

    parameters: dict[str, Parameter]
    enqueue: dict[str, dict[str, Any]]

    @property
    def digest(self) -> str:
        """Identifies the parameters, 12 hexadecimal digits; the settings to try first do not matter."""
        return hashlib.sha256(json.dumps(self.parameters, sort_keys=True).encode()).hexdigest()[:12]

    def _is_varied(self, name: str, chosen: dict[str, Any], multi: bool) -> bool:
        parameter = self.parameters[name]
        condition, equals, value = parameter.get("when", "").partition("=")
        is_met = str(chosen.get(condition)) == value if equals else not condition or chosen.get(condition)
        return bool(is_met) and (multi or not parameter.get("multi"))

    def suggest(self, trial: "optuna.trial.BaseTrial", multi: bool = False) -> dict[str, Any]:
        """A trial's values, in the order of the file."""
        chosen: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            if not self._is_varied(name, chosen, multi):
                continue
            if parameter["type"] == "categorical":
                choices = {_plain(choice): choice for choice in parameter["choices"]}
                chosen[name] = choices[trial.suggest_categorical(name, list(choices))]
            else:
                suggest = trial.suggest_int if parameter["type"] == "int" else trial.suggest_float
                low, high, log = parameter["low"], parameter["high"], parameter.get("log", False)
                chosen[name] = suggest(name, low, high, log=log)
        return chosen

    def first(self, multi: bool = False) -> dict[str, dict[str, Any]]:
        """The settings to try first, by name, as Optuna stores them."""
        return {
            name: {key: _plain(value) for key, value in values.items() if self._is_varied(key, values, multi)}
            for name, values in self.enqueue.items()
        }


def _plain(value: Any) -> Any:
    """A choice as Optuna stores it, which knows no lists: these become their JSON."""
    return json.dumps(value) if isinstance(value, list) else value


def read_space(kind: str, path: Path | None = None) -> SearchSpace:
    """A search space of the package, or a file of the user's.

    Args:
        kind: "simplex" or "network".
        path: TOML file; copy one of ``icobench/runs/spaces``.

    Raises:
        InputError: a file that is missing or damaged, or describes no space for this search.
    """
    path = path or Path(str(resources.files("icobench.runs") / "spaces" / f"{kind}.toml"))
    values = read_toml(path)
    for problem in _problems(kind, values):
        raise InputError(f"{path}: {problem}")
    return SearchSpace(values["parameters"], values.get("enqueue", {}))


def _problems(kind: str, values: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a file. Only the first problem counts: later ones may follow from it."""
    if unknown := set(values) - {"parameters", "enqueue"}:
        yield f"unknown key {min(unknown)!r}; known are parameters, enqueue"
    if not values.get("parameters"):
        yield "no parameters"
    parameters: dict[str, Parameter] = values["parameters"]
    earlier: dict[str, Parameter] = {}
    for name, parameter in parameters.items():
        yield from (f"{name}: {problem}" for problem in _parameter_problems(parameter, earlier))
        earlier[name] = parameter
    for name, settings in values.get("enqueue", {}).items():
        if not isinstance(settings, dict):
            yield f"enqueue.{name} must be a table of values"
        for key, value in settings.items():
            if key not in parameters:
                yield f"enqueue.{name} has {key!r}, which is no parameter"
            if not _allows(parameters[key], value):
                yield f"enqueue.{name}: {key} = {value!r} is not among its values"
    limits = LIMITS[kind]
    for name, parameter in parameters.items():
        key = "network.*" if name.startswith("network.") else name
        if key not in limits:
            lacks = "no parameter of the simplex" if kind == "simplex" else "a recipe has none"
            yield f"{name}: {lacks}; they are {', '.join(limits)}"
        if (limit := limits[key]) and not all(_allows(limit, end) for end in _ends(parameter)):
            numbers = "whole numbers" if limit["type"] == "int" else "numbers"
            yield f"{name}: values must lie in {limit['low']:g} to {limit['high']:g}, {numbers}"
    if kind == "simplex":
        yield from _missing(parameters)


def _parameter_problems(parameter: Any, earlier: dict[str, Parameter]) -> Iterator[str]:
    kind = str(parameter.get("type")) if isinstance(parameter, dict) else ""
    if kind not in KEYS:
        yield f"type must be one of {', '.join(KEYS)}"
    if unknown := set(parameter) - KEYS[kind] - {"type", "when", "multi"}:
        yield f"unknown key {min(unknown)!r}"
    for name in ("log", "multi"):
        if not isinstance(parameter.get(name, False), bool):
            yield f"{name} must be true or false"
    if kind == "categorical":
        choices = parameter.get("choices")
        if not choices or not isinstance(choices, list):
            yield "no choices"
        if not all(isinstance(choice, str | int | float | list) for choice in choices):
            yield "choices must be words, numbers, true, false or lists of them"
        if len(set(map(_plain, choices))) < len(choices):
            yield "a choice is there twice"
    else:
        low, high = parameter.get("low"), parameter.get("high")
        if not _is_number(low) or not _is_number(high):
            yield "low and high must be numbers"
        if kind == "int" and not (isinstance(low, int) and isinstance(high, int)):
            yield "low and high must be whole numbers"
        if low > high or (low <= 0 and parameter.get("log")):
            yield "low and high must be ordered, and positive for log"
    if (condition := parameter.get("when")) is not None:
        name, equals, value = condition.partition("=") if isinstance(condition, str) else ("", "", "")
        if name not in earlier:  # values are chosen in the order of the file
            yield f"when must name a parameter above it, got {condition!r}"
        other = earlier[name]
        if other["type"] == "categorical":
            can_be_equal = value in map(str, other["choices"])
        else:
            can_be_equal = other["type"] == "int" and value.isdecimal() and _allows(other, int(value))
        if equals and not can_be_equal:
            yield f"when = {condition!r} is met by no value of {name}"


def _missing(parameters: dict[str, Parameter]) -> Iterator[str]:
    """What :func:`~icobench.runs.search_tasks.simplex_options` needs and a space does not always have."""
    for name in ("starts", "rounds", "rotation_deg", "radius_nm"):
        if name not in parameters:
            yield f"{name}: missing; the simplex needs it"
        if {"when", "multi"} & set(parameters[name]):
            yield f"{name}: always needed, it takes neither when nor multi"
    keep = parameters.get("keep", {"multi": True})
    always_kept = not keep.get("multi") and keep.get("when", "rounds") == "rounds"
    if max(_ends(parameters["rounds"])) > 0 and not always_kept:
        yield "keep: missing where there are rounds; the simplex needs it"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _ends(parameter: Parameter) -> list[Any]:
    """The choices of a parameter, or its lowest and highest value."""
    return parameter.get("choices") or [parameter["low"], parameter["high"]]


def _allows(parameter: Parameter, value: Any) -> bool:
    """Whether a parameter can have a value."""
    if parameter["type"] == "categorical":
        # In Python, True equals 1.
        choices = [(choice, isinstance(choice, bool)) for choice in parameter["choices"]]
        return (value, isinstance(value, bool)) in choices
    right_type = parameter["type"] == "float" or isinstance(value, int)
    return _is_number(value) and right_type and parameter["low"] <= value <= parameter["high"]
