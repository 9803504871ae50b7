"""Reconstructing a user's own images."""

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from icobench.commands.cluster import Sharing, planning_device, run_on_slurm
from icobench.commands.options import (
    METHOD_NAMES,
    Detector,
    Machine,
    Model,
    OptionGroup,
    Physics,
    Workers,
    examples,
    names,
    progress_bar,
    say,
    told,
    with_options,
)
from icobench.errors import InputError

if TYPE_CHECKING:
    from icobench.answer import Answer
    from icobench.images.prepare import Prepared
    from icobench.images.reading import Reading
    from icobench.network.classifier import Labels
    from icobench.runs.blocks import Fitting
    from icobench.runs.stack import Stack
    from icobench.storage import Shard

__all__ = ["OF_IMAGES", "Files", "Grid", "app", "check_outputs", "is_auto", "prepared_images", "write_table"]

app = typer.Typer()

MOST_LINES = 100
"""Images of which a line is said."""


@dataclass(frozen=True)
class Files(OptionGroup):
    """How a file is read; what is not given is decided by the file."""

    kind: Annotated[str, typer.Option(help="counts, log or auto.")] = "auto"
    dataset: Annotated[
        str | None, typer.Option("--dataset", "--data-path", help="Dataset inside an HDF5 file.")
    ] = None
    mask: Annotated[
        str | None,
        typer.Option(
            "--mask", "--mask-path", help="Mask, non-zero = bad: a file, or a dataset in the HDF5 file."
        ),
    ] = None
    invert_mask: Annotated[bool, typer.Option("--invert-mask", help="Zero = bad in the mask.")] = False
    saturation: Annotated[
        float | None, typer.Option(help="Pixels whose stored number is this or more are bad.")
    ] = None
    decades: Annotated[float | None, typer.Option(help="Dynamic range of log images.")] = None
    gain: Annotated[
        float | None, typer.Option(help="Stored units per photon; found by the noise if not given.")
    ] = None
    readout_noise: Annotated[
        float | None, typer.Option(help="Read-out noise, standard deviation in stored units.")
    ] = None
    gamma: Annotated[float | None, typer.Option(help="Detector that reads photons^gamma.")] = None
    soft_saturation: Annotated[
        float | None, typer.Option(help="Ceiling that such a detector's readings approach.")
    ] = None
    flip: Annotated[
        str | None, typer.Option(help="Mirror x (columns), y (rows) or xy, for a view along the beam.")
    ] = None
    transpose: Annotated[
        bool | None, typer.Option("--transpose/--no-transpose", help="Exchange rows and columns, first.")
    ] = None
    frame_axis: Annotated[str, typer.Option(help="Axis of the frames: first or last.")] = ""
    max_pixels: Annotated[int, typer.Option(help="Larger frames are refused.", min=256)] = 1 << 26
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Follow HDF5 links out of the file's folder.")
    ] = False
    override: Annotated[
        bool, typer.Option("--override", help="Believe these options where the file says otherwise.")
    ] = False

    def reading(self) -> "Reading":
        """The same as the reader takes it.

        Raises:
            InputError: a value that makes no sense.
        """
        from icobench.images.reading import Reading

        return Reading(**{field.name: getattr(self, field.name) for field in fields(self)})


@dataclass(frozen=True)
class Grid(OptionGroup):
    """How frames come to the grid that is fitted."""

    pixels: Annotated[
        int | None,
        typer.Option(help="Side of the grid that frames are resampled to; 128 by default.", min=16),
    ] = None
    geometry: Annotated[
        Path | None, typer.Option(help="CrystFEL .geom file: where a detector's modules lie.")
    ] = None
    panels: Annotated[
        str | None,
        typer.Option(help="Panels of whole rows, first:last:x,y;...: moved by x,y pixels."),
    ] = None
    polar: Annotated[
        bool, typer.Option("--polar", help="Images are polar: angles (rows) x radii (columns).")
    ] = False


