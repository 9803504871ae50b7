"""Reconstruct a user's own images: checked, brought to a grid, fitted as a :mod:`~icobench.runs.stack`."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from icobench import __version__
from icobench.answer import Answer, Progress
from icobench.errors import InputError
from icobench.fitting.facets import FACETS
from icobench.fitting.nuisance import Nuisance
from icobench.fitting.posterior import check_samples
from icobench.images.image_source import ImageSource
from icobench.images.prepare import Prepared, prepare
from icobench.images.reading import Reading
from icobench.methods import Catalogue, Method
from icobench.methods.shapes import chosen_shape
from icobench.runs.blocks import ICOSAHEDRON, Fitting
from icobench.runs.calibrate import find_beam, find_noise, find_response
from icobench.runs.pool import chosen_device
from icobench.runs.stack import Stack, threads_for
from icobench.sets.own_images import FIT_SIN_THETA
from icobench.simulator.experiment import Experiment, FlatDetector
from icobench.storage import PieceStore, plain

__all__ = ["begin", "reconstruct"]

STANDARD = Experiment()


def begin(
    opened: Prepared,
    method: str | Method | None = None,
    *,
    shape: str = ICOSAHEDRON,
    facets: str = FACETS[0],
    fit_centre: bool = False,
    fit_response: bool = False,
    fit_sin_theta: float = FIT_SIN_THETA,
    nuisance: Sequence[str] = (),
    auto_physics: bool = False,
    versions: int = 1,
    posterior: int = 0,
    sort: bool = False,
    model: Path | str | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    catalogue: Catalogue | None = None,
    folder: Path | str | None = None,
) -> Stack:
    """Find out what is needed before images are answered; arguments as for :func:`reconstruct`.

    Raises:
        InputError: as for :func:`reconstruct`, or the folder holds the blocks of another reconstruction.
    """
    wanted = chosen_shape(shape)
    method = method or ("network+lm" if wanted.plain else "dictionary+lm")
    chosen = (catalogue or Catalogue()).method(method) if isinstance(method, str) else method
    wanted.check(chosen, nuisance, fit_centre, fit_response, bool(posterior))
    if facets not in FACETS:
        raise InputError(f"facets are {', '.join(FACETS)}, not {facets!r}")
    straight = opened.experiment.physics == "straight" and not auto_physics
    if facets != FACETS[0] and (posterior or nuisance or not straight):
        raise InputError("free facets are fitted by straight rays, without nuisance parameters or posteriors")
    if facets != FACETS[0] and wanted.body.round:
        raise InputError("a sphere has no facets to free")
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
    source, grid, experiment = opened.source, opened.grid, opened.experiment
    if auto_physics:  # straight rays come first, whatever the file was made with
        experiment = replace(experiment, physics="straight")
    with threads_for(where, len(grid)):
        Nuisance.start(nuisance, 0, STANDARD, source.kind)
        notes: list[str] = []
        fitting = Fitting(
            chosen, experiment, str(where), model, seed, fit_sin_theta, tuple(nuisance), auto_physics,
            posterior, sort, shape, facets,
        )  # fmt: skip
        networks = fitting.networks
        if networks is not None:
            networks.choose(experiment, source.kind)  # says that there is none, before any work
            if auto_physics:
                networks.choose(replace(experiment, physics="propagated"), source.kind)
        bench = fitting.bench(grid)
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
    if posterior and "samples" in chosen.option_names:
        chosen, posterior = chosen.with_options(samples=posterior), 0
        notes.append("samples are draws of the network's own posterior, without simulations")
    fitting = replace(
        fitting, method=chosen, experiment=experiment, nuisance=tuple(nuisance), posterior=posterior
    )
    vars(fitting)["networks"] = networks  # already loaded
    stack = Stack(opened, fitting, None, notes)
    keeps = folder is not None and facets == FACETS[0]  # tables cannot hold bodies
    if keeps and folder is not None and opened.call is not None and len(stack.pieces()) > 1:
        settings = asdict(replace(fitting, method=None)) | {"device": None, "model": None}  # type: ignore[arg-type]
        identity = {
            "icobench": __version__, "images": plain(opened.call), "count": len(stack),
            "method": {"name": chosen.name, **chosen.settings}, "fitting": plain(settings),
            "networks": "" if networks is None else networks.digest, "found": [fit_centre, fit_response],
            "block": stack.images_in_piece,
        }  # fmt: skip
        stack.store = PieceStore(
            Path(folder),
            identity,
            what="an unfinished reconstruction",
            way="choose another --out, or remove this one",
        )
        stack.check()
        stack.open()
    return stack


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
    sort: bool = False,
    model: Path | str | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    catalogue: Catalogue | None = None,
    folder: Path | str | None = None,
    workers: int = 1,
    progress: Progress = lambda share: None,
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
            (:func:`~icobench.fitting.facets.fit_facets`, two core-seconds an image); by straight rays.
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
            (:func:`~icobench.fitting.posterior.sample_posterior`); 0 for none. Photon counts only. From the
            method "posterior", draws of its own, which need no simulation.
        sort: fit only images that a classifier (:mod:`icobench.network.classifier`) takes for one body. The
            others have NaN and a status that begins with ``miss:`` and says what they show.
        model: weights of the network, or "paper"; the default ones if None. The methods of the paper's
            network keep theirs.
        seed: of random starts.
        device: "auto", "cpu" or "cuda".
        catalogue: methods to choose from beside those of the package.
        folder: keeps finished blocks of a file's images, so that the same call goes on after an interruption;
            removed at the end. In memory alone by default.
        workers: processes, of one thread or one GPU each, for a file's images; 0 for as many as are worth it.
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
        >>> cube = icobench.simulate(60.0, photons=1e5, shape="cube")
        >>> answer = icobench.reconstruct(cube.images, kind="counts", shape="cube")
        >>> answer.status, answer.shape
        (['ok'], ['cube'])
    """
    with ExitStack() as files:
        if isinstance(images, Prepared):
            opened = images
        else:
            opened = prepare(
                images, mask, kind, experiment, detector=detector, centre=centre, pixels=pixels,
                reading=reading, geometry=geometry, panels=panels, polar=polar, override=override,
            )  # fmt: skip
            if not isinstance(images, ImageSource):
                files.enter_context(opened)
        stack = begin(
            opened, method, shape=shape, facets=facets, fit_centre=fit_centre, fit_response=fit_response,
            fit_sin_theta=fit_sin_theta, nuisance=nuisance, auto_physics=auto_physics, versions=versions,
            posterior=posterior, sort=sort, model=model, seed=seed, device=device, catalogue=catalogue,
            folder=folder,
        )  # fmt: skip
        stack.run(workers, progress=progress)
        answer = stack.answer()
        stack.remove()
    return answer
