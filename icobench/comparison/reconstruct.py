"""Reconstruct a user's own images with one method."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from icobench.comparison.methods import Method, Problem
from icobench.images.files import ImageStack
from icobench.network.checkpoint import TrainedNetwork
from icobench.simulator.simulator import Simulator

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["reconstruct_images"]

BLOCK = 32


def reconstruct_images(
    stack: ImageStack,
    method: Method,
    simulator: Simulator,
    network: TrainedNetwork | None = None,
    seed: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> "pd.DataFrame":
    """Radius and orientation of every image.

    Args:
        stack: images as read, with ``simulator.experiment.pixels`` pixels a side.
        method: from :data:`~icobench.comparison.methods.METHODS`.
        simulator: of the experiment the images are believed to come from.
        network: for methods that need it.
        seed: of random starts.
        progress: called with the finished share.

    Returns:
        a row per image: index, radius_nm, q_w, q_x, q_y, q_z, radius_std_nm, orientation_std_deg, objective
        (deviance per usable pixel for counts, mean squared error for log images), evaluations,
        seconds, status.

    Raises:
        InputError: the network does not fit the experiment.
    """
    import pandas as pd

    total = len(stack.images)
    frames = []
    for numbers in torch.arange(total).split(BLOCK):
        problem = Problem(
            torch.from_numpy(stack.images)[numbers],
            torch.from_numpy(stack.mask)[numbers],
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