OF_IMAGES = (Files, Grid, Detector, Physics)
"""Options that say how images are read and what they come from."""


def prepared_images(context: typer.Context, images: Any, mask: Any = None) -> "Prepared":
    """Images of a file, or an array with its mask, opened as a command's options say."""
    from icobench.images.prepare import prepare

    stated, given = Physics.of(context).stated(context), Detector.of(context)
    if is_auto(context):
        del stated["physics"]
    files, grid = Files.of(context), Grid.of(context)
    return prepare(
        images, mask, experiment=stated | given.stated(), centre=given.beam(), pixels=grid.pixels,
        reading=files.reading(), geometry=grid.geometry, panels=grid.panels, polar=grid.polar,
        override=files.override, who="the command line",
    )  # fmt: skip


def is_auto(context: typer.Context) -> bool:
    """Whether --physics is auto."""
    return Physics.of(context).physics == "auto"


@app.command(
    cls=with_options(*OF_IMAGES, Machine, Sharing),
    epilog=examples("icobench reconstruct run42.cxi --method network+lm --out result.csv"),
)
def reconstruct(
    context: typer.Context,
    images: Annotated[
        Path, typer.Argument(help="CXI/HDF5, .npy, .npz, .mat, TIFF, PNG; EDF, CBF and MarCCD with fabio.")
    ],
    out: Annotated[Path, typer.Option(help="Table to write: .csv or .parquet.")] = Path("result.csv"),
    method: Annotated[
        str | None,
        typer.Option(
            help=f"{METHOD_NAMES}. By default network+lm, and dictionary+lm for other shapes than icosahedra."
        ),
    ] = None,
    shape: Annotated[
        str,
        typer.Option(
            help="The body: icosahedron, cube, hexagonal-prism (its aspect ratio is fitted along), "
            "hexagonal-prism=1.5, ...; auto finds out which."
        ),
    ] = "icosahedron",
    facets: Annotated[
        str,
        typer.Option(
            help="fixed; distances: every facet has one of its own, as far as the image says; directions, "
            "too. OUT.facets.parquet lists them, OUT.bodies has the bodies."
        ),
    ] = "fixed",
    mesh: Annotated[str, typer.Option(help="Type of the files in OUT.bodies: obj or stl.")] = "obj",
    model: Model = None,
    fit_beam: Annotated[
        bool, typer.Option("--fit-centre", help="Find the beam's position from the first images.")
    ] = False,
    fit_response: Annotated[
        bool,
        typer.Option("--fit-response", help="Find --gamma and --soft-saturation from the first images."),
    ] = False,
    versions: Annotated[
        int, typer.Option(help="Versions of an image that the network averages; 2: mirrored.", min=1, max=8)
    ] = 1,
    nuisance: Annotated[
        str | None,
        typer.Option(
            help="Fit along, by lm and mle: comma-separated background, centre, refractive_index, gamma, "
            "decades."
        ),
    ] = None,
    posterior: Annotated[
        int,
        typer.Option(
            help="Samples of each image's posterior, 1000 say, into OUT.posterior.parquet; the first image's "
            "are drawn."
        ),
    ] = 0,
    sort: Annotated[
        bool, typer.Option("--sort", help="Fit no image that shows nothing or several bodies.")
    ] = False,
    preview: Annotated[Path | None, typer.Option(help="PNG with target and reconstruction.")] = None,
    fit_sin_theta: Annotated[
        float | None,
        typer.Option(help="Leave pixels beyond this sine of the angle out of fits; 0.8 by default."),
    ] = None,
    workers: Workers = 0,
) -> None:
    """Radius and orientation of your own images, one row per image.

    What a file states (wavelength or photon energy, distance, pixel size, beam, kind) is used; options that
    say something else are refused without --override. OUT.json says where every value comes from.

    --shape auto tries all shapes and says which explains an image best, and the odds against the second best.

    --physics auto fits images that straight rays explain poorly with propagated waves, too, and says which
    explains them better.

    Even square frames of at most 256 pixels are taken as an orthographic grid. Others, and all with
    --distance-mm and --pixel-mm (flat detector across the beam), --centre or --pixels, are resampled to one.

    Finished blocks of images are kept beside --out until the end: the same command goes on where it was
    stopped, and shares the blocks with other processes or a cluster (--shard, --executor slurm).
    """
    from icobench.geometry.mesh import MESHES
    from icobench.methods import find_method
    from icobench.methods.shapes import chosen_shape
    from icobench.runs.reconstruct import FIT_SIN_THETA, begin

    method = method or ("network+lm" if chosen_shape(shape).plain else "dictionary+lm")
    chosen = find_method(method)
    samples = out.with_name(out.stem + ".posterior.parquet") if posterior else None
    check_outputs(out, preview, samples)
    if mesh not in MESHES:
        raise InputError(f"--mesh is {' or '.join(MESHES)}, not {mesh}")
    machine, sharing = Machine.of(context), Sharing.of(context)
    device = planning_device(sharing, machine.device)
    with prepared_images(context, images) as prepared:
        for note in prepared.notes:
            say(note)
        stack = begin(
            prepared, chosen, shape=shape, facets=facets, fit_centre=fit_beam, fit_response=fit_response,
            fit_sin_theta=FIT_SIN_THETA if fit_sin_theta is None else fit_sin_theta,
            nuisance=names(nuisance) if nuisance else (), auto_physics=is_auto(context), versions=versions,
            posterior=posterior, sort=sort, model=model, seed=machine.seed, device=device,
            folder=out.with_name(f".{out.stem}.unfinished"),
        )  # fmt: skip
        if sharing.on_slurm:
            if stack.store is None:
                raise InputError("--executor slurm is for more images than a block of 32")
            call = partial(_compute_shard, stack, machine.device, workers)
            run_on_slurm(context, stack.store.folder, call, ["parts/*.parquet"], stack)
        _compute(stack, method, workers, sharing.part)
        if not all(map(stack.is_stored, stack.pieces())):
            say(f"shard {sharing.shard} is finished; {stack.finished:,} of {len(stack):,} images are")
            return
        answer = stack.answer()
        try:
            write_table(answer, out)
        except (OSError, InputError) as error:  # a full disk: nothing that was found is lost
            typer.echo(answer.to_frame().to_csv(index=False), nl=False)
            raise InputError(
                f"{out}: could not be written ({error}); the table is on standard output"
            ) from error
        _write_origin(context, out, prepared, answer, stack.fitting, method, shape)
        drawn = [_preview(preview, prepared, answer, machine)] if preview is not None else []
        drawn += _write_samples(samples, answer) if samples is not None else []
        drawn += _write_bodies(out, answer, mesh) if answer.bodies else []
        stack.remove()
    _report(prepared, answer, out, drawn)


