"""Speed of the fitters and of the network."""

import os

import torch

from icobench.comparison.methods import Problem
from icobench.datasets.patterns import PatternOptions, generate_patterns
from icobench.fitting.levenberg_marquardt import levenberg_marquardt
from icobench.fitting.simplex import SimplexOptions, monte_carlo_simplex
from icobench.network.selection import load_network
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator


class Fits:
    """Four images at 1e5 photons."""

    timeout = 300

    def setup(self) -> None:
        os.environ["ICOBENCH_COMPILE"] = "0"
        self.tests = generate_patterns(PatternOptions(4), Experiment(), 5)
        self.problem = Problem(self.tests.images, self.tests.mask, "counts", Simulator())
        self.problem.network = load_network()

    def time_simplex_5_starts_10_iterations(self) -> None:
        monte_carlo_simplex(self.problem.objective(), SimplexOptions(starts=5, iterations=10), 0)

    def time_levenberg_marquardt(self) -> None:
        start = self.tests.radius_nm + 0.5
        levenberg_marquardt(self.problem.objective(), start, self.tests.quaternion)

    def time_network(self) -> None:
        self.problem.ask_network()


class Start:
    """What every call of the command line pays."""

    def timeraw_import(self) -> str:
        return "import icobench"

    def timeraw_command_line(self) -> str:
        return "import icobench.cli"


def track_threads() -> int:
    """Threads the timings were taken with."""
    return torch.get_num_threads()
