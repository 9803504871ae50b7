"""Search spaces: TOML data that says what may vary, and which settings are tried first."""

import hashlib
import json
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icobench.errors import InputError

if TYPE_CHECKING:
    import optuna

__all__ = ["SearchSpace", "read_space"]

KEYS = {
    "int": {"low", "high", "log"},
    "float": {"low", "high", "log"},
    "categorical": {"choices"},
}
COMMON = {"type", "when", "multi"}


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
        InputError: missing or damaged file, unknown keys, impossible bounds.
    """
    own = Path(str(resources.files("icobench.studies") / "spaces" / f"{kind}.toml"))
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
    for name, settings in enqueue.items():
        if foreign := set(settings) - set(parameters):
            raise InputError(f"{path}: enqueue.{name} has {sorted(foreign)[0]!r}, which is no parameter")
    return SearchSpace(parameters, enqueue)


def _check(where: str, parameter: Any) -> None:
    if not isinstance(parameter, dict) or parameter.get("type") not in KEYS:
        raise InputError(f"{where}: type must be one of {', '.join(KEYS)}")
    if unknown := set(parameter) - KEYS[parameter["type"]] - COMMON:
        raise InputError(f"{where}: unknown key {sorted(unknown)[0]!r}")
    if parameter["type"] == "categorical":
        if not parameter.get("choices"):
            raise InputError(f"{where}: no choices")
        return
    low, high = parameter.get("low"), parameter.get("high")
    for one in (low, high):
        if not isinstance(one, int | float) or isinstance(one, bool):
            raise InputError(f"{where}: low and high must be numbers")
    assert low is not None
    assert high is not None
    if low > high or (parameter.get("log") and low <= 0):
        raise InputError(f"{where}: low and high must be ordered, and positive for log")
