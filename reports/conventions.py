"""The figures of docs/physics.md, drawn with the package itself, in docs/figures/.

    python reports/conventions.py   # some seconds; `physics.svg` shows what reports/physics.json stores

All views are those along the beam, from the source to the detector: x to the right, y down.
"""

import argparse
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from icobench.geometry.convex import icosahedron
from icobench.geometry.mesh import outlines
from icobench.geometry.rotations import quaternion_to_matrix
from icobench.images.pixels import log_image
from icobench.reporting.figures import empty_figure, styled, svg
from icobench.reporting.page import write_file
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

ROOT = Path(__file__).parents[1]
SILVER = 0.8903 + 0.0794j
RADIUS_NM = 60.0
TILTED = (0.95, 0.22, -0.15, 0.16)
BLUE, ORANGE, GREEN, INK = "#0072B2", "#D55E00", "#009E73", "0.2"
ABSORPTION_NM = 12.5


def turn(axis: str, degrees: float) -> tuple[float, ...]:
    """Quaternion (w, x, y, z) of a turn about an axis of the laboratory."""
    half = math.radians(degrees) / 2
    return (math.cos(half), *(math.sin(half) * (axis == other) for other in "xyz"))


def matrix_of(quaternion: tuple[float, ...]) -> np.ndarray:
    values = torch.tensor(quaternion, dtype=torch.float64)
    return quaternion_to_matrix(values / values.norm()).numpy()


def pattern(quaternion: tuple[float, ...], experiment: Experiment | None = None) -> np.ndarray:
    """Intensity (128, 128) of the body of :data:`RADIUS_NM`."""
    values = torch.tensor([quaternion], dtype=torch.float64)
    simulator = Simulator(experiment or Experiment(), dtype=torch.float64)
    radius = torch.tensor([RADIUS_NM], dtype=torch.float64)
    return simulator.intensity(radius, values / values.norm())[0].numpy()


def show_pattern(axes: Axes, intensity: np.ndarray, title: str = "") -> Any:
    """A log image over six decades; grey outside the half space."""
    import matplotlib

    logs = log_image(torch.as_tensor(intensity)).numpy() * 6 - 6
    image = np.ma.array(logs, mask=~Experiment().valid().numpy())
    colours = matplotlib.colormaps["viridis"].with_extremes(bad="0.8")
    axes.grid(False)
    axes.set_xticks([0, 64, 127])
    axes.set_yticks([0, 64, 127])
    axes.set_title(title, fontsize=10)
    return axes.imshow(image, cmap=colours, vmin=-6, vmax=0, interpolation="none")


def draw_body(axes: Axes, quaternion: tuple[float, ...]) -> None:
    """The facets that face the source, and the axes of the body's frame."""
    body, matrix = icosahedron(), matrix_of(quaternion)
    corners, normals = body.vertices @ matrix.T, body.normals @ matrix.T
    for outline, normal in zip(outlines(body), normals, strict=True):
        if normal[2] < 0:
            shade = 0.62 - 0.33 * normal[2]
            axes.fill(*corners[outline, :2].T, facecolor=str(shade), edgecolor=INK, linewidth=1)
    for name, colour, direction in zip("xyz", (ORANGE, GREEN, BLUE), matrix.T, strict=True):
        tip = 1.3 * direction[:2]
        if np.hypot(*tip) > 0.1:
            axes.annotate("", tip, (0, 0), arrowprops={"arrowstyle": "->", "color": colour, "lw": 2})
            axes.text(
                *(tip + 0.15 * tip / np.hypot(*tip)),
                name,
                color=colour,
                ha="center",
                va="center",
                fontsize=11,
            )
        else:
            axes.plot(0, 0, "x", color=colour, markersize=9, markeredgewidth=2)
            axes.text(0.1, -0.1, name, color=colour, fontsize=11)
    axes.set(xlim=(-1.6, 1.6), ylim=(1.6, -1.6), aspect="equal")
    axes.axis("off")


def quaternion_figure() -> Figure:
    figure = empty_figure(9, 6.2)
    panels = figure.subplots(2, 3)
    about_z, about_x = turn("z", 20), turn("x", 15)
    for column, (title, quaternion) in enumerate(
        (("no turn", turn("z", 0)), ("20° about z, the beam", about_z), ("15° about x", about_x))
    ):
        words = ", ".join(f"{value:.3f}".rstrip("0").rstrip(".") for value in quaternion)
        panels[0, column].set_title(f"{title}\nq = ({words})", fontsize=10)
        draw_body(panels[0, column], quaternion)
        shown = show_pattern(panels[1, column], pattern(quaternion))
        panels[1, column].set_xlabel("column: x", fontsize=9)
    panels[1, 0].set_ylabel("row: y", fontsize=9)
    figure.colorbar(shown, ax=panels[1], shrink=0.85, label="log10 of the intensity")
    return figure


