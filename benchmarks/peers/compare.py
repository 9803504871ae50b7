"""Our simulators beside pyMSFT (University of Rostock), side by side in one run on one machine.

    pip install pymsft==1.0.2          # on Python 3.11: pip install --ignore-requires-python --no-deps
    pip install pyfftw                 # needed by pymsft
    python benchmarks/peers/compare.py --out reports/peers

Every method runs in a process of its own, in turns, several rounds; the best time of each counts. The error
is that of the amplitude sqrt(I) against the closed form in float64 over valid pixels, relative L2, after one
factor for the intensity scale is fitted, since pyMSFT returns intensities. For the propagating methods it is
the difference of the physics, not a numerical error. pyMSFT's time is that of the transform alone: its voxels
are made beforehand.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from icobench.geometry.rotations import quaternion_to_matrix
from icobench.provenance import provenance
from icobench.simulator.compiled import prepare_kernel
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from icobench.simulator.speed import bodies
from icobench.simulator.voxels import SLICES, STEPS_PER_WAVELENGTH, voxel_slices

BODIES = 4
OURS = {
    "icobench exact, compiled": ("exact", "1", 64),
    "icobench exact, uncompiled": ("exact", "0", 64),
    "icobench sliced": ("sliced", "0", 1),
    "icobench propagated": ("propagated", "0", 1),
}
PEERS = {"pyMSFT MSFT": "MSFTSimulation", "pyMSFT pMSFT": "PMSFTSimulation"}
SAME_PHYSICS = {*OURS, "pyMSFT MSFT"} - {"icobench propagated"}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(function, *arguments) -> tuple[float, object]:
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def our_images(name: str, experiment: Experiment, radius, quaternion) -> tuple[float, np.ndarray]:
    """Seconds per image and the intensities of the first bodies."""
    method, compiled, batch = OURS[name]
    os.environ["ICOBENCH_COMPILE"] = compiled
    prepare_kernel(torch.device("cpu"))
    simulator = Simulator(experiment, method)
    if batch == 1:
        runs = [timed(simulator.intensity, radius[i : i + 1], quaternion[i : i + 1]) for i in range(BODIES)]
        return float(np.median([seconds for seconds, _ in runs])), torch.cat(
            [image for _, image in runs]
        ).numpy()
    many = bodies(batch, seed=1)
    simulator.intensity(*many)
    seconds = np.median([timed(simulator.intensity, *many)[0] for _ in range(8)]) / batch
    return float(seconds), simulator.intensity(radius, quaternion).numpy()


def peer_images(name: str, experiment: Experiment, radius, quaternion) -> tuple[float, np.ndarray]:
    """The same from pyMSFT with the paper's grid: 192 slices at wavelength / 8, padded to 512."""
    os.environ["pyMSFT_FORCE_CPU"] = "True"  # noqa: SIM112
    simulation = peer().simulation
    pitch = experiment.wavelength_nm / STEPS_PER_WAVELENGTH
    padded = STEPS_PER_WAVELENGTH * experiment.pixels // 2
    program = getattr(simulation, PEERS[name])(
        npix_fft=padded,
        npix_real=SLICES,
        box_size=(SLICES - 1) * pitch,
        wavelength=experiment.wavelength_nm,
        pool_size=os.cpu_count(),
    )
    body = Simulator(experiment).body
    seconds, images = [], []
    for size, turn in zip(radius, quaternion_to_matrix(quaternion), strict=True):
        voxels = voxel_slices(body, size, turn, pitch, 0, SLICES).numpy()
        contrast = voxels.transpose(2, 1, 0) * (experiment.refractive_index - 1)  # [x, y, z]
        spent, image = timed(program.get_diffraction_image, contrast)
        seconds.append(spent)
        middle, half = padded // 2, experiment.pixels // 2
        images.append(image.T[middle - half : middle + half, middle - half : middle + half])
    return float(np.median(seconds)), np.array(images)


def peer():
    """The module pyMSFT; it imports a name that SciPy 1.17 no longer has and that is not used here."""
    import scipy.special

    if not hasattr(scipy.special, "sph_harm"):
        scipy.special.sph_harm = None
    import pyMSFT

    return pyMSFT


def amplitude_error(found: np.ndarray, expected: np.ndarray, valid: np.ndarray) -> float:
    a, b = (np.sqrt(np.maximum(image[valid], 0)) for image in (found, expected))
    return float(np.linalg.norm(a * (a @ b) / (a @ a) - b) / np.linalg.norm(b))


def measure(name: str) -> dict:
    experiment = Experiment(solid_angle_factor=True)
    radius, quaternion = bodies(BODIES)
    base = peak_mib()
    seconds, images = (our_images if name in OURS else peer_images)(name, experiment, radius, quaternion)
    memory = peak_mib() - base
    expected = Simulator(experiment, dtype=torch.float64).intensity(radius, quaternion).numpy()
    # A pixel on the horizon weighs infinitely with k / k_z.
    valid = (experiment.valid() & (experiment.sin_theta() < 0.99)).numpy()
    errors = [amplitude_error(*pair, valid) for pair in zip(images, expected, strict=True)]
    return {"seconds": seconds, "errors": errors, "memory_mib": memory}


def table(results: dict[str, dict], best: str) -> str:
    lines = [
        "| method | ms / image | times the fastest | error, median | error, worst | more memory, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in results.items():
        note = "" if name in SAME_PHYSICS else " *"
        times = row["seconds"] / results[best]["seconds"]
        middle, worst = np.median(row["errors"]), max(row["errors"])
        lines.append(
            f"| {name} | {row['seconds'] * 1e3:,.2f} | {times:,.0f} "
            f"| {middle:.1e}{note} | {worst:.1e}{note} | {row['memory_mib']:,.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="writes OUT.md and OUT.json")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    try:
        peer()
        names = [*OURS, *PEERS]
    except ImportError:
        print("pymsft is not installed: only our own simulators are compared", file=sys.stderr)
        names = [*OURS]
    results: dict[str, dict] = {}
    for _ in range(options.rounds):
        for name in names:
            command = [sys.executable, __file__, "--one", name]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            known = results.setdefault(name, {**row, "rounds": []})
            known["rounds"].append(row["seconds"])
            known["seconds"] = float(np.median(known["rounds"]))
    text = table(results, "icobench exact, compiled")
    print(text)
    if options.out:
        origin = provenance(0, torch.device("cpu"), Experiment(solid_angle_factor=True))
        origin["command"] = f"python benchmarks/peers/compare.py --out {options.out}"
        report = {"origin": origin, "results": results}
        options.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
        machine = ", ".join(f"{key} {value}" for key, value in origin["machine"].items())
        heading = (
            f"# Simulators side by side\n\n`{origin['command']}`, commit {origin['commit']}, {machine}; "
            f"median of {options.rounds} rounds, {BODIES} bodies for the errors, seed 0.\n"
            "128 x 128 pixels, R uniform in 30 to 160 nm, batches of 64 for exact.\n\n"
        )
        footer = (
            "\n\nError: relative L2 of sqrt(I) against the closed form in float64, one scale factor fitted. "
            "\\* other physics (propagation), so a difference, not an error.\n"
        )
        options.out.with_suffix(".md").write_text(heading + text + footer)


if __name__ == "__main__":
    main()
