"""The table of ``icobench simulate --benchmark``."""

import statistics

import torch
from rich.table import Column, Table

from icobench.errors import InputError
from icobench.geometry.shapes import shape
from icobench.simulator.compiled import prepare_kernel
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from icobench.simulator.speed import field_error, measure_speed

__all__ = ["speed_table"]

BATCHES = {"exact": (1, 8, 64, 512), "sliced": (1,), "propagated": (1,)}


def speed_table(
    experiment: Experiment, method: str, shape_name: str, device: torch.device, seed: int
) -> Table:
    """Time and error of one method on one device, R uniform in 30 to 160 nm.

    Raises:
        InputError: unknown method or shape, or a grid that the method cannot serve.
    """
    prepare_kernel(device)
    try:
        simulator = Simulator(experiment, method, device, body=shape(shape_name))
    except ValueError as error:
        raise InputError(str(error)) from error
    errors = field_error(simulator, seed=seed)
    rows = [measure_speed(simulator, batch, seed=seed) for batch in BATCHES[method]]
    kernel = "compiled" if rows[0].compiled else "uncompiled"
    headings = ("batch", "ms/image", "lowest to highest", "images/s", "Jacobian ms/image", "Jacobian / image")
    table = Table(
        *(Column(heading, justify="right") for heading in headings),
        title=f"{method}, {shape_name}, {experiment.pixels} x {experiment.pixels} pixels, "
        f"float32, {kernel}, {device.type}, {torch.get_num_threads()} threads",
        caption="times: median of at least five rounds; relative error of the field against the closed form: "
        f"median {statistics.median(errors):.1e}, worst {max(errors):.1e} ({len(errors)} bodies)",
    )
    for row in rows:
        spread = " to ".join(f"{end * 1e3:.2f}" for end in row.field_range)
        field, jacobian = row.field_seconds, row.jacobian_seconds
        times = (
            f"{field * 1e3:.2f}", spread, f"{1 / field:,.0f}",
            f"{jacobian * 1e3:.2f}", f"{jacobian / field:.1f}",
        )  # fmt: skip
        table.add_row(str(row.batch), *times)
    return table