def ewald_figure() -> Figure:
    figure = empty_figure(9.4, 4.6)
    side, image = figure.subplots(1, 2, width_ratios=(1.15, 1))
    angles = np.linspace(-math.pi / 2, math.pi / 2, 200)
    side.plot(np.cos(angles), np.sin(angles), color=BLUE, linewidth=2)
    detector = 1.35
    side.plot([detector] * 2, [-1, 1], color=INK, linewidth=3)
    for sine in Experiment().sines().numpy()[::8]:
        cosine = math.sqrt(max(0.0, 1 - sine**2))
        side.plot([cosine, detector], [sine, sine], color="0.75", linewidth=0.8, zorder=0)
        side.plot([cosine, detector], [sine, sine], "o", color=BLUE, markersize=3)
    out = np.array([math.cos(0.7), math.sin(0.7)])

    def arrow(start: Any, end: Any, colour: str) -> None:
        side.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2})

    arrow((0, 0), (1, 0), INK)
    arrow((0, 0), out, INK)
    arrow((1, 0), out, ORANGE)
    side.text(0.45, -0.09, r"$k_\mathrm{in}$", fontsize=12)
    side.text(0.26, 0.36, r"$k_\mathrm{out}$", fontsize=12)
    side.text(0.93, 0.33, r"$q$", color=ORANGE, fontsize=13)
    side.text(detector + 0.04, 0.9, "pixels", fontsize=10)
    side.text(-0.02, -1.12, "Ewald sphere, radius k", color=BLUE, fontsize=10)
    side.set(xlim=(-0.1, 1.75), ylim=(-1.2, 1.2), aspect="equal", xlabel=r"$k_z\,/\,k$ (along the beam)")
    side.set_ylabel(r"$k_x\,/\,k$")
    side.set_title(r"equal steps of $k_x$; $q_z = k_z - k \leq 0$", fontsize=10)
    shown = show_pattern(image, pattern(TILTED), "rings of equal scattering angle")
    around = np.linspace(0, 2 * math.pi, 200)
    for degrees in (10, 30, math.degrees(math.asin(0.8)), 90):
        ring = 64 * math.sin(math.radians(degrees))
        fit = abs(degrees - 53) < 1
        style = {"color": ORANGE if fit else "white", "linestyle": "--" if fit else "-"}
        image.plot(64 + ring * np.cos(around), 64 + ring * np.sin(around), linewidth=1.2, **style)
        label = f"{degrees:.0f}°" + (" (fits)" if fit else "")
        image.text(
            64, 64 - ring + (6 if degrees > 10 else -3), label, color=style["color"], fontsize=9, ha="center"
        )
    image.set(xlabel="column: 64 + 64 k_x / k", ylabel="row: 64 + 64 k_y / k", xlim=(-0.5, 127.5))
    figure.colorbar(shown, ax=image, shrink=0.8, label="log10 of the intensity")
    return figure


