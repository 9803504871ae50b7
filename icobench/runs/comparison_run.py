"""One run of a comparison: a test set and a seed, and the blocks that methods have reconstructed."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from icobench.answer import BLOCK, Progress
from icobench.errors import InputError
from icobench.fitting.dictionary import Dictionary, dictionary_for
from icobench.images.detector import DETECTORS
from icobench.images.image_set import ImageSet
from icobench.methods import Method, Problem
from icobench.methods.shapes import race_dictionaries
from icobench.network.selection import Networks, predict
from icobench.provenance import provenance
from icobench.runs.scoring import bounds_at_truth, course, facets, score
from icobench.runs.settings import ComparisonSettings
from icobench.sets.own_images import file_digest, read_own_images
from icobench.sets.pattern_file import read_patterns, write_patterns
from icobench.sets.patterns import PatternOptions, generate_patterns
from icobench.sets.test_sets import TestSet
from icobench.simulator.compiled import prepare_kernel
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from icobench.storage import PieceStore, atomic_path, read_json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Block", "Run"]

WARM_RADII_NM, WARM_IMAGES = (28.0, 164.0), 32
"""Simulated before anything is timed: close enough to need every table of that range."""

NOT_IDENTITY = ("preset", "methods", "seeds", "test_sets", "truth", "definitions")
"""Settings that may change while a folder's test images stay; files are known by their content."""


class Block(NamedTuple):
    """One piece of a comparison.

    Attributes:
        run: name of the run, empty if there is only one.
        method: name.
        block: number of the block of images.
    """

    run: str
    method: str
    block: int

    def __str__(self) -> str:
        place = f"{self.run}: " if self.run else ""
        return f"{place}{self.method} block {self.block + 1}"


