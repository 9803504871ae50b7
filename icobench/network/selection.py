"""Several specialised networks, and the choice among them for each image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icobench.answer import Answer
from icobench.errors import InputError
from icobench.geometry.orientation import disorientation
from icobench.images.image_set import ImageSet
from icobench.network.checkpoint import TrainedNetwork, load_trained
from icobench.network.predict import answer, complete
from icobench.simulator.experiment import Experiment

__all__ = ["Networks", "agreeing", "load_network", "predict"]

AGREEMENT = 2.0
"""Largest difference in orientation and in radius between the network for clean images and the robust one, in
standard deviations of the robust one, at which the first is used: 99 % of clean images agree."""

CLEAN_SCORE = 1 - 2.5e-5
"""Least score at which the network for clean images is used on log images. All of 400 clean images reach it,
also with 8 bits and over a background of 1 % of the scale, where this network's radius is five times more
precise; realistic images do not. See `reports/choices.py`."""

ORDERS = {
    "counts": ("counts", "realistic", "augmented", "clean"),
    "intensity": ("clean", "counts", "realistic", "augmented"),
    "log": ("clean", "realistic", "augmented", "counts"),
}
"""For each kind of image, the training images of the networks that are preferred for it, best first."""


@dataclass(frozen=True)
class Networks:
    """Trained networks, each for its kind of images.

    Attributes:
        members: at least one.
    """

    members: tuple[TrainedNetwork, ...]

    @property
    def digest(self) -> str:
        """The digests of the members' weights, 12 hexadecimal digits each."""
        return "-".join(member.digest for member in self.members)

    @property
    def cards(self) -> list[dict[str, Any]]:
        """The cards of the members, with their digests."""
        return [{**member.card, "digest": member.digest} for member in self.members]

    def choose(self, experiment: Experiment, kind: str, complete: bool = False) -> "Networks":
        """The members for images of one kind, the most special first.

        Photon counts need a network for counts. Noise-free intensities and log images need the network for
        clean images and, for images that are not clean or not complete, a robust one: for counts or for
        realistic images. A network that was not trained for the experiment (another refractive index, a
        cropped detector) is left out.

        Args:
            experiment: grid and material of the images.
            kind: "counts", "log" or "intensity" (noise-free).
            complete: whether all images are known to be complete; intensities then need no robust network.

        Raises:
            InputError: no member was trained for this experiment.
        """
        fitting = [member for member in self.members if not member.misfits(experiment)]
        if not fitting:
            reasons = "; or for ".join("; ".join(member.misfits(experiment)) for member in self.members)
            raise InputError(f"the network's weights were made for {reasons}")
        fitting.sort(key=lambda member: ORDERS[kind].index(member.recipe.images))
        enough = fitting[0].recipe.images != "clean" or (kind == "intensity" and complete)
        return Networks(tuple(fitting[: 1 if enough else 2]))


def load_network(
    path: Path | str | Sequence[Path | str] | None = None, device: torch.device | str = "cpu"
) -> Networks:
    """Load one or several files of weights; the shipped ones by default.

    Args:
        path: of one or several ``network.safetensors`` of :func:`~icobench.network.training.train`.
        device: where the networks will run.

    Raises:
        InputError: a file is missing, damaged or holds no network of icobench.

    Example:
        >>> networks = load_network()
        >>> sorted(member.recipe.images for member in networks.members)
        ['clean', 'counts', 'realistic']
        >>> [member.recipe.images for member in networks.choose(Experiment(), "counts").members]
        ['counts']
    """
    if path is None:
        path = sorted((Path(__file__).parent / "weights").glob("*.safetensors"))
    paths = [path] if isinstance(path, str | Path) else path
    return Networks(tuple(load_trained(path, device) for path in paths))


def predict(
    networks: Networks,
    images: ImageSet,
    mask: Tensor | None = None,
    hypotheses: int = 2,
    versions: int = 1,
) -> Answer:
    """Reconstruct images with the networks that were trained for them.

    The network for clean images is far more precise on those, and wrong on others, so it is only used for
    complete images: for all such intensities, and for log images, which may be clean or not, where its score
    is high and its answer lies within the error bars of the robust network.

    Args:
        networks: to choose from.
        images: N images of any kind, with their experiment.
        mask: (N, H, W) True where the networks may use a pixel; that of the images by default.
        hypotheses: K, orientations per image; where the network's output suggests fewer, the near twin (a
            half turn about the beam) is the last one.
        versions: turned and mirrored versions to average, 1 to 8.

    Returns:
        radius, orientation, error bars (NaN from a network without) and hypotheses, whose scores are the
        cosines of predicted and decoded orbit vectors. The status is "outside-training" for images unlike
        those of training, "ambiguous" where two hypotheses have nearly the same score, else "ok".

    Raises:
        InputError: no network was trained for this experiment.
        ValueError: wrong shapes, kind or number of versions.
    """
    if mask is not None:
        images = replace(images, mask=mask)
    chosen = networks.choose(images.known_experiment, images.kind).members
    if len(chosen) == 1:
        return answer(chosen[0], images, hypotheses, versions)
    clean_network, robust_network = chosen
    rows = complete(images).nonzero().squeeze(1)
    if images.kind == "intensity" and len(rows) == len(images):
        return answer(clean_network, images, hypotheses, versions)
    robust = answer(robust_network, images, hypotheses, versions)
    if not len(rows):
        return robust
    clean = answer(clean_network, images.subset(rows), hypotheses, versions)
    used = torch.ones(len(rows), dtype=torch.bool)
    if images.kind == "log":
        assert clean.hypotheses is not None
        used = agreeing(clean, robust, rows) & (clean.hypotheses.score[:, 0] >= CLEAN_SCORE)
    _replace_rows(robust, rows[used], clean, used.nonzero().squeeze(1))
    return robust


def agreeing(clean: Answer, robust: Answer, rows: Tensor | slice = slice(None)) -> Tensor:
    """Where the answer for clean images lies within twice the error bars of the robust one, (M,) bool.

    Args:
        clean: M images.
        robust: N images.
        rows: (M,) their places in ``robust``; the same images in both by default.
    """
    angle = disorientation(clean.quaternion, robust.quaternion[rows])
    distance = (clean.radius_nm - robust.radius_nm[rows]).abs()
    near = angle <= AGREEMENT * robust.orientation_std_deg[rows]
    return near & (distance <= AGREEMENT * robust.radius_std_nm[rows])


def _replace_rows(target: Answer, rows: Tensor, source: Answer, source_rows: Tensor) -> None:
    """Overwrite rows of one answer with rows of another, (M,) each."""
    assert target.hypotheses is not None and source.hypotheses is not None
    names = ("radius_nm", "quaternion", "radius_std_nm", "orientation_std_deg")
    columns = [(getattr(target, name), getattr(source, name)) for name in names]
    for old, new in (*columns, *zip(target.hypotheses, source.hypotheses, strict=True)):
        old[rows] = new[source_rows]
    for row, source_row in zip(rows.tolist(), source_rows.tolist(), strict=True):
        target.status[row] = source.status[source_row]