def ray_ends(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rays at (x, 0) enter and leave the tilted body, in nm; enter > leave where they miss it."""
    body, matrix = icosahedron(), matrix_of(TILTED)
    normals = body.normals @ matrix.T
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = (RADIUS_NM * body.offsets[:, None] - normals[:, :1] * x) / normals[:, 2:]
    front, back = normals[:, 2] < -1e-9, normals[:, 2] > 1e-9
    return ends[front].max(0), ends[back].min(0)


def absorption_figure() -> Figure:
    figure = empty_figure(9.4, 4)
    section, curves = figure.subplots(1, 2, width_ratios=(1.2, 1))
    x, z = np.linspace(-70, 70, 281), np.linspace(-70, 70, 281)
    entry, leaving = ray_ends(x)
    depth = z[None] - entry[:, None]
    inside = (depth >= 0) & (z[None] <= leaving[:, None])
    behind = (z[None] > leaving[:, None]) & (leaving > entry)[:, None]
    path = np.where(inside, depth, np.where(behind, (leaving - entry)[:, None], 0))
    shown = section.pcolormesh(
        z,
        x,
        np.exp(-path / ABSORPTION_NM),
        cmap="viridis",
        vmin=0,
        vmax=1,
        shading="nearest",
        rasterized=True,
    )
    hit = leaving > entry
    outline = np.concatenate((np.c_[entry, x][hit], np.c_[leaving, x][hit][::-1]))
    section.plot(*np.vstack((outline, outline[:1])).T, color="white", linewidth=1.5)
    section.annotate("", (-35, 62), (-68, 62), arrowprops={"arrowstyle": "-|>", "color": "black", "lw": 2})
    section.text(-33, 62, "beam", va="center", fontsize=10)
    section.grid(False)
    section.set(xlabel="z (nm)", ylabel="x (nm)", aspect="equal", ylim=(70, -70))
    section.set_title(f"section of a body of {RADIUS_NM:g} nm by straight rays", fontsize=10)
    figure.colorbar(shown, ax=section, shrink=0.9, label="intensity of the wave")
    length = np.linspace(0, 60, 200)
    index = Experiment().refractive_index
    field = np.exp(1j * Experiment().wave_number * (index - 1) * length)
    curves.plot(length, np.abs(field) ** 2, color=BLUE, linewidth=2, label="intensity")
    curves.plot(length, np.abs(field), color=ORANGE, linewidth=2, label="amplitude of the field")
    curves.plot([ABSORPTION_NM] * 2, [0, math.exp(-1)], color=INK, linewidth=1, linestyle=":")
    curves.plot([0, ABSORPTION_NM], [math.exp(-1)] * 2, color=INK, linewidth=1, linestyle=":")
    curves.text(ABSORPTION_NM + 1, 0.03, "12.5 nm: intensity 1/e", fontsize=9)
    curves.set(xlabel="way inside the body (nm)", ylim=(0, 1.02), xlim=(0, 60))
    curves.set_title(f"n = 1 + {index.imag:.4f}i", fontsize=10)
    curves.legend(frameon=False)
    return figure


def propagation_figure() -> Figure:
    figure = empty_figure(9.4, 6.4)
    (first, second), (third, curves) = figure.subplots(2, 2)
    experiment = Experiment(refractive_index=SILVER)
    straight = pattern(TILTED, experiment)
    waves = pattern(TILTED, Experiment(refractive_index=SILVER, physics="propagated"))
    largest = max(straight.max(), waves.max())
    for axes, intensity, title in ((first, straight, "straight rays"), (second, waves, "propagated waves")):
        shown = show_pattern(axes, intensity / largest, title)
    figure.colorbar(shown, ax=(first, second), shrink=0.9, label="log10 of the intensity")
    valid = experiment.valid().numpy()
    ratio = np.log10(waves.clip(1e-30) / straight.clip(1e-30))
    change = third.imshow(np.ma.array(ratio, mask=~valid), cmap="PuOr", vmin=-1, vmax=1, interpolation="none")
    third.grid(False)
    third.set_xticks([0, 64, 127])
    third.set_yticks([0, 64, 127])
    third.set_title("log10 (propagated / straight)", fontsize=10)
    figure.colorbar(change, ax=third, shrink=0.9, extend="both")
    degrees = np.degrees(np.arcsin(np.minimum(experiment.sin_theta().numpy(), 1)))
    edges = np.arange(0, 86, 1.0)
    middle = (edges[:-1] + edges[1:]) / 2
    for name, intensity, colour in (("straight rays", straight, ORANGE), ("propagated", waves, BLUE)):
        rings = [
            intensity[valid & (degrees >= low) & (degrees < high)].mean() for low, high in pairwise(edges)
        ]
        curves.semilogy(middle, np.array(rings) / largest, color=colour, linewidth=2, label=name)
    curves.axvline(math.degrees(math.asin(0.8)), color=INK, linestyle=":", linewidth=1)
    curves.text(54, curves.get_ylim()[1] * 0.2, "fits end", fontsize=9)
    curves.set(xlabel="scattering angle (deg)", ylabel="mean over a ring")
    curves.legend(frameon=False, loc="lower left")
    figure.suptitle(f"silver, n = {SILVER.real:g} + {SILVER.imag:g}i, R = {RADIUS_NM:g} nm", fontsize=11)
    return figure


def physics_figure(stored: dict[str, Any]) -> Figure:
    figure = empty_figure(9.4, 4)
    fields, spheres = figure.subplots(1, 2)
    for material, line in (("absorbing", "--"), ("silver", "-")):
        rows = [row for row in stored["fields"] if row["material"] == material]
        radii = [row["radius_nm"] for row in rows]
        for key, name, colour in (("straight", "straight rays", ORANGE), ("4", "propagated", BLUE)):
            errors = [100 * row[key] for row in rows]
            label = f"{name}, {material}"
            fields.semilogy(radii, errors, line, color=colour, marker="o", linewidth=2, label=label)
        rows = [row for row in stored["spheres"] if row["material"] == material]
        radii = [row["radius_nm"] for row in rows]
        for key, colour in (("straight", ORANGE), ("propagated", BLUE)):
            angles = [row[key]["trusted_deg"] for row in rows]
            spheres.plot(radii, angles, line, color=colour, marker="o", linewidth=2)
    fields.set(xlabel="R (nm)", ylabel="error of the field (%)", ylim=(0.03, 60))
    fields.set_title("icosahedra, against fully propagated fields", fontsize=10)
    spheres.axhline(math.degrees(math.asin(0.8)), color=INK, linestyle=":", linewidth=1)
    spheres.text(31, 54, "fits end", fontsize=9)
    spheres.set(xlabel="R (nm)", ylabel="right up to (deg)", ylim=(0, 90))
    spheres.set_title("spheres, against Mie theory, within a factor of 1.26", fontsize=10)
    handles, names = fields.get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=9, handlelength=3.5
    )
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "figures")
    out = parser.parse_args().out
    out.mkdir(exist_ok=True)
    stored = json.loads((ROOT / "reports" / "physics.json").read_text())
    with styled():
        figures = {
            "quaternion": quaternion_figure(), "ewald": ewald_figure(), "absorption": absorption_figure(),
            "propagation": propagation_figure(), "physics": physics_figure(stored),
        }  # fmt: skip
        for name, figure in figures.items():
            write_file(out / f"{name}.svg", svg(figure))


if __name__ == "__main__":
    main()