def _compute(stack: "Stack", method: str, workers: int, part: "Shard") -> None:
    """Reconstruct what is missing, with a bar that shows the pace."""
    total = len(stack)
    try:
        with progress_bar(f"{method} on {total:,} images") as update:
            stack.run(workers, part, _with_pace(update, method, total))
    except BaseException:
        if stack.store is not None and stack.finished:
            say(
                f"stopped; {stack.finished:,} of {total:,} images are finished, the same command goes on "
                f"({stack.store.folder})"
            )
        raise


def _with_pace(update: Callable[..., None], method: str, total: int) -> Callable[[float], None]:
    """A function of the finished share that says how many images a second there are."""
    begun: list[float] = []

    def show(share: float) -> None:
        now = time.monotonic()
        begun.extend([] if begun else [now, share])
        pace = total * (share - begun[1]) / max(now - begun[0], 1e-9)
        text = f"{method}, {total * share:,.0f} of {total:,} images"
        update(share, f"{text}, {pace:.3g} a second" if pace and now - begun[0] > 1 else text)

    return show


def _compute_shard(stack: "Stack", device: str, workers: int, shard: "Shard") -> None:
    """A shard on a cluster's node."""
    from dataclasses import replace

    from icobench.runs.pool import chosen_device

    stack.fitting = replace(stack.fitting, device=str(chosen_device(device)))
    stack.open()
    stack.run(workers, shard)


