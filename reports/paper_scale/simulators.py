"""Stage 1: are the simulators right on this device, and how near to its ceilings do they run?"""

import math
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icobench.fitting.least_squares import levenberg_marquardt
from icobench.fitting.objectives import objective_for
from icobench.geometry.orientation import disorientation
from icobench.geometry.rotations import quaternion_multiply, rotation_vector_to_quaternion
from icobench.images.image_set import ImageSet
from icobench.simulator.simulator import Simulator
from icobench.simulator.speed import bodies, field_error, measure_speed
from paper_scale.ceilings import Ceilings, least_work, measured_ceilings
from paper_scale.stage import Piece, Stage

__all__ = ["simulators"]

CPU = torch.device("cpu")
DTYPES = {"float32": torch.float32, "float64": torch.float64}
STEP = 1e-5
"""Radians and nanometres of a central difference in float64."""

START_DEG, START_NM = 2.0, 1.0

COUNTED = 512
"""Most bodies over which the work of an image is averaged."""


def _spread(errors: list[float]) -> dict[str, float]:
    return {"median": float(np.median(errors)), "worst": float(np.max(errors))}


def _relative(found: Tensor, expected: Tensor) -> list[float]:
    """L2 over the pixels of each image."""
    found, expected = found.cpu(), expected.cpu()
    difference = (found - expected).flatten(1).norm(dim=1)
    return (difference / expected.flatten(1).norm(dim=1)).tolist()


def _field(stage: Stage, name: str) -> dict[str, Any]:
    """Against the closed form, and against the CPU."""
    run = stage.run
    simulator = Simulator(run.experiment, device=run.device, dtype=DTYPES[name])
    radius, quaternion = bodies(run.scale.bodies, 1)
    field = simulator.field(radius.to(run.device), quaternion.to(run.device))
    other = Simulator(run.experiment, dtype=DTYPES[name]).field(radius, quaternion)
    return {
        "closed_form": _spread(field_error(simulator, run.scale.bodies, 1)),
        "cpu": _spread(_relative(field, other)),
    }


def _derivatives(stage: Stage) -> dict[str, Any]:
    """Against central differences in float64 on this device, and those of float32 against float64."""
    run = stage.run
    precise = Simulator(run.experiment, device=run.device, dtype=torch.float64)
    radius, quaternion = (part.to(run.device) for part in bodies(run.scale.bodies, 2))
    _, slopes = precise.intensity_jacobian(radius, quaternion)
    rough = Simulator(run.experiment, device=run.device).intensity_jacobian(radius, quaternion)[1]
    names = ("x", "y", "z", "radius")
    out: dict[str, Any] = {"differences": {}, "float32": {}}
    for number, name in enumerate(names):
        turn = torch.zeros(1, 3, dtype=torch.float64, device=run.device)
        grow = STEP if name == "radius" else 0.0
        if name != "radius":
            turn[0, number] = STEP
        ends = [
            precise.intensity(
                radius + sign * grow,
                quaternion_multiply(rotation_vector_to_quaternion(sign * turn), quaternion),
            )
            for sign in (1.0, -1.0)
        ]
        out["differences"][name] = _spread(_relative((ends[0] - ends[1]) / (2 * STEP), slopes[:, number]))
        out["float32"][name] = _spread(_relative(rough[:, number].double(), slopes[:, number]))
    return out


def _voxels(stage: Stage, method: str) -> dict[str, Any]:
    """Against float64 and the CPU; the sliced method also against the closed form."""
    run = stage.run
    simulator = Simulator(run.experiment, method, run.device)
    count = min(4, run.scale.bodies)
    radius, quaternion = bodies(count, 3)
    field = simulator.field(radius.to(run.device), quaternion.to(run.device))
    precise = Simulator(run.experiment, method, run.device, torch.float64)
    expected = precise.field(radius.to(run.device), quaternion.to(run.device))
    out: dict[str, Any] = {"float64": _spread(_relative(field, expected))}
    if run.device.type != "cpu":
        out["cpu"] = _spread(_relative(field, Simulator(run.experiment, method).field(radius, quaternion)))
    if method == "sliced":
        out["closed_form"] = _spread(field_error(simulator, count, 3))
    return out


def _fits(stage: Stage) -> dict[str, Any]:
    """The same images from the same starts here and on the CPU, and how near the truth they end."""
    run, count = stage.run, stage.run.scale.fits
    radius, quaternion = bodies(count, 4)
    generator = torch.Generator().manual_seed(4)
    turn = torch.nn.functional.normalize(
        torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=1
    )
    start = quaternion_multiply(rotation_vector_to_quaternion(math.radians(START_DEG) * turn), quaternion)
    images = Simulator(run.experiment, dtype=torch.float64).intensity(radius, quaternion).float()
    mask = run.experiment.valid().expand(images.shape)
    ends = []
    for device in (run.device, CPU):
        simulator = Simulator(run.experiment, device=device)
        objective = objective_for(ImageSet(images, mask, "intensity", run.experiment), simulator)
        ends.append(levenberg_marquardt(objective, radius + START_NM, start))
    here, there = ends
    miss = (here.radius_nm.double() - radius).abs()
    return {
        "images": count,
        "start": {"deg": START_DEG, "nm": START_NM},
        "apart_deg": _spread(disorientation(here.quaternion.double(), there.quaternion.double()).tolist()),
        "apart_nm": _spread((here.radius_nm - there.radius_nm).abs().double().tolist()),
        "error_deg": _spread(disorientation(here.quaternion.double(), quaternion).tolist()),
        "error_nm": _spread(miss.tolist()),
    }


def _speed(stage: Stage, method: str, batch: int) -> dict[str, Any]:
    """Images a second, and the share of the device's ceilings."""
    run = stage.run
    simulator = Simulator(run.experiment, method, run.device)
    on_gpu = run.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(run.device)
    speed = measure_speed(simulator, batch, run.scale.probe_seconds)
    work = least_work(simulator, *bodies(min(batch, COUNTED), 0))
    out = {
        "batch": batch,
        "images_per_second": 1 / speed.field_seconds,
        "jacobians_per_second": 1 / speed.jacobian_seconds,
        "compiled": speed.compiled,
        "operations_per_image": work.operations,
        "bytes_per_image": work.bytes,
        "share_of_ceiling": Ceilings(**stage.result("ceilings")).fraction(work, speed.field_seconds),
    }
    if on_gpu:
        out["peak_memory_MiB"] = torch.cuda.max_memory_allocated(run.device) / 2**20
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value for key, value in out.items()
    }


def simulators(stage: Stage) -> list[Piece]:
    """Ceilings, correctness, speed."""
    run = stage.run
    voxels, few = ("sliced", "propagated"), min(4, run.scale.bodies)
    speeds = [(f"exact {batch}", "exact", batch) for batch in run.scale.batches]
    speeds += [(method, method, few) for method in voxels]
    return [
        Piece("ceilings", lambda: asdict(measured_ceilings(run.device, run.scale.probe_seconds))),
        *(Piece(f"field {name}", partial(_field, stage, name)) for name in DTYPES),
        Piece("derivatives", partial(_derivatives, stage)),
        *(Piece(f"field {method}", partial(_voxels, stage, method)) for method in voxels),
        Piece("fits", partial(_fits, stage)),
        *(
            Piece(f"speed {name}", partial(_speed, stage, method, batch), needs=["ceilings"])
            for name, method, batch in speeds
        ),
    ]
