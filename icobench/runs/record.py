"""A comparison as its ``run.json`` records it, to be computed again.

The settings are checked as those of a file of ``--config`` are. The record has everything else that decides a
result, too: experiment, seed, options of the methods, and by their contents the files that it was made from.
"""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icobench.errors import InputError
from icobench.methods.registry import Catalogue
from icobench.provenance import short_commit
from icobench.runs.settings import ComparisonSettings, settings_of
from icobench.sets.own_images import file_digest
from icobench.simulator.experiment import Experiment
from icobench.storage import read_json

if TYPE_CHECKING:
    from icobench.runs.comparison import Comparison

__all__ = ["Record", "read_record"]

SETTINGS = ("images", "test_sets", "photons", "hole_degrees", "methods", "seeds", "truth")


@dataclass(frozen=True)
class Record:
    """What was computed, and from what.

    Attributes:
        path: of the ``run.json``, or of the ``campaign.json`` of several runs.
        settings: what was compared.
        experiment: what the user believed.
        seed: of the first run.
        stated: fields of the experiment that the user stated, None if that is not known.
        model: weights of the networks as they were named, None for the default ones.
        method_files: Python files of methods and test sets, with their contents.
        runs: the ``run.json`` of each run, by name; the name of a single one is empty.
    """

    path: Path
    settings: ComparisonSettings
    experiment: Experiment
    seed: int
    stated: tuple[str, ...] | None
    model: str | None
    method_files: dict[Path, str]
    runs: dict[str, dict[str, Any]]

    @property
    def cards(self) -> dict[str, dict[str, Any]]:
        """The cards of the methods, by name."""
        return {name: card for run in self.runs.values() for name, card in run["methods"].items()}

    def chosen(
        self, changes: dict[str, Any], files: tuple[Path, ...] = ()
    ) -> tuple[ComparisonSettings, Catalogue]:
        """The settings, and the methods and test sets to choose from, with the recorded options.

        Args:
            changes: settings that the user gives instead of the recorded ones.
            files: Python files that the user gives instead of the recorded ones; none if there are none.

        Raises:
            InputError: a method, a test set or a file of these that is not here or has changed.
        """
        settings = replace(self.settings, **changes)
        for path, digest in {} if files else self.method_files.items():
            self._needs(path, digest, "the file of methods", "--method-file")
        options = {name: card["options"] for name, card in self.cards.items()}
        catalogue = settings.catalogue(files or tuple(self.method_files))
        everything = settings.methods == ("all",)
        if everything and set(catalogue.available_methods()) != set(options):
            settings, everything = replace(settings, methods=tuple(options)), False
        catalogue = replace(catalogue, recorded=json.dumps(options))
        self._find(
            "the method",
            catalogue.method,
            tuple(options) if everything else settings.methods,
            "--method-file",
        )
        for run in self.runs.values():
            name = run.get("test_set") or run["identity"]["settings"]["test_sets"][0]
            if name in settings.test_sets and run.get("source"):
                self._needs(Path(name), run["identity"]["source"]["sha256"], "the images", "--test-sets")
        if settings.truth and settings.truth == self.settings.truth:
            source = next(iter(self.runs.values()))["identity"].get("source", {})
            self._needs(Path(settings.truth), source.get("truth_sha256"), "the truth", "--truth")
        self._find("the test set", catalogue.test_set, settings.test_sets, "--method-file")
        return settings, catalogue

    def weights(self, model: str | None) -> str | None:
        """The weights: those that the user gives, else those that are recorded.

        Raises:
            InputError: these are not here.
        """
        if model is None and self.model not in (None, "paper") and not Path(self.model).exists():
            raise InputError(f"{self.path}: needs the weights {self.model}, which are not here; give --model")
        return model or self.model

    def check(self, comparison: "Comparison", given: Collection[str]) -> list[str]:
        """Refuse networks other than the recorded ones; what else differs here, in a line each.

        Args:
            comparison: of this record.
            given: names of the options that the user gave beside it.

        Raises:
            InputError: other networks.
        """
        lines = self._versions(comparison)
        for name, run in comparison.runs.items():
            if (recorded := self.runs.get(name)) is None:
                continue
            now = run.description()
            for method, card in now["methods"].items():
                if (before := recorded["methods"].get(method)) is None:
                    continue
                if before["version"] != card["version"]:
                    lines.append(f"{method} has version {card['version']} here, {before['version']} there")
                missing = [
                    digest for digest in before.get("networks", ())
                    if digest not in card.get("networks", ())
                ]  # fmt: skip
                if missing and "test_sets" not in given and "model" not in given:
                    raise InputError(
                        f"{self.path}: {method} needs the network {missing[0]}, which is not here; give "
                        "its weights with --model"
                    )
                if missing:
                    lines.append(f"{method} asks other networks than {', '.join(missing)}")
            if recorded["identity"].get("source", {}) != run.source:
                lines.append("the images or their truth are not the recorded ones")
        return list(dict.fromkeys(lines))

    def _versions(self, comparison: "Comparison") -> list[str]:
        """A line if the package, torch or the kind of device are others."""
        first, (then, *_) = next(iter(comparison.runs.values())), self.runs.values()
        now = first.description()

        def words(run: dict[str, Any]) -> list[str]:
            versions = run.get("versions") or {}
            package = f"icobench {versions.get('icobench', '?')} {short_commit(run.get('commit'))}"
            return [package, f"torch {versions.get('torch', '?')}", str(run.get("device"))]

        pairs = [pair for pair in zip(words(then), words(now), strict=True) if len(set(pair)) > 1]
        if not pairs:
            return []
        made, here = (", ".join(side) for side in zip(*pairs, strict=True))
        return [f"recorded with {made}; here {here}"]

    def _needs(self, path: Path, digest: str | None, what: str, option: str) -> None:
        """Refuse a recorded file that is not here or has other contents."""
        if not path.is_file():
            raise InputError(f"{self.path}: needs {what} {path}, which is not here; give {option}")
        if file_digest(path) != digest:
            raise InputError(f"{self.path}: needs {what} {path}, which has changed since; give {option}")

    def _find(self, what: str, find: Callable[[str], Any], names: tuple[str, ...], option: str) -> None:
        """Look up names, with a message that says where they come from."""
        for name in names:
            try:
                find(name)
            except InputError as error:
                if str(error).startswith("unknown "):
                    text = f"{self.path}: needs {what} {name}, which is not here; give {option}"
                    raise InputError(text) from error
                raise InputError(f"{self.path}: {error}") from error


