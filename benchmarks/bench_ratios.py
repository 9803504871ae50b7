"""Times side by side in one process: what does not drift from machine to machine. Lower is better."""

import os
import time

import numpy as np
import torch
from scipy.optimize import minimize

from benchmarks.common import (
    DEVICES,
    KERNELS,
    SEED,
    SMALLEST,
    bodies,
    clock,
    fastest,
    grid,
    patterns,
    problem,
    simulator,
    use_kernel,
    wait,
)  # fmt: skip
from benchmarks.peers import compare
from icobench.fitting.simplex import SimplexFits, SimplexOptions, random_starts
from icobench.simulator.experiment import Experiment

RADII = grid(40.0, 150.0)
BATCH = 4 if SMALLEST else 64


class Simulators:
    """Time for an image by the compiled exact method, in batches, over that of another program."""

    params = (RADII,)
    param_names = ("radius_nm",)
    timeout = 600
    unit = "times"

    def setup(self, radius: float) -> None:
        use_kernel("compiled")

    def exact(self, radius: float) -> None:
        os.environ["ICOBENCH_COMPILE"] = "1"
        simulator().field(*bodies(BATCH, radius))

    def eager(self, radius: float) -> None:
        os.environ["ICOBENCH_COMPILE"] = "0"
        simulator().field(*bodies(BATCH, radius))

    def track_exact_over_eager(self, radius: float) -> float:
        ours, theirs = fastest([lambda: self.exact(radius), lambda: self.eager(radius)])
        return ours / theirs

    def track_propagated_over_exact(self, radius: float) -> float:
        """What a propagated image is charged in evaluations: PROPAGATED_COST of icobench.fitting.counter."""
        some = bodies(min(BATCH, 16), radius)
        waves, rays = fastest([lambda: simulator("propagated").field(*some), lambda: self.exact(radius)])
        return waves / rays * BATCH / len(some[0])

    def track_exact_over_sliced(self, radius: float) -> float:
        one = bodies(1, radius)
        ours, theirs = fastest(
            [lambda: self.exact(radius), lambda: simulator("sliced").field(*one)], seconds=5.0
        )
        return ours / BATCH / theirs


class PyMSFT:
    """The same over the University of Rostock's program, where it is installed (benchmarks/peers)."""

    params = (RADII,)
    param_names = ("radius_nm",)
    timeout = 600
    unit = "times"

    def setup(self, radius: float) -> None:
        try:
            compare.peer()
        except ImportError as error:
            raise NotImplementedError("pymsft is not installed") from error
        use_kernel("compiled")

    def track_exact_over_pymsft(self, radius: float) -> float:
        given = bodies(BATCH, radius)
        # It has threads of its own, so that a watch takes the times.
        (ours,) = fastest([lambda: simulator().field(*given)], time.perf_counter)
        theirs, _ = compare.peer_images("pyMSFT MSFT", Experiment(), *bodies(1 if SMALLEST else 3, radius))
        return ours / BATCH / theirs


class Jacobian:
    """An intensity with its four derivatives over the intensity alone; the ledger charges 4."""

    params = (DEVICES, KERNELS, grid(1, 64))
    param_names = ("device", "kernel", "batch")
    unit = "evaluations"

    def setup(self, device: str, kernel: str, batch: int) -> None:
        clock(device)
        use_kernel(kernel, device)
        self.simulator = simulator(device=device)

    def track_evaluations(self, device: str, kernel: str, batch: int) -> float:
        given = bodies(batch, 95.0, device)

        def intensity() -> None:
            self.simulator.intensity(*given)
            wait(device)

        def jacobian() -> None:
            self.simulator.intensity_jacobian(*given)
            wait(device)

        alone, both = fastest([intensity, jacobian], clock(device))
        return both / alone


class NelderMead:
    """Time for an evaluation of ours, 50 simplices at once, over that of SciPy's, one point at a time."""

    unit = "times"
    timeout = 600

    def setup(self) -> None:
        use_kernel("compiled")
        self.problem = problem(patterns(1, "counts", 95.0, 95.0))

    def track_ours_over_scipy(self) -> float:
        iterations = 2 if SMALLEST else 10
        options = SimplexOptions(starts=4 if SMALLEST else 50, radius_range_nm=(90.0, 100.0))
        radius, turns = random_starts(1, options, SEED)
        spent: dict[str, int] = {}

        def ours() -> None:
            objective = self.problem.objective()
            fits = SimplexFits(objective, torch.tensor([0]), radius, turns, options)
            for _ in range(iterations):
                fits.step()
            spent["ours"] = int(objective.simulator.evaluations[0])

        def scipys() -> None:
            objective = self.problem.objective()
            fits = SimplexFits(objective, torch.tensor([0]), radius[:, :1], turns[:, :1], options)
            # The solver's own function, so that both do the same for a point.
            value = fits.solver.function

            def at(point: np.ndarray) -> float:
                return float(value(torch.tensor([0]), torch.from_numpy(point[None])))

            corners = fits.state.points[0].numpy()
            before = int(objective.simulator.evaluations[0])
            settings = {"initial_simplex": corners, "maxiter": iterations, "xatol": 0, "fatol": 0}
            minimize(at, corners[0], method="Nelder-Mead", options=settings)
            spent["scipy"] = int(objective.simulator.evaluations[0]) - before

        mine, theirs = fastest([ours, scipys], seconds=4.0)
        return (mine / spent["ours"]) / (theirs / spent["scipy"])
