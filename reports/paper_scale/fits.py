"""Stage 4: the paper's simplex on many images with its course, the race, the hybrids, large dictionaries."""

import contextlib
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from icobench.errors import InputError
from icobench.fitting.dictionary import DictionaryOptions, build_dictionary, dictionary_for
from icobench.fitting.levenberg_marquardt import levenberg_marquardt
from icobench.fitting.simplex import SimplexOptions
from icobench.fitting.warm_start import judge
from icobench.geometry.orientation import disorientation
from icobench.methods import METHODS, Method, Problem
from icobench.methods.simplex import simplex_method
from icobench.network.selection import Networks, load_network, predict
from icobench.runs.comparison import curves, score
from icobench.sets.patterns import PatternSet, generate_patterns
from icobench.sets.test_sets import find_test_set
from icobench.simulator.compiled import prepare_kernel
from icobench.storage import atomic_path
from paper_scale.large_dictionary import match_in_shards
from paper_scale.networks import exported
from paper_scale.stage import Run, Stage
from paper_scale.store import stored_results

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["dictionaries", "hybrids", "simplex", "table_of"]

TEST_SEED = 50_000
HYBRIDS = ("network", "network+simplex", "network+lm", "network+mle", "dictionary+simplex", "dictionary+lm")
CANDIDATES = 4
ERRORS = ("disorientation_deg", "radius_error_nm", "appendix_c_mean", "appendix_c_max")


def table_of(folder: Path, stage: str, method: str, what: str = "results") -> "pd.DataFrame | None":
    """All stored rows of a method, None if there are none."""
    import pandas as pd

    # Five digits: simplex-00000, but not simplex-race-00000.
    files = sorted((folder / stage).glob(f"{method}-{'[0-9]' * 5}.{what}.parquet"))
    return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True) if files else None


def _images(run: Run, count: int) -> PatternSet:
    """Noise-free images, as the paper's."""
    return generate_patterns(find_test_set("clean").options(count), run.experiment, TEST_SEED, run.device)


def _write(frame: "pd.DataFrame", path: Path) -> None:
    small = frame.select_dtypes("float").astype("float32")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path.resolve()) as temporary:
        frame.assign(**{name: small[name] for name in small}).to_parquet(temporary, compression="zstd")


def summary(rows: "pd.DataFrame") -> dict[str, Any]:
    """Quantiles and costs of one method."""
    out: dict[str, Any] = {"images": len(rows)}
    for column in ERRORS:
        out[column] = {
            "mean": float(rows[column].mean()), "median": float(rows[column].median()),
            "90": float(rows[column].quantile(0.9)),
        }  # fmt: skip
    out["success_rate"] = float(rows["success"].mean())
    out["evaluations"] = float(rows["evaluations"].mean())
    out["seconds"] = float(rows["seconds"].mean())
    return out


def _block(
    stage: Stage, method: Method, numbers: torch.Tensor, truth: PatternSet, networks: Networks | None
) -> dict[str, Any]:
    run = stage.run
    problem = Problem(truth.images, truth.mask, truth.kind, stage.simulator, networks, run.seed, numbers)
    outcome = method.run(problem, stage.check_clock)
    nothing = torch.full((len(numbers),), torch.nan, dtype=torch.float64)
    rows = score(outcome, method.name, truth, numbers, (nothing, nothing))
    folder = run.out / stage.name
    _write(rows, folder / f"{method.name}-{int(numbers[0]):05d}.results.parquet")
    if stage.name == "simplex":
        course = curves(outcome, method.name, truth, numbers)
        _write(course.drop(columns="method"), folder / f"{method.name}-{int(numbers[0]):05d}.curves.parquet")
    return summary(rows)


def _prepared(stage: Stage, networks: Networks | None = None) -> Callable[[], PatternSet]:
    """The test images, made when they are first asked for; with them what no block's time shall have: the
    simulator's tables, a network's first answer (see ``Comparison.prepare``)."""
    run = stage.run

    @cache
    def images() -> PatternSet:
        truth, _ = _images(run, run.scale.fit_images), stage.simulator
        if networks is not None:
            first = truth.subset(torch.arange(min(run.scale.fit_block, len(truth))))
            with contextlib.suppress(Exception):  # whoever uses it will say what is wrong with it
                predict(networks, first.images, first.mask, run.experiment, first.kind)
        return truth

    return images


def _method(
    stage: Stage, method: Method, images: Callable[[], PatternSet], networks: Networks | None = None
) -> None:
    """A method on all images, a block a piece; then the whole."""
    run = stage.run
    finished = True
    for block in torch.arange(run.scale.fit_images).split(run.scale.fit_block):

        def work(block: torch.Tensor = block) -> dict[str, Any]:
            return _block(stage, method, block, images().subset(block), networks)

        name = f"{method.name} {int(block[0])}"
        if stage.wants(name):
            images()  # before the piece's clock and power meter run
        finished &= stage.piece(name, work) is not None
    if finished:

        def whole() -> dict[str, Any]:
            rows = table_of(run.out, stage.name, method.name)
            if rows is None or len(rows) != run.scale.fit_images:
                raise ValueError(f"rows of {method.name} are missing")
            return summary(rows)

        stage.piece(method.name, whole)


