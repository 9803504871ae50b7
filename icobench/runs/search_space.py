"""Search spaces: TOML files that say what a search varies, and which settings it tries first."""

import hashlib
import json
import math
import tomllib
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icobench.errors import InputError
from icobench.network.recipe import Recipe

if TYPE_CHECKING:
    import optuna

__all__ = ["SearchSpace", "read_space"]

Parameter = dict[str, Any]
"""A table of the file: type, low and high (and log) or choices, and if wanted when and multi."""

KEYS = {"int": {"low", "high", "log"}, "float": {"low", "high", "log"}, "categorical": {"choices"}}
COMMON = {"type", "when", "multi"}

SIMPLEX = {
    "starts": (1, math.inf), "rounds": (0, math.inf), "keep": (0.001, 1.0), "rotation_deg": (1e-6, 180.0),
    "radius_nm": (1e-6, math.inf), "budget": (1, math.inf),
}  # fmt: skip
"""What a setting of the simplex consists of, and the ranges in which it makes sense."""

WHOLE_NUMBERS = ("starts", "rounds", "budget")

NOT_VARIED = ("steps", "network")
"""Entries of a recipe that follow from the budget, and from names such as "network.hidden"."""


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
        if parameter.get("multi") and not multi:
            return False
        condition, _, value = parameter.get("when", "").partition("=")
        if not condition:
            return True
        return str(chosen.get(condition)) == value if value else bool(chosen.get(condition))

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
        InputError: missing or damaged file, unknown keys, impossible bounds, a condition that is never met,
            a setting to try first that lies outside, a name that the search needs, or does not know.
    """
    path = path or Path(str(resources.files("icobench.runs") / "spaces" / f"{kind}.toml"))
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file ({error})") from error
    unknown = sorted(set(values) - {"parameters", "enqueue"})
    _require(not unknown, path, f"unknown key {''.join(unknown[:1])!r}; known are parameters, enqueue")
    parameters, enqueue = values.get("parameters") or {}, values.get("enqueue") or {}
    _require(bool(parameters), path, "no parameters")
    for number, (name, parameter) in enumerate(parameters.items()):
        _check_parameter(f"{path}: {name}", parameter)
        _check_condition(f"{path}: {name}", parameter, dict(list(parameters.items())[:number]))
    for name, settings in enqueue.items():
        _require(isinstance(settings, dict), path, f"enqueue.{name} must be a table of values")
        for key, value in settings.items():
            _require(key in parameters, path, f"enqueue.{name} has {key!r}, which is no parameter")
            allowed = _allows(parameters[key], value)
            _require(allowed, path, f"enqueue.{name}: {key} = {value!r} is not among its values")
    (_check_simplex if kind == "simplex" else _check_network)(path, parameters)
    return SearchSpace(parameters, enqueue)


def _require(condition: bool, where: object, text: str) -> None:
    if not condition:
        raise InputError(f"{where}: {text}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _ends(parameter: Parameter) -> list[Any]:
    """The choices of a parameter, or its lowest and highest value."""
    return parameter.get("choices") or [parameter["low"], parameter["high"]]


def _allows(parameter: Parameter, value: Any) -> bool:
    """Whether a parameter can have a value."""
    if parameter["type"] == "categorical":
        # In Python, True equals 1.
        is_bool = isinstance(value, bool)
        return any(choice == value and isinstance(choice, bool) == is_bool for choice in parameter["choices"])
    right_type = parameter["type"] == "float" or isinstance(value, int)
    return _is_number(value) and right_type and parameter["low"] <= value <= parameter["high"]


def _check_parameter(where: str, parameter: Any) -> None:
    kind = parameter.get("type") if isinstance(parameter, dict) else None
    if kind not in KEYS:
        raise InputError(f"{where}: type must be one of {', '.join(KEYS)}")
    unknown = sorted(set(parameter) - KEYS[kind] - COMMON)
    _require(not unknown, where, f"unknown key {''.join(unknown[:1])!r}")
    for name in ("log", "multi"):
        _require(isinstance(parameter.get(name, False), bool), where, f"{name} must be true or false")
    if kind == "categorical":
        choices = parameter.get("choices")
        _require(bool(choices) and isinstance(choices, list), where, "no choices")
        plain = all(isinstance(choice, str | int | float | list) for choice in choices)
        _require(plain, where, "choices must be words, numbers, true, false or lists of them")
        _require(
            len({_plain(choice) for choice in choices}) == len(choices), where, "a choice is there twice"
        )
        return
    low, high = ends = [parameter.get("low"), parameter.get("high")]
    _require(all(map(_is_number, ends)), where, "low and high must be numbers")
    whole = kind == "float" or all(isinstance(end, int) for end in ends)
    _require(whole, where, "low and high must be whole numbers")
    ordered = low <= high and (low > 0 or not parameter.get("log"))
    _require(ordered, where, "low and high must be ordered, and positive for log")


def _check_condition(where: str, parameter: Parameter, earlier: dict[str, Parameter]) -> None:
    """``when`` must name an earlier parameter, as values are chosen in the order of the file."""
    condition = parameter.get("when")
    if condition is None:
        return
    name, equals, value = condition.partition("=") if isinstance(condition, str) else ("", "", "")
    _require(name in earlier, where, f"when must name a parameter above it, got {condition!r}")
    other = earlier[name]
    if equals and other["type"] == "categorical":
        can_be_met = value in map(str, other["choices"])
    elif equals and other["type"] == "int":
        can_be_met = value.isdecimal() and other["low"] <= int(value) <= other["high"]
    else:
        can_be_met = not equals
    _require(can_be_met, where, f"when = {condition!r} is met by no value of {name}")


def _check_simplex(path: Path, parameters: dict[str, Parameter]) -> None:
    """Require the names that :func:`~icobench.runs.search_tasks.simplex_options` needs, and no others."""
    for name, parameter in parameters.items():
        where, ends = f"{path}: {name}", _ends(parameter)
        _require(name in SIMPLEX, where, f"no parameter of the simplex; they are {', '.join(SIMPLEX)}")
        low, high = SIMPLEX[name]
        inside = all(_is_number(end) and low <= end <= high for end in ends)
        _require(inside, where, f"values must lie in {low:g} to {high:g}")
        whole = name not in WHOLE_NUMBERS or all(isinstance(end, int) for end in ends)
        _require(whole, where, "values must be whole numbers")
    for name in ("starts", "rounds", "rotation_deg", "radius_nm"):
        where = f"{path}: {name}"
        _require(name in parameters, where, "missing; the simplex needs it")
        conditional = {"when", "multi"} & set(parameters[name])
        _require(not conditional, where, "always needed, it takes neither when nor multi")
    if max(_ends(parameters["rounds"])) > 0:
        keep = parameters.get("keep", {"multi": True})
        always = not keep.get("multi") and keep.get("when", "rounds") == "rounds"
        _require(always, f"{path}: keep", "missing where there are rounds; the simplex needs it")


def _check_network(path: Path, parameters: dict[str, Parameter]) -> None:
    """Require names of a recipe, of a network's options, or the share of the budget."""
    known = sorted({field.name for field in fields(Recipe)} - set(NOT_VARIED) | {"budget_share"})
    for name, parameter in parameters.items():
        is_known = name in known or name.startswith("network.")
        _require(is_known, path, f"{name}: a recipe has none; they are {', '.join(known)}, network.*")
        if name == "budget_share":
            inside = all(_is_number(end) and 0 < end <= 1 for end in _ends(parameter))
            _require(inside, path, f"{name}: values must lie between 0 and 1")
