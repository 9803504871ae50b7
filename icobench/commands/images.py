"""Reconstructing a user's own images."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from icobench.commands.options import (
    METHOD_NAMES,
    Detector,
    Machine,
    Model,
    Physics,
    examples,
    names,
    progress_bar,
    say,
    with_options,
)
from icobench.errors import InputError

app = typer.Typer()


@app.command(
    cls=with_options(Detector, Physics, Machine),
    epilog=examples("icobench reconstruct run42.cxi --method network+lm --out result.csv"),
)
def reconstruct(
    context: typer.Context,
    images: Annotated[Path, typer.Argument(help="CXI/HDF5, .npy, .npz, TIFF or greyscale PNG.")],
    out: Annotated[Path, typer.Option(help="Table to write: .csv or .parquet.")] = Path("result.csv"),
    method: Annotated[
        str,
        typer.Option(help=f"{METHOD_NAMES}."),
    ] = "network+lm",
    model: Model = None,
    kind: Annotated[str, typer.Option(help="counts, log or auto.")] = "auto",
    dataset: Annotated[
        str | None, typer.Option("--dataset", "--data-path", help="Dataset inside an HDF5 file.")
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            "--mask", "--mask-path", help="Mask, non-zero = bad: a file, or a dataset in the HDF5 file."
        ),
    ] = None,
    saturation: Annotated[
        float | None, typer.Option(help="Pixels whose stored number is this or more are bad.")
    ] = None,
    decades: Annotated[float, typer.Option(help="Dynamic range of log images.")] = 6.0,
    pixels: Annotated[
        int | None,
        typer.Option(help="Side of the grid that frames are resampled to; 128 by default.", min=16),
    ] = None,
    fit_beam: Annotated[
        bool, typer.Option("--fit-centre", help="Find the beam's position from the first images.")
    ] = False,
    versions: Annotated[
        int, typer.Option(help="Versions of an image that the network averages; 2: mirrored.", min=1, max=8)
    ] = 1,
    nuisance: Annotated[
        str | None,
        typer.Option(help="Fit along, by lm and mle: comma-separated background, centre, refractive_index."),
    ] = None,
    preview: Annotated[Path | None, typer.Option(help="PNG with target and reconstruction.")] = None,
    fit_sin_theta: Annotated[
        float | None,
        typer.Option(help="Leave pixels beyond this sine of the angle out of fits; 0.8 by default."),
    ] = None,
) -> None:
    """Radius and orientation of your own images, one row per image.

    --physics auto fits images that straight rays explain poorly with propagated waves, too, and says which
    explains them better.

    Even square frames of at most 256 pixels are taken as an orthographic grid. Others, and all with
    --distance-mm and --pixel-mm (flat detector across the beam), --centre or --pixels, are resampled to one.
    """
    from icobench.answer import FAILED
    from icobench.images.source import open_images
    from icobench.methods import find_method
    from icobench.runs.reconstruct import FIT_SIN_THETA
    from icobench.runs.reconstruct import reconstruct as run
    from icobench.storage import atomic_path

    chosen = find_method(method)
    if out.suffix not in (".csv", ".parquet"):
        raise InputError(f"--out must end in .csv or .parquet, got {out}")
    for target in (out, preview):
        if target is not None and not target.resolve().parent.is_dir():
            raise InputError(f"{target.parent}: no such folder")
    machine, given = Machine.of(context), Detector.of(context)
    physics = Physics.of(context)
    auto = physics.physics == "auto"
    experiment = (replace(physics, physics="straight") if auto else physics).experiment()
    geometry: dict[str, Any] = {
        "detector": given.flat() if given.is_flat else None, "centre": given.beam(), "pixels": pixels,
    }  # fmt: skip
    with open_images(images, kind, dataset, mask, saturation, decades) as source:
        with progress_bar(f"{method} on {len(source)} images") as update:
            answer = run(
                source, experiment=experiment, method=chosen, **geometry,
                fit_centre=fit_beam, fit_sin_theta=FIT_SIN_THETA if fit_sin_theta is None else fit_sin_theta,
                nuisance=names(nuisance) if nuisance else (), auto_physics=auto, versions=versions,
                model=model, seed=machine.seed, device=machine.device, progress=update,
            )  # fmt: skip
        table = answer.to_frame()
        with atomic_path(out) as temporary:
            if out.suffix == ".csv":
                table.to_csv(temporary, index=False)
            else:
                table.to_parquet(temporary)
        if preview is not None and table["radius_nm"].notna().any():
            from icobench.images.resample import on_grid
            from icobench.reporting.gallery import write_preview
            from icobench.simulator.simulator import Simulator

            frames, _ = on_grid(source, experiment, **geometry)
            write_preview(preview, frames, table, Simulator(answer.experiment, device=machine.chosen()))
        where = source.where
    for row in table.itertuples():
        if row.status.startswith(FAILED):
            say(f"{where}: image {row.index} {row.status}")
            continue
        say(
            f"image {row.index}: R = {row.radius_nm:.2f} +- {row.radius_std_nm:.2g} nm, orientation "
            f"+- {row.orientation_std_deg:.2g} deg, {row.status}"
        )
    for note in answer.notes:
        say(note)
    say(f"wrote {out}")
    if table["radius_nm"].isna().all():
        reason = table["status"][0].removeprefix(FAILED)
        raise InputError(f"{where}: no image could be fitted (image 0: {reason})")
