"""The paper's numbers beside ours, one by one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from icobench.reporting.evaluation import typical
from icobench.reporting.ledger import PUBLISHED
from paper_scale.ledger import value
from paper_scale.scales import Scale

__all__ = ["PAPER", "Claim", "claims"]

PAPER = {
    "simulation_seconds": 2.5,
    "data_images": 25_058,
    "data_seconds": 17 * 3600,
    "training_seconds": 4 * 3600,
    "mean_error": 0.01,
    "network_seconds": 5e-3,
    "evaluations_per_iteration": 4.0,
    "simplex_images": 30,
    "simplex_simulations": PUBLISHED["simplex"][1],
    "break_even": PUBLISHED["network"][0] / PUBLISHED["simplex"][1],
}
"""Of Stielow et al. 2020: seconds of one simulation (six cores), images and time of the data set, training
(GTX 1060), figure 4a ("well below 1 %": an upper limit), one image with the network, evaluations of a
Nelder-Mead iteration (its estimate), images fitted, simulations for each, images from which the network is
cheaper."""

CORNERS = 5
"""Of a simplex in four dimensions: evaluated before its first iteration."""


@dataclass(frozen=True)
class Claim:
    """A number of the paper and ours.

    Attributes:
        what: in words.
        paper, ours: in the same unit.
        unit: for the table.
        note: how ours came about, where it is not plain.
        lower: whether a lower number is the better one; None if neither is.
        comparable: whether ours was measured on as much as the paper's; no ratio otherwise.
    """

    what: str
    paper: float
    ours: float | None
    unit: str
    note: str = ""
    lower: bool | None = True
    comparable: bool = True

    @property
    def ratio(self) -> float | None:
        """By how much ours is better, over 1 if it is; ours over the paper's where neither is better."""
        if not self.ours or not self.comparable:
            return None
        return self.paper / self.ours if self.lower else self.ours / self.paper


def _each(number: float | None, factor: float) -> float | None:
    return None if number is None else factor * number


def _inverse(number: float | None) -> float | None:
    return None if not number else 1 / number


def _fastest(folder: Path, batches: tuple[int, ...]) -> tuple[float | None, int]:
    found = [
        (value(folder, "simulators", f"speed exact {one}", "images_per_second") or 0.0, one)
        for one in batches
    ]
    speed, batch = max(found, default=(0.0, 0))
    return speed or None, batch


def _trainings(folder: Path, whole: bool) -> Iterator[Claim]:
    trained = value(folder, "paper-network", "training paper", unfinished=True) or {}
    ends = "to its plateau" if trained.get("finished") else "stopped before its plateau"
    if trained.get("finished") and trained["steps"] >= trained["recipe"]["steps"]:
        ends = "stopped at the scale's ceiling of steps, before its plateau"
    on_plateau = ends == "to its plateau"
    yield Claim(
        "training the published network", PAPER["training_seconds"], trained.get("training_seconds"), "s",
        f"{ends}, {trained.get('images_seen', 0):,} images seen" if trained else "", comparable=on_plateau,
    )  # fmt: skip
    for stage, name, words in (
        ("paper-network", "paper", "published network"), ("compact-network", "compact", "compact network"),
    ):  # fmt: skip
        path = (stage, f"evaluation {name}", "paper test")
        mean = value(folder, *path, "appendix_c_mean", "median", unfinished=True)
        images = value(folder, *path, "images", unfinished=True)
        yield Claim(
            f"figure 4a, mean error, {words}", 100 * PAPER["mean_error"], _each(mean, 100), "%",
            f"median of {images:,} images; the paper: well below" if images else "", comparable=whole,
        )  # fmt: skip
        pace = value(folder, stage, f"evaluation {name}", "speed", "one_image_ms", unfinished=True)
        yield Claim(f"one image, {words}", 1000 * PAPER["network_seconds"], typical(pace), "ms")


def claims(folder: Path, scale: Scale) -> list[Claim]:
    """All claims; ours is None where nothing was measured.

    Args:
        folder: of the results.
        scale: at which they were made.
    """
    speed, batch = _fastest(folder, scale.batches)
    whole = sum(count for _, count in scale.splits) >= PAPER["data_images"]
    sliced = value(folder, "simulators", "speed sliced", "images_per_second")
    each = value(folder, "data", "paper set", "ms_per_image")
    images = value(folder, "data", "paper set", "images")
    fits = value(folder, "simplex", "simplex") or {}
    spent, corners = fits.get("evaluations"), CORNERS * scale.starts
    iteration = None if spent is None else (spent - corners) / (scale.starts * scale.iterations)
    crossing = [
        row
        for row in value(folder, "ledger", "costs", "break_even") or []
        if (row["first"], row["second"], row["currency"]) == ("paper network", "simplex", "simulations")
    ]
    return [
        Claim("one image by the paper's algorithm", PAPER["simulation_seconds"], _inverse(sliced), "s"),
        Claim("one image, exact", PAPER["simulation_seconds"], _inverse(speed), "s", f"batches of {batch}"),
        Claim(
            "the data set of 25,058", PAPER["data_seconds"], _each(each, PAPER["data_images"] / 1000), "s",
            f"from {images:,} images of the same kind, on disk" if images else "",
        ),
        *_trainings(folder, whole),
        Claim("images fitted by 50 x 50", PAPER["simplex_images"], fits.get("images"), "", lower=False),
        Claim("simulations for an image, 50 x 50", PAPER["simplex_simulations"], spent, ""),
        Claim("evaluations of an iteration", PAPER["evaluations_per_iteration"], iteration, ""),
        Claim(
            "images from which the network is cheaper than the simplex, by simulations", PAPER["break_even"],
            crossing[0]["images"] if crossing else None, "", "published network, this scale's data set",
            None, whole,
        ),
    ]  # fmt: skip
