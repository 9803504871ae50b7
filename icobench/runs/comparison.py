"""The comparison: every method on the same images, block by block, resumable."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from icobench.methods import Method, Outcome, Problem, available_methods, find_method
from icobench.sets.own_images import file_digest, read_own_images
from icobench.runs.settings import ComparisonSettings
from icobench.sets.test_sets import find_test_set
from icobench.sets.pattern_file import read_patterns, write_patterns
from icobench.sets.patterns import PatternSet, generate_patterns
from icobench.errors import InputError
from icobench.fitting.counter import CountingSimulator
from icobench.fitting.dictionary import Dictionary, dictionary_for
from icobench.fitting.objectives import PoissonDeviance
from icobench.fitting.uncertainty import cramer_rao
from icobench.geometry.orientation import appendix_c_errors, disorientation
from icobench.images.detector import DETECTORS
from icobench.storage import atomic_path, holds_others
from icobench.network.selection import Networks, predict
from icobench.provenance import provenance
from icobench.simulator.compiled import prepare_kernel
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Comparison"]

BLOCK = 8
"""Images reconstructed and stored together."""

SUCCESS_DEG, SUCCESS_NM = 1.0, 1.0

WARM_RADII_NM, WARM_IMAGES = (28.0, 164.0), 32
"""Simulated before anything is timed: close enough to need every table of that range."""

NOT_IDENTITY = ("preset", "methods", "seeds", "test_sets", "truth")
"""Settings that may change while a folder's test images stay; files are known by their content."""

Announce = Callable[[str, int, int, float], None]


def score(
    outcome: Outcome, method: str, truth: PatternSet, numbers: Tensor, bounds: tuple, workers: int = 1
) -> "pd.DataFrame":
    """Tidy rows of one block: one per image."""
    import pandas as pd

    angle = disorientation(outcome.quaternion.double(), truth.quaternion)
    mean, largest = appendix_c_errors(
        outcome.radius_nm.double(), outcome.quaternion.double(), truth.radius_nm, truth.quaternion
    )
    miss = (outcome.radius_nm - truth.radius_nm).abs()
    frame: dict[str, Any] = {"image": numbers.numpy(), "method": method}
    frame["true_radius_nm"] = truth.radius_nm.numpy()
    frame.update(_components("true_q", truth.quaternion))
    frame["radius_nm"] = outcome.radius_nm.double().numpy()
    frame.update(_components("q", outcome.quaternion))
    frame.update(
        disorientation_deg=angle.numpy(),
        radius_error_nm=miss.double().numpy(),
        appendix_c_mean=mean.numpy(),
        appendix_c_max=largest.numpy(),
        success=((angle < SUCCESS_DEG) & (miss < SUCCESS_NM)).numpy(),
        objective=outcome.objective.double().numpy(),
        evaluations=outcome.evaluations.numpy(),
        seconds=outcome.seconds / workers / len(numbers),
        radius_std_nm=outcome.radius_std_nm.double().numpy(),
        orientation_std_deg=outcome.orientation_std_deg.double().numpy(),
        bound_radius_nm=bounds[0].numpy(),
        bound_orientation_deg=bounds[1].numpy(),
        status=outcome.status,
    )
    return pd.DataFrame(frame)


def _components(prefix: str, quaternion: Tensor) -> dict[str, np.ndarray]:
    return {f"{prefix}_{axis}": quaternion[:, i].double().numpy() for i, axis in enumerate("wxyz")}


