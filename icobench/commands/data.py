"""Simulated patterns and sets of them."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icobench.commands.cluster import Sharing, planning_device, run_on_slurm
from icobench.commands.options import (
    Detector,
    Machine,
    Physics,
    console,
    examples,
    progress_bar,
    say,
    with_options,
)
from icobench.errors import InputError
from icobench.storage import Shard

if TYPE_CHECKING:
    from icobench.sets.generation import SetGeneration

app = typer.Typer()


@app.command(
    cls=with_options(Detector, Physics, Machine),
    epilog=examples("icobench simulate pattern.h5 --radius 80 --quaternion 1,0,0,0"),
)
def simulate(
    context: typer.Context,
    out: Annotated[Path | None, typer.Argument(help="File to write: .h5, .cxi or .npy.")] = None,
    radius: Annotated[list[float] | None, typer.Option(help="Circumradius in nm; repeat for more.")] = None,
    quaternion: Annotated[
        list[str] | None, typer.Option(help="w,x,y,z; one for all or one per radius.")
    ] = None,
    simulator: Annotated[
        str | None,
        typer.Option("--simulator", "--method", help="exact, sliced or propagated; by default as --physics."),
    ] = None,
    shape: Annotated[
        str, typer.Option(help="icosahedron, cube, sphere, hexagonal-prism=1.5, ...")
    ] = "icosahedron",
    pixels: Annotated[int, typer.Option(help="Pixels per side.")] = 128,
    benchmark: Annotated[bool, typer.Option("--benchmark", help="Images/s and error here.")] = False,
    photons: Annotated[float, typer.Option(help="Expected photons per image; 0 for the intensity.")] = 0.0,
    hole: Annotated[float, typer.Option(help="Central hole in degrees.")] = 0.0,
) -> None:
    """Simulate one or many patterns to a file, or measure how fast and exact that is."""
    from icobench.sets.simulate import simulate as run

    machine, given = Machine.of(context), Detector.of(context)
    flat = given.flat() if given.is_flat or given.centre is not None else None
    experiment = Physics.of(context).experiment(context, pixels, flat)
    if benchmark:
        from icobench.reporting.speed import speed_table
        from icobench.simulator.simulator import METHODS

        console().print(
            speed_table(
                experiment, simulator or METHODS[experiment.physics], shape, machine.chosen(), machine.seed
            )
        )
        return
    if out is None or not radius:
        raise InputError("give a file to write and at least one --radius (or --benchmark)")
    try:
        rows = [[float(x) for x in text.split(",")] for text in quaternion or ["1,0,0,0"]]
    except ValueError as error:
        raise InputError(f"--quaternion must be four numbers w,x,y,z, got {quaternion}") from error
    run(radius, rows, photons, hole, experiment, simulator, shape, machine.seed, machine.chosen(), out)
    say(f"wrote {len(radius)} patterns to {out}")


def _compute_shard(generation: "SetGeneration", shard: Shard) -> None:
    """A shard of a set in a job of a cluster."""
    from icobench.runs.pieces import execute
    from icobench.runs.pool import chosen_device

    generation.open()
    execute(generation, chosen_device(generation.device), shard=shard)


@app.command(
    cls=with_options(Physics, Machine, Sharing),
    epilog=examples("icobench generate train.h5 --images 5000 --kind log"),
)
def generate(
    context: typer.Context,
    out: Annotated[Path, typer.Argument(help="HDF5 file to write (CXI layout).")],
    preset: Annotated[str | None, typer.Option(help="paper: its 30,058 log images.")] = None,
    images: Annotated[int | None, typer.Option(help="Number of images; 1000 by default.", min=1)] = None,
    kind: Annotated[str | None, typer.Option(help="counts or log (8-bit log images).")] = None,
    detector: Annotated[
        str | None, typer.Option(help="clean, counting (default), experiment or mcp.")
    ] = None,
    photons: Annotated[float | None, typer.Option(help="Photons per image; 0 for no noise.")] = None,
    hole: Annotated[float | None, typer.Option(help="Central hole in degrees.")] = None,
    background: Annotated[float | None, typer.Option(help="Noise on log images, standard deviation.")] = None,
) -> None:
    """Generate a training or test set with its truth: radii 30 to 160 nm, all orientations.

    Started again after an interruption, the same command goes on where it was.
    """
    from icobench.runs.pool import chosen_device
    from icobench.sets.generation import SetGeneration, chosen_options

    machine, sharing = Machine.of(context), Sharing.of(context)
    where = chosen_device(planning_device(sharing, machine.device))
    options = chosen_options(preset, images, kind, detector, photons, hole, background)
    experiment = Physics.of(context).experiment(context)
    generation = SetGeneration(out, options, experiment, machine.seed, sharing.part, where.type)
    generation.check()
    if sharing.on_slurm and not out.exists():
        # The parts are of the kind of device that makes them.
        there = replace(generation, device="cuda" if sharing.gpus and machine.device != "cpu" else "cpu")
        call = partial(_compute_shard, there)
        shards = out.with_name(out.name + ".shards")
        run_on_slurm(context, shards, call, [f"../{there.store.folder.name}/*.h5"], there)
        made = len(there.numbers) if there.finish() else 0
    else:
        try:
            with progress_bar(f"simulating {len(generation.numbers)} images") as update:
                made = generation.run(update)
        except KeyboardInterrupt:
            say("stopped; finished blocks are kept, the same command goes on")
            raise typer.Exit(130) from None
    say(f"{out} holds {len(generation.numbers)} images, {made} of them simulated now")
