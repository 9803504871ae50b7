"""Several specialised networks, and which of them answers for an image."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icobench.errors import InputError
from icobench.geometry.orientation import disorientation
from icobench.network.checkpoint import TrainedNetwork, load_trained
from icobench.network.familiar import whole
from icobench.network.predict import NetworkAnswer, answer
from icobench.simulator.experiment import Experiment

__all__ = ["Networks", "agreeing", "load_network", "predict", "shipped_weights"]

AGREEMENT = (2.0, 2.0)
"""The network for clean images is believed within so many of the robust network's standard deviations, of
orientation and radius: 99 % of clean images agree. None that a hole or a crop has touched is asked about."""

CLEAN_SCORE = 1 - 2.5e-5
"""And where its vector is an orientation's so nearly: all of 400 clean images, also of 8 bits and over a
background of 1 % of the scale, of which it reads the radius five times better; no realistic ones. See
`reports/choices.py`."""


@dataclass(frozen=True)
class Networks:
    """Trained networks, each for its kind of images.

    Attributes:
        members: at least one.
    """

    members: tuple[TrainedNetwork, ...]

    @property
    def digest(self) -> str:
        """Names the weights, 12 hexadecimal digits each."""
        return "-".join(member.digest for member in self.members)

    @property
    def cards(self) -> list[dict[str, Any]]:
        """Where the members come from."""
        return [{**member.card, "digest": member.digest} for member in self.members]

    def choose(self, experiment: Experiment, kind: str, complete: bool = False) -> list[TrainedNetwork]:
        """The members that answer for images of this kind, the most special first.

        Photon counts go to a network for counts. Noise-free intensities and log images go to the one for
        clean images and to a robust one for those that are not, or not complete: for counts or for flawed
        images. Where the network for clean images was not made for the experiment (another refractive
        index, a cropped detector), the next one answers.

        Args:
            experiment: whose grid and material the images have.
            kind: "counts", "log" or "intensity" (noise-free).
            complete: whether all noise-free intensities are known to be: no robust network is asked then.

        Raises:
            InputError: none was made for this experiment.
        """
        orders = {
            "counts": ("counts", "realistic", "augmented", "clean"),
            "intensity": ("clean", "counts", "realistic", "augmented"),
            "log": ("clean", "realistic", "augmented", "counts"),
        }
        fitting = [m for m in self.members if not m.misfits(experiment)]
        if not fitting:
            reasons = "; or for ".join("; ".join(m.misfits(experiment)) for m in self.members)
            raise InputError(f"the network's weights were made for {reasons}")
        order = orders[kind]
        fitting.sort(key=lambda member: order.index(member.recipe.images))
        alone = fitting[0].recipe.images != "clean" or (kind == "intensity" and complete)
        return fitting[: 1 if alone else 2]

    def subset(self, experiment: Experiment, kind: str, complete: bool = False) -> "Networks":
        """Only the members of :meth:`choose`."""
        return Networks(tuple(self.choose(experiment, kind, complete)))


def shipped_weights() -> list[Path]:
    """The weights that come with the package."""
    folder = Path(str(resources.files("icobench.network") / "weights"))
    return sorted(folder.glob("*.safetensors"))


def load_network(
    path: Path | str | Sequence[Path | str] | None = None, device: torch.device | str = "cpu"
) -> Networks:
    """Load one or several files of weights; the shipped ones by default.

    Raises:
        InputError: missing, damaged or foreign files.
    """
    paths = shipped_weights() if path is None else [path] if isinstance(path, str | Path) else list(path)
    return Networks(tuple(load_trained(one, device) for one in paths))


def _replaced(answers: NetworkAnswer, rows: Tensor, better: NetworkAnswer) -> NetworkAnswer:
    """Answers of all images, those of some rows replaced."""
    return NetworkAnswer(*(a.index_copy(0, rows, b) for a, b in zip(answers, better, strict=True)))


def predict(
    networks: Networks,
    images: Tensor,
    mask: Tensor,
    experiment: Experiment,
    kind: str = "counts",
    hypotheses: int = 2,
    versions: int = 1,
) -> NetworkAnswer:
    """Reconstruct images with the networks made for them.

    The network for clean images is far more precise on those, and wrong on others. It is only asked for
    images that are complete; noise-free intensities it then answers. A log image may be clean or not:
    there it is believed where its orbit vector is that of an orientation, and the robust network agrees
    with it within twice its error bars.

    Args:
        networks: to choose from.
        images: (N, H, W) photon counts, or log images in [0, 1].
        mask: (N, H, W) True where usable.
        experiment: whose grid and material the images have.
        kind: "counts", "log" or "intensity" (noise-free).
        hypotheses: orientations per image.
        versions: turned and mirrored versions to average, 1 to 8.

    Raises:
        InputError: no network was made for this experiment.
        ValueError: wrong shapes, kind or number of versions.
    """
    chosen = networks.choose(experiment, kind)

    def ask(one: TrainedNetwork, rows: Tensor) -> NetworkAnswer:
        where = rows.to(images.device)
        return answer(one, images[where], mask[where], experiment, kind, hypotheses, versions)

    every = torch.arange(len(images))
    if len(chosen) == 1:
        return answer(chosen[0], images, mask, experiment, kind, hypotheses, versions)
    complete = whole(mask, experiment)
    rows = complete.nonzero().squeeze(1)
    if kind == "intensity" and len(rows) == len(images):
        return ask(chosen[0], every)
    robust = ask(chosen[1], every)
    if not len(rows):
        return robust
    special = ask(chosen[0], rows)
    if kind == "log":
        beside = NetworkAnswer(*(part[rows] for part in robust))
        believed = agreeing(special, beside) & (special.score[:, 0] >= CLEAN_SCORE)
        rows, special = rows[believed], NetworkAnswer(*(part[believed] for part in special))
    return _replaced(robust, rows, special)


def agreeing(special: NetworkAnswer, robust: NetworkAnswer) -> Tensor:
    """Where the answer of the network for clean images lies within the robust one's error bars, (N,)."""
    turn = disorientation(special.quaternion[:, 0], robust.quaternion[:, 0])
    size = (special.radius_nm - robust.radius_nm).abs()
    near = turn <= AGREEMENT[0] * robust.orientation_std_deg
    return near & (size <= AGREEMENT[1] * robust.radius_std_nm)
