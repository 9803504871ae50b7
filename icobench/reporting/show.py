"""A stack of images on one page: a slider over the frames, beside them what was reconstructed from them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from icobench.answer import Progress
from icobench.errors import InputError
from icobench.fitting.facets import free_body
from icobench.fitting.nuisance import NUISANCES, Nuisance
from icobench.fitting.objectives import objective_for
from icobench.geometry.convex import ConvexBody, icosahedron
from icobench.geometry.shapes import SHAPES
from icobench.images.image_set import ImageSet
from icobench.images.pixels import intensity_from_log
from icobench.images.prepare import Prepared
from icobench.reporting.examples import body_svg
from icobench.reporting.gallery import as_intensities
from icobench.reporting.page import render, write_file
from icobench.reporting.pictures import (
    RESIDUAL_SIGMAS,
    UNUSABLE,
    colours_of_scales,
    palette,
    picture,
    pictures,
)
from icobench.reporting.tables import Table, number
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from icobench.storage import differences, plain, read_json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Results", "chosen_frames", "find_results", "read_results", "write_show"]

FRAMES, MOST_PIXELS = 100, 1000 * 128**2
"""Frames of a page by default, and pixels of all its frames: a frame of 128 x 128 takes 50 kB."""

BLOCK = 32
"""Frames that are read and simulated together."""

QUATERNION = ["q_w", "q_x", "q_y", "q_z"]
COLUMNS = ["index", "radius_nm", *QUATERNION, "status"]

MASK_MAP, FITTED, LEFT_OUT = "cividis", 254, 0
"""Colours of masks: shades of pixels that count in fits, and of usable ones beyond their range of angles."""


@dataclass
class Results:
    """A table of reconstructions.

    Attributes:
        path: the table.
        rows: by the number of the image.
        origin: what the file beside it says of where it comes from; empty without one.
        experiment: that was fitted; None where the file does not say it.
        facets: of fits with free facets, a row each; None of others.
    """

    path: Path
    rows: "pd.DataFrame"
    origin: dict[str, Any]
    experiment: Experiment | None = None
    facets: "pd.DataFrame | None" = None

    @property
    def fit_sin_theta(self) -> float:
        """Sine of the largest angle whose pixels were fitted."""
        value = self.origin.get("fit_sin_theta", 1.0)
        return float(value) if isinstance(value, int | float) else 1.0


def _origin_of(table: Path) -> Path:
    return table.with_name(table.name + ".json")


def find_results(images: Path) -> Path | None:
    """The table that was made from a file, if one lies beside it or in this folder: its origins say so.

    Raises:
        InputError: there are several.
    """
    found = []
    for folder in {place.resolve(): place for place in (images.parent, Path())}.values():
        for origin in sorted(folder.glob("*.json")):
            table = origin.with_suffix("")
            if table.suffix not in (".csv", ".parquet") or not table.is_file():
                continue
            try:
                same = read_json(origin).get("file") == plain(images)
            except InputError:
                continue
            found += [table] if same else []
    if len(found) > 1:
        names = ", ".join(table.name for table in found)
        raise InputError(f"{images}: several tables were made from it, {names}; say --results")
    return found[0] if found else None


def read_results(path: Path) -> Results:
    """A table as ``icobench reconstruct`` writes it, with its origins and facets where they lie beside it.

    Raises:
        InputError: no such table, or a damaged one.
    """
    import pandas as pd

    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        rows = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except Exception as error:  # pandas and pyarrow raise many kinds
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"{path}: not a readable table ({reason})") from error
    if missing := [name for name in COLUMNS if name not in rows]:
        raise InputError(f"{path}: no column {', '.join(missing)}")
    try:
        for name in ["index", *_numeric(rows)]:
            rows[name] = pd.to_numeric(rows[name])
        answered = rows.loc[rows["radius_nm"].notna(), ["radius_nm", *QUATERNION]].to_numpy(dtype=float)
        rows = rows.astype({"index": "int64", "status": "str"}).set_index("index", drop=False)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: wrong values ({(str(error).splitlines() or [''])[0]})") from error
    if rows.index.duplicated().any():
        raise InputError(f"{path}: an index occurs twice")
    usable = np.isfinite(answered).all() and (answered[:, 0] > 0).all()
    if not usable or (np.abs(answered[:, 1:]).sum(1) < 1e-6).any():
        raise InputError(f"{path}: a radius that is not positive, or an orientation that is none")
    results = Results(path, rows, {})
    if (beside := _origin_of(path)).exists():
        results.origin = read_json(beside)
        try:
            results.experiment = Experiment.from_dict(results.origin["experiment"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{beside}: describes no experiment") from error
    facets = path.with_name(path.stem + ".facets.parquet")
    if "free_facets" in rows:
        try:
            results.facets = pd.read_parquet(
                facets, columns=["index", *(f"normal_{axis}" for axis in "xyz"), "distance_nm"]
            )
        except Exception as error:
            raise InputError(f"{facets}: needed for the bodies of {path}, and not readable") from error
    return results


def _numeric(rows: "pd.DataFrame") -> list[str]:
    """Columns of a table on which a simulation depends."""
    names = [column for columns in NUISANCES.values() for column in columns if column != "shape"]
    names += [shape.parameter for shape in SHAPES.values()]
    return [name for name in dict.fromkeys(["radius_nm", *QUATERNION, *names]) if name in rows]


def chosen_frames(text: str | None, count: int, pixels: int) -> range:
    """The frames in a text such as ``100:200``, ``7`` or ``0:1000:10``; by default the first ones.

    Args:
        text: first, last (exclusive) and step, as Python has it.
        count: frames that there are.
        pixels: side of a frame.

    Raises:
        InputError: no such frames, or too many for a page.
    """
    most = max(1, MOST_PIXELS // pixels**2)
    if text is None:
        return range(min(count, FRAMES, most))
    try:
        parts = [int(part) if part.strip() else None for part in text.split(":")]
        if not 1 <= len(parts) <= 3 or any(part is not None and part < 0 for part in parts):
            raise ValueError
        first = parts[0]
        if len(parts) == 1:
            if first is None:
                raise ValueError
            parts.append(first + 1)
        frames = range(count)[slice(*parts)]
    except ValueError as error:
        raise InputError(f"--frames must be first:last such as 100:200, or a number, got {text!r}") from error
    if not frames:
        raise InputError(f"--frames {text}: there are no such frames among the {count:,}, 0 to {count - 1:,}")
    if len(frames) > most:
        raise InputError(
            f"--frames {text}: {len(frames):,} frames of {pixels} x {pixels} pixels are too many for a page; "
            f"at most {most:,}"
        )
    return frames


class _Fits:
    """What a table says of frames, simulated again."""

    def __init__(self, results: Results, simulator: Simulator) -> None:
        self.results, self.simulator = results, simulator
        sine = simulator.experiment.sin_theta()
        self.fitted_pixels = (sine <= results.fit_sin_theta + 1e-9).cpu()
        self._simulators: dict[tuple[str, str], Simulator] = {}

    def body_of(self, row: Any) -> tuple[ConvexBody, float]:
        """Body and circumradius of an answer."""
        facets, radius = self.results.facets, float(row["radius_nm"])
        if facets is not None:
            planes = facets[facets["index"] == row["index"]]
            normals = planes[[f"normal_{axis}" for axis in "xyz"]].to_numpy(dtype=float)
            try:
                return free_body(f"free-{row['index']}", normals, planes["distance_nm"].to_numpy(dtype=float))
            except Exception as error:  # Qhull has errors of its own
                raise InputError(f"{self.results.path}: no body for image {row['index']}") from error
        if "shape" not in row:
            return icosahedron(), radius
        entry = SHAPES.get(row["shape"])
        if entry is None:
            raise InputError(f"{self.results.path}: unknown shape {str(row['shape'])[:40]!r}")
        value = row.get(entry.parameter) if entry.parameter else None
        if value is not None and np.isfinite(value):
            return entry.body(float(np.clip(value, entry.low, entry.high))), radius
        return entry.body(), radius

    def _simulator_of(self, row: Any, body: ConvexBody) -> Simulator:
        physics = row.get("physics") or self.simulator.experiment.physics
        key = (physics, body.name)
        if key not in self._simulators:
            try:
                base = self.simulator.with_physics(physics)
            except ValueError as error:
                raise InputError(f"{self.results.path}: {error}") from error
            self._simulators[key] = base if body.name == base.body.name else base.with_body(body)
        return self._simulators[key]

    @torch.no_grad()
    def simulate(self, images: ImageSet, ratio: np.ndarray | None) -> tuple[torch.Tensor, list[Any]]:
        """Fitted intensities (N, H, W) in the images' unit, and body, radius and orientation of each."""
        rows = [self.results.rows.loc[index] for index in images.numbers.tolist()]
        bodies = [self.body_of(row) for row in rows]
        fitted = torch.zeros_like(images.images)
        groups: dict[Simulator, list[int]] = {}
        for place, (row, (body, _)) in enumerate(zip(rows, bodies, strict=True)):
            groups.setdefault(self._simulator_of(row, body), []).append(place)
        for simulator, places in groups.items():
            radii = torch.tensor([bodies[place][1] for place in places], dtype=torch.float64)
            if ratio is not None:
                radii /= torch.as_tensor(ratio[images.numbers[places].numpy()])
            table = self.results.rows.loc[images.numbers[places].tolist()]
            fitted[places] = self._of(images.subset(torch.tensor(places)), table, radii, simulator)
        turns = self.results.rows.loc[images.numbers.tolist(), QUATERNION].to_numpy(dtype=float)
        return fitted, [(*body, turn) for body, turn in zip(bodies, turns, strict=True)]

    def _of(
        self, images: ImageSet, rows: "pd.DataFrame", radii: torch.Tensor, simulator: Simulator
    ) -> torch.Tensor:
        """The fits of one simulator; their scale is that of the objective on the pixels that were fitted."""
        names = tuple(
            name for name, columns in NUISANCES.items() if name != "shape" and set(columns) <= set(rows)
        )
        nuisance = Nuisance.start(names, len(images), simulator.experiment)
        stored = torch.tensor(rows[list(nuisance.columns)].to_numpy(dtype=float))
        nuisance = replace(nuisance, values=torch.where(stored.isnan(), nuisance.values, stored))
        fitted_range = replace(images, mask=images.mask & self.fitted_pixels)
        objective, device = objective_for(fitted_range, simulator, names), simulator.device
        every = torch.arange(len(images), device=device)
        turns = torch.tensor(rows[QUATERNION].to_numpy(dtype=float), device=device)
        intensity = objective.model(every, radii.to(device), turns, nuisance.to(device))
        fitted = objective.pretend(every, intensity).images
        inside = objective.mask & (fitted > 0)
        if images.kind == "log":
            inside &= fitted < 1
            fitted = intensity_from_log(fitted)
        scale = torch.where(inside, fitted / intensity, torch.nan).flatten(1).nanmedian(1).values
        return (intensity * scale.nan_to_num()[:, None, None]).cpu()