def curves(outcome: Outcome, method: str, truth: PatternSet, numbers: Tensor) -> "pd.DataFrame":
    """Course of the fits: one row per image and step."""
    import pandas as pd

    trace = outcome.trace
    frames = []
    for step, (spent, radius, quaternion, value) in enumerate(
        zip(trace.evaluations, trace.radius_nm, trace.quaternion, trace.objective, strict=True)
    ):
        frames.append(
            pd.DataFrame(
                {
                    "method": method,
                    "image": numbers.numpy(),
                    "step": step,
                    "evaluations": spent.numpy(),
                    "disorientation_deg": disorientation(quaternion.double(), truth.quaternion).numpy(),
                    "radius_error_nm": (radius - truth.radius_nm).abs().double().numpy(),
                    "objective": value.double().numpy(),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


class Comparison:
    """A run folder: the test set, the finished blocks, and what is still missing.

    Args:
        folder: made if missing; a folder of the same settings is continued.
        settings: what is compared.
        experiment: physics and grid.
        seed: of images and random starts.
        device: where to work.
        network: trained networks for the methods that need one.
        workers: processes that share the machine. A method's seconds are those of the whole machine: its time
            in one process over their number.
        helper: whether another process looks after the folder, and this one only computes blocks of it.

    Attributes:
        failures: methods that raised an error, and what it said.
        shard: number and total; only every n-th block is computed here.

    Raises:
        InputError: unknown method, or the folder holds another run.
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
        helper: bool = False,
    ) -> None:
        self.folder, self.settings, self.seed, self.device = Path(folder), settings, seed, device
        names = tuple(available_methods()) if settings.methods == ("all",) else settings.methods
        self.methods = [find_method(name) for name in names]
        if len(settings.test_sets) != 1 or settings.seeds != 1:
            raise InputError("a run has one test set and one seed; several make a campaign")
        chosen = find_test_set(settings.test_sets[0])
        self.options = chosen.options(settings.images, settings.photons, settings.hole_degrees)
        self.own: PatternSet | None = None
        self.source: dict[str, str] | None = None
        kind = self.options.stored_kind
        if chosen.path is not None:
            truth = Path(settings.truth) if settings.truth else None
            self.own = read_own_images(chosen.path, experiment, settings.images, truth)
            self.source = {"file": chosen.path.name, "sha256": file_digest(chosen.path)}
            if truth is not None:
                self.source |= {"truth": truth.name, "truth_sha256": file_digest(truth)}
            experiment, kind = self.own.experiment, self.own.kind
        self.images = settings.images if self.own is None else len(self.own)
        needed = network is not None and any(method.needs_network for method in self.methods)
        self.experiment = experiment
        # Nobody pays for the training of a network that is not asked.
        complete = self.own is None and self.options.detector == DETECTORS["clean"]
        self.network = network.subset(experiment, kind, complete) if network and needed else None
        self.simulator = Simulator(experiment, device=device)
        self.dictionary: Dictionary | None = None
        self.failures: dict[str, str] = {}
        self.shard = (1, 1)
        self.workers = workers
        self._patterns: PatternSet | None = None
        self._bounds: dict[int, tuple[Tensor, Tensor]] = {}
        self.identity: dict[str, Any] = {
            "settings": {
                **{k: v for k, v in asdict(settings).items() if k not in NOT_IDENTITY},
                "test_sets": (chosen.name,),
            },
            "experiment": experiment.to_dict(),
            "seed": seed,
            **({"source": self.source} if self.source else {}),
        }
        if not helper:
            self._open()

    def check(self) -> None:
        """Whether the folder may be used for this run; nothing is written.

        Raises:
            InputError: it holds something else.
        """
        described = self.folder / "run.json"
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder}: is a file, not a run folder")
        if described.exists():
            try:
                known = json.loads(described.read_text())["identity"]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{described}: damaged") from error
            if known != json.loads(json.dumps(self.identity)):
                raise InputError(
                    f"{self.folder}: holds a run with other images, experiment or seed; choose another --run"
                )
        elif holds_others(self.folder, "run.json", "parts"):
            raise InputError(f"{self.folder}: not empty and not a run folder; choose another --run")

    def _open(self) -> None:
        self.check()
        try:
            (self.folder / "parts").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be made ({error.strerror})") from error
        self._describe()

    def _describe(self) -> None:
        """Write ``run.json``."""
        detector = self.options.detector
        noise = {"photons": detector.photons, "hole_degrees": detector.hole_degrees} if not self.own else {}
        origin = provenance(self.seed, self.device, self.experiment)
        if self.workers > 1:
            origin["machine"]["workers"] = self.workers
        described = {
            **origin,
            "methods": {method.name: method.card for method in self.methods},
            "failures": self.failures,
            "settings": {
                **asdict(self.settings), **self.identity["settings"], "images": self.images, **noise,
            },
            "source": self.source["file"] if self.source else None,
            "identity": self.identity,
            "network": None if self.network is None else self.network.cards[0],
            "networks": [] if self.network is None else self.network.cards,
            "dictionary": None if self.dictionary is None else self.dictionary.card,
        }  # fmt: skip
        with atomic_path(self.folder / "run.json") as temporary:
            temporary.write_text(json.dumps(described, indent=1) + "\n")

    def test_set(self, progress: Callable[[int], None] = lambda done: None) -> PatternSet:
        """The test images, made once and kept in the folder."""
        if self._patterns is not None:
            return self._patterns
        path = self.folder / "test_set.h5"
        if not path.exists():
            self.keep_test_set(
                self.own or generate_patterns(self.options, self.experiment, self.seed, self.device, progress)
            )
        self._patterns = read_patterns(path)
        return self._patterns

    @property
    def lacks_images(self) -> bool:
        """Whether the test images are still to be simulated."""
        return self.own is None and not (self.folder / "test_set.h5").exists()

    def keep_test_set(self, patterns: PatternSet) -> None:
        """Store the test images."""
        origin = provenance(self.seed, self.device, self.experiment)
        write_patterns(
            self.folder / "test_set.h5",
            patterns,
            {"command": origin["command"], "seed": self.seed},
            exact=self.own is not None,
        )

    def _part(self, method: Method, block: int) -> Path:
        """Where a block is stored; another version, other options or other weights make other parts."""
        weights = f"-{self.network.digest}" if method.needs_network and self.network else ""
        return self.folder / "parts" / f"{method.name}-{method.digest}{weights}-{block:04d}.parquet"

    def missing(self) -> list[tuple[Method, int]]:
        """Methods and blocks of this shard not yet stored.

        Methods in turn, block by block: a machine's pace drifts, and their times are compared.
        """
        number, total = self.shard
        blocks = range(number - 1, -(-self.images // BLOCK), total)
        return [(m, b) for b in blocks for m in self.methods if not self._part(m, b).exists()]

    def bounds(self, block: int, truth: PatternSet) -> tuple[Tensor, Tensor]:
        """Cramer-Rao bounds of radius and orientation at the truth of a block (not charged to any method).

        Without noise, or without a truth, there is no bound: NaN.
        """
        if block in self._bounds:
            return self._bounds[block]
        radius, turn = (torch.full((len(truth),), torch.nan, dtype=torch.float64) for _ in range(2))
        known = torch.isfinite(truth.radius_nm)
        if truth.kind == "counts" and known.any():
            own = truth.subset(known)
            counter = CountingSimulator(self.simulator, len(own))
            objective = PoissonDeviance(own.images, own.mask, counter)
            radius[known], turn[known] = cramer_rao(objective, own.radius_nm, own.quaternion)
        self._bounds[block] = radius, turn
        return radius, turn

    def prepare(self) -> None:
        """Make what is made once, lest the first method's time has it: images, kernel, tables, dictionary."""
        patterns = self.test_set()
        prepare_kernel(self.device)
        if self.missing():
            radius = torch.linspace(*WARM_RADII_NM, WARM_IMAGES, dtype=torch.float64)
            upright = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64).expand(WARM_IMAGES, 4)
            self.simulator.intensity(radius.to(self.device), upright.to(self.device))
        if self.missing() and self.network is not None:
            first = patterns.subset(torch.arange(min(BLOCK, len(patterns))))
            with contextlib.suppress(Exception):  # whoever uses it will say what is wrong with it
                predict(self.network, first.images, first.mask, self.experiment, first.kind)
        if self.dictionary is None and any(method.needs_dictionary for method in self.methods):
            self.dictionary = dictionary_for(self.simulator)

    def compute(
        self, method: Method, block: int, progress: Callable[[float], None] = lambda share: None
    ) -> None:
        """Reconstruct a block with a method and store it, after :meth:`prepare`.

        A method that raises an error is noted in :attr:`failures`.

        Args:
            method: one of those compared.
            block: number.
            progress: called with the finished share.
        """
        patterns = self.test_set()
        numbers = torch.arange(block * BLOCK, min((block + 1) * BLOCK, len(patterns)))
        truth = patterns.subset(numbers)
        problem = Problem(
            truth.images, truth.mask, truth.kind, self.simulator, self.network, self.seed, numbers
        )
        try:
            outcome = method.run(problem, progress)
        except Exception as error:  # a method of somebody else's may raise anything: the others go on
            line = (str(error).strip().splitlines() or [""])[0]
            self.failures[method.name] = f"{type(error).__name__}: {line}"
            return
        rows = score(outcome, method.name, truth, numbers, self.bounds(block, truth), self.workers)
        course = curves(outcome, method.name, truth, numbers)
        # The curves first: a part counts as finished once its results exist.
        part = self._part(method, block)
        with atomic_path(part.with_suffix(".curves")) as temporary:
            course.to_parquet(temporary)
        with atomic_path(part) as temporary:
            rows.to_parquet(temporary)

    def run(self, announce: Announce = lambda method, block, blocks, share: None) -> "pd.DataFrame":
        """Compute what is missing, storing every block as it is finished; then collect.

        A method that raises an error is noted in :attr:`failures` and in ``run.json``, and tried again by the
        next call; the others go on.

        Args:
            announce: called with method, block, number of blocks and the block's finished share.

        Raises:
            InputError: no method finished a block.
        """
        self.prepare()
        self._describe()
        blocks = -(-self.images // BLOCK)
        for method, block in self.missing():

            def report(share: float, method: Method = method, block: int = block) -> None:
                announce(method.name, block, blocks, share)

            if method.name in self.failures:
                continue
            report(0.0)
            self.compute(method, block, report)
            if method.name in self.failures:
                self._describe()
            else:
                report(1.0)
        return self.collect()

    def _stored(self) -> Iterator[Path]:
        blocks = range(-(-self.images // BLOCK))
        for method in self.methods:
            for block in blocks:
                if self._part(method, block).exists():
                    yield self._part(method, block)

    def collect(self) -> "pd.DataFrame":
        """Join the stored blocks into ``results.parquet`` and ``curves.parquet``."""
        import pandas as pd

        parts = list(self._stored())
        if not parts:
            reasons = "; ".join(f"{name} failed: {reason}" for name, reason in self.failures.items())
            raise InputError(f"{self.folder}: {reasons or 'no finished block yet'}")
        results = pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True)
        course = pd.concat(
            [pd.read_parquet(part.with_suffix(".curves")) for part in parts], ignore_index=True
        )
        for name, frame in (("results", results), ("curves", course)):
            with atomic_path(self.folder / f"{name}.parquet") as temporary:
                frame.to_parquet(temporary)
        return results
