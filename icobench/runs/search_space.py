"""Search spaces: TOML data that says what may vary, and which settings are tried first."""

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

KEYS = {
    "int": {"low", "high", "log"},
    "float": {"low", "high", "log"},
    "categorical": {"choices"},
}
COMMON = {"type", "when", "multi"}

SIMPLEX = {
    "starts": (1, math.inf), "rounds": (0, math.inf), "keep": (0.001, 1.0), "rotation_deg": (1e-6, 180.0),
    "radius_nm": (1e-6, math.inf), "budget": (1, math.inf),
}  # fmt: skip
"""What a setting of the simplex is made of, and between what it makes sense."""

WHOLE_NUMBERS = ("starts", "rounds", "budget")

BUDGET = ("steps", "network")
"""Of a recipe: follow from the search's budget, and from names such as "network.hidden"."""


@dataclass(frozen=True)
class SearchSpace:
    """What a search varies.

    Attributes:
        parameters: by name: type, bounds or choices; ``when`` makes it depend on another ("rounds": that is
            not 0; "architecture=compact": that has this value); ``multi``: varied by --multi alone.
        enqueue: settings by name that are tried first.
    """

    parameters: dict[str, dict[str, Any]]
    enqueue: dict[str, dict[str, Any]]

    @property
    def digest(self) -> str:
        """Names the parameters, 12 hexadecimal digits; which settings come first changes no meaning."""
        return hashlib.sha256(json.dumps(self.parameters, sort_keys=True).encode()).hexdigest()[:12]

    def _wanted(self, name: str, chosen: dict[str, Any], multi: bool) -> bool:
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
            if not self._wanted(name, chosen, multi):
                continue
            if parameter["type"] == "categorical":
                value = trial.suggest_categorical(name, [_stored(one) for one in parameter["choices"]])
                chosen[name] = next(one for one in parameter["choices"] if _stored(one) == value)
            elif parameter["type"] == "int":
                chosen[name] = trial.suggest_int(
                    name, parameter["low"], parameter["high"], log=parameter.get("log", False)
                )
            else:
                chosen[name] = trial.suggest_float(
                    name, parameter["low"], parameter["high"], log=parameter.get("log", False)
                )
        return chosen

    def first(self, multi: bool = False) -> dict[str, dict[str, Any]]:
        """The settings to try first, by name, as Optuna stores them."""
        return {
            name: {key: _stored(value) for key, value in values.items() if self._wanted(key, values, multi)}
            for name, values in self.enqueue.items()
        }


def _stored(value: Any) -> Any:
    """Optuna's choices are plain values; a list becomes its JSON."""
    return json.dumps(value) if isinstance(value, list) else value


def read_space(kind: str, path: Path | None = None) -> SearchSpace:
    """A search space of the package, or a file of one's own.

    Args:
        kind: "simplex" or "network"; names that its space does not have are refused in a file.
        path: TOML file; copy one of ``icobench/studies/spaces``.

    Raises:
        InputError: missing or damaged file, unknown keys, impossible bounds, a condition that nothing can
            meet, a setting to be tried first that lies outside, names that the search needs and does not
            find, or does not know.
    """
    own = Path(str(resources.files("icobench.runs") / "spaces" / f"{kind}.toml"))
    path = own if path is None else path
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file ({error})") from error
    if unknown := set(values) - {"parameters", "enqueue"}:
        raise InputError(f"{path}: unknown key {sorted(unknown)[0]!r}; known are parameters, enqueue")
    parameters, enqueue = values.get("parameters") or {}, values.get("enqueue") or {}
    if not parameters:
        raise InputError(f"{path}: no parameters")
    for name, parameter in parameters.items():
        _check(f"{path}: {name}", parameter)
    for number, (name, parameter) in enumerate(parameters.items()):
        _check_condition(f"{path}: {name}", parameter, dict(list(parameters.items())[:number]))
    for name, settings in enqueue.items():
        if not isinstance(settings, dict):
            raise InputError(f"{path}: enqueue.{name} must be a table of values")
        if foreign := set(settings) - set(parameters):
            raise InputError(f"{path}: enqueue.{name} has {sorted(foreign)[0]!r}, which is no parameter")
        for key, value in settings.items():
            if not _allowed(parameters[key], value):
                raise InputError(f"{path}: enqueue.{name}: {key} = {value!r} is not among its values")
    (_check_simplex if kind == "simplex" else _check_network)(path, parameters)
    return SearchSpace(parameters, enqueue)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _allowed(parameter: dict[str, Any], value: Any) -> bool:
    """Whether a parameter can have a value."""
    if parameter["type"] == "categorical":
        # True equals 1, and is no number all the same.
        return any(one == value and _is_bool(one) == _is_bool(value) for one in parameter["choices"])
    whole = parameter["type"] == "float" or isinstance(value, int)
    return _is_number(value) and whole and parameter["low"] <= value <= parameter["high"]


