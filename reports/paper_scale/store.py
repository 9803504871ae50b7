"""Finished pieces of a stage in one JSON file, written whole after each of them."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from icobench.errors import InputError
from icobench.provenance import provenance
from icobench.simulator.experiment import Experiment
from icobench.storage import atomic_path
from paper_scale.scales import Scale

__all__ = ["Store", "has_results", "stored_results"]


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


class Store:
    """Results of one stage.

    Args:
        folder: of the run's results; made if missing.
        stage: its name.
        scale: sizes; a file of other sizes is refused.
        seed: of the run, likewise.
        device: where the next pieces are made.

    Raises:
        InputError: the file is damaged, or holds another scale's or seed's results.
    """

    def __init__(self, folder: Path, stage: str, scale: Scale, seed: int, device: torch.device) -> None:
        self.path = Path(folder) / f"{stage}.json"
        settings = _plain({"scale": asdict(scale), "seed": seed})
        self.origin = provenance(seed, device, Experiment())
        self.origin["command"] = " ".join(["python", *sys.argv])
        self.document: dict[str, Any] = {
            "stage": stage, "scale": scale.name, "settings": settings, "origins": [], "pieces": {},
        }  # fmt: skip
        if not self.path.exists():
            return
        try:
            known = json.loads(self.path.read_text())
            self.document["origins"], self.document["pieces"] = known["origins"], known["pieces"]
            same = known["settings"] == settings
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.path}: damaged") from error
        if not same:
            raise InputError(f"{self.path}: holds results of other settings; choose another --out")

    def get(self, name: str) -> Any:
        """The result of a finished piece, None if there is none."""
        piece = self.document["pieces"].get(name)
        return piece["result"] if piece and piece["state"] == "done" else None

    def part(self, name: str) -> Any:
        """The result of a piece that the clock stopped; empty if there is none."""
        piece = self.document["pieces"].get(name)
        return piece["result"] if piece and piece["state"] == "part" else {}

    def put(self, name: str, state: str, result: Any, seconds: float, joules: float | None) -> None:
        """Store a piece: "done", "part" (stopped by the clock; made on by the next call) or "failed"."""
        if self.origin not in self.document["origins"]:
            self.document["origins"].append(self.origin)
        before = self.document["pieces"].get(name, {})
        if before.get("state") == "part":  # what an interrupted piece took is one sum
            seconds += before["seconds"]
            joules = None if joules is None or before["joules"] is None else joules + before["joules"]
        self.document["pieces"][name] = {
            "state": state, "result": result, "seconds": round(seconds, 3), "joules": joules,
            "origin": self.document["origins"].index(self.origin),
        }  # fmt: skip
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.path.resolve()) as temporary:
            temporary.write_text(json.dumps(self.document, indent=1) + "\n")


def stored_results(folder: Path, stage: str) -> dict[str, Any]:
    """The document of a stage, empty if it never ran."""
    path = Path(folder) / f"{stage}.json"
    return json.loads(path.read_text()) if path.exists() else {"pieces": {}, "origins": [], "scale": ""}


def has_results(folder: Path) -> bool:
    """Whether any stage stored anything there."""
    return any(Path(folder).glob("*.json"))
