"""Reconstructing a user's own images."""

from pathlib import Path
from typing import Annotated

import typer

from icobench.commands.options import (
    Centre,
    Device,
    DistanceMm,
    Index,
    Model,
    PixelMm,
    Seed,
    Sine,
    SolidAngle,
    Wavelength,
    chosen_centre,
    chosen_detector,
    chosen_device,
    chosen_experiment,
    examples,
    progress_bar,
    say,
)
from icobench.errors import InputError

app = typer.Typer()


@app.command(epilog=examples("icobench reconstruct run42.cxi --method network+lm --out result.csv"))
def reconstruct(
    images: Annotated[Path, typer.Argument(help="CXI/HDF5, .npy, .npz, TIFF or greyscale PNG.")],
    out: Annotated[Path, typer.Option(help="Table to write: .csv or .parquet.")] = Path("result.csv"),
    method: Annotated[
        str,
        typer.Option(
            help="network, simplex, simplex-race, cma-es; dictionary or network, + simplex, lm or mle."
        ),
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
    distance_mm: DistanceMm = None,
    pixel_mm: PixelMm = None,
    centre: Centre = None,
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
    seed: Seed = 0,
    device: Device = "auto",
    refractive_index: Index = None,
    sin_theta_max: Sine = 1.0,
    solid_angle_factor: SolidAngle = False,
    wavelength: Wavelength = 13.5,
) -> None:
    """Radius and orientation of your own images, one row per image.

    Even square frames of at most 256 pixels are taken as an orthographic grid. Others, and all with
    --distance-mm and --pixel-mm (flat detector across the beam), --centre or --pixels, are resampled to one.
    """
    from dataclasses import replace

    from icobench.fitting.nuisance import Nuisance
    from icobench.images.resample import on_grid
    from icobench.images.source import open_images
    from icobench.methods import find_method
    from icobench.network.selection import load_network
    from icobench.runs.reconstruct import FAILED, fit_centre, reconstruct_images
    from icobench.sets.own_images import FIT_SIN_THETA
    from icobench.simulator.experiment import Experiment
    from icobench.simulator.simulator import Simulator
    from icobench.storage import atomic_path

    chosen = find_method(method)
    further = tuple(name.strip() for name in nuisance.split(",")) if nuisance else ()
    Nuisance.start(further, 0, Experiment())  # says which name is unknown, before any work
    fit_sin_theta = FIT_SIN_THETA if fit_sin_theta is None else fit_sin_theta
    if not 0 < fit_sin_theta <= 1:
        raise InputError(f"--fit-sin-theta must lie in (0, 1], got {fit_sin_theta:g}")
    if out.suffix not in (".csv", ".parquet"):
        raise InputError(f"--out must end in .csv or .parquet, got {out}")
    for target in (out, preview):
        if target is not None and not target.resolve().parent.is_dir():
            raise InputError(f"{target.parent}: no such folder")
    beam = chosen_centre(centre)
    flat = distance_mm is not None or pixel_mm is not None
    detector = chosen_detector(distance_mm, pixel_mm, beam) if flat else None
    experiment = chosen_experiment(refractive_index, sin_theta_max, solid_angle_factor, wavelength)
    with open_images(images, kind, dataset, mask, saturation, decades) as opened:
        source, experiment = on_grid(opened, experiment, detector, beam, pixels)
        where = chosen_device(device)
        network = load_network(model, where) if chosen.needs_network else None
        if network is not None:
            network.choose(experiment, source.kind)
        simulator = Simulator(experiment, device=where)
        with progress_bar(f"{method} on {len(source)} images") as update:
            if fit_beam:
                offset = fit_centre(source, chosen, simulator, network, seed, fit_sin_theta)
                simulator = Simulator(replace(experiment, centre_offset=offset), device=where)
            table = reconstruct_images(
                source, chosen, simulator, network, seed, fit_sin_theta, update, further, versions
            )
        if preview is not None and table["radius_nm"].notna().any():
            from icobench.reporting.preview import write_preview

            write_preview(preview, source, table, simulator)
        warnings = source.warnings()
    with atomic_path(out) as temporary:
        if out.suffix == ".csv":
            table.to_csv(temporary, index=False)
        else:
            table.to_parquet(temporary)
    for row in table.itertuples():
        if row.status.startswith(FAILED):
            say(f"{source.where}: image {row.index} {row.status}")
            continue
        say(
            f"image {row.index}: R = {row.radius_nm:.2f} +- {row.radius_std_nm:.2g} nm, orientation "
            f"+- {row.orientation_std_deg:.2g} deg, {row.status}"
        )
    if fit_beam:
        x, y = (own - old for own, old in zip(offset, experiment.centre_offset, strict=True))
        say(f"beam found {x:+.3f}, {y:+.3f} pixels (x, y) of the fitted grid from where it was assumed")
    for warning in warnings:
        say(f"warning: {warning}")
    say(f"wrote {out}")
    if table["radius_nm"].isna().all():
        reason = table["status"][0].removeprefix(FAILED)
        raise InputError(f"{source.where}: no image could be fitted (image 0: {reason})")
