"""How far the physics can be trusted: convergence of the propagated field, both physics against Mie theory.

    python reports/physics.py --measure   # 3 min on one core; needs miepython
    python reports/physics.py             # the page from what is stored

Errors of the propagated field of icosahedra against its own limit, extrapolated from 8 and 12 steps a
wavelength; and intensities of spheres against Mie theory in the plane across the polarisation. Results are in
`physics.json`, the page is `physics.md`.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from scipy.special import j0
from torch import Tensor

from icobench.geometry.convex import icosahedron
from icobench.geometry.orientation import random_orientations
from icobench.provenance import provenance, short_commit
from icobench.seeds import Purpose, torch_generator
from icobench.simulator.experiment import Experiment
from icobench.simulator.propagated import STEPS_PER_WAVELENGTH, PropagatedField
from icobench.simulator.simulator import Simulator
from icobench.storage import atomic_path, write_json

SEED = 23
MATERIALS = {"absorbing": 1 + 0.0859j, "silver": 0.89 + 0.0859j}
STEPS = (2, 3, 4, 6, 8)
BODIES = {36.0: 4, 60.0: 4, 100.0: 3, 150.0: 2}
"""Icosahedra by circumradius."""
SPHERES = (30.0, 60.0, 120.0)
INNER_SINE = 0.8
ANGLES = np.radians(np.arange(1.0, 85.01, 0.25))
WINDOW_DEG, TRUSTED = 10.0, 0.1
"""A physics is trusted up to the first window of angles in which the rms of log10 I is larger."""
PIXELS = 512
"""Of the fine grid on which spheres are simulated; rows are interpolated."""


class Sphere(PropagatedField):
    """Spheres in place of a polyhedron."""

    def ray_ends(self, radius: Tensor, rotation: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        half = (radius[:, None] ** 2 - offsets[0] ** 2 - offsets[1] ** 2).clamp_min(0).sqrt()
        return -half, half


def relative(found: Tensor, expected: Tensor) -> float:
    """Median relative L2 error of fields (B, P)."""
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).median())


def convergence(index: complex, radius_nm: float, count: int) -> dict[str, float]:
    """Errors of the field by steps a wavelength, up to sin(theta) = 0.8, and that of straight rays."""
    experiment = Experiment(refractive_index=index)
    inner = experiment.sin_theta() < INNER_SINE
    bodies = (
        torch.full((count,), radius_nm, dtype=torch.float64),
        random_orientations(count, torch_generator(SEED, Purpose.SIMULATE)),
    )

    def field(steps: float) -> Tensor:
        return PropagatedField(experiment, icosahedron(), torch.float64, steps)(*bodies)[:, inner]

    coarse, fine = field(8), field(12)
    limit = fine + (fine - coarse) / ((12 / 8) ** 2 - 1)
    errors = {str(steps): relative(field(steps), limit) for steps in STEPS}
    straight = Simulator(experiment, dtype=torch.float64).field(*bodies)[:, inner]
    return errors | {"straight": relative(straight, limit)}


def straight_sphere(index: complex, radius_nm: float) -> np.ndarray:
    """Field of a sphere by straight rays at all angles: its integral over rings, by the trapezoidal rule."""
    k = Experiment().wave_number
    ring = np.linspace(0, radius_nm, 6001)
    half, kappa = np.sqrt(np.maximum(radius_nm**2 - ring**2, 0)), k * (index - 1)
    fields = []
    for angle in ANGLES:
        depth = k * (math.cos(angle) - 1)
        along = (1 - np.exp(-2j * (depth - kappa) * half)) / (1j * (depth - kappa))
        values = 2 * math.pi * ring * j0(k * math.sin(angle) * ring) * np.exp(1j * depth * half) * along
        fields.append(np.trapezoid(values, ring))
    return np.array(fields)


def propagated_sphere(index: complex, radius_nm: float) -> np.ndarray:
    """Field of a sphere at all angles, along a row of a fine grid."""
    experiment = Experiment(refractive_index=index, pixels=PIXELS)
    bodies = torch.tensor([radius_nm], dtype=torch.float64), torch.tensor([[1.0, 0, 0, 0]])
    row = Sphere(experiment, icosahedron(), torch.float64)(*bodies)[0, PIXELS // 2].numpy()
    return CubicSpline(experiment.sines().numpy(), row)(np.sin(ANGLES))


def against_mie(index: complex, radius_nm: float) -> dict[str, dict[str, float]]:
    """Deviations of both physics from Mie theory at the best common scale."""
    import miepython

    size = Experiment().wave_number * radius_nm
    # The package has absorption with the other sign.
    amplitude, _ = miepython.S1_S2(index.conjugate(), size, np.cos(ANGLES), norm="wiscombe")
    mie = np.abs(amplitude)
    results = {}
    for name, sphere in (("propagated", propagated_sphere), ("straight", straight_sphere)):
        found = np.abs(sphere(index, radius_nm))
        inner = np.degrees(ANGLES) <= 60
        logs = 2 * (np.log10(found) - np.log10(mie))
        logs -= np.median(logs[inner])
        scaled = found * (found[inner] @ mie[inner]) / (found[inner] @ found[inner])
        windows = {
            top: float(np.sqrt(np.mean(logs[np.abs(np.degrees(ANGLES) - top + WINDOW_DEG / 2) < 5] ** 2)))
            for top in np.arange(WINDOW_DEG, 81, 5)
        }
        beyond = [top for top, value in windows.items() if value > TRUSTED]
        results[name] = {
            "rms_log10": float(logs[inner].std()),
            "amplitude": float(np.linalg.norm((scaled - mie)[inner]) / np.linalg.norm(mie[inner])),
            "trusted_deg": float(beyond[0] - 5 if beyond else 80),
        }
    return results


def measure() -> dict[str, Any]:
    """All figures."""
    fields = [
        {"material": name, "radius_nm": radius, **convergence(index, radius, count)}
        for name, index in MATERIALS.items()
        for radius, count in BODIES.items()
    ]
    spheres = [
        {"material": name, "radius_nm": radius, **against_mie(index, radius)}
        for name, index in MATERIALS.items()
        for radius in SPHERES
    ]
    return {
        **provenance(SEED, torch.device("cpu"), Experiment()),
        "command": "python reports/physics.py --measure", "fields": fields, "spheres": spheres,
    }  # fmt: skip


def page(results: dict[str, Any]) -> str:
    """The page in Markdown."""
    lines = [
        "# How far the physics can be trusted\n",
        f"Made by `{results['command']}` at commit {short_commit(results['commit'])},"
        f" seed {results['seed']}.\n",
        "## The propagated field against its own limit\n",
        "Median relative L2 error of the field up to sin(theta) = 0.8, by pixels and slices a wavelength;"
        f" the package uses {STEPS_PER_WAVELENGTH}. The limit is extrapolated from 8 and 12. The last column"
        " is what straight rays leave out.\n",
        "| material | R (nm) | " + " | ".join(map(str, STEPS)) + " | straight rays |",
        "|---" * (len(STEPS) + 3) + "|",
    ]
    for row in results["fields"]:
        cells = [f"{100 * row[str(steps)]:.2f} %" for steps in STEPS]
        cells.append(f"{100 * row['straight']:.0f} %")
        lines.append(f"| {row['material']} | {row['radius_nm']:g} | {' | '.join(cells)} |")
    lines += [
        "\n## Spheres against Mie theory\n",
        "Intensity in the plane across the polarisation, 1 to 60 degrees, at the best common scale: rms of"
        " log10 of the intensity, and relative L2 error of the amplitude. A physics is trusted up to the"
        f" first {WINDOW_DEG:g} degrees of angle in which that rms is above {TRUSTED:g}, a factor of"
        f" {10**TRUSTED:.2f}.\n",
        "| material | R (nm) | propagated: rms | amplitude | trusted to"
        " | straight: rms | amplitude | trusted to |",
        "|---" * 8 + "|",
    ]
    for row in results["spheres"]:
        cells = [
            f"{deviation['rms_log10']:.3f} | {100 * deviation['amplitude']:.2f} %"
            f" | {deviation['trusted_deg']:.0f}°"
            for deviation in (row["propagated"], row["straight"])
        ]
        lines.append(f"| {row['material']} | {row['radius_nm']:g} | {' | '.join(cells)} |")
    lines += [
        "\nPropagated waves are scalar: for a polarised beam the factor of `--polarization` comes on top,"
        " which is 1 in the plane of this table. `reconstruct` fits pixels up to sin(theta) = 0.8 (53"
        " degrees), where propagated waves can be trusted and straight rays cannot.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="measure anew")
    parser.add_argument("--out", type=Path, default=Path("reports/physics.md"))
    arguments = parser.parse_args()
    stored = arguments.out.with_suffix(".json").resolve()
    if arguments.measure:
        write_json(stored, measure())
    with atomic_path(arguments.out.resolve()) as temporary:
        temporary.write_text(page(json.loads(stored.read_text())))


if __name__ == "__main__":
    main()