def _columns(results: Results) -> list[tuple[str, str, str]]:
    """Columns of the page's table that a table of results has: name, title, unit."""
    wanted = [
        ("radius_nm", "radius", "nm"), ("radius_std_nm", "+-", "nm"),
        ("orientation_std_deg", "orientation +-", "deg"),
        ("objective", "objective", ""), ("shape", "shape", ""), ("physics", "physics", ""),
        ("status", "status", ""),
    ]  # fmt: skip
    return [column for column in wanted if column[0] in results.rows]


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return number(value) if value is not None and np.isfinite(value) else "-"


def _table(frames: Sequence[int], results: Results) -> Table:
    """A row for each frame."""
    columns = _columns(results)
    rows = []
    for frame in frames:
        known = frame in results.rows.index
        cells = [_cell(results.rows.at[frame, name]) if known else "-" for name, _, _ in columns]
        rows.append([str(frame), *cells])
    return [("frame", ""), *((title, unit) for _, title, unit in columns)], rows


def _caption(frame: int, problem: str | None, results: Results | None) -> str:
    """What is said of a frame."""
    if problem is not None:
        return f"failed: {problem}"
    if results is None:
        return ""
    if frame not in results.rows.index:
        return f"not in {results.path.name}"
    row = results.rows.loc[frame]
    if not np.isfinite(row["radius_nm"]):
        return str(row["status"])
    words = f"{row['shape']}, " if "shape" in row else ""
    words += f"R = {row['radius_nm']:.2f}"
    if np.isfinite(row.get("radius_std_nm", np.nan)):
        words += f" +- {row['radius_std_nm']:.2g}"
    words += " nm"
    if np.isfinite(row.get("orientation_std_deg", np.nan)):
        words += f", orientation +- {row['orientation_std_deg']:.2g} deg"
    return f"{words}, {row['status']}"