def check_outputs(out: Path, preview: Path | None = None, samples: Path | None = None) -> None:
    """Refuse outputs that cannot be written, before any work."""
    from icobench.storage import check_output

    if out.suffix not in (".csv", ".parquet"):
        raise InputError(f"--out must end in .csv or .parquet, got {out}")
    check_output(out)
    if samples is not None:
        check_output(samples)
    if preview is not None:
        check_output(preview)
        if preview.suffix.lower() != ".png":
            raise InputError(f"--preview must end in .png, got {preview}")


def write_table(answer: "Answer | Labels", path: Path) -> None:
    """The table of an answer or of labels, whole or not at all."""
    from icobench.storage import atomic_path

    table = answer.to_frame()
    with atomic_path(path) as temporary:
        if path.suffix == ".csv":
            table.to_csv(temporary, index=False)
        else:
            table.to_parquet(temporary)


def _write_origin(
    context: typer.Context, out: Path, prepared: "Prepared", answer: "Answer", fitting: "Fitting",
    method: str, shape: str,
) -> None:  # fmt: skip
    """Beside the table: what was reconstructed how, where every value comes from, and all that ``icobench
    show`` needs to read the same images in the same way."""
    from icobench.provenance import provenance
    from icobench.storage import plain, write_json

    def as_text(value: Any) -> Any:
        return str(value) if isinstance(value, complex) else value

    facts = {
        name: {"value": as_text(fact.value), "from": fact.origin}
        for name, fact in prepared.setup.facts.items()
    }
    machine = Machine.of(context)
    origin = provenance(machine.seed, machine.chosen(), answer.experiment)
    description = {
        "images": prepared.source.where, "file": plain(prepared.source.path), "method": method,
        "shape": shape, "options": told(context, *OF_IMAGES), "found": prepared.found,
        "fit_sin_theta": fitting.fit_sin_theta, "facts": facts, "origins": answer.origins,
        "notes": answer.notes,
    }  # fmt: skip
    try:
        write_json(out.with_name(out.name + ".json"), description | origin)
    except (OSError, InputError) as error:
        say(f"warning: {out}.json could not be written ({error})")


def _write_bodies(out: Path, answer: "Answer", mesh: str) -> list[str]:
    """The facets of all images as a table, and their bodies as meshes and drawings; returns what to say."""
    import pandas as pd

    from icobench.geometry.mesh import write_mesh
    from icobench.reporting.examples import body_svg
    from icobench.storage import atomic_path

    folder, table = out.with_name(out.stem + ".bodies"), out.with_name(out.stem + ".facets.parquet")
    rows = [pd.DataFrame({"index": number, **fit.columns()}) for number, fit in answer.bodies.items()]
    with atomic_path(table) as temporary:
        pd.concat(rows, ignore_index=True).to_parquet(temporary)
    folder.mkdir(exist_ok=True)
    for number, fit in answer.bodies.items():
        write_mesh(folder / f"{number:06d}.{mesh}", fit.body, fit.radius_nm)
        with atomic_path(folder / f"{number:06d}.svg") as temporary:
            drawing = body_svg(fit.body, fit.radius_nm, fit.quaternion.numpy())
            temporary.write_text(drawing.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))
    return [f"wrote {table} and {folder}"]


