"""The front door for Python: what ``icobench.compare`` and its neighbours do, as the command line does it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from icobench.answer import Progress
from icobench.images.image_set import ImageSet
from icobench.methods import Catalogue, Method
from icobench.runs.comparison import Comparison, automatic_workers, compute_comparison
from icobench.runs.pieces import Report
from icobench.runs.pool import chosen_device
from icobench.runs.settings import ComparisonSettings
from icobench.sets.generation import SetGeneration, chosen_options
from icobench.sets.pattern_file import read_patterns
from icobench.sets.patterns import generate_patterns
from icobench.sets.test_sets import TestSet
from icobench.simulator.experiment import Experiment

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["ComparisonResult", "compare", "generate", "test_sets"]


@dataclass(frozen=True)
class ComparisonResult:
    """The result of a comparison.

    Attributes:
        results: a row per image and method: truth, answer, errors, costs, bounds, status; of several runs
            with the columns run and test_set before them.
        curves: a row per image, method and step of a fit.
        failures: what methods raised, by run and method.

    Example:
        >>> result = icobench.compare(["dictionary+lm"], images=1, workers=1)
        >>> result.failures
        {}
    """

    results: "pd.DataFrame"
    curves: "pd.DataFrame"
    failures: dict[str, str]

    def table(self) -> "pd.DataFrame":
        """The summary that the command line prints: a row per method and test set, over all seeds."""
        import pandas as pd

        from icobench.reporting.tables import summary_table

        if "test_set" not in self.results:
            return summary_table(self.results)
        by_test_set = self.results.groupby("test_set", sort=False)
        tables = {name: summary_table(rows) for name, rows in by_test_set}
        return pd.concat(tables, names=["test_set"]).reset_index(level="test_set")

    def plot(self) -> "Figure":
        """Error against simulated images, as in the report; of the first run if there are several."""
        from icobench.reporting.figures import plot_errors

        results, curves = self.results, self.curves
        if "run" in results:
            first = results["run"].iloc[0]
            results, curves = results[results["run"] == first], curves[curves["run"] == first]
        return plot_errors(results, curves)

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def compare(
    methods: Sequence[str | Method] = ("network", "simplex", "dictionary+lm", "network+lm"),
    test_sets: Sequence[str | TestSet] = ("counting",),
    images: int = 16,
    *,
    seeds: int = 1,
    photons: float | None = None,
    hole_degrees: float | None = None,
    truth: Path | str | None = None,
    experiment: Experiment | None = None,
    model: Path | str | None = None,
    seed: int = 0,
    device: str = "auto",
    workers: int = 0,
    folder: Path | str | None = None,
    report: Report = lambda share, text: None,
) -> ComparisonResult:
    """Reconstruct the same test images with several methods, as ``icobench compare`` does.

    Args:
        methods: names, or methods such as ``icobench.methods()["simplex"].with_options(starts=20)``.
        test_sets: names, files of images, or test sets.
        images: number of test images of each set.
        seeds: sets of images of each kind, with consecutive seeds.
        photons, hole_degrees: of the test images, instead of the test set's own.
        truth: table with the truth of a file of images.
        experiment: physics and grid.
        model: weights of the networks, or "paper"; the default ones if None. The methods of the paper's
            network keep theirs.
        seed: of images and random starts.
        device: "auto", "cpu" or "cuda".
        workers: processes; 0 for one for each core or GPU. Methods that are given as objects are computed by
            this process.
        folder: keeps the results, as ``--run`` does; in memory alone by default.
        report: called with the finished share and what is under way.

    Raises:
        InputError: unknown names, or a folder that holds something else.

    Example:
        >>> import icobench
        >>> result = icobench.compare(methods=["dictionary+lm"], images=2, workers=1)
        >>> list(result.table()["method"]), len(result.results)
        (['dictionary+lm'], 2)
    """
    given = tuple(method for method in methods if isinstance(method, Method))
    sets = tuple(test_set for test_set in test_sets if isinstance(test_set, TestSet))
    catalogue = Catalogue(methods=given, test_sets=sets)
    settings = ComparisonSettings(
        "python", images, tuple(_name(test_set) for test_set in test_sets), photons, hole_degrees,
        tuple(_name(method) for method in methods), seeds, None if truth is None else str(truth),
    )  # fmt: skip
    where = chosen_device(device)
    if given or sets:
        workers = 1
    if folder is not None:
        return _compared(Path(folder), settings, experiment, seed, where, model, catalogue, workers, report)
    with TemporaryDirectory() as temporary:
        inside = Path(temporary) / "run"
        return _compared(inside, settings, experiment, seed, where, model, catalogue, workers, report)


def _name(value: Any) -> str:
    return value if isinstance(value, str) else str(getattr(value, "name", value))


def _compared(
    folder: Path, settings: ComparisonSettings, experiment: Experiment | None, seed: int, device: Any,
    model: Path | str | None, catalogue: Catalogue, workers: int, report: Report,
) -> ComparisonResult:  # fmt: skip
    import pandas as pd

    comparison = Comparison(
        folder, settings, experiment or Experiment(), seed, str(device),
        model, catalogue, workers or automatic_workers(device),
    )  # fmt: skip
    comparison.check()
    compute_comparison(comparison, report=report)
    results = comparison.collect()
    curves = []
    for name, run in comparison.runs.items():
        table = pd.read_parquet(run.folder / "curves.parquet")
        if name:
            table.insert(0, "run", name)
        curves.append(table)
    return ComparisonResult(results, pd.concat(curves, ignore_index=True), comparison.failures)


def generate(
    images: int | None = None,
    *,
    preset: str | None = None,
    kind: str | None = None,
    detector: str | None = None,
    photons: float | None = None,
    hole_degrees: float | None = None,
    background: float | None = None,
    experiment: Experiment | None = None,
    seed: int = 0,
    device: str = "auto",
    path: Path | str | None = None,
    progress: Progress = lambda share: None,
) -> ImageSet:
    """A training or test set with its truth, as ``icobench generate`` makes it.

    Args:
        images: number of images, 1000 by default.
        preset: "paper" for its 30,058 log images.
        kind: "counts" or "log" (8-bit log images).
        detector: "clean", "counting" (default), "experiment" or "mcp".
        photons: of an image, 0 for no noise.
        hole_degrees: central hole.
        background: standard deviation of the noise on log images.
        experiment: physics and grid.
        seed: of the set.
        device: "auto", "cpu" or "cuda".
        path: HDF5 file to keep the set in; an interrupted call goes on there.
        progress: called with the finished share.

    Raises:
        InputError: settings that make no sense, or a file of another set.

    Example:
        >>> import icobench
        >>> images = icobench.generate(3, photons=1e4)
        >>> images.images.shape, images.kind
        (torch.Size([3, 128, 128]), 'counts')
    """
    options = chosen_options(preset, images, kind, detector, photons, hole_degrees, background)
    where, experiment = chosen_device(device), experiment or Experiment()
    if path is None:
        return generate_patterns(options, experiment, seed, where, progress)
    SetGeneration(Path(path), options, experiment, seed, device=str(where)).run(progress)
    return read_patterns(Path(path))


def test_sets() -> dict[str, TestSet]:
    """All test sets by name, those of other packages included.

    Example:
        >>> import icobench
        >>> "counting" in icobench.test_sets()
        True
    """
    return Catalogue().available_test_sets()


test_sets.__test__ = False  # type: ignore[attr-defined]  # pytest would take it for a test
