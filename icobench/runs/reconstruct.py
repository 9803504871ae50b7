"""Reconstruct a user's own images: checked, brought to a grid, cut, and fitted block by block."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from icobench.answer import COSTS, OK, OUTSIDE, POOR, RADII_NM, UNKNOWN, Answer, Hypotheses, Progress
from icobench.errors import InputError
from icobench.fitting.dictionary import dictionary_for
from icobench.fitting.facets import FACETS, FacetOptions, fit_facets
from icobench.fitting.nuisance import Nuisance
from icobench.fitting.objectives import objective_for
from icobench.fitting.posterior import check_samples, sample_posterior, starts_of
from icobench.geometry.shapes import SHAPES
from icobench.images.facts import Setup
from icobench.images.image_set import ImageSet
from icobench.images.image_source import ImageSource
from icobench.images.prepare import Prepared, prepare
from icobench.images.reading import Reading
from icobench.methods import Catalogue, Method, Problem
from icobench.methods.shapes import EQUIVALENT, Fit, chosen_shape
from icobench.runs.calibrate import (
    BLOCK,
    GPU_BLOCK,
    Bench,
    find_beam,
    find_noise,
    find_response,
    refine_gain,
)
from icobench.runs.pool import chosen_device
from icobench.sets.own_images import FIT_SIN_THETA
from icobench.simulator.experiment import Experiment, FlatDetector
from icobench.simulator.simulator import METHODS, Simulator
from icobench.stopwatch import Stopwatch

__all__ = ["reconstruct"]

STANDARD = Experiment()

ICOSAHEDRON = "icosahedron"

STORED_STARTS = 4
"""Stored patterns at which modes of a posterior are searched, beside the fit, its twin and the network."""


def reconstruct(
    images: Any,
    mask: Any = None,
    kind: str = "auto",
    experiment: Experiment | Mapping[str, Any] | None = None,
    method: str | Method | None = None,
    *,
    shape: str = ICOSAHEDRON,
    facets: str = "fixed",
    detector: FlatDetector | None = None,
    centre: tuple[float, float] | None = None,
    pixels: int | None = None,
    reading: Reading | None = None,
    geometry: Path | str | None = None,
    panels: str | None = None,
    polar: bool = False,
    override: bool = False,
    fit_centre: bool = False,
    fit_response: bool = False,
    fit_sin_theta: float = FIT_SIN_THETA,
    nuisance: Sequence[str] = (),
    auto_physics: bool = False,
    versions: int = 1,
    posterior: int = 0,
    model: Path | str | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    catalogue: Catalogue | None = None,
    progress: Progress = lambda share: None,
    finished: Callable[[Answer], None] = lambda answer: None,
) -> Answer:
    """Radius and orientation of images, as ``icobench reconstruct`` gives them.

    What a file states is used (wavelength, detector, kind of its numbers), and what was guessed is said in
    the answer's notes.

    Frames are checked, and brought to an orthographic grid if they are not on one. An image that cannot be
    reconstructed has NaN and a status that begins with ``failed:``.

    Args:
        images: (H, W) or (N, H, W), NumPy or torch; a set of images; a file's name; an opened source; or what
            :func:`~icobench.images.prepare.prepare` gives.
        mask: of an array: (H, W) or (N, H, W) bool, True where a pixel is usable; sets and files have theirs.
        kind: "counts", "log" or "auto", see :func:`~icobench.images.source.open_images`; for arrays also
            "intensity", without noise.
        experiment: physics that the images are believed to come from, and the range of angles of an
            orthographic grid; its number of pixels does not matter. A dictionary such as
            ``{"wavelength_nm": 13.4}`` states these values alone, an experiment all of them; a file states
            some.
        method: a name, or a method; "network+lm" by default, and "dictionary+lm" for other shapes than the
            icosahedron, which is all that networks know.
        shape: the body, of :data:`~icobench.geometry.shapes.SHAPES`; "hexagonal-prism=1.5" has a parameter of
            this value, "hexagonal-prism" has it fitted along; several, separated by commas, or "auto" for all
            of them, race (:func:`~icobench.methods.shapes.fit_shapes`). Radii are circumradii.
        facets: "distances" lets every facet of the fitted body have a distance of its own from the origin,
            as far as the evidence is for it, "directions" a direction, too
            (:func:`~icobench.fitting.facets.fit_facets`, ten seconds an image); by straight rays.
        detector: the flat detector that took the frames.
        centre: (x, y) of the beam in pixels of an orthographic frame.
        pixels: side of the grid that frames are resampled to.
        reading: how the file or array is read: masks, gain, axes, ...; ``kind`` is then a part of it.
        geometry: file of CrystFEL that says where a detector's modules lie.
        panels: the same for panels of whole rows, see :func:`~icobench.images.geometry.parse_panels`.
        polar: the frames are polar images (angles, radii) around the beam.
        override: take the caller's values where a file states others; they are refused otherwise.
        fit_response: find the exponent and the ceiling of the detector's response from the first images.
        fit_centre: find the beam's position from the first images; good from 1.5 pixels away.
        fit_sin_theta: pixels beyond this sine of the scattering angle are left out of fits. Networks see
            them: they were trained with them, and are less accurate without, on voxels as well.
        nuisance: names of :data:`~icobench.fitting.nuisance.NUISANCES` to fit along.
        auto_physics: fit images that straight rays explain poorly with propagated waves, too; the better fit
            is kept, and the answer's ``physics`` says which.
        versions: turned and mirrored versions of an image that the network averages, 1 to 8.
        posterior: samples of the posterior of each image, for the answer's ``samples``
            (:func:`~icobench.fitting.posterior.sample_posterior`); 0 for none. Photon counts only.
        model: weights of the network, or "paper"; the default ones if None. The methods of the paper's
            network keep theirs.
        seed: of random starts.
        device: "auto", "cpu" or "cuda".
        catalogue: methods to choose from beside those of the package.
        progress: called with the finished share.
        finished: called with the answers so far after every block of images.

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
        >>> cube = icobench.simulate(60.0, photons=1e5, shape="cube")
        >>> answer = icobench.reconstruct(cube.images, kind="counts", shape="cube")
        >>> answer.status, answer.shape
        (['ok'], ['cube'])
    """
    wanted = chosen_shape(shape)
    method = method or ("network+lm" if wanted.plain else "dictionary+lm")
    chosen = (catalogue or Catalogue()).method(method) if isinstance(method, str) else method
    wanted.check(chosen, nuisance, fit_centre, fit_response, bool(posterior))
    if facets not in FACETS:
        raise InputError(f"facets are {', '.join(FACETS)}, not {facets!r}")
    if facets != FACETS[0] and (posterior or nuisance or auto_physics):
        raise InputError("free facets are fitted by straight rays, without nuisance parameters or posteriors")
    if versions != 1:
        chosen = chosen.with_options(versions=versions)
    if not 0 < fit_sin_theta <= 1:
        raise InputError(f"the sine of the fitted angles must lie in (0, 1], got {fit_sin_theta:g}")
    if auto_physics and "centre" in nuisance:
        raise InputError("the centre cannot be fitted along with propagated waves; leave --physics auto")
    if posterior:
        check_samples(posterior)
        if nuisance:
            raise InputError("a posterior is of radius and orientation alone: without nuisance parameters")
    where = chosen_device(str(device))
    Nuisance.start(nuisance, 0, STANDARD)  # says which name is unknown, before any work
    with ExitStack() as files:
        if not isinstance(images, Prepared):
            opened = prepare(
                images, mask, kind, experiment, detector=detector, centre=centre, pixels=pixels,
                reading=reading, geometry=geometry, panels=panels, polar=polar, override=override,
            )  # fmt: skip
            if not isinstance(images, ImageSource):
                files.enter_context(opened)
        else:
            opened = images
        source, grid, experiment = opened.source, opened.grid, opened.experiment
        Nuisance.start(nuisance, 0, STANDARD, source.kind)
        notes: list[str] = []
        networks = chosen.load_networks(model, where)
        if networks is not None:
            networks.choose(experiment, source.kind)  # says that there is none, before any work
            if auto_physics:
                networks.choose(replace(experiment, physics="propagated"), source.kind)
        bench = Bench(grid, chosen, where, networks, seed, fit_sin_theta, wanted.body)
        if fit_response:
            notes += find_response(source, bench, experiment)
        notes += find_noise(source, bench, experiment)
        if networks is not None:
            converted = networks.choose(experiment, source.kind).conversion(source.kind)
            notes += [converted] if converted else []
        if fit_centre:
            before = experiment.centre_offset
            experiment = find_beam(bench, experiment)
            x, y = (new - old for new, old in zip(experiment.centre_offset, before, strict=True))
            notes.append(
                f"beam found {x:+.3f}, {y:+.3f} pixels (x, y) of the fitted grid from where it was assumed"
            )
        if source.decades_assumed and chosen.fits_nuisance and "decades" not in nuisance:
            nuisance = (*nuisance, "decades")
            notes.append("their decades are fitted along")
        if posterior and source.kind != "counts":
            raise InputError(f"{source.where}: a posterior needs photon counts: only their noise is known")
        simulator = bench.simulator(experiment)
        work = _Work(bench, wanted.fitting(chosen), simulator, tuple(nuisance), auto_physics, posterior)
        work.race, work.facets = wanted.races, facets
        if facets != FACETS[0] and simulator.method != METHODS["straight"]:
            raise InputError("free facets are fitted by straight rays: say --physics straight")
        answer = work.run(source, progress, finished)
        _by_wavelength(answer, opened.setup, notes)
        if OUTSIDE in answer.status:
            low, high = RADII_NM
            also = "" if wanted.plain else ", or at the end of the range of the shape's parameter"
            notes.append(f"radii are searched from {low:g} to {high:g} nm; {OUTSIDE} fits ended there{also}")
        answer.experiment, answer.origins = experiment, list(opened.notes)
        answer.notes = notes + work.notes + [f"warning: {line}" for line in grid.warnings()]
    return answer


def _by_wavelength(answer: Answer, setup: Setup, notes: list[str]) -> None:
    """Bring the radii of frames with wavelengths of their own to these.

    An image depends on lengths over the wavelength alone, but for the refractive index.
    """
    fact = setup.facts.get("wavelength_nm")
    if fact is None or fact.by_frame is None:
        return
    ratio = torch.as_tensor(fact.by_frame / fact.value)[answer.index]
    answer.radius_nm, answer.radius_std_nm = answer.radius_nm * ratio, answer.radius_std_nm * ratio
    if EQUIVALENT in answer.nuisance:
        answer.nuisance[EQUIVALENT] = answer.nuisance[EQUIVALENT] * ratio
    low, high = float(fact.by_frame.min()), float(fact.by_frame.max())
    notes.append(f"every frame has its own wavelength, {low:.5g} to {high:.5g} nm; radii are in its units")


class _Work:
    """Every image of a source, read and fitted block by block."""

    def __init__(
        self, bench: Bench, fit: Fit, simulator: Simulator, nuisance: tuple[str, ...], auto_physics: bool,
        posterior: int,
    ) -> None:  # fmt: skip
        self.bench, self.fit, self.simulator, self.nuisance = bench, fit, simulator, nuisance
        self.posterior, self.race, self.facets = posterior, False, FACETS[0]
        self.propagated = simulator.with_physics("propagated") if auto_physics else None
        self.notes: list[str] = []

    def run(self, source: ImageSource, progress: Progress, finished: Callable[[Answer], None]) -> Answer:
        """The answers for all images."""
        grid, total, answers = self.bench.grid, len(self.bench.grid), []
        start = 0
        while start < total:
            # The first ones, whose fits may tell the gain, are the same on all devices.
            size = BLOCK if start == 0 or self.bench.device.type == "cpu" else GPU_BLOCK
            numbers = range(start, min(start + size, total))
            block = grid.read(numbers)

            def report(part: float, first: int = start, count: int = len(block)) -> None:
                progress((first + part * count) / total)

            parts, problem = self._block(block, report)
            if start == 0 and problem is not None and not self.notes and not self.race:
                self.notes = refine_gain(source, self.bench, problem, parts[0])
                if self.notes:
                    continue  # once more, with the gain
            answers += parts
            report(1.0)
            start = numbers.stop
            if start < total:
                finished(Answer.join(answers))
        answer = Answer.join(answers)
        gains = answer.nuisance.get("gain")
        if gains is not None and bool((gains.nan_to_num(1.0) == 1).all()):
            del answer.nuisance["gain"]
        return answer

    def _block(self, block: ImageSet, report: Progress) -> tuple[list[Answer], Problem | None]:
        """The answers for a block, and what its good images were given to the method as."""
        problem = self.bench.problem(block, self.simulator)
        dark = ~((block.images > 0) & problem.images.mask).flatten(1).any(1)
        problems = dict(block.problems)
        for number in block.numbers[dark].tolist():
            problems.setdefault(number, "no signal at usable pixels of the fitted detector range")
        seen = problem.images.mask if problem.network_mask is None else problem.network_mask
        good = torch.tensor([number not in problems for number in block.numbers.tolist()])
        answers, usable = [], None
        if good.any():
            usable = replace(
                problem, images=problem.images.subset(good), network_mask=seen[good], nuisance=self.nuisance
            )
            answers.append(self.fit(usable, report))
            if self.propagated is not None:
                _improve_poor(answers[-1], self.propagated, self.fit, usable)
            if self.facets != FACETS[0]:
                _free_facets(answers[-1], usable, self.facets)
            if self.posterior:
                _add_posterior(answers[-1], usable, self.propagated, self.posterior)
            if usable.images.gain is not None:
                answers[-1].nuisance["gain"] = usable.images.gain.clone()
        if problems:
            answers.append(Answer.failed(problems))
        return answers, usable


def _free_facets(answer: Answer, problem: Problem, facets: str) -> None:
    """Fit the facets of all images' bodies, and take what was found for the answer."""
    options = FacetOptions(directions=facets == "directions")
    objective, watch = objective_for(problem.images, problem.simulator), Stopwatch(problem.simulator.device)
    columns = {
        name: torch.zeros(len(answer), dtype=torch.float64) for name in ("free_facets", "log_evidence")
    }
    for row in range(len(answer)):
        regular = problem.simulator.body
        if answer.shape:
            entry = SHAPES[answer.shape[row]]
            value = answer.nuisance[entry.parameter][row] if entry.parameter else None
            regular = entry.body(None if value is None else float(value))
        fit = fit_facets(
            objective, row, regular, float(answer.radius_nm[row]), answer.quaternion[row], options
        )
        answer.bodies[int(answer.index[row])] = fit
        answer.radius_nm[row], answer.radius_std_nm[row] = fit.radius_nm, fit.radius_std_nm
        answer.quaternion[row], answer.orientation_std_deg[row] = fit.quaternion, fit.orientation_std_deg
        answer.objective[row] = fit.value
        answer.evaluations[row] += fit.evaluations
        answer.status[row] = POOR if fit.poor else OK
        columns["free_facets"][row], columns["log_evidence"][row] = int(fit.free.sum()), fit.evidence
    answer.nuisance |= columns
    for name, spent in zip(("seconds", "core_seconds"), watch.read(), strict=True):
        getattr(answer, name).add_(spent / max(1, len(answer)))


