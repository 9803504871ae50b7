"""The files of a finished comparison, read and checked; the seeds of a test set are pooled."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from icobench.answer import BLOCK
from icobench.errors import InputError
from icobench.geometry.convex import icosahedron
from icobench.images.image_set import ImageSet
from icobench.reporting.gallery import as_intensities
from icobench.sets.pattern_file import read_patterns
from icobench.sets.patterns import PatternSource
from icobench.sets.test_sets import TEST_SETS, find_test_set
from icobench.simulator.experiment import Experiment
from icobench.storage import read_json

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["RunFolder", "read_run", "read_runs"]

ICOSAHEDRON = "icosahedron"

RUNS_FILE = "campaign.json"
"""In a folder of several runs: their names, each of which is a folder inside."""

RESULT_COLUMNS = (
    "image", "method", "true_radius_nm", "true_q_w", "true_q_x", "true_q_y", "true_q_z", "radius_nm", "q_w",
    "q_x", "q_y", "q_z", "disorientation_deg", "radius_error_nm", "appendix_c_mean", "appendix_c_max",
    "success", "objective", "evaluations", "seconds", "orientation_std_deg", "bound_radius_nm",
    "bound_orientation_deg", "status",
)  # fmt: skip
CURVE_COLUMNS = ("method", "image", "step", "evaluations", "disorientation_deg", "radius_error_nm")
FACET_COLUMNS = ("method", "image", "normal_x", "normal_y", "normal_z", "distance_nm")
LATER_COLUMNS = {
    "results.parquet": ("core_seconds", "radius_std_nm"),
    "curves.parquet": ("appendix_c_mean", "appendix_c_max"),
    "facets.parquet": (),
}
"""Columns that older runs lack, by file."""

TEXT_COLUMNS = ("method", "status")


@dataclass(frozen=True)
class RunFolder:
    """A finished comparison on one set of test images, of one seed or of several.

    Attributes:
        folder: of the run; of all runs where seeds are pooled.
        results: one row per image and method. Beside the stored columns: ``run`` and ``seed`` of the image,
            its ``name`` for pages, and ``block``, the first of the images that were reconstructed together:
            they share a time.
        curves: one row per method, image and step of the fit.
        run: ``run.json``: command, created, versions, machine, settings and so on; of the first seed.
        kind: of the images, "counts", "log" or "intensity".
        count: number of test images, N. The images of several seeds are numbered one seed after the other.
        facets: a row for each facet of the bodies with free ones; None where no method frees any.
        load: from n image numbers to their images as counts or intensities; log images become intensities
            relative to their maximum. Pixels outside the half space are masked.
    """

    folder: Path
    results: "DataFrame"
    curves: "DataFrame"
    run: dict[str, Any]
    experiment: Experiment
    kind: str
    count: int
    load: Callable[[Sequence[int]], ImageSet]
    facets: "DataFrame | None" = None

    @property
    def settings(self) -> dict[str, Any]:
        return self.run["settings"]

    @property
    def truth_known(self) -> bool:
        """Whether the images' true radii and orientations are known, so that there are errors."""
        return bool(self.results["true_radius_nm"].notna().any())

    @property
    def has_shapes(self) -> bool:
        """Whether the images or the answers have other bodies than icosahedra."""
        return "body" in self.results

    @property
    def seeds(self) -> int:
        """Number of runs that are pooled here."""
        return int(self.results["run"].nunique())

    @property
    def test_set(self) -> str:
        """Name of the test set."""
        return str((self.settings.get("test_sets") or ["test images"])[0])

    @property
    def network(self) -> dict[str, Any] | None:
        """The card of the network that took part, None if none did."""
        return self.run.get("network") or None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _table(path: Path, columns: tuple[str, ...]) -> "DataFrame":
    import pandas as pd

    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        table = pd.read_parquet(path)
    except Exception as error:  # pyarrow raises many kinds for damaged files
        raise InputError(f"{path}: not a readable parquet file ({_first_line(error)})") from error
    if missing := [name for name in columns if name not in table]:
        raise InputError(f"{path}: no column {', '.join(missing)}")
    try:
        # Only answers may be missing, and a missing answer is NaN.
        table = table.assign(**{name: nan for name in LATER_COLUMNS[path.name] if name not in table})
        table = table.astype({name: str if name in TEXT_COLUMNS else float for name in columns})
        if "success" in columns:
            table["success"] = table["success"].fillna(0).astype(bool)
        return table.astype({"image": int})
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: wrong type of values ({_first_line(error)})") from error


