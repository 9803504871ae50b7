"""Several test sets and seeds in one folder: a comparison for each, and their results side by side."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from icobench.methods import Method
from icobench.runs.comparison import Announce, Comparison
from icobench.runs.settings import ComparisonSettings
from icobench.sets.test_sets import find_test_set
from icobench.errors import InputError
from icobench.storage import atomic_path, holds_others
from icobench.network.selection import Networks
from icobench.provenance import provenance
from icobench.simulator.experiment import Experiment

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CAMPAIGN_FILE", "Campaign", "check_runs", "run_names"]

CAMPAIGN_FILE = "campaign.json"


def run_names(settings: ComparisonSettings, seed: int) -> dict[str, tuple[str, int]]:
    """Folder name -> test set and seed of every run, in order."""
    seeds = [seed + number for number in range(settings.seeds)]
    names = {}
    for test_set in settings.test_sets:
        chosen = find_test_set(test_set)
        # A file's images are what they are; other seeds would only repeat them.
        for own in seeds[:1] if chosen.path else seeds:
            name = chosen.name if len(seeds) == 1 or chosen.path else f"{chosen.name}-{own}"
            if name in names:
                raise InputError(f"two test sets have the name {name}")
            names[name] = test_set, own
    return names


def _check_folder(folder: Path, settings: ComparisonSettings, seed: int) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, not a run folder")
    occupied = holds_others(folder, CAMPAIGN_FILE, *run_names(settings, seed))
    if occupied and not (folder / CAMPAIGN_FILE).exists():
        raise InputError(f"{folder}: not empty and not a folder of runs; choose another --run")


def check_runs(
    folder: Path,
    settings: ComparisonSettings,
    experiment: Experiment,
    seed: int,
    device: torch.device,
    network: Networks | None,
) -> None:
    """Refuse what a comparison or campaign in a folder would refuse; nothing is written.

    Args:
        folder, settings, experiment, seed, device, network: as for :class:`Campaign`.

    Raises:
        InputError: as for :class:`Campaign`.
    """
    names = run_names(settings, seed)
    if len(settings.test_sets) * settings.seeds == 1:
        Comparison(folder, settings, experiment, seed, device, network, helper=True).check()
        return
    _check_folder(folder, settings, seed)
    for name, (test_set, own) in names.items():
        single = replace(settings, test_sets=(test_set,), seeds=1)
        Comparison(folder / name, single, experiment, own, device, network, helper=True).check()


class Campaign:
    """A folder of runs, one for each test set and seed; each is resumable by itself.

    Args:
        folder: made if missing; a folder of the same settings is continued.
        settings: what is compared, with its test sets and number of seeds.
        experiment: physics and grid.
        seed: of the first run; the others take the next ones.
        device: where to work.
        network: trained networks for the methods that need one.
        workers: processes that share the machine.

    Raises:
        InputError: unknown method or test set, or the folder holds something else.
    """

    def __init__(
        self,
        folder: Path,
        settings: ComparisonSettings,
        experiment: Experiment,
        seed: int,
        device: torch.device,
        network: Networks | None,
        workers: int = 1,
    ) -> None:
        self.folder, self.settings, self.seed = Path(folder), settings, seed
        self.experiment, self.device = experiment, device
        _check_folder(self.folder, settings, seed)
        self.runs: dict[str, Comparison] = {}
        for name, (test_set, own) in run_names(settings, seed).items():
            single = replace(settings, test_sets=(test_set,), seeds=1)
            self.runs[name] = Comparison(
                self.folder / name, single, experiment, own, device, network, workers
            )
        self._describe()

    @property
    def shard(self) -> tuple[int, int]:
        """Number and total; only every n-th block of every run is computed here."""
        return next(iter(self.runs.values())).shard

    @shard.setter
    def shard(self, value: tuple[int, int]) -> None:
        for run in self.runs.values():
            run.shard = value

    @property
    def workers(self) -> int:
        """Processes that share the machine."""
        return next(iter(self.runs.values())).workers

    @property
    def failures(self) -> dict[str, str]:
        """Methods that raised an error, by run and method."""
        return {
            f"{name}, {method}": reason
            for name, run in self.runs.items()
            for method, reason in run.failures.items()
        }

    def _describe(self) -> None:
        names = run_names(self.settings, self.seed)
        runs = {name: {"test_set": test_set, "seed": seed} for name, (test_set, seed) in names.items()}
        described = {
            **provenance(self.seed, self.device, self.experiment), "settings": asdict(self.settings),
            "runs": runs,
        }  # fmt: skip
        with atomic_path(self.folder / CAMPAIGN_FILE) as temporary:
            temporary.write_text(json.dumps(described, indent=1) + "\n")

    def missing(self) -> list[tuple[Method, int]]:
        """Methods and blocks not yet stored, of all runs."""
        return [one for run in self.runs.values() for one in run.missing()]

    def run(
        self,
        announce: Announce = lambda method, block, blocks, share: None,
        begin: Callable[[str], None] = lambda name: None,
    ) -> "pd.DataFrame":
        """Compute what is missing, run by run; then collect.

        Args:
            announce: called with method, block, number of blocks and the block's finished share.
            begin: called with a run's name before it starts.

        Returns:
            the runs' results with two more columns, ``run`` and ``test_set``, also in ``results.parquet``.
        """
        import pandas as pd

        frames = []
        for name, run in self.runs.items():
            begin(name)
            frame = run.run(announce)
            frame.insert(0, "run", name)
            frame.insert(1, "test_set", run.settings.test_sets[0])
            frames.append(frame)
        results = pd.concat(frames, ignore_index=True)
        with atomic_path(self.folder / "results.parquet") as temporary:
            results.to_parquet(temporary)
        return results
