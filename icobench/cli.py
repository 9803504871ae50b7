"""The command line: one thin function per command.

Heavy imports stay inside the functions, so that ``--help`` is fast.
"""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from icobench import __version__
from icobench.errors import InputError
from icobench.options import (
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
    console,
    examples,
    progress_bar,
    say,
)

app = typer.Typer(
    name="icobench",
    help="Radius and orientation of icosahedral clusters from single wide-angle diffraction images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
tune_app = typer.Typer(help="Search hyperparameters with Optuna.", no_args_is_help=True)
app.add_typer(tune_app, name="tune")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command(epilog=examples("icobench compare --preset quick --run runs/quick"))
def compare(
    preset: Annotated[str, typer.Option(help="quick (16 images) or laptop (200).")] = "quick",
    run: Annotated[Path | None, typer.Option(help="Run folder; continued if it exists.")] = None,
    images: Annotated[int | None, typer.Option(help="Number of test images.", min=1)] = None,
    photons: Annotated[float | None, typer.Option(help="Photons per image.")] = None,
    methods: Annotated[str | None, typer.Option(help="Comma-separated names.")] = None,
    model: Model = None,
    seed: Seed = 0,
    device: Device = "auto",
    refractive_index: Index = None,
    sin_theta_max: Sine = 1.0,
    solid_angle_factor: SolidAngle = False,
    wavelength: Wavelength = 13.5,
) -> None:
    """Reconstruct the same test images with every method; table, figures and report."""
    from dataclasses import replace

    from icobench.comparison.methods import find_method
    from icobench.comparison.runner import PRESETS, Comparison
    from icobench.network.checkpoint import load_network
    from icobench.reporting.html import write_report
    from icobench.reporting.tables import print_summary, summary_table

    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}; choose from {', '.join(PRESETS)}")
    settings = PRESETS[preset]
    if images is not None:
        settings = replace(settings, images=images)
    if photons is not None:
        settings = replace(settings, photons=photons)
    if methods is not None:
        settings = replace(settings, methods=tuple(name.strip() for name in methods.split(",")))
    experiment = chosen_experiment(refractive_index, sin_theta_max, solid_angle_factor, wavelength)
    where = chosen_device(device)
    needed = any(find_method(name).needs_network for name in settings.methods)
    network = load_network(model, where) if needed else None
    folder = run or Path("runs") / preset
    comparison = Comparison(folder, settings, experiment, seed, where, network)

    total = max(1, len(comparison.missing()))
    finished = 0
    try:
        with progress_bar("preparing") as update:

            def announce(method: str, block: int, blocks: int, share: float) -> None:
                nonlocal finished
                finished += share >= 1.0
                text = f"{method} block {block + 1}/{blocks}"
                update((finished + (share if share < 1 else 0)) / total, text)

            results = comparison.run(announce)
    except KeyboardInterrupt:
        say(f"stopped; finished blocks are kept, continue with --run {shlex.quote(str(folder))}")
        raise typer.Exit(130) from None
    print_summary(summary_table(results), console())
    report = write_report(folder)
    say(f"report: {report}")


