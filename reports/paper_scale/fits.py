"""Stage 4: the paper's simplex on many images with its course, the race, the hybrids, large dictionaries."""

import contextlib
import time
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from icobench.answer import OK, RESCUED
from icobench.errors import InputError
from icobench.fitting.dictionary import DictionaryOptions, build_dictionary, dictionary_for
from icobench.fitting.least_squares import levenberg_marquardt
from icobench.fitting.objectives import objective_for
from icobench.fitting.warm_start import judge
from icobench.geometry.orientation import disorientation
from icobench.images.image_set import ImageSet
from icobench.methods.base import Method, Problem
from icobench.methods.registry import find_method
from icobench.network.selection import Networks, load_network, predict
from icobench.runs.scoring import course, score
from icobench.storage import atomic_path
from paper_scale.large_dictionary import match_in_shards
from paper_scale.networks import exported, fresh_images
from paper_scale.stage import Piece, Stage, stored_pieces

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


class Fits:
    """The test images of a stage, and methods on them.

    Args:
        stage: whose scale says how many images.
        networks: for the methods that start from a network's answer.
        dictionary: whether some start from the dictionary.
    """

    def __init__(self, stage: Stage, networks: Networks | None = None, dictionary: bool = False) -> None:
        self.stage, self.networks, self.dictionary = stage, networks, dictionary

    @cached_property
    def images(self) -> ImageSet:
        """All images. With them is made what no image's time shall include: the simulator's tables, the
        dictionary, and the first answer of a network."""
        scale, simulator = self.stage.run.scale, self.stage.simulator
        images = fresh_images(self.stage.run, "clean", scale.fit_images, TEST_SEED)
        if self.dictionary:
            dictionary_for(simulator)
        if self.networks is not None:
            with contextlib.suppress(Exception):  # the piece that uses the networks will report the error
                predict(self.networks, images.subset(torch.arange(min(scale.fit_block, len(images)))))
        return images

    def pieces(self, method: Method) -> list[Piece]:
        """A method on all images, a block a piece; then the whole."""
        run, name = self.stage.run, method.name
        blocks = [
            Piece(f"{name} {int(block[0])}", partial(self._block, method, block), prepare=lambda: self.images)
            for block in torch.arange(run.scale.fit_images).split(run.scale.fit_block)
        ]

        def whole() -> dict[str, Any]:
            rows = table_of(run.out, self.stage.name, name)
            if rows is None or len(rows) != run.scale.fit_images:
                raise ValueError(f"rows of {name} are missing")
            return summary(rows)

        return [*blocks, Piece(name, whole, needs=[piece.name for piece in blocks])]

    def _block(self, method: Method, numbers: torch.Tensor) -> dict[str, Any]:
        """The method on some of the images; rows, and the course of a simplex, go to files."""
        stage, images = self.stage, self.images.subset(numbers)
        problem = Problem(images, stage.simulator, self.networks, stage.run.seed)
        answer = method.run(problem, stage.check_clock)
        unknown = torch.full((len(images),), torch.nan, dtype=torch.float64)  # no bounds are computed
        path = stage.run.out / stage.name / f"{method.name}-{int(numbers[0]):05d}"
        rows = score(answer, method.name, images, (unknown, unknown))
        _write(rows, path.with_name(f"{path.name}.results.parquet"))
        if stage.name == "simplex":
            steps = course(answer, method.name, images).drop(columns="method")
            _write(steps, path.with_name(f"{path.name}.curves.parquet"))
        return summary(rows)


def simplex(stage: Stage) -> list[Piece]:
    """The paper's 50 x 50, and the race of the same starts."""
    scale, fits = stage.run.scale, Fits(stage)
    method = find_method("simplex").with_options(starts=scale.starts, iterations=scale.iterations)
    race = fits.pieces(find_method("simplex-race")) if scale.race else []
    return [*fits.pieces(method), *race]


def _networks(stage: Stage) -> Networks | None:
    """The scale's networks; None if they are trained by this script and not there yet.

    Raises:
        InputError: the fits stored so far are another network's.
    """
    run = stage.run
    path = None
    if run.scale.own_network:
        path = exported(run, "compact")
        export = stored_pieces(run.out, "compact-network").get("export compact", {})
        if export.get("state") != "done" or not path.is_file():
            return None
    networks = load_network(path, run.device).choose(run.experiment, "intensity")
    stored = "-".join(card["digest"] for card in stage.result("networks") or [])
    if stored and stored != networks.digest:
        raise InputError(
            f"{stage.store.folder}: holds fits of network {stored}, not of {networks.digest}; put that one "
            "back, or make the fits anew by --stage hybrids --fresh"
        )
    return networks


def hybrids(stage: Stage) -> list[Piece]:
    """Fits from a network's answer and from the dictionary of 1,000 patterns, on the simplex's images."""
    networks = _networks(stage)
    fits = Fits(stage, networks, dictionary=True)
    methods = [find_method(name) for name in HYBRIDS]
    pieces = [Piece("dictionary", lambda: build_dictionary(stage.simulator).card)]
    if networks is None:
        print(
            f"[{stage.name}] left for later: {exported(stage.run, 'compact')}, of the stage compact-network"
        )
        stage.left.append("networks")
        methods = [method for method in methods if not method.needs_network]
    else:
        pieces.insert(0, Piece("networks", lambda: networks.cards))
    return pieces + [piece for method in methods for piece in fits.pieces(method)]


def _errors(radius: torch.Tensor, quaternion: torch.Tensor, truth: ImageSet) -> dict[str, Any]:
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
    """Match, then fit from the best four, where one after the other is tried until the image is explained.

    The method dictionary+lm would hold all patterns in memory.
    """
    run = stage.run
    images = fresh_images(run, "clean", run.scale.dictionary_images, TEST_SEED)
    matches = match_in_shards(
        stage.simulator, DictionaryOptions(size), images.images.to(run.device), images.mask.to(run.device),
        images.kind, run.experiment, CANDIDATES, progress=stage.check_clock,
    )  # fmt: skip
    hypotheses, count = matches.candidates, len(images)
    begin = time.perf_counter()
    answer = judge(objective_for(images, stage.simulator), hypotheses, levenberg_marquardt)
    return {
        "patterns": matches.patterns,
        "images": count,
        "simulation_seconds": matches.simulation_seconds,
        "match_seconds_per_image": matches.match_seconds / count,
        "nearest": _errors(hypotheses.radius_nm, hypotheses.quaternion, images),
        "fitted": _errors(answer.radius_nm[:, None], answer.quaternion[:, None], images),
        "explained": float(np.mean([status in (OK, RESCUED) for status in answer.status])),
        "evaluations": float(answer.evaluations.double().mean()),
        "fit_seconds_per_image": (time.perf_counter() - begin) / count,
    }


def dictionaries(stage: Stage) -> list[Piece]:
    """Up to a million patterns over radius and beam direction; turns about the beam come free."""
    return [Piece(f"{size}", partial(_dictionary, stage, size)) for size in stage.run.scale.dictionaries]