def _add_posterior(answer: Answer, problem: Problem, propagated: Simulator | None, samples: int) -> None:
    """Sample the posteriors of all images, each with the physics that fitted it, and charge for it."""
    words = answer.physics or [""] * len(answer)
    drawn: list[dict[str, torch.Tensor]] = []
    for word in dict.fromkeys(words):
        rows = torch.tensor([other == word for other in words]).nonzero()[:, 0]
        simulator = propagated if propagated is not None and word == "propagated" else problem.simulator
        images, watch = problem.images.subset(rows), Stopwatch(simulator.device)
        objective = objective_for(images, simulator)
        place = torch.arange(len(images))
        nearest = dictionary_for(simulator).match(
            objective.images[place], objective.mask[place], images.kind, simulator.experiment, STORED_STARTS,
            simulator.body,
        )  # fmt: skip
        fits = Answer(answer.radius_nm[rows], answer.quaternion[rows])
        if answer.hypotheses is not None:
            fits.hypotheses = Hypotheses(*(part[rows] for part in answer.hypotheses))
        found = sample_posterior(objective, starts_of(fits, nearest), samples, problem.seed, images.numbers)
        numbers = images.numbers.repeat_interleave(samples)
        drawn.append({"index": numbers, **found.samples})
        for name, values in found.columns.items():
            column = torch.full((len(answer),), torch.nan, dtype=torch.float64)
            answer.nuisance.setdefault(name, column)[rows] = values
        answer.evaluations[rows] += objective.simulator.evaluations
        spent = [seconds / len(images) for seconds in watch.read()]
        answer.seconds[rows] += spent[0]
        answer.core_seconds[rows] += spent[1]
    answer.samples = {name: torch.cat([part[name] for part in drawn]) for name in drawn[0]}


def _improve_poor(answer: Answer, propagated: Simulator, fit: Fit, problem: Problem) -> None:
    """Fit the images of poor fits by straight rays with propagated waves, and keep what is better.

    Both fits are charged.
    """
    answer.physics = ["straight"] * len(answer)
    rows = torch.tensor([word in (POOR, UNKNOWN) for word in answer.status]).nonzero()[:, 0]
    if not len(rows):
        return
    seen = problem.images.mask if problem.network_mask is None else problem.network_mask
    poor = replace(problem, images=problem.images.subset(rows), simulator=propagated, network_mask=seen[rows])
    other = fit(poor, lambda share: None)
    for name in COSTS:
        getattr(answer, name)[rows] += getattr(other, name)
    taken = (other.objective < answer.objective[rows]).nonzero()[:, 0]
    answer.replace_rows(rows[taken], other, taken)
    for row in rows[taken].tolist():
        answer.physics[row] = "propagated"
