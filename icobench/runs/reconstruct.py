"""Reconstruct a user's own images: checked, brought to a grid, cut, and fitted block by block."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from icobench.answer import COSTS, POOR, Answer, Progress
from icobench.errors import InputError
from icobench.fitting.least_squares import centre_steps
from icobench.fitting.nuisance import Nuisance
from icobench.images.image_set import ImageSet
from icobench.images.resample import on_grid
from icobench.images.source import ImageSource, open_arrays, open_images
from icobench.methods import Catalogue, Method, Problem
from icobench.network.selection import Networks
from icobench.runs.pool import chosen_device
from icobench.sets.own_images import FIT_SIN_THETA
from icobench.simulator.experiment import Experiment, FlatDetector
from icobench.simulator.simulator import Simulator

__all__ = ["reconstruct"]

BLOCK = 32
"""Images fitted together."""

CENTRE_ROUNDS = 12
"""Log images, whose steps are shorter, need more of them than photon counts."""

CENTRE_TOLERANCE = 0.01
"""Pixels; the search for the beam ends when a step is shorter."""

LONGEST_CENTRE_STEP = 1.5
"""Pixels; a fringe of the largest bodies is 2.7 pixels wide."""


def reconstruct(
    images: Any,
    mask: Any = None,
    kind: str = "auto",
    experiment: Experiment | None = None,
    method: str | Method = "network+lm",
    *,
    detector: FlatDetector | None = None,
    centre: tuple[float, float] | None = None,
    pixels: int | None = None,
    fit_centre: bool = False,
    fit_sin_theta: float = FIT_SIN_THETA,
    nuisance: Sequence[str] = (),
    auto_physics: bool = False,
    versions: int = 1,
    model: Path | str | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    catalogue: Catalogue | None = None,
    progress: Progress = lambda share: None,
) -> Answer:
    """Radius and orientation of images, as ``icobench reconstruct`` gives them.

    Frames are checked, and brought to an orthographic grid if they are not on one. An image that cannot be
    reconstructed has NaN and a status that begins with ``failed:``.

    Args:
        images: (H, W) or (N, H, W), NumPy or torch; a set of images; a file's name; or an opened source.
        mask: of an array: (H, W) or (N, H, W) bool, True where a pixel is usable; sets and files have theirs.
        kind: "counts", "log" or "auto", see :func:`~icobench.images.source.open_images`; for arrays also
            "intensity", without noise.
        experiment: physics that the images are believed to come from, and the range of angles of an
            orthographic grid; its number of pixels does not matter.
        method: a name, or a method.
        detector: the flat detector that took the frames.
        centre: (x, y) of the beam in pixels of an orthographic frame.
        pixels: side of the grid that frames are resampled to.
        fit_centre: find the beam's position from the first images; good from 1.5 pixels away.
        fit_sin_theta: pixels beyond this sine of the scattering angle are left out of fits. Networks see
            them: they were trained with them, and are less accurate without, on voxels as well.
        nuisance: names of :data:`~icobench.fitting.nuisance.NUISANCES` to fit along.
        auto_physics: fit images that straight rays explain poorly with propagated waves, too; the better fit
            is kept, and the answer's ``physics`` says which.
        versions: turned and mirrored versions of an image that the network averages, 1 to 8.
        model: weights of the network, or "paper"; the default ones if None. The methods of the paper's
            network keep theirs.
        seed: of random starts.
        device: "auto", "cpu" or "cuda".
        catalogue: methods to choose from beside those of the package.
        progress: called with the finished share.

    Returns:
        the answer, with the experiment that was fitted, and notes on the images.

    Raises:
        InputError: images, geometry, method or network that do not fit together.

    Example:
        >>> import icobench
        >>> pattern = icobench.simulate(60.0, photons=1e5)
        >>> answer = icobench.reconstruct(pattern.images, kind="counts", method="dictionary+lm")
        >>> answer.status, abs(float(answer.radius_nm[0]) - 60) < 0.5
        (['ok'], True)
    """
    chosen = (catalogue or Catalogue()).method(method) if isinstance(method, str) else method
    if versions != 1:
        chosen = chosen.with_options(versions=versions)
    if not 0 < fit_sin_theta <= 1:
        raise InputError(f"the sine of the fitted angles must lie in (0, 1], got {fit_sin_theta:g}")
    if auto_physics and "centre" in nuisance:
        raise InputError("the centre cannot be fitted along with propagated waves; leave --physics auto")
    experiment, where = experiment or Experiment(), chosen_device(str(device))
    Nuisance.start(nuisance, 0, experiment)  # says which name is unknown, before any work
    with ExitStack() as files:
        if isinstance(images, ImageSource):
            opened = images
        elif isinstance(images, str | Path):
            opened = files.enter_context(open_images(images, kind))
        elif isinstance(images, ImageSet):
            opened = open_arrays(images.images, images.mask, images.kind)
        else:
            opened = open_arrays(images, mask, kind)
        source, experiment = on_grid(opened, experiment, detector, centre, pixels)
        notes = []
        networks = chosen.load_networks(model, where)
        if networks is not None:
            converted = networks.choose(experiment, source.kind).conversion(source.kind)
            notes += [converted] if converted else []
            if auto_physics:  # says that there is none, before any work
                networks.choose(replace(experiment, physics="propagated"), source.kind)
        if fit_centre:
            before = experiment.centre_offset
            experiment = _with_beam(source, chosen, experiment, where, networks, seed, fit_sin_theta)
            x, y = (new - old for new, old in zip(experiment.centre_offset, before, strict=True))
            notes.append(
                f"beam found {x:+.3f}, {y:+.3f} pixels (x, y) of the fitted grid from where it was assumed"
            )
        simulator = Simulator(experiment, device=where)
        answer = _in_blocks(
            source, chosen, simulator, networks, seed, fit_sin_theta, tuple(nuisance), auto_physics, progress
        )
        answer.experiment = experiment
        answer.notes = notes + [f"warning: {line}" for line in source.warnings()]
    return answer


def _problem(
    block: ImageSet, simulator: Simulator, networks: Networks | None, seed: int, fit_sin_theta: float
) -> Problem:
    """What a method gets: fits see the pixels up to an angle, the networks all of them."""
    experiment = simulator.experiment
    valid = experiment.valid()
    fitted = valid & (experiment.sin_theta() <= fit_sin_theta + 1e-9)
    images = replace(block, mask=block.mask & fitted, experiment=experiment)
    return Problem(images, simulator, networks, seed, network_mask=block.mask & valid)


def _in_blocks(
    source: ImageSource, method: Method, simulator: Simulator, networks: Networks | None, seed: int,
    fit_sin_theta: float, nuisance: tuple[str, ...], auto_physics: bool, progress: Progress,
) -> Answer:  # fmt: skip
    """Every image, read and fitted block by block."""
    total, answers = len(source), []
    propagated = simulator.with_physics("propagated") if auto_physics else None
    for block in source.blocks(BLOCK):
        problem = _problem(block, simulator, networks, seed, fit_sin_theta)
        dark = ~((block.images > 0) & problem.images.mask).flatten(1).any(1)
        problems = dict(block.problems)
        for number in block.numbers[dark].tolist():
            problems.setdefault(number, "no signal at usable pixels of the fitted detector range")
        seen = problem.images.mask if problem.network_mask is None else problem.network_mask
        good = torch.tensor([number not in problems for number in block.numbers.tolist()])
        first, count = int(block.numbers[0]), len(block)

        def report(part: float, first: int = first, count: int = count) -> None:
            progress((first + part * count) / total)

        if good.any():
            usable = replace(
                problem, images=problem.images.subset(good), network_mask=seen[good],
                nuisance=nuisance,
            )  # fmt: skip
            answers.append(method.run(usable, report))
            if propagated is not None:
                _improve_poor(answers[-1], propagated, method, usable)
        if problems:
            answers.append(Answer.failed(problems))
        report(1.0)
    return Answer.join(answers)


def _improve_poor(answer: Answer, propagated: Simulator, method: Method, problem: Problem) -> None:
    """Fit the images of poor fits by straight rays with propagated waves, and keep what is better.

    Both fits are charged.
    """
    answer.physics = ["straight"] * len(answer)
    rows = torch.tensor([word == POOR for word in answer.status]).nonzero()[:, 0]
    if not len(rows):
        return
    seen = problem.images.mask if problem.network_mask is None else problem.network_mask
    poor = replace(problem, images=problem.images.subset(rows), simulator=propagated, network_mask=seen[rows])
    other = method.run(poor)
    for name in COSTS:
        getattr(answer, name)[rows] += getattr(other, name)
    taken = (other.objective < answer.objective[rows]).nonzero()[:, 0]
    answer.replace_rows(rows[taken], other, taken)
    for row in rows[taken].tolist():
        answer.physics[row] = "propagated"


def _with_beam(
    source: ImageSource, method: Method, experiment: Experiment, device: torch.device,
    networks: Networks | None, seed: int, fit_sin_theta: float,
) -> Experiment:  # fmt: skip
    """The experiment with the beam where the first images of a source say that it is.

    Reconstructs, takes the median of the images' estimates of how far the beam is off, which a few failed
    fits do not shift, moves the beam, and so on.

    Raises:
        InputError: none of the first images can be used, or the search does not settle, or it settles where
            no body makes more than half of the images.
    """
    block = next(source.blocks(BLOCK))
    good = torch.tensor([number not in block.problems for number in block.numbers.tolist()])
    if not good.any():
        raise InputError(f"{source.where}: the beam cannot be found, none of the first images can be used")
    block = block.subset(good)
    if "rescue" in method.option_names:
        # In vain, and at ten times the cost, where the beam is wrong.
        method = method.with_options(rescue=False)
    for _ in range(CENTRE_ROUNDS):
        simulator = Simulator(experiment, device=device)
        problem = _problem(block, simulator, networks, seed, fit_sin_theta)
        answer = method.run(problem)
        objective = problem.objective()
        steps, _ = centre_steps(objective, answer.radius_nm, answer.quaternion)
        step = steps.median(0).values.clamp(-LONGEST_CENTRE_STEP, LONGEST_CENTRE_STEP)
        x, y = (old + new for old, new in zip(experiment.centre_offset, step.tolist(), strict=True))
        if max(abs(x), abs(y)) > experiment.pixels / 16:
            break
        experiment = replace(experiment, centre_offset=(x, y))
        if float(step.abs().max()) < CENTRE_TOLERANCE:
            # Far from the beam there are places where steps end, too, but no body makes the images there.
            if 2 * int(objective.misfit(answer.radius_nm, answer.quaternion).unlike.sum()) > len(block):
                break
            return experiment
    raise InputError(f"{source.where}: the search for the beam does not settle; give --centre")