def simplex(stage: Stage) -> None:
    """The paper's 50 x 50, and the race of the same starts."""
    prepare_kernel(stage.run.device)
    scale = stage.run.scale
    options = SimplexOptions(starts=scale.starts, iterations=scale.iterations)
    words = f"{scale.starts} random starts x {scale.iterations} iterations"
    images = _prepared(stage)
    _method(stage, simplex_method("simplex", words, options), images)
    if scale.race:
        _method(stage, METHODS["simplex-race"], images)


def _networks(stage: Stage) -> Networks | None:
    """The scale's networks; None if they are trained by this script and not there yet.

    Raises:
        InputError: the fits stored so far are another network's.
    """
    run = stage.run
    own = None
    if run.scale.own_network:
        own = exported(run, "compact")
        export = stored_results(run.out, "compact-network")["pieces"].get("export compact", {})
        if export.get("state") != "done" or not own.is_file():
            return None
    networks = load_network(own, run.device).subset(run.experiment, "intensity")
    known = "-".join(card["digest"] for card in stage.store.get("networks") or [])
    if known and known != networks.digest:
        raise InputError(
            f"{stage.store.path}: holds fits of network {known}, not of {networks.digest}; put that one "
            "back, or make the fits anew by --stage hybrids --fresh"
        )
    return networks


def hybrids(stage: Stage) -> None:
    """Fits from a network's answer and from the dictionary of 1,000 patterns, on the simplex's images."""
    run = stage.run
    prepare_kernel(run.device)
    networks = _networks(stage)
    if networks is None:
        print(f"[{stage.name}] left for later: {exported(run, 'compact')}, of the stage compact-network")
        stage.left.append("networks")
    else:
        stage.piece("networks", lambda: networks.cards)

    stage.piece("dictionary", lambda: build_dictionary(stage.simulator).card)
    dictionary_for(stage.simulator)  # the methods look into the cache; filling it is no image's cost
    images = _prepared(stage, networks)
    for name in HYBRIDS:
        if not METHODS[name].needs_network:
            _method(stage, METHODS[name], images)
        elif networks is not None:
            _method(stage, METHODS[name], images, networks)


def _errors(radius: torch.Tensor, quaternion: torch.Tensor, truth: PatternSet) -> dict[str, Any]:
    """Of N answers, or of the best of each image's k."""
    turn = disorientation(quaternion.double(), truth.quaternion.unsqueeze(1).expand_as(quaternion))
    size = (radius.double() - truth.radius_nm.unsqueeze(1)).abs()
    return {
        "median_deg": float(turn[:, 0].median()), "median_nm": float(size[:, 0].median()),
        "best_of_all_deg": float(turn.amin(1).median()),
        "first_within_5deg_5nm": float(((turn[:, 0] < 5) & (size[:, 0] < 5)).double().mean()),
        "any_within_5deg_5nm": float(((turn < 5) & (size < 5)).any(1).double().mean()),
    }  # fmt: skip


def _dictionary(stage: Stage, size: int) -> dict[str, Any]:
    """Match, then fit from the best four, where one after the other is tried until the image is explained."""
    run = stage.run
    truth = _images(run, run.scale.dictionary_images)
    images, mask = truth.images.to(run.device), truth.mask.to(run.device)
    found = match_in_shards(
        stage.simulator, DictionaryOptions(size), images, mask, truth.kind, run.experiment, CANDIDATES,
        progress=stage.check_clock,
    )  # fmt: skip
    candidates, count = found.candidates, len(truth)
    begin = time.perf_counter()
    objective = Problem(truth.images, truth.mask, truth.kind, stage.simulator).objective()
    verdict = judge(objective, candidates.radius_nm, candidates.quaternion, levenberg_marquardt)
    fit = verdict.fit
    return {
        "patterns": found.patterns,
        "images": count,
        "simulation_seconds": found.simulation_seconds,
        "match_seconds_per_image": found.match_seconds / count,
        "nearest": _errors(candidates.radius_nm, candidates.quaternion, truth),
        "fitted": _errors(fit.radius_nm[:, None], fit.quaternion[:, None], truth),
        "explained": float(np.mean([word.startswith("ok") for word in verdict.status])),
        "evaluations": float(fit.evaluations.double().mean()),
        "fit_seconds_per_image": (time.perf_counter() - begin) / count,
    }


def dictionaries(stage: Stage) -> None:
    """Up to a million patterns over radius and beam direction; turns about the beam come free."""
    prepare_kernel(stage.run.device)
    for size in stage.run.scale.dictionaries:
        stage.piece(f"{size}", lambda size=size: _dictionary(stage, size))