@dataclass(eq=False)
class Run:
    """One test set and seed of a comparison: what its images are, and where its finished blocks lie.

    Attributes:
        folder: of the run.
        name: of the run, empty for a single one.
        test_set: what the images are.
        seed: of images and random starts.
        settings: of the comparison.
        believed: physics and grid, whatever number of pixels a file's images have.
        methods: in the order of the table.
        all_networks: to choose from, by the ``weights`` of the methods that ask them.
        device: where to work.
        workers: processes that share the machine.
        stated: fields of ``believed`` that the user stated, see
            :func:`~icobench.sets.own_images.read_own_images`.
        given: what the comparison was given, for the description.
        failures: methods that raised an error, and what it said.
        dictionary: of the methods that need one, once the run is prepared.
        race_cards: the cost of the dictionaries of methods that choose a shape, likewise.
    """

    folder: Path
    name: str
    test_set: TestSet
    seed: int
    settings: ComparisonSettings
    believed: Experiment
    methods: Sequence[Method]
    all_networks: Mapping[str, Networks]
    device: str
    workers: int
    stated: Sequence[str] | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    dictionary: Dictionary | None = None
    race_cards: dict[str, dict[str, Any]] = field(default_factory=dict)
    _bounds: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _prepared: bool = False

    @property
    def reference(self) -> str:
        """The test set as the user named it: its name, or a file."""
        return self.test_set.name if self.test_set.path is None else str(self.test_set.path)

    @cached_property
    def options(self) -> PatternOptions:
        """How the images are made."""
        return self.test_set.options(self.settings.images, self.settings.photons, self.settings.hole_degrees)

    @cached_property
    def file_images(self) -> ImageSet | None:
        """The images of a test set that is a file."""
        if self.test_set.path is None:
            return None
        truth = Path(self.settings.truth) if self.settings.truth else None
        return read_own_images(self.test_set.path, self.believed, self.settings.images, truth, self.stated)

    @cached_property
    def experiment(self) -> Experiment:
        """Physics and grid; a file's images have their own number of pixels."""
        experiment = None if self.file_images is None else self.file_images.experiment
        return experiment or self.test_set.believed(self.believed)

    @cached_property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-self.images // BLOCK)

    @cached_property
    def images(self) -> int:
        """Number of images."""
        return self.settings.images if self.file_images is None else len(self.file_images)

    @cached_property
    def kind(self) -> str:
        """Of the images, one of :data:`~icobench.images.image_set.KINDS`."""
        return self.options.stored_kind if self.file_images is None else self.file_images.kind

    @cached_property
    def networks(self) -> dict[tuple[str, str], Networks]:
        """The networks that may be asked, by the methods' ``weights`` and ``physics``.

        So no method pays for another's training.

        Raises:
            InputError: none was made for the experiment.
        """
        complete = self.file_images is None and self.options.detector == DETECTORS["clean"]
        chosen = {}
        asking = [method for method in self.methods if method.needs_network]
        for weights, physics in dict.fromkeys((method.weights, method.physics) for method in asking):
            networks = self.all_networks[weights]
            experiment = replace(self.experiment, physics=physics or self.experiment.physics)
            try:
                chosen[weights, physics] = networks.choose(experiment, self.kind, complete)
            except InputError:
                # Of "all", and on a rung of another material, methods fail alone, and the others go on.
                if not self.test_set.known and (not weights or self.settings.methods != ("all",)):
                    raise
                chosen[weights, physics] = networks
        return chosen

    def networks_of(self, method: Method) -> Networks | None:
        """The networks that a method may ask, None if it asks none."""
        return self.networks[method.weights, method.physics] if method.needs_network else None

    @property
    def conversions(self) -> dict[str, list[str]]:
        """What images are converted to for networks, in words, and the methods that ask these."""
        methods: dict[str, list[str]] = {}
        for method in self.methods:
            if text := self._asked(method).get("converted"):
                methods.setdefault(text, []).append(method.name)
        return methods

    @cached_property
    def source(self) -> dict[str, str]:
        """Names and contents of the files that the images come from; empty for simulated ones."""
        if self.test_set.path is None:
            return {}
        files = {"file": self.test_set.path.name, "sha256": file_digest(self.test_set.path)}
        if self.settings.truth:
            truth = Path(self.settings.truth)
            files |= {"truth": truth.name, "truth_sha256": file_digest(truth)}
        return files

    @cached_property
    def store(self) -> PieceStore:
        """The folder with the finished blocks."""
        settings = {name: value for name, value in asdict(self.settings).items() if name not in NOT_IDENTITY}
        identity = {
            "settings": {**settings, "test_sets": (self.test_set.name,)},
            "experiment": self.experiment.to_dict(),
            "seed": self.seed,
            **({"source": self.source} if self.source else {}),
        }
        return PieceStore(self.folder, identity, what="a run")

    def check(self) -> None:
        """Refuse images that cannot be made, networks that do not fit, and a folder of something else.

        Raises:
            InputError: for one of these.
        """
        _ = self.options, self.networks
        self.store.check()

    def description(self) -> dict[str, Any]:
        """What ``run.json`` says beside the identity."""
        detector = self.options.detector
        noise = {"photons": detector.photons, "hole_degrees": detector.hole_degrees}
        origin = provenance(self.seed, torch.device(self.device), self.experiment)
        if self.workers > 1:
            origin["machine"]["workers"] = self.workers
        settings = {**asdict(self.settings), **self.store.identity["settings"], "images": self.images}
        cards = {card["digest"]: card for networks in self.networks.values() for card in networks.cards}
        return {
            **origin,
            "methods": {method.name: method.card | self._asked(method) for method in self.methods},
            "failures": self.failures,
            "settings": settings | (noise if self.file_images is None else {}),
            "test_set": self.reference,
            "given": dict(self.given),
            "source": self.source.get("file"),
            "network": next(iter(cards.values()), None),
            "networks": list(cards.values()),
            "dictionary": self._described("dictionary") if self.dictionary is None else self.dictionary.card,
        }

    def _described(self, *path: str) -> Any:
        """What the folder's description says already: where nothing is computed, nothing is prepared."""
        found: Any = read_json(self.store.description) if self.store.description.exists() else {}
        for name in path:
            found = (found or {}).get(name)
        return found

    def _asked(self, method: Method) -> dict[str, Any]:
        """The networks of a method's card, and what its images are converted to for them; the dictionaries
        of its own."""
        networks = self.networks_of(method)
        if method.chooses_shape:
            stored = self._described("methods", method.name, "dictionary")
            return {"dictionary": self.race_cards.get(method.name, stored)}
        if networks is None:
            return {}
        asked: dict[str, Any] = {"networks": [member.digest for member in networks.members]}
        converted = networks.conversion(self.kind)
        return asked | ({"converted": converted} if converted else {})

    @property
    def lacks_images(self) -> bool:
        """Whether the test images are still to be simulated."""
        return self.file_images is None and not (self.folder / "test_set.h5").exists()

    @cached_property
    def test_images(self) -> ImageSet:
        """The test images, made once and kept in the folder."""
        if not (self.folder / "test_set.h5").exists():
            self.keep_images(
                self.file_images or generate_patterns(self.options, self.experiment, self.seed, self.device)
            )
        return read_patterns(self.folder / "test_set.h5")

    def keep_images(self, images: ImageSet) -> None:
        """Store the test images."""
        command = provenance(self.seed, torch.device(self.device), self.experiment)["command"]
        exact = self.file_images is not None or bool(self.options.augmentation)
        origin = {"command": command, "seed": self.seed}
        write_patterns(self.folder / "test_set.h5", images, origin, exact=exact)

    def part(self, piece: Block) -> str:
        """Name of a block's file; another version, other options or other weights make other files."""
        method = next(method for method in self.methods if method.name == piece.method)
        networks = self.networks_of(method)
        weights = "" if networks is None else f"-{networks.digest}"
        return f"{method.name}-{method.digest}{weights}-{piece.block:04d}.parquet"

    @cached_property
    def simulator(self) -> Simulator:
        """Of the experiment that the user believes in."""
        return Simulator(self.experiment, device=self.device)

    def prepare(self, note: Callable[[str], None] = lambda text: None) -> None:
        """Make what is made once, so that the first method is not charged with it.

        That is images, kernel, tables, dictionary and the networks' first call.

        Args:
            note: called with what is being made.
        """
        if self._prepared:
            return
        self._prepared = True
        if self.lacks_images:
            note(f"simulating {self.images} test images")
        images = self.test_images
        note("compiling the simulator, if that is possible")
        prepare_kernel(torch.device(self.device))
        note("tables of the simulator")
        radius = torch.linspace(*WARM_RADII_NM, WARM_IMAGES, dtype=torch.float64)
        upright = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64).expand(WARM_IMAGES, 4)
        self.simulator.intensity(radius.to(self.simulator.device), upright.to(self.simulator.device))
        first = images.subset(torch.arange(min(BLOCK, len(images))))
        for networks in self.networks.values():
            note("first call of the networks")
            with contextlib.suppress(Exception):  # a method that asks the networks will say what is wrong
                predict(networks, replace(first, experiment=self.experiment))
        if any(method.needs_dictionary for method in self.methods):
            note("dictionary of stored patterns")
            self.dictionary = dictionary_for(self.simulator)
        for method in self.methods:
            if method.chooses_shape and "dictionary" in method.option_names:
                self.race_cards[method.name] = race_dictionaries(self.simulator, method)

    def bounds(self, block: int, truth: ImageSet) -> tuple[Tensor, Tensor]:
        """Cramer-Rao bounds at the truth of a block, which no method is charged with.

        Images of propagated waves have the bounds of these, whatever the methods believe.
        """
        if block not in self._bounds:
            waves = self.file_images is None and self.options.method == "propagated"
            simulator = self.simulator.with_physics("propagated") if waves else self.simulator
            self._bounds[block] = bounds_at_truth(truth, simulator)
        return self._bounds[block]

    def compute(self, piece: Block, progress: Progress = lambda share: None) -> str | None:
        """Reconstruct a block and store it.

        A method that has failed in this process is not tried again here.

        Returns:
            what the method raised, None where the block is stored.
        """
        if piece.method in self.failures:
            return self.failures[piece.method]
        self.prepare()
        method = next(method for method in self.methods if method.name == piece.method)
        first, last = piece.block * BLOCK, min((piece.block + 1) * BLOCK, self.images)
        block = self.test_images.subset(torch.arange(first, last))
        try:
            problem = Problem(block, self.simulator, self.networks_of(method), self.seed)
            answer = method.run(problem, progress)
            rows = score(answer, method.name, block, self.bounds(piece.block, block), self.workers)
            tables = {".curves": course(answer, method.name, block)}
            if answer.bodies:
                tables[".facets"] = facets(answer, method.name)
        except Exception as error:  # a user's method may raise anything: the others go on
            line = (str(error).strip().splitlines() or [""])[0]
            self.failures[piece.method] = f"{type(error).__name__}: {line}"
            return self.failures[piece.method]
        # The results last: a part counts as finished once they exist.
        part = self.part(piece)
        for suffix, table in tables.items():
            with self.store.writing(Path(part).with_suffix(suffix).name) as temporary:
                table.to_parquet(temporary)
        with self.store.writing(part) as temporary:
            rows.to_parquet(temporary)
        return None

    def collect(self) -> "pd.DataFrame":
        """Join the stored blocks, method by method."""
        import pandas as pd

        parts = [
            self.store.path(part)
            for method in self.methods
            for block in range(self.blocks)
            if self.store.has(part := self.part(Block(self.name, method.name, block)))
        ]
        if not parts:
            reasons = "; ".join(f"{name} failed: {reason}" for name, reason in self.failures.items())
            raise InputError(f"{self.folder}: {reasons or 'no finished block yet'}")
        results = pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True)
        curves = [pd.read_parquet(part.with_suffix(".curves")) for part in parts]
        tables = {"results": results, "curves": pd.concat(curves, ignore_index=True)}
        freed = [file for part in parts if (file := part.with_suffix(".facets")).exists()]
        if freed:
            tables["facets"] = pd.concat([pd.read_parquet(file) for file in freed], ignore_index=True)
        for name, table in tables.items():
            with atomic_path(self.folder / f"{name}.parquet") as temporary:
                table.to_parquet(temporary)
        return results
