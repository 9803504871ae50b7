"""Speed of the fitters: one iteration, one step, one lookup; and whole reconstructions."""

from functools import cache
from pathlib import Path

import torch

from benchmarks.common import (
    DEVICES,
    REPEAT,
    REPEAT_SLOW,
    SEED,
    clock,
    count,
    grid,
    patterns,
    problem,
    simulator,
    use_kernel,
    wait,
)  # fmt: skip
from icobench.fitting.dictionary import Dictionary, DictionaryOptions, build_dictionary, dictionary_for
from icobench.fitting.least_squares import LevenbergMarquardtOptions, levenberg_marquardt
from icobench.fitting.nelder_mead import NelderMead
from icobench.fitting.simplex import SimplexFits, SimplexOptions, random_starts
from icobench.runs.reconstruct import reconstruct
from icobench.sets.pattern_file import write_patterns


def rosenbrock(rows: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """(K, D) -> (K,): next to nothing beside the solver's own work."""
    return (100 * (points[:, 1:] - points[:, :-1] ** 2) ** 2 + (1 - points[:, :-1]) ** 2).sum(1)


class NelderMeadSolver:
    """One iteration of many simplices in four dimensions, of a function that costs nothing."""

    params = (grid(1, 50, 5000), DEVICES)
    param_names = ("simplices", "device")
    repeat = REPEAT

    def setup(self, simplices: int, device: str) -> None:
        self.timer = clock(device)
        generator = torch.Generator().manual_seed(SEED)
        start = torch.randn(simplices, 5, 4, generator=generator, dtype=torch.float64).to(device)
        self.solver = NelderMead(rosenbrock)
        self.state = self.solver.start(start)

    def time_iteration(self, simplices: int, device: str) -> None:
        self.solver.step(self.state)
        wait(device)


class NelderMeadImages:
    """One iteration on an image of 1e5 photons, simulations included."""

    params = (DEVICES, grid(1, 50), grid(40.0, 150.0))
    param_names = ("device", "simplices", "radius_nm")
    repeat = REPEAT_SLOW
    warmup_time = 0

    def setup(self, device: str, simplices: int, radius: float) -> None:
        self.timer = clock(device)
        use_kernel("compiled", device)
        made = patterns(1, "counts", radius, radius)
        options = SimplexOptions(starts=simplices, radius_range_nm=(radius - 5, radius + 5))
        starts = random_starts(1, options, SEED)
        self.fits = SimplexFits(problem(made, device).objective(), torch.tensor([0]), *starts, options)

    def time_iteration(self, device: str, simplices: int, radius: float) -> None:
        self.fits.step()
        wait(device)


class LevenbergMarquardt:
    """One step from 0.5 nm off: a value, a Jacobian and a trial."""

    params = (DEVICES, grid(1, 32), grid(40.0, 150.0))
    param_names = ("device", "batch", "radius_nm")
    repeat = REPEAT

    def setup(self, device: str, batch: int, radius: float) -> None:
        self.timer = clock(device)
        use_kernel("compiled", device)
        self.truth = patterns(batch, "counts", radius, radius)
        self.problem = problem(self.truth, device)

    def time_step(self, device: str, batch: int, radius: float) -> None:
        options = LevenbergMarquardtOptions(iterations=1)
        start = self.truth.radius_nm + 0.5
        levenberg_marquardt(self.problem.objective(), start, self.truth.quaternion, options)
        wait(device)


@cache
def stored() -> Dictionary:
    """From the user's cache, built and put there if it is the first time."""
    use_kernel("compiled")
    return dictionary_for(simulator(), DictionaryOptions(count(1000, 50)))


class Lookup:
    """The best of 1,000 stored patterns, in all turns about the beam."""

    params = (DEVICES, grid("counts", "log"), grid(1, 16))
    param_names = ("device", "kind", "batch")
    repeat = REPEAT

    def setup(self, device: str, kind: str, batch: int) -> None:
        self.timer = clock(device)
        self.images = patterns(batch, kind, device=device)
        stored()

    def time_match(self, device: str, kind: str, batch: int) -> None:
        made = self.images
        stored().match(made.images, made.mask, kind, made.experiment)
        wait(device)

    def peakmem_match(self, device: str, kind: str, batch: int) -> None:
        self.time_match(device, kind, batch)


class Build:
    """Simulating the dictionary, a tenth of it."""

    params = (DEVICES,)
    param_names = ("device",)
    repeat = REPEAT_SLOW
    warmup_time = 0

    def setup(self, device: str) -> None:
        self.timer = clock(device)
        use_kernel("compiled", device)

    def time_build(self, device: str) -> None:
        build_dictionary(simulator(device=device), DictionaryOptions(count(100, 20)))


class Reconstruct:
    """``icobench reconstruct`` of a file of counts, seconds for all its images."""

    params = (grid("network+lm", "network", "network+simplex", "dictionary+lm"), DEVICES, grid(1, 8))
    param_names = ("method", "device", "images")
    repeat = REPEAT_SLOW
    timeout = 600

    def setup(self, method: str, device: str, images: int) -> None:
        self.timer = clock(device)
        use_kernel("compiled", device)
        self.path = Path("images.cxi").resolve()
        if not self.path.exists():
            write_patterns(self.path, patterns(images), {})

    def time_reconstruct(self, method: str, device: str, images: int) -> None:
        answer = reconstruct(self.path, method=method, device=device)
        if not answer.radius_nm.isfinite().all():
            raise RuntimeError("an image could not be reconstructed")