def _check_condition(where: str, parameter: dict[str, Any], earlier: dict[str, Any]) -> None:
    """``when`` names an earlier parameter, as values are chosen in the order of the file."""
    condition = parameter.get("when")
    if condition is None:
        return
    other, equals, value = condition.partition("=") if isinstance(condition, str) else ("", "", "")
    if other not in earlier:
        raise InputError(f"{where}: when must name a parameter above it, got {condition!r}")
    known = earlier[other]
    if equals and known["type"] == "categorical":
        met = value in map(str, known["choices"])
    elif equals and known["type"] == "int":
        met = value.isdecimal() and known["low"] <= int(value) <= known["high"]
    else:
        met = not equals
    if not met:
        raise InputError(f"{where}: when = {condition!r} is met by no value of {other}")


def _check_simplex(path: Path, parameters: dict[str, dict[str, Any]]) -> None:
    """The names that :func:`~icobench.runs.simplex_task.race_options` needs, and no others."""
    if unknown := [name for name in parameters if name not in SIMPLEX]:
        raise InputError(f"{path}: {unknown[0]}: no parameter of the simplex; they are {', '.join(SIMPLEX)}")
    for name, parameter in parameters.items():
        least, most = SIMPLEX[name]
        ends = parameter.get("choices") or [parameter["low"], parameter["high"]]
        if not all(_is_number(one) and least <= one <= most for one in ends):
            raise InputError(f"{path}: {name}: values must lie in {least:g} to {most:g}")
        if name in WHOLE_NUMBERS and not all(isinstance(one, int) for one in ends):
            raise InputError(f"{path}: {name}: values must be whole numbers")
    for name in ("starts", "rounds", "rotation_deg", "radius_nm"):
        if name not in parameters:
            raise InputError(f"{path}: {name}: missing; the simplex needs it")
        if {"when", "multi"} & set(parameters[name]):
            raise InputError(f"{path}: {name}: always needed, it takes neither when nor multi")
    rounds = parameters["rounds"]
    if max(rounds.get("choices") or [rounds["high"]]) > 0:
        keep = parameters.get("keep", {"multi": True})
        if keep.get("multi") or keep.get("when", "rounds") != "rounds":
            raise InputError(f"{path}: keep: missing where there are rounds; the simplex needs it")


def _check_network(path: Path, parameters: dict[str, dict[str, Any]]) -> None:
    """Names of a recipe, of a network's options, or the share of the budget."""
    known = {one.name for one in fields(Recipe)} - set(BUDGET) | {"budget_share"}
    for name, parameter in parameters.items():
        if name not in known and not name.removeprefix("network.") != name:
            raise InputError(
                f"{path}: {name}: a recipe has none; they are {', '.join(sorted(known))}, network.*"
            )
        ends = parameter.get("choices") or [parameter["low"], parameter["high"]]
        if name == "budget_share" and not all(_is_number(one) and 0 < one <= 1 for one in ends):
            raise InputError(f"{path}: {name}: values must lie between 0 and 1")


def _check(where: str, parameter: Any) -> None:
    if not isinstance(parameter, dict) or parameter.get("type") not in KEYS:
        raise InputError(f"{where}: type must be one of {', '.join(KEYS)}")
    if unknown := set(parameter) - KEYS[parameter["type"]] - COMMON:
        raise InputError(f"{where}: unknown key {sorted(unknown)[0]!r}")
    for name in ("log", "multi"):
        if not isinstance(parameter.get(name, False), bool):
            raise InputError(f"{where}: {name} must be true or false")
    if parameter["type"] == "categorical":
        choices = parameter.get("choices")
        if not choices or not isinstance(choices, list):
            raise InputError(f"{where}: no choices")
        if not all(isinstance(one, str | int | float | list) for one in choices):
            raise InputError(f"{where}: choices must be words, numbers, true, false or lists of them")
        if len({_stored(one) for one in choices}) < len(choices):
            raise InputError(f"{where}: a choice is there twice")
        return
    low, high = parameter.get("low"), parameter.get("high")
    for one in (low, high):
        if not _is_number(one):
            raise InputError(f"{where}: low and high must be numbers")
        if parameter["type"] == "int" and not isinstance(one, int):
            raise InputError(f"{where}: low and high must be whole numbers")
    assert low is not None
    assert high is not None
    if low > high or (parameter.get("log") and low <= 0):
        raise InputError(f"{where}: low and high must be ordered, and positive for log")