def _notes(prepared: Prepared, results: Results) -> list[str]:
    """What the user should know of a table and the file that it is shown with."""
    if results.experiment is None:
        return [
            f"{_origin_of(results.path).name} is missing: simulated with the options of this call, which may "
            "not be those of the reconstruction"
        ]
    experiment = prepared.experiment
    if experiment.pixels != results.experiment.pixels:
        raise InputError(
            f"{results.path}: fitted on a grid of {results.experiment.pixels} pixels, not "
            f"{experiment.pixels}; give the options of that call"
        )
    expected = replace(experiment, centre_offset=results.experiment.centre_offset)  # it may have been found
    if "physics" in results.rows:  # each row has its own
        expected = replace(expected, physics=results.experiment.physics)
    other = differences(plain(results.experiment.to_dict()), plain(expected.to_dict()))
    notes = [f"simulated as {results.path.name} was made, unlike this call: {line}" for line in other]
    if results.origin.get("file") != plain(prepared.source.path or ""):
        notes.append(
            f"warning: {results.path.name} was made from another file, or this one has changed since"
        )
    return notes


def write_show(
    path: Path,
    prepared: Prepared,
    results: Results | None,
    frames: range,
    device: torch.device | str = "cpu",
    progress: Progress = lambda share: None,
) -> list[str]:
    """Write the page.

    Args:
        path: HTML file.
        prepared: the images, on the grid that was fitted.
        results: their table, simulated again with the experiment in it; None for images and masks alone.
        frames: which images.
        device: where to simulate.
        progress: called with the finished share.

    Returns:
        what the user should know, a line each.

    Raises:
        InputError: a table that does not belong to these images.
    """
    notes, fits, count = [], None, len(prepared.grid)
    if results is not None:
        if len(results.rows) and not 0 <= results.rows.index.min() <= results.rows.index.max() < count:
            raise InputError(
                f"{results.path}: speaks of other images than the {count:,} of {prepared.source.where}"
            )
        notes = _notes(prepared, results)
        fits = _Fits(results, Simulator(results.experiment or prepared.experiment, device=device))
    masks: dict[bytes, int] = {}
    shown = []
    for place, entry in enumerate(_entries(prepared, fits, frames, masks)):
        shown.append(entry)
        progress((place + 1) / len(frames))
    notes += [f"warning: {line}" for line in prepared.grid.warnings()]
    side = prepared.experiment.pixels
    shades = [np.frombuffer(mask, np.uint8).reshape(side, side) for mask in masks]
    page = render(
        "show.html.j2",
        title=prepared.source.path.name if prepared.source.path else "images",
        where=prepared.source.where, kind=prepared.grid.kind, side=side,
        first=frames[0], last=frames[-1], step=frames.step, shown=len(frames), count=count,
        frames=shown, masks=[picture(shade, MASK_MAP) for shade in shades],
        mask_colours=[palette(MASK_MAP)[shade].tolist() for shade in (FITTED, LEFT_OUT, UNUSABLE)],
        results=results, origin=results.origin if results else {},
        table_of_frames=results and _table(frames, results),
        notes=[*prepared.notes, *notes], sigmas=int(RESIDUAL_SIGMAS), **colours_of_scales(),
    )  # fmt: skip
    write_file(path, page.encode())
    return notes


