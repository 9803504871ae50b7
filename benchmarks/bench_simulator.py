"""Speed and accuracy of the simulators."""

import os
import time
from pathlib import Path

import numpy as np
import torch

from icobench.geometry.orientation import random_orientations
from icobench.simulator.compiled import prepare_kernel
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

REFERENCE = Path(__file__).parents[1] / "tests" / "data" / "closed_form.npz"


def bodies(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Radii uniform in 30 to 160 nm, orientations uniform."""
    generator = torch.Generator().manual_seed(1)
    radius = 30 + 130 * torch.rand(count, generator=generator, dtype=torch.float64)
    return radius, random_orientations(count, generator)


class Field:
    """Field of a batch with the exact method, eager and compiled."""

    params = ([1, 8, 64, 512], ["eager", "compiled"])
    param_names = ("batch", "kernel")
    timeout = 300

    def setup(self, batch: int, kernel: str) -> None:
        os.environ["ICOBENCH_COMPILE"] = "1" if kernel == "compiled" else "0"
        prepare_kernel(torch.device("cpu"))
        self.simulator = Simulator()
        self.bodies = bodies(batch)
        self.simulator.field(*self.bodies)

    def time_field(self, batch: int, kernel: str) -> None:
        self.simulator.field(*self.bodies)


class Jacobian:
    """Intensity with its four derivatives, and its cost in intensities."""

    params = ([1, 8, 64], ["eager", "compiled"])
    param_names = ("batch", "kernel")
    timeout = 300

    def setup(self, batch: int, kernel: str) -> None:
        os.environ["ICOBENCH_COMPILE"] = "1" if kernel == "compiled" else "0"
        prepare_kernel(torch.device("cpu"))
        self.simulator = Simulator()
        self.bodies = bodies(batch)
        self.simulator.intensity_jacobian(*self.bodies)

    def time_jacobian(self, batch: int, kernel: str) -> None:
        self.simulator.intensity_jacobian(*self.bodies)

    def track_evaluations_per_jacobian(self, batch: int, kernel: str) -> float:
        times = []
        for function in (self.simulator.intensity, self.simulator.intensity_jacobian):
            own = []
            for _ in range(5):
                start = time.perf_counter()
                function(*self.bodies)
                own.append(time.perf_counter() - start)
            times.append(min(own))
        return times[1] / times[0]


class Sliced:
    """The paper's algorithm, one image."""

    def setup(self) -> None:
        self.simulator = Simulator(method="sliced")
        self.bodies = bodies(1)

    def time_field(self) -> None:
        self.simulator.field(*self.bodies)


class Accuracy:
    """Relative L2 error of the field against the closed form, worst of six bodies."""

    params = ("exact", "sliced")
    param_names = ("method",)

    def setup(self, method: str) -> None:
        os.environ["ICOBENCH_COMPILE"] = "0"
        self.reference = dict(np.load(REFERENCE))

    def track_field_error(self, method: str) -> float:
        worst = 0.0
        for field, radius, quaternion, index in zip(
            *(self.reference[k] for k in ("field", "radius_nm", "quaternion", "refractive_index")),
            strict=True,
        ):
            simulator = Simulator(Experiment(refractive_index=complex(index)), method)
            found = simulator.field(torch.tensor([radius]), torch.tensor(quaternion[None]))[0].numpy()
            worst = max(worst, float(np.linalg.norm(found - field) / np.linalg.norm(field)))
        return worst
