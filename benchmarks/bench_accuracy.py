"""Canaries: seeded figures of accuracy and cost, lower is better. They do not depend on the machine's speed.

A kernel that sums in another order moves field errors of some 1e-6 a little; anything else that moves is a
change of the results.
"""

from pathlib import Path

import numpy as np
import torch

from benchmarks.common import count, grid, outcome, patterns, use_kernel
from icobench.comparison.targets import expected_running_time
from icobench.geometry.orientation import disorientation
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

REFERENCE = Path(__file__).parents[1] / "tests" / "data" / "closed_form.npz"

TARGET_DEG, TARGET_NM = 0.1, 0.1
FAILED_DEG, FAILED_NM = 1.0, 1.0


class Field:
    """Relative L2 error of the field against the closed form, the worst of six bodies."""

    params = (grid("exact", "exact-eager", "exact-float64", "sliced"),)
    param_names = ("method",)
    unit = "relative"

    def track_error(self, which: str) -> float:
        use_kernel("eager" if which == "exact-eager" else "compiled")
        dtype = torch.float64 if which == "exact-float64" else torch.float32
        stored = dict(np.load(REFERENCE))
        names = ("field", "radius_nm", "quaternion", "refractive_index")
        rows = list(zip(*(stored[name] for name in names), strict=True))
        errors = []
        for field, radius, quaternion, index in rows[: count(len(rows), 2)]:
            experiment = Experiment(refractive_index=complex(index))
            simulator = Simulator(experiment, which.partition("-")[0], dtype=dtype)
            found = simulator.field(torch.tensor([radius]), torch.tensor(quaternion[None]))[0].numpy()
            errors.append(float(np.linalg.norm(found - field) / np.linalg.norm(field)))
        return max(errors)


class Network:
    """The network alone on 500 fixed images: median and 90 % quantile of its errors."""

    params = (grid("counts", "log"),)
    param_names = ("kind",)
    timeout = 600

    def errors(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        images = count(500, 8)
        truth, found = patterns(images, kind), outcome("network", images, kind)
        turn = disorientation(found.quaternion.double(), truth.quaternion)
        return turn.numpy(), (found.radius_nm - truth.radius_nm).abs().numpy()

    def track_disorientation_median(self, kind: str) -> float:
        return float(np.median(self.errors(kind)[0]))

    def track_disorientation_90(self, kind: str) -> float:
        return float(np.quantile(self.errors(kind)[0], 0.9))

    def track_radius_error_median(self, kind: str) -> float:
        return float(np.median(self.errors(kind)[1]))

    track_disorientation_median.unit = "deg"
    track_disorientation_90.unit = "deg"
    track_radius_error_median.unit = "nm"


class Fits:
    """What fits from the network's or the dictionary's hypotheses reach, and for how many simulations."""

    params = (grid("network+lm", "network+simplex", "dictionary+lm"),)
    param_names = ("method",)
    timeout = 600

    def track_failures(self, method: str) -> float:
        """Share of 100 images of 1e5 photons beyond 1 degree or 1 nm."""
        images = count(100, 4)
        truth, found = patterns(images, "counts"), outcome(method, images, "counts")
        turn = disorientation(found.quaternion.double(), truth.quaternion)
        size = (found.radius_nm - truth.radius_nm).abs()
        return 100 * float(((turn > FAILED_DEG) | (size > FAILED_NM)).double().mean())

    def track_evaluations_to_target(self, method: str) -> float:
        """Expected evaluations to 0.1 degree and 0.1 nm on 32 images without noise."""
        images = count(32, 2)
        truth, found = patterns(images, "intensity"), outcome(method, images, "intensity")
        hits = torch.full((images,), torch.inf, dtype=torch.float64)
        course = found.trace
        for spent, radius, turn in zip(course.evaluations, course.radius_nm, course.quaternion, strict=True):
            met = disorientation(turn.double(), truth.quaternion) <= TARGET_DEG
            met &= (radius - truth.radius_nm).abs() <= TARGET_NM
            hits = torch.where(met, torch.minimum(hits, spent.double()), hits)
        total = found.evaluations.double().numpy()
        return float(expected_running_time(hits[:, None].numpy(), total)[0])

    def track_evaluations(self, method: str) -> float:
        """Mean evaluations of a whole fit on the 100 images, verdict and error bars included."""
        return float(outcome(method, count(100, 4), "counts").evaluations.double().mean())

    track_failures.unit = "%"
    track_evaluations_to_target.unit = "evaluations"
    track_evaluations.unit = "evaluations"