def _entries(
    prepared: Prepared, fits: _Fits | None, frames: range, masks: dict[bytes, int]
) -> Iterator[dict[str, Any]]:
    """What the page shows of each frame; different masks are numbered in ``masks``."""
    fact = prepared.setup.facts.get("wavelength_nm")
    # Radii of frames with wavelengths of their own are in units of these.
    ratio = None if fact is None or fact.by_frame is None else fact.by_frame / fact.value
    valid = prepared.experiment.valid()
    for start in range(0, len(frames), BLOCK):
        block = prepared.grid.read(frames[start : start + BLOCK])
        block = replace(block, mask=block.mask & valid)
        fitted: dict[int, Any] = {}
        if fits is not None:
            answered = fits.results.rows.index[fits.results.rows["radius_nm"].notna()]
            good = [index in answered and index not in block.problems for index in block.numbers.tolist()]
            if any(good):
                images = block.subset(torch.tensor(good))
                models, bodies = fits.simulate(images, ratio)
                fitted = dict(
                    zip(images.numbers.tolist(), zip(models.numpy(), bodies, strict=True), strict=True)
                )
        targets = (as_intensities(block) * block.mask).double().numpy()
        for place, frame in enumerate(block.numbers.tolist()):
            usable = block.mask[place].numpy()
            model, body = fitted.get(frame, (None, None))
            readout = 0.0 if block.readout is None else block.readout[place].numpy()
            shade = np.where(usable, FITTED, UNUSABLE)
            if fits is not None:
                shade[usable & ~fits.fitted_pixels.numpy()] = LEFT_OUT
            mask = masks.setdefault(shade[::-1].astype(np.uint8).tobytes(), len(masks))
            yield {
                "frame": frame,
                "caption": _caption(frame, block.problems.get(frame), fits.results if fits else None),
                "mask": mask,
                "body": body and body_svg(*body),
                **pictures(targets[place], model, usable, block.kind, readout),
            }