def _description(path: Path) -> tuple[dict[str, Any], Experiment]:
    """The content of ``run.json``, and its experiment."""
    run = read_json(path)
    for key in ("experiment", "settings"):
        if not isinstance(run.get(key), dict):
            raise InputError(f"{path}: no {key}")
    for key in ("versions", "machine", "network"):
        if not isinstance(run.get(key) or {}, dict):
            raise InputError(f"{path}: {key} is not an object")
    try:
        return run, Experiment.from_dict(run["experiment"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not an experiment ({_first_line(error)})") from error


def _pattern_source(run: dict[str, Any], experiment: Experiment) -> PatternSource | None:
    """What makes a run's images anew, None where its description does not say enough."""
    settings = (run.get("identity") or {}).get("settings") or {}
    names = settings.get("test_sets") or []
    if len(names) != 1 or names[0] not in TEST_SETS or not isinstance(run.get("seed"), int):
        return None
    options = find_test_set(names[0]).options(
        settings["images"], settings.get("photons"), settings.get("hole_degrees")
    )
    return PatternSource(options, experiment, run["seed"])


def read_run(folder: Path | str) -> RunFolder:
    """Read results, curves, test set and provenance of a comparison on one test set.

    Where ``test_set.h5`` is missing (it is large, and therefore often left out where results are kept),
    simulated images are made anew when they are needed.

    Raises:
        InputError: a missing or damaged file, or files that do not belong together.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    run, experiment = _description(folder / "run.json")
    results = _table(folder / "results.parquet", RESULT_COLUMNS)
    curves = _table(folder / "curves.parquet", CURVE_COLUMNS)
    if not len(results):
        raise InputError(f"{folder / 'results.parquet'}: holds no result")
    machine = run.get("machine") or {}
    threads = 1 if "gpu" in machine else machine.get("threads", 1)
    # Not measured by older versions: at most this, if every thread was busy all the time.
    core_seconds = results["seconds"] * machine.get("workers", 1) * threads
    results = results.assign(
        core_seconds=results["core_seconds"].fillna(core_seconds), run=folder.name, seed=run.get("seed"),
        name=results["image"].astype(str), block=results["image"] - results["image"] % BLOCK,
    )  # fmt: skip
    if "body" in results:  # of the rows of some methods, where all images show icosahedra
        unnamed = results["body"].isna()
        results.loc[unnamed, "body"] = ICOSAHEDRON
        results.loc[unnamed & results["true_radius_nm"].notna(), "true_body"] = ICOSAHEDRON
        size_error = icosahedron().equivalent_radius * results["radius_error_nm"]
        results["size_error_nm"] = results["size_error_nm"].where(~unnamed, size_error)
    path = folder / "test_set.h5"
    source = None if path.exists() else _pattern_source(run, experiment)
    if source is None:
        images = read_patterns(path)
        kind, count, pixels = images.kind, len(images), images.images.shape[-1]
        if pixels != experiment.pixels:
            raise InputError(f"{path}: images of {pixels} pixels, but the experiment has {experiment.pixels}")
    else:
        kind, count = source.options.stored_kind, source.options.images
    if not results["image"].between(0, count - 1).all():
        raise InputError(f"{path}: {count} images, fewer than the results speak of")

    def load(numbers: Sequence[int]) -> ImageSet:
        if source is None:
            loaded = images.subset(torch.tensor(numbers))
        else:
            made = {number: source.block(range(number, number + 1)) for number in set(numbers)}
            loaded = ImageSet.join([made[number] for number in numbers])
        mask, shown_kind = loaded.mask & experiment.valid(), "intensity" if kind == "log" else kind
        return replace(loaded, images=as_intensities(loaded), mask=mask, kind=shown_kind)

    facets = _table(path, FACET_COLUMNS) if (path := folder / "facets.parquet").exists() else None
    return RunFolder(folder, results, curves, run, experiment, kind, count, load, facets)


def _pooled(folder: Path, runs: Sequence[RunFolder]) -> RunFolder:
    """Runs of one test set with different seeds as one.

    Raises:
        InputError: their experiments are not the same.
    """
    import pandas as pd

    first = runs[0]
    if others := [run.folder for run in runs if run.experiment != first.experiment]:
        raise InputError(f"{others[0]}: not the experiment of {first.folder}")
    starts = list(accumulate((run.count for run in runs), initial=0))

    def joined(name: str, columns: list[str]) -> "DataFrame":
        tables = [getattr(run, name).copy() for run in runs]
        for table, start in zip(tables, starts, strict=False):
            table[columns] += start
        return pd.concat(tables, ignore_index=True)

    def load(numbers: Sequence[int]) -> ImageSet:
        places = [bisect_right(starts, number) - 1 for number in numbers]
        pairs = zip(numbers, places, strict=True)
        return ImageSet.join([runs[place].load([number - starts[place]]) for number, place in pairs])

    results, curves = joined("results", ["image", "block"]), joined("curves", ["image"])
    facets = None if first.facets is None else joined("facets", ["image"])
    results["name"] += " of " + results["run"]
    commits = dict.fromkeys(str(run.run["commit"]) for run in runs if run.run.get("commit"))
    described = {**first.run, "commit": ", ".join(commits)}
    return RunFolder(
        folder, results, curves, described, first.experiment, first.kind, starts[-1], load, facets
    )


def read_runs(folder: Path | str) -> dict[str, RunFolder]:
    """The runs of a comparison by name, in their order; a single run has the name "".

    Runs of one test set with several seeds are pooled under its name: other seeds are other bodies.

    Raises:
        InputError: as :func:`read_run`, or the list of the runs is damaged.
    """
    folder = Path(folder)
    path = folder / RUNS_FILE
    if not path.exists():
        return {"": read_run(folder)}
    described = read_json(path).get("runs")
    if not described:
        raise InputError(f"{path}: names no run")
    entries = described if isinstance(described, dict) else dict.fromkeys(described)
    by_test_set: dict[str, list[str]] = {}
    for name, entry in entries.items():
        test_set = entry.get("test_set", name) if isinstance(entry, dict) else name
        by_test_set.setdefault(test_set, []).append(name)
    runs = {}
    for test_set, names in by_test_set.items():
        parts = [read_run(folder / name) for name in names]
        several = len(parts) > 1
        runs[test_set if several else names[0]] = _pooled(folder, parts) if several else parts[0]
    return runs