@app.command(epilog=examples("icobench reconstruct run42.cxi --method network+lm --out result.csv"))
def reconstruct(
    images: Annotated[Path, typer.Argument(help="CXI/HDF5, .npy, .npz, TIFF or greyscale PNG.")],
    out: Annotated[Path, typer.Option(help="Table to write: .csv or .parquet.")] = Path("result.csv"),
    method: Annotated[
        str, typer.Option(help="network, simplex, network+simplex, network+lm.")
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
    preview: Annotated[Path | None, typer.Option(help="PNG with target and reconstruction.")] = None,
    fit_sin_theta: Annotated[
        float | None, typer.Option(help="Leave out pixels beyond this sine of the angle; 0.8 by default.")
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

    from icobench.comparison.methods import find_method
    from icobench.comparison.reconstruct import FAILED, FIT_SIN_THETA, fit_centre, reconstruct_images
    from icobench.images.files import atomic_path
    from icobench.images.resample import on_grid
    from icobench.images.source import open_images
    from icobench.network.checkpoint import load_network
    from icobench.simulator.simulator import Simulator

    chosen = find_method(method)
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
    with open_images(images, kind, dataset, mask, saturation) as opened:
        source, experiment = on_grid(opened, experiment, detector, beam, pixels)
        where = chosen_device(device)
        network = load_network(model, where) if chosen.needs_network else None
        if network is not None:
            network.check(experiment)
        simulator = Simulator(experiment, device=where)
        with progress_bar(f"{method} on {len(source)} images") as update:
            if fit_beam:
                offset = fit_centre(source, chosen, simulator, network, seed, fit_sin_theta)
                simulator = Simulator(replace(experiment, centre_offset=offset), device=where)
            table = reconstruct_images(source, chosen, simulator, network, seed, fit_sin_theta, update)
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
    from icobench.datasets.simulate import simulate_to_file

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
def generate(
    out: Annotated[Path, typer.Argument(help="HDF5 file to write (CXI layout).")],
    preset: Annotated[str | None, typer.Option(help="paper: its 30,058 log images.")] = None,
    images: Annotated[int | None, typer.Option(help="Number of images; 1000 by default.", min=1)] = None,
    kind: Annotated[str | None, typer.Option(help="counts or log (8-bit log images).")] = None,
    detector: Annotated[str | None, typer.Option(help="clean, counting (default) or experiment.")] = None,
    photons: Annotated[float | None, typer.Option(help="Photons per image; 0 for no noise.")] = None,
    hole: Annotated[float | None, typer.Option(help="Central hole in degrees.")] = None,
    background: Annotated[float | None, typer.Option(help="Noise on log images, standard deviation.")] = None,
    shard: Annotated[str, typer.Option(help="i/n: the i-th of n parts, counted from 1.")] = "1/1",
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
    from icobench.datasets.generation import chosen_options, generate_to_file, shard_range

    experiment = chosen_experiment(refractive_index, sin_theta_max, solid_angle_factor, wavelength)
    where = chosen_device(device)
    options = chosen_options(preset, images, kind, detector, photons, hole, background)
    try:
        number, total = (int(part) for part in shard.split("/"))
    except ValueError as error:
        raise InputError(f"--shard must be i/n such as 2/8, got {shard!r}") from error
    count = len(shard_range(options.images, number, total))
    if not out.resolve().parent.is_dir():
        raise InputError(f"{out.parent}: no such folder")
    try:
        with progress_bar(f"simulating {count} images") as update:
            made = generate_to_file(
                out, options, experiment, seed, where, (number, total), lambda done: update(done / count)
            )
    except KeyboardInterrupt:
        say("stopped; finished blocks are kept, the same command goes on")
        raise typer.Exit(130) from None
    say(f"{out} holds {count} images, {made} of them simulated now")


@app.command(epilog=examples("icobench merge train.h5 shard1.h5 shard2.h5"))
def merge(
    out: Annotated[Path, typer.Argument(help="HDF5 file to write.")],
    shards: Annotated[list[Path], typer.Argument(help="All shards of one set, in any order.")],
) -> None:
    """Join the shards of a set made by icobench generate --shard."""
    from icobench.datasets.generation import merge_shards

    say(f"wrote {merge_shards(out, shards)} images to {out}")


@app.command(epilog=examples("icobench train --preset compact --run runs/compact"))
def train(
    preset: Annotated[str, typer.Option(help="compact (about an hour on 2 cores) or smoke.")] = "compact",
    run: Annotated[Path | None, typer.Option(help="Folder; a started training is resumed.")] = None,
    max_minutes: Annotated[float | None, typer.Option(help="Stop, resumable, after this long.")] = None,
    bfloat16: Annotated[bool, typer.Option(help="Mixed precision.")] = True,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train a network on images streamed from the simulator."""
    from icobench.network.recipe import RECIPES
    from icobench.network.training import train as run_training
    from icobench.simulator.compiled import prepare_kernel
    from icobench.simulator.experiment import Experiment

    if preset not in RECIPES:
        raise InputError(f"unknown preset {preset!r}; choose from {', '.join(RECIPES)}")
    recipe = RECIPES[preset]
    folder = run or Path("runs") / f"train-{preset}"
    where = chosen_device(device)
    if preset != "smoke":
        prepare_kernel(where)
    with progress_bar(f"training {preset}") as update:
        result = run_training(
            recipe, Experiment(), folder, seed, where, max_minutes, bfloat16,
            progress=lambda step, steps, loss: update(
                step / steps, f"step {step}/{steps}, loss {loss:.4f}"
            ),
        )  # fmt: skip
    state = "finished" if result.finished else "stopped, run again to resume"
    say(f"{state} after {result.seconds / 60:.1f} min; weights in {folder / 'network.safetensors'}")


@app.command(epilog=examples("icobench report runs/quick"))
def report(run: Annotated[Path, typer.Argument(help="Run folder of icobench compare.")]) -> None:
    """Table, figures and HTML report from stored results."""
    import pandas as pd

    from icobench.reporting.html import write_report
    from icobench.reporting.tables import print_summary, summary_table

    path = write_report(run)
    print_summary(summary_table(pd.read_parquet(run / "results.parquet")), console())
    say(f"report: {path}")


@app.command(epilog=examples("icobench sweep --axis starts --run runs/sweep"))
def sweep(
    axis: Annotated[str, typer.Option(help="dataset, starts or iterations.")] = "starts",
    run: Annotated[Path, typer.Option(help="Folder of points; missing ones are computed.")] = Path(
        "runs/sweep"
    ),
    points: Annotated[str | None, typer.Option(help="Comma-separated values of the axis.")] = None,
    images: Annotated[int, typer.Option(help="Test images.", min=1)] = 16,
    seeds: Annotated[int, typer.Option(help="Repetitions of each point.", min=1)] = 1,
    preset: Annotated[str, typer.Option(help="Training recipe for --axis dataset.")] = "smoke",
    device: Device = "auto",
) -> None:
    """Accuracy against number of simulations: training set, simplex starts or iterations."""
    from icobench.images.files import atomic_path
    from icobench.network.recipe import RECIPES
    from icobench.simulator.experiment import Experiment
    from icobench.studies.sweep import AXES, Sweep

    if preset not in RECIPES:
        raise InputError(f"unknown preset {preset!r}; choose from {', '.join(RECIPES)}")
    study = Sweep(run, axis, Experiment(), images, seeds, RECIPES[preset], chosen_device(device))
    try:
        chosen = AXES[axis] if points is None else tuple(int(x) for x in points.split(","))
    except ValueError as error:
        raise InputError(f"--points must be whole numbers, got {points!r}") from error
    if min(chosen) < 1:
        raise InputError(f"--points must be positive, got {points!r}")
    with progress_bar(f"sweep over {axis}") as update:
        table = study.run(chosen, update)
    with atomic_path(run / f"{axis}.csv") as temporary:
        table.to_csv(temporary, index=False)
    typer.echo(table.to_string(index=False))


@tune_app.command("simplex", epilog=examples("icobench tune simplex --trials 20 --run runs/tune"))
def tune_simplex_command(
    run: Annotated[Path, typer.Option(help="Folder of the journal; continued if it exists.")] = Path(
        "runs/tune"
    ),
    trials: Annotated[int, typer.Option(help="Trials in total.", min=1)] = 20,
    images: Annotated[int, typer.Option(help="Test images per trial.", min=1)] = 8,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Search starts and initial size of the Monte Carlo simplex."""
    from icobench.simulator.experiment import Experiment
    from icobench.studies.tune import tune_simplex

    with progress_bar("tuning the simplex") as update:
        best = tune_simplex(run, Experiment(), trials, images, seed, chosen_device(device), update)
    typer.echo(f"best of {best['trials']}: success rate {best['value']:.3f} with {best['options']}")


@tune_app.command("network", epilog=examples("icobench tune network --trials 10 --run runs/tune"))
def tune_network_command(
    run: Annotated[Path, typer.Option(help="Folder of the journal; continued if it exists.")] = Path(
        "runs/tune"
    ),
    trials: Annotated[int, typer.Option(help="Trials in total.", min=1)] = 10,
    images: Annotated[int, typer.Option(help="Test images per trial.", min=1)] = 128,
    preset: Annotated[str, typer.Option(help="Training recipe that is varied.")] = "smoke",
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Search the network's training settings."""
    from icobench.network.recipe import RECIPES
    from icobench.simulator.experiment import Experiment
    from icobench.studies.tune import tune_network

    if preset not in RECIPES:
        raise InputError(f"unknown preset {preset!r}; choose from {', '.join(RECIPES)}")
    with progress_bar("tuning the network") as update:
        best = tune_network(
            run, Experiment(), RECIPES[preset], trials, images, seed, chosen_device(device), update
        )
    typer.echo(f"best of {best['trials']}: median {best['value']:.3f} deg with {best['recipe']}")


def main() -> None:
    """Run the command line: one line and exit code 2 on bad input, never a traceback."""
    import logging

    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    try:
        app()
    except InputError as error:
        say(f"error: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        say("stopped")
        sys.exit(130)
    except Exception as error:
        if os.environ.get("ICOBENCH_DEBUG"):
            raise
        first = (str(error).strip().splitlines() or [""])[0]
        say(f"error: {type(error).__name__}: {first} (ICOBENCH_DEBUG=1 shows where)")
        sys.exit(1)


if __name__ == "__main__":
    main()
