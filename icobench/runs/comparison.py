"""The comparison: every method on the same images, block by block, resumable.

A comparison is a list of runs, one for each test set and seed. A run's pieces are blocks of images, each
reconstructed by one method.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from icobench.answer import BLOCK, Progress
from icobench.devices import one_thread
from icobench.errors import InputError
from icobench.images.image_set import ImageSet
from icobench.methods import Catalogue, Method
from icobench.network.selection import Networks
from icobench.provenance import provenance
from icobench.runs.comparison_run import Block, Run
from icobench.runs.pieces import Report, execute, missing_pieces
from icobench.runs.pool import WorkerPool, automatic_workers
from icobench.runs.settings import ComparisonSettings
from icobench.sets.own_images import file_digest
from icobench.sets.patterns import PatternOptions, PatternSource
from icobench.simulator.experiment import Experiment
from icobench.storage import WHOLE, Shard, atomic_path, holds_others, write_json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COMPARISON_FILE", "Comparison", "automatic_workers", "compute_comparison"]

COMPARISON_FILE = "campaign.json"
"""What describes a folder of several runs; a single run is described by its own ``run.json`` alone."""


@dataclass(frozen=True)
class Comparison:
    """Methods on test sets. Making one reads and writes nothing.

    Attributes:
        folder: of one run, or of a folder for each run.
        settings: what is compared.
        experiment: physics and grid.
        seed: of images and random starts of the first run; the others take the next ones.
        device: where to work.
        model: weights of the networks, or "paper"; the default ones if None.
        catalogue: methods and test sets beside those of the package.
        workers: processes that share the machine. A method's seconds are those of the whole machine: its time
            in one process over their number.
        stated: fields of the experiment that the user stated; a file of images must not contradict them.
    """

    folder: Path
    settings: ComparisonSettings
    experiment: Experiment
    seed: int = 0
    device: str = "cpu"
    model: Path | str | None = None
    catalogue: Catalogue = field(default_factory=Catalogue)
    workers: int = 1
    stated: tuple[str, ...] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Other processes load test images and networks themselves.
        return {given.name: getattr(self, given.name) for given in fields(self)}

    @cached_property
    def methods(self) -> list[Method]:
        """The methods, in the order of the table.

        Raises:
            InputError: an unknown one.
        """
        if self.settings.methods == ("all",):
            return list(self.catalogue.available_methods().values())
        return [self.catalogue.method(name) for name in self.settings.methods]

    @cached_property
    def networks(self) -> dict[str, Networks]:
        """The networks that methods ask, by the methods' ``weights``, those of the run first."""
        asking = {method.weights: method for method in self.methods if method.needs_network}
        loaded = {name: asking[name].load_networks(self.model, self.device) for name in sorted(asking)}
        return {name: networks for name, networks in loaded.items() if networks is not None}

    @property
    def given(self) -> dict[str, Any]:
        """What a rerun needs beside the settings: see :mod:`icobench.runs.record`."""
        return {
            "experiment": self.experiment.to_dict(),
            "stated": None if self.stated is None else list(self.stated),
            "model": None if self.model is None else str(self.model),
            "method_files": {str(path): file_digest(path) for path in self.catalogue.files},
        }

    @cached_property
    def runs(self) -> dict[str, "Run"]:
        """The runs by name, in order; the name of a single one is empty.

        Raises:
            InputError: unknown or impossible test sets, or two of one name.
        """
        seeds = [self.seed + number for number in range(self.settings.seeds)]
        runs: dict[str, Run] = {}
        several = len(self.settings.test_sets) * len(seeds) > 1
        test_sets = list(map(self.catalogue.test_set, self.settings.test_sets))
        # Seed by seed: an unfinished comparison has all its test sets.
        for seed in seeds:
            for test_set in test_sets:
                if test_set.path and seed != self.seed:
                    continue  # a file's images are what they are: another seed would only repeat them
                name = test_set.name if len(seeds) == 1 or test_set.path else f"{test_set.name}-{seed}"
                if not several:
                    name = ""
                if name in runs:
                    raise InputError(f"two test sets have the name {name}")
                runs[name] = Run(
                    self.folder / name, name, test_set, seed, self.settings, self.experiment, self.methods,
                    self.networks, self.device, self.workers, self.stated, self.given,
                )  # fmt: skip
        return runs

    def check(self) -> None:
        """Refuse settings that cannot be computed, and a folder that holds something else."""
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder}: is a file, not a run folder")
        several_here = "" in self.runs or (self.folder / COMPARISON_FILE).exists()
        if not several_here and holds_others(self.folder, COMPARISON_FILE, *self.runs):
            raise InputError(f"{self.folder}: not empty and not a folder of runs; choose another --run")
        for run in self.runs.values():
            run.check()

    def open(self) -> None:
        """Make the folders, or continue in them, and describe the runs."""
        self.check()
        for run in self.runs.values():
            run.store.open(run.description())
        if "" not in self.runs:
            runs = {name: {"test_set": run.reference, "seed": run.seed} for name, run in self.runs.items()}
            origin = provenance(self.seed, torch.device(self.device), self.experiment)
            described = {"settings": asdict(self.settings), "given": self.given, "runs": runs}
            description = {**origin, **described}
            write_json(self.folder / COMPARISON_FILE, description)

    def pieces(self) -> list[Block]:
        """The blocks of all runs, methods in turn: a machine's pace drifts, and their times are compared."""
        return [
            Block(name, method.name, block)
            for name, run in self.runs.items()
            for block in range(run.blocks)
            for method in self.methods
        ]

    def is_stored(self, piece: Block) -> bool:
        """Whether a block is finished."""
        return self.runs[piece.run].store.has(self.runs[piece.run].part(piece))

    def compute(self, piece: Block, device: str, progress: Progress = lambda share: None) -> str | None:
        """Reconstruct a block with a method and store it; what the method raised if it failed."""
        comparison = self if device == self.device else self._elsewhere(device)
        return comparison.runs[piece.run].compute(piece, progress)

    def _elsewhere(self, device: str) -> "Comparison":
        """The same on another device."""
        others: dict[str, Comparison] = self.__dict__.setdefault("_others", {})
        if device not in others:
            others[device] = replace(self, device=device)
        return others[device]

    @property
    def failures(self) -> dict[str, str]:
        """What methods raised, by run and method."""
        return {
            f"{name}, {method}" if name else method: reason
            for name, run in self.runs.items()
            for method, reason in run.failures.items()
        }

    @property
    def conversions(self) -> list[str]:
        """A line for each run whose images are converted for some methods' networks."""
        return [
            f"{name or run.test_set.name}, {', '.join(methods)}: {text}"
            for name, run in self.runs.items()
            for text, methods in run.conversions.items()
        ]

    def collect(self) -> "pd.DataFrame":
        """Join the stored blocks into ``results.parquet`` and ``curves.parquet`` of each run.

        Returns:
            one row per image and method; of several runs with two more columns, ``run`` and ``test_set``, and
            also in a ``results.parquet`` beside them.

        Raises:
            InputError: no method finished a block.
        """
        import pandas as pd

        tables = []
        for name, run in self.runs.items():
            table = run.collect()
            if name:
                table.insert(0, "run", name)
                table.insert(1, "test_set", run.reference)
            tables.append(table)
        if "" in self.runs:
            return tables[0]
        results = pd.concat(tables, ignore_index=True)
        with atomic_path(self.folder / "results.parquet") as temporary:
            results.to_parquet(temporary)
        return results