def _write_samples(path: Path, answer: "Answer") -> list[str]:
    """Write the samples, draw those of the first image, and say so."""
    import pandas as pd

    from icobench.reporting.corner import write_corner
    from icobench.storage import atomic_path

    if not answer.samples:
        return []
    with atomic_path(path) as temporary:
        pd.DataFrame({name: values.numpy() for name, values in answer.samples.items()}).to_parquet(temporary)
    if answer.shape:
        return [f"wrote {path}; only the posteriors of icosahedra are drawn"]
    drawing, image = path.with_suffix(".png"), int(answer.samples["index"][0])
    try:
        write_corner(drawing, answer.samples, image)
    except Exception as error:
        return [f"wrote {path}", f"warning: {drawing} could not be drawn ({type(error).__name__}: {error})"]
    return [f"wrote {path}", f"wrote {drawing}"]


def _preview(path: Path, prepared: "Prepared", answer: "Answer", machine: Machine) -> str:
    """Draw the preview; what goes wrong is said, and no reason to end badly: the table is there."""
    from icobench.reporting.gallery import write_preview
    from icobench.simulator.simulator import Simulator

    table = answer.to_frame()
    if not table["radius_nm"].notna().any():
        return ""
    try:
        write_preview(path, prepared.grid, table, Simulator(answer.experiment, device=machine.chosen()))
    except Exception as error:
        return f"warning: {path} could not be drawn ({type(error).__name__}: {error})"
    return f"wrote {path}"


def _posterior_words(row: Any) -> str:
    """What a line says of a posterior; empty without one."""
    from icobench.fitting.posterior import FEWEST_EFFECTIVE, LARGE_K

    if not hasattr(row, "posterior_effective"):
        return ""
    words = f"; {row.posterior_effective:.0f} effective samples"
    if row.posterior_modes > 1:
        words += f" of {row.posterior_modes:.0f} modes, the best with {row.posterior_best:.1%}"
    doubtful = row.posterior_k > LARGE_K or row.posterior_effective < FEWEST_EFFECTIVE
    return words + (", not to be trusted" if doubtful else "")


def _shape_words(row: Any) -> str:
    """What a line says of a shape; empty for icosahedra."""
    from icobench.answer import UNKNOWN

    if not hasattr(row, "shape"):
        return ""
    words = row.shape
    for name in ("aspect_ratio", "truncation"):
        if math.isfinite(value := getattr(row, name, math.nan)):
            words += f", {name.replace('_', ' ')} {value:.3f}"
    if row.status == UNKNOWN:
        return f"no shape explains it, nearest is {words}, "
    if hasattr(row, "runner_up"):
        odds = f"{row.shape_odds:.2g}" if row.shape_odds < 1e6 else "over 1e6"
        words += f" ({odds} to 1 against {row.runner_up})"
    return f"{words}, "


def _report(prepared: "Prepared", answer: "Answer", out: Path, drawn: list[str]) -> None:
    """A line for each image, then the notes that came up, then what was written."""
    from icobench.answer import FAILED, MISS

    where, table = prepared.source.where, answer.to_frame()
    if len(table) > MOST_LINES:
        counted = Counter(status.partition(":")[0] for status in table["status"])
        words = ", ".join(f"{count:,} {word}" for word, count in counted.most_common())
        say(f"{len(table):,} images: {words}; the first {MOST_LINES}:")
    for row in table.head(MOST_LINES).itertuples():
        if row.status.startswith((FAILED, MISS)):
            say(f"{where}: image {row.index} {row.status}")
            continue
        say(
            f"image {row.index}: {_shape_words(row)}R = {row.radius_nm:.2f} +- {row.radius_std_nm:.2g} nm, "
            f"orientation +- {row.orientation_std_deg:.2g} deg, {row.status}{_posterior_words(row)}"
        )
    for note in answer.notes:
        say(note)
    say(f"wrote {out}")
    for line in filter(None, drawn):
        say(line)
    if table["status"].str.startswith(FAILED).all():
        reason = table["status"][0].removeprefix(FAILED)
        raise InputError(f"{where}: no image could be fitted (image 0: {reason})")