def read_record(path: Path | str) -> Record:
    """What a ``run.json`` records, or a ``campaign.json`` and the ``run.json`` in the folders of its runs.

    Raises:
        InputError: a file is missing, damaged, or not of a comparison.
    """
    path = Path(path)
    whole = read_json(path)
    try:
        several = isinstance(whole.get("runs"), dict)
        runs = {name: read_json(path.parent / name / "run.json") for name in whole["runs"]} if several else {}
        runs = runs or {"": whole}
        settings = dict(whole["settings"])
        if not several:
            # One of several runs has its own seed and test set.
            test_set = whole.get("test_set") or whole["identity"]["settings"]["test_sets"][0]
            settings |= {**whole["identity"]["settings"], "seeds": 1, "test_sets": [test_set]}
        values = {name: settings[name] for name in SETTINGS if settings.get(name) is not None}
        values["define"] = json.loads(settings.get("definitions") or "{}")
        for run in runs.values():
            # What is used later is there, and is what it should be.
            _ = run["identity"]["settings"]["test_sets"][0], run["identity"].get("source", {}).get("sha256")
            _ = [(card["options"], card["version"]) for card in run["methods"].values()]
        given = whole.get("given") or {}
        stated = given.get("stated")
        return Record(
            path, settings_of(str(settings.get("preset", "record")), values, str(path)),
            Experiment.from_dict(given.get("experiment") or whole["experiment"]), int(whole["seed"]),
            None if stated is None else tuple(stated), given.get("model"),
            {Path(name): digest for name, digest in (given.get("method_files") or {}).items()}, runs,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: not the run.json of a comparison ({type(error).__name__}: {error})"
        ) from error
