"""Simulated patterns and sets of them."""

from pathlib import Path
from typing import Annotated

import typer

from icobench.commands.cluster import arguments_are_good, on_cluster
from icobench.commands.options import (
    Centre,
    Device,
    DistanceMm,
    Index,
    PixelMm,
    Seed,
    Shard,
    Sine,
    SolidAngle,
    Wavelength,
    chosen_centre,
    chosen_detector,
    chosen_device,
    chosen_experiment,
    console,
    examples,
    progress_bar,
    say,
)
from icobench.errors import InputError

app = typer.Typer()


@app.command(epilog=examples("icobench simulate pattern.h5 --radius 80 --quaternion 1,0,0,0"))
def simulate(
    out: Annotated[Path | None, typer.Argument(help="File to write: .h5, .cxi or .npy.")] = None,
    radius: Annotated[list[float] | None, typer.Option(help="Circumradius in nm; repeat for more.")] = None,
    quaternion: Annotated[
        list[str] | None, typer.Option(help="w,x,y,z; one for all or one per radius.")
    ] = None,
    method: Annotated[str, typer.Option(help="exact, sliced or propagated.")] = "exact",
    shape: Annotated[str, typer.Option(help="Icosahedron, cube, sphere, ...")] = "icosahedron",
    distance_mm: DistanceMm = None,
    pixel_mm: PixelMm = None,
    centre: Centre = None,
    pixels: Annotated[int, typer.Option(help="Pixels per side.")] = 128,
    benchmark: Annotated[bool, typer.Option("--benchmark", help="Images/s and error here.")] = False,
    photons: Annotated[float, typer.Option(help="Expected photons per image; 0 for the intensity.")] = 0.0,
    hole: Annotated[float, typer.Option(help="Central hole in degrees.")] = 0.0,
    seed: Seed = 0,
    device: Device = "auto",
    refractive_index: Index = None,
    sin_theta_max: Sine = 1.0,
    solid_angle_factor: SolidAngle = False,
    wavelength: Wavelength = 13.5,
) -> None:
    """Simulate one or many patterns to a file, or measure how fast and exact that is."""
    from icobench.sets.simulate import simulate_to_file

    detector = chosen_detector(distance_mm, pixel_mm, chosen_centre(centre))
    experiment = chosen_experiment(
        refractive_index, sin_theta_max, solid_angle_factor, wavelength, pixels, detector
    )
    if benchmark:
        from icobench.reporting.speed import speed_table

        console().print(speed_table(experiment, method, shape, chosen_device(device), seed))
        return
    if out is None or not radius:
        raise InputError("give a file to write and at least one --radius (or --benchmark)")
    try:
        rows = [[float(x) for x in text.split(",")] for text in quaternion or ["1,0,0,0"]]
    except ValueError as error:
        raise InputError(f"--quaternion must be four numbers w,x,y,z, got {quaternion}") from error
    where = chosen_device(device)
    simulate_to_file(out, radius, rows, experiment, method, photons, hole, seed, where, shape)
    say(f"wrote {len(radius)} patterns to {out}")


@app.command(epilog=examples("icobench generate train.h5 --images 5000 --kind log"))
@on_cluster("generate")
def generate(
    out: Annotated[Path, typer.Argument(help="HDF5 file to write (CXI layout).")],
    preset: Annotated[str | None, typer.Option(help="paper: its 30,058 log images.")] = None,
    images: Annotated[int | None, typer.Option(help="Number of images; 1000 by default.", min=1)] = None,
    kind: Annotated[str | None, typer.Option(help="counts or log (8-bit log images).")] = None,
    detector: Annotated[str | None, typer.Option(help="clean, counting (default) or experiment.")] = None,
    photons: Annotated[float | None, typer.Option(help="Photons per image; 0 for no noise.")] = None,
    hole: Annotated[float | None, typer.Option(help="Central hole in degrees.")] = None,
    background: Annotated[float | None, typer.Option(help="Noise on log images, standard deviation.")] = None,
    shard: Shard = "1/1",
    seed: Seed = 0,
    device: Device = "auto",
    refractive_index: Index = None,
    sin_theta_max: Sine = 1.0,
    solid_angle_factor: SolidAngle = False,
    wavelength: Wavelength = 13.5,
) -> None:
    """Generate a training or test set with its truth: radii 30 to 160 nm, all orientations.

    Started again after an interruption, the same command goes on where it was.
    """
    from icobench.runs.shards import parse_shard
    from icobench.sets.generation import chosen_options, generate_to_file, shard_range

    experiment = chosen_experiment(refractive_index, sin_theta_max, solid_angle_factor, wavelength)
    where = chosen_device(device)
    options = chosen_options(preset, images, kind, detector, photons, hole, background)
    number, total = parse_shard(shard)
    count = len(shard_range(options.images, number, total))
    if not out.resolve().parent.is_dir():
        raise InputError(f"{out.parent}: no such folder")
    arguments_are_good(options.images)
    try:
        with progress_bar(f"simulating {count} images") as update:
            made = generate_to_file(
                out, options, experiment, seed, where, (number, total), lambda done: update(done / count)
            )
    except KeyboardInterrupt:
        say("stopped; finished blocks are kept, the same command goes on")
        raise typer.Exit(130) from None
    say(f"{out} holds {count} images, {made} of them simulated now")
