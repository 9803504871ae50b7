"""The core runs with torch, numpy and scipy alone."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
ours = {"roma", "cma", "h5py", "matplotlib", "optuna", "pandas", "PIL", "pyarrow", "rich", "safetensors",
        "seaborn", "tifffile", "typer", "submitit", "asv"}
sys.modules.update(dict.fromkeys(ours))  # None: an import fails
import pkgutil, torch
import icobench.geometry, icobench.simulator, icobench.fitting
for package in (icobench.geometry, icobench.simulator, icobench.fitting):
    for found in pkgutil.iter_modules(package.__path__):
        __import__(f"{package.__name__}.{found.name}")
"""

RUN = """
from icobench.fitting.counter import CountingSimulator
from icobench.fitting.least_squares import levenberg_marquardt
from icobench.fitting.objectives import SquareRootError
simulator = icobench.Simulator(icobench.Experiment(pixels=32))
turn = torch.tensor([[1.0, 0.02, 0.0, 0.0]], dtype=torch.float64)
image = simulator.intensity(torch.tensor([40.0]), turn)
objective = SquareRootError(image, image > 0, CountingSimulator(simulator, 1))
fit = levenberg_marquardt(objective, torch.tensor([41.0]), torch.tensor([[1.0, 0, 0, 0]]).double())
assert abs(float(fit.radius_nm) - 40) < 1e-2, fit.radius_nm
"""


def test_geometry_simulator_and_fits_need_no_other_package():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + RUN], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 0, done.stderr
