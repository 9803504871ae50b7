"""Reconstruct a user's own images with one method."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from icobench.comparison.methods import Method, Problem
from icobench.errors import InputError
from icobench.images.files import ImageStack
from icobench.network.checkpoint import TrainedNetwork
from icobench.simulator.simulator import Simulator

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FIT_SIN_THETA", "reconstruct_images"]

BLOCK = 32

FIT_SIN_THETA = 0.8
"""Sine of the largest scattering angle that is fitted by default. Beyond it simulators disagree most
(the multi-slice method on voxels by 7 to 20 % of the mean intensity, which draws fits aside by several
standard deviations), and few detectors reach that far."""


def reconstruct_images(
    stack: ImageStack,
    method: Method,
    simulator: Simulator,
    network: TrainedNetwork | None = None,
    seed: int = 0,
    fit_sin_theta: float = FIT_SIN_THETA,
    progress: Callable[[float], None] = lambda share: None,
) -> "pd.DataFrame":
    """Radius and orientation of every image.

    Args:
        stack: images as read, with ``simulator.experiment.pixels`` pixels a side.
        method: from :data:`~icobench.comparison.methods.METHODS`.
        simulator: of the experiment the images are believed to come from.
        network: for methods that need it.
        seed: of random starts.
        fit_sin_theta: pixels beyond this sine of the scattering angle are left out.
        progress: called with the finished share.

    Returns:
        a row per image: index, radius_nm, q_w, q_x, q_y, q_z, radius_std_nm, orientation_std_deg, objective
        (deviance per usable pixel for counts, mean squared error for log images), evaluations,
        seconds, status.

    Raises:
        InputError: the network does not fit the experiment, or an image has no pixel to fit.
    """
    import pandas as pd

    total = len(stack.images)
    fitted = simulator.experiment.sin_theta() <= fit_sin_theta + 1e-9
    mask = torch.from_numpy(stack.mask) & fitted & simulator.valid.cpu()
    empty = (~mask.flatten(1).any(1)).nonzero()[:, 0].tolist()
    if empty:
        raise InputError(f"{stack.path}: image {empty[0]} has no usable pixel on the fitted detector range")
    frames = []
    for numbers in torch.arange(total).split(BLOCK):
        problem = Problem(
            torch.from_numpy(stack.images)[numbers],
            mask[numbers],
            stack.kind,
            simulator,
            network,
            seed,
            numbers,
        )
        start, share = int(numbers[0]) / total, len(numbers) / total

        def report(done: float, start: float = start, share: float = share) -> None:
            progress(start + share * done)

        found = method.run(problem, report)
        quaternion = found.quaternion.double()
        frames.append(
            pd.DataFrame(
                {
                    "index": numbers.numpy(),
                    "radius_nm": found.radius_nm.double().numpy(),
                    **{f"q_{axis}": quaternion[:, i].numpy() for i, axis in enumerate("wxyz")},
                    "radius_std_nm": found.radius_std_nm.double().numpy(),
                    "orientation_std_deg": found.orientation_std_deg.double().numpy(),
                    "objective": found.objective.double().numpy(),
                    "evaluations": found.evaluations.numpy(),
                    "seconds": found.seconds / len(numbers),
                    "status": found.status,
                }
            )
        )
        report(1.0)
    return pd.concat(frames, ignore_index=True)
