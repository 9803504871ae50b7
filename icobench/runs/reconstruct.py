"""Reconstruct a user's own images with one method."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icobench.methods import Method, Outcome, Problem
from icobench.sets.own_images import FIT_SIN_THETA
from icobench.errors import InputError
from icobench.fitting.centre import centre_steps
from icobench.fitting.goodness import unlike
from icobench.images.source import ImageSource
from icobench.network.selection import Networks
from icobench.simulator.simulator import Simulator

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FAILED", "fit_centre", "reconstruct_images"]

BLOCK = 32

FAILED = "failed: "
"""How the status of a frame begins that could not be fitted; the reason follows."""


def reconstruct_images(
    source: ImageSource,
    method: Method,
    simulator: Simulator,
    network: Networks | None = None,
    seed: int = 0,
    fit_sin_theta: float = FIT_SIN_THETA,
    progress: Callable[[float], None] = lambda share: None,
    nuisance: tuple[str, ...] = (),
    versions: int = 1,
) -> "pd.DataFrame":
    """Radius and orientation of every image, read and fitted block by block.

    Args:
        source: images of ``simulator.experiment.pixels`` pixels a side.
        method: from :data:`~icobench.methods.METHODS`.
        simulator: of the experiment the images are believed to come from.
        network: for methods that need it.
        seed: of random starts.
        fit_sin_theta: pixels beyond this sine of the scattering angle are left out of fits. Networks see
            them: they were trained with them, and are less accurate without, on voxels as well.
        progress: called with the finished share.
        nuisance: names of :data:`~icobench.fitting.nuisance.NUISANCES` to fit along.
        versions: turned and mirrored versions of an image that the network averages, 1 to 8.

    Returns:
        a row per image: index, radius_nm, q_w, q_x, q_y, q_z, radius_std_nm, orientation_std_deg, objective
        (deviance per usable pixel for counts, mean squared error for log images), evaluations,
        seconds, status; then the columns of the nuisance parameters. An image that cannot be fitted has
        NaN, 0 evaluations and the status ``failed: <reason>``.

    Raises:
        InputError: the images or the network do not fit the experiment.
    """
    import pandas as pd

    total, pixels = len(source), simulator.experiment.pixels
    if source.shape != (pixels, pixels):
        raise InputError(
            f"{source.where}: images of shape {source.shape}, but {pixels} pixels a side are fitted"
        )
    fitted = (simulator.experiment.sin_theta() <= fit_sin_theta + 1e-9) & simulator.valid.cpu()
    rows = []
    for numbers, stack, problems in source.blocks(BLOCK):
        images, usable = torch.from_numpy(stack.images), torch.from_numpy(stack.mask)
        mask = usable & fitted
        bright = ((images > 0) & mask).flatten(1).any(1).tolist()
        for number, seen in zip(numbers.tolist(), bright, strict=True):
            if not seen:
                problems.setdefault(number, "no signal at usable pixels of the fitted detector range")
        good = torch.tensor([number not in problems for number in numbers.tolist()])
        chosen = torch.from_numpy(numbers)[good]
        start, share = int(numbers[0]) / total, len(numbers) / total

        def report(done: float, start: float = start, share: float = share) -> None:
            progress(start + share * done)

        if len(chosen):
            problem = Problem(
                images[good], mask[good], stack.kind, simulator, network, seed, chosen, nuisance=nuisance,
                network_mask=usable[good] & simulator.valid.cpu(), versions=versions,
            )  # fmt: skip
            rows.append(_rows(chosen, method.run(problem, report)))
        if problems:
            rows.append(_failed(problems))
        report(1.0)
    return pd.concat(rows).sort_values("index", ignore_index=True)


CENTRE_ROUNDS = 12
"""Log images, whose steps are shorter, need more of them than photon counts."""

CENTRE_TOLERANCE = 0.01
"""Pixels; the search for the beam ends when a step is shorter."""

LONGEST_CENTRE_STEP = 1.5
"""Pixels; a fringe of the largest bodies is 2.7 pixels wide."""


def fit_centre(
    source: ImageSource,
    method: Method,
    simulator: Simulator,
    network: Networks | None = None,
    seed: int = 0,
    fit_sin_theta: float = FIT_SIN_THETA,
) -> tuple[float, float]:
    """Where the beam meets the detector, from the first images of a source; good from 1.5 pixels away.

    Reconstructs, asks the images how far the beam is off, moves it by the median, which a few failed fits do
    not shift, and so on.

    Args:
        source, method, simulator, network, seed, fit_sin_theta: as for :func:`reconstruct_images`.

    Returns:
        the experiment's ``centre_offset``, in pixels.

    Raises:
        InputError: none of the first images can be used, or the search does not settle, or only where no
            body makes more than half of the images.
    """
    experiment = simulator.experiment
    numbers, stack, problems = next(source.blocks(BLOCK))
    good = torch.tensor([number not in problems for number in numbers.tolist()])
    if not good.any():
        raise InputError(f"{source.where}: the beam cannot be found, none of the first images can be used")
    images = torch.from_numpy(stack.images)[good]
    for _ in range(CENTRE_ROUNDS):
        fitted = (experiment.sin_theta() <= fit_sin_theta + 1e-9) & experiment.valid()
        usable = torch.from_numpy(stack.mask)[good]
        mask = usable & fitted
        own = Simulator(experiment, device=simulator.device)
        problem = Problem(
            images, mask, stack.kind, own, network, seed, torch.from_numpy(numbers)[good], rescue=False,
            network_mask=usable & experiment.valid(),
        )  # fmt: skip
        found = method.run(problem)
        objective = problem.objective()
        steps, _ = centre_steps(objective, found.radius_nm, found.quaternion)
        step = steps.median(0).values.clamp(-LONGEST_CENTRE_STEP, LONGEST_CENTRE_STEP)
        x, y = (old + new for old, new in zip(experiment.centre_offset, step.tolist(), strict=True))
        if max(abs(x), abs(y)) > experiment.pixels / 16:
            break
        experiment = replace(experiment, centre_offset=(x, y))
        if float(step.abs().max()) < CENTRE_TOLERANCE:
            # Far from the beam there are places where steps end, too, but where no body makes the images.
            if 2 * int(unlike(objective, found.radius_nm, found.quaternion).sum()) > len(images):
                break
            return x, y
    raise InputError(f"{source.where}: the search for the beam does not settle; give --centre")


def _rows(numbers: Tensor, found: Outcome) -> "pd.DataFrame":
    import pandas as pd

    quaternion = found.quaternion.double()
    further = {}
    if found.nuisance is not None:
        columns = found.nuisance.values.T
        further = {name: own.numpy() for name, own in zip(found.nuisance.columns, columns, strict=True)}
    return pd.DataFrame(
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
            **further,
        }
    )


def _failed(problems: dict[int, str]) -> "pd.DataFrame":
    """Rows of images that could not be fitted, by number."""
    nothing = torch.full((len(problems),), math.nan, dtype=torch.float64)
    none = torch.zeros(len(problems), dtype=torch.long)
    outcome = Outcome(
        nothing, nothing[:, None].expand(-1, 4), nothing, none, nothing, nothing,
        [FAILED + reason for reason in problems.values()],
    )  # fmt: skip
    return _rows(torch.tensor(list(problems)), outcome)