def compute_comparison(
    comparison: Comparison, shard: Shard = WHOLE, report: Report = lambda share, text: None
) -> None:
    """Compute what is missing of a comparison, or of a shard of it.

    A method that raises an error is noted in the run's description and tried again by the next call; the
    others go on.

    Args:
        comparison: opened here.
        shard: which part of the blocks.
        report: called with the finished share and what is under way.
    """
    device = torch.device(comparison.device)
    with one_thread():
        comparison.open()
        if not missing_pieces(comparison, shard):
            return
        report(0.0, "preparing")
        slow = [run for run in comparison.runs.values() if run.lacks_images and run.options.method != "exact"]
        if comparison.workers > 1 and slow:
            with WorkerPool(comparison.workers, device) as pool:
                for run in slow:
                    _simulate_images(run, pool, report)
        for name, run in comparison.runs.items():
            run.prepare(partial(_note, report, name))
            run.store.describe(run.description())
        failures = execute(comparison, device, comparison.workers, shard, report)
        for piece, reason in failures.items():
            comparison.runs[piece.run].failures.setdefault(piece.method, reason)
        for run in comparison.runs.values():
            if run.failures:
                run.store.describe(run.description())


def _note(report: Report, name: str, text: str) -> None:
    """Report what is being made for a run."""
    report(0.0, f"{name}: {text}" if name else text)


def _simulate_images(run: Run, pool: WorkerPool, report: Report) -> None:
    """Simulate the images of a slow test set by several processes."""
    starts: Sequence[int] = range(0, run.images, BLOCK)
    jobs = [
        (run.options, run.experiment, run.seed, start, min(start + BLOCK, run.images)) for start in starts
    ]
    parts: dict[int, ImageSet] = {}
    for job, arrays in pool.run(_simulate_block, jobs):
        bodies = arrays.pop("bodies")
        tensors: dict[str, Any] = {name: torch.from_numpy(values) for name, values in arrays.items()}
        tensors["bodies"] = bodies
        parts[job[3]] = ImageSet(**tensors, experiment=run.experiment, kind=run.options.stored_kind)
        report(0.0, f"{run.name or run.test_set.name}: {sum(map(len, parts.values()))} test images")
    run.keep_images(ImageSet.join([parts[start] for start in starts]))


def _simulate_block(
    options: PatternOptions, experiment: Experiment, seed: int, first: int, last: int, rank: int, device: str
) -> dict[str, Any]:
    """Some test images as arrays: tensors would go through shared memory, which may be small."""
    made = PatternSource(options, experiment, seed, device).block(range(first, last))
    names = ("images", "mask", "radius_nm", "quaternion", "numbers")
    return {"bodies": made.bodies} | {name: getattr(made, name).numpy() for name in names}
