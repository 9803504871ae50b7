"""What is compared on what: settings, and the presets that hold them as small TOML files."""

import json
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from icobench.errors import InputError
from icobench.methods.registry import Catalogue, defined_method
from icobench.storage import read_toml

__all__ = ["ComparisonSettings", "read_preset", "read_settings", "settings_of"]


LARGEST = {"images": 1_000_000, "seeds": 10_000}
"""Of a comparison; a million images take the fastest method a quarter of an hour, and the simplex a month."""


LARGEST_NUMBER = 1e12


@dataclass(frozen=True)
class ComparisonSettings:
    """What is compared on what.

    Attributes:
        preset: name under which these settings are known.
        images: number of test images.
        test_sets: names of test sets, files of images included.
        photons, hole_degrees: of the test images, instead of the test set's own.
        methods: names, in the order of the table; ("all",) for every method there is.
        seeds: how many sets of images of each kind, made with consecutive seeds.
        truth: table with the truth of a test set that is a file of images.
        definitions: tables ``[define.NAME]`` of methods with settings of one's own, as JSON.
    """

    preset: str
    images: int
    test_sets: tuple[str, ...] = ("counting",)
    photons: float | None = None
    hole_degrees: float | None = None
    methods: tuple[str, ...] = ("all",)
    seeds: int = 1
    truth: str | None = None
    definitions: str = "{}"

    def __post_init__(self) -> None:
        for name in ("images", "seeds"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name} must be a positive whole number, got {value!r}")
            if value > LARGEST[name]:
                raise InputError(f"{name} must be at most {LARGEST[name]:,}, got {value:,}")
        for name in ("photons", "hole_degrees"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise InputError(f"{name} must be a number, got {value!r}")
            if value is not None and not abs(value) <= LARGEST_NUMBER:
                raise InputError(f"{name} must be at most {LARGEST_NUMBER:g}, got {value}")
        if self.truth is not None and not isinstance(self.truth, str):
            raise InputError(f"truth must be the name of a file, got {self.truth!r}")
        for name in ("methods", "test_sets"):
            names = getattr(self, name)
            if not names or not all(isinstance(entry, str) for entry in names):
                raise InputError(f"{name} must be a list of names, got {list(names)!r}")
            if len(set(names)) < len(names):
                raise InputError(f"{name} names one twice: {', '.join(names)}")

    def catalogue(self, files: tuple[Path, ...] = ()) -> Catalogue:
        """The methods and test sets to choose from.

        Args:
            files: Python files that define methods or test sets.
        """
        return Catalogue(files, self.definitions)


def settings_of(name: str, values: dict[str, Any], where: str) -> ComparisonSettings:
    """Settings from plain values, as a TOML file or a record has them.

    Args:
        name: of the settings.
        values: by the names of the settings; ``define`` has the tables of methods.
        where: in front of messages.

    Raises:
        InputError: unknown key, wrong value.
    """
    defined = values.pop("define", {})
    if not isinstance(defined, dict):
        raise InputError(f"{where}: define must hold tables, [define.NAME]")
    for method, options in defined.items():
        defined_method(method, options, where)
    keys = {field.name for field in fields(ComparisonSettings)} - {"preset", "definitions"}
    if unknown := set(values) - keys:
        raise InputError(f"{where}: unknown key {sorted(unknown)[0]!r}; known are {', '.join(sorted(keys))}")
    if "images" not in values:
        raise InputError(f"{where}: images is missing")
    for key in ("methods", "test_sets"):
        if not isinstance(values.get(key, []), list):
            raise InputError(f"{where}: {key} must be a list of names")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    try:
        return ComparisonSettings(name, **values, definitions=json.dumps(defined))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def read_settings(path: Path | str) -> ComparisonSettings:
    """Settings of a TOML file; the preset's name is the file's.

    Raises:
        InputError: missing or damaged file, unknown key, wrong value.
    """
    path = Path(path)
    return settings_of(path.stem, read_toml(path), str(path))


def read_preset(name: str) -> ComparisonSettings:
    """A preset of the package.

    Raises:
        InputError: there is none of this name.
    """
    folder = Path(str(resources.files("icobench.runs") / "presets"))
    presets = {path.stem: path for path in sorted(folder.glob("*.toml"))}
    if name not in presets:
        raise InputError(f"unknown preset {name!r}; choose from {', '.join(presets)}")
    return read_settings(presets[name])
