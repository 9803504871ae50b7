"""Where the pixels of a frame look: axes, flat detectors, panels, CrystFEL's geometry files, polar images.

Rows run down and columns to the right for someone who looks along the beam, from the source to the detector:
row i is y, column j is x, as in :mod:`icobench.simulator.experiment`. CXI and CrystFEL have x to the left and
y up, seen from there.
"""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from icobench.errors import InputError
from icobench.images.facts import Fact, Facts
from icobench.images.stated import PLANCK_EV_NM

__all__ = ["Axes", "FrameGeometry", "Panel", "Panels", "parse_panels", "read_geom"]


@dataclass(frozen=True)
class Axes:
    """What has to be done to stored images so that rows run down and columns to the right along the beam.

    Attributes:
        transpose: exchange rows and columns, first.
        flip: then mirror "x" (columns), "y" (rows) or "xy".

    Example:
        >>> Axes(transpose=True, flip="y")(np.arange(4).reshape(1, 2, 2)).tolist()
        [[[1, 3], [0, 2]]]
    """

    transpose: bool = False
    flip: str = ""

    def __post_init__(self) -> None:
        if self.flip not in ("", "x", "y", "xy"):
            raise InputError(f"--flip must be x, y or xy, got {self.flip!r}")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Images (n, H, W), turned."""
        if self.transpose:
            images = images.swapaxes(-1, -2)
        if "x" in self.flip:
            images = images[..., ::-1]
        return images[..., ::-1, :] if "y" in self.flip else images

    def shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of turned images."""
        return (shape[1], shape[0]) if self.transpose else shape

    def place(self, x: float, y: float, shape: tuple[int, int]) -> tuple[float, float]:
        """Where a pixel (x, y) of stored images of a shape (H, W) is in turned ones."""
        if self.transpose:
            x, y = y, x
        height, width = self.shape(shape)
        return (width - 1 - x if "x" in self.flip else x, height - 1 - y if "y" in self.flip else y)


@dataclass(frozen=True)
class FrameGeometry:
    """Directions in which the pixels of a frame look.

    Attributes:
        pitch: edge of the square pixels: pixel / distance of a flat detector across the beam, else in sin.
        centre: (x, y) of the beam in pixel indices; pixel centres are whole numbers.
        flat: a flat detector, else pixels in equal steps of (k_x / k, k_y / k).
        panels: where the parts of a frame lie, None for one plane.
    """

    pitch: float
    centre: tuple[float, float]
    flat: bool
    panels: "Panels | None" = None

    def directions(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """k_x / k, k_y / k at pixel indices that broadcast, and a flat detector's cos(theta), else 1."""
        if self.panels is not None:
            x, y = self.panels.places(x, y)
        across, down = (x - self.centre[0]) * self.pitch, (y - self.centre[1]) * self.pitch
        square = across**2 + down**2
        cosine = 1 / np.sqrt(1 + square) if self.flat else np.ones_like(square)
        return across * cosine, down * cosine, cosine


NOWHERE = 1e9
"""Place of a pixel that belongs to no panel, in pixels: far beyond the half space."""


@dataclass(frozen=True)
class Panel:
    """A part of a frame with its place on the detector.

    Attributes:
        rows, columns: (first, last + 1) pixel indices in the frame.
        corner: (x, y) of the centre of its first pixel, in pixels of the detector.
        along_row, along_column: steps (x, y) from one column to the next, and from one row to the next.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    corner: tuple[float, float]
    along_row: tuple[float, float] = (1.0, 0.0)
    along_column: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Panels:
    """Where the pixels of frames with several panels lie on one detector.

    Attributes:
        panels: the parts.
        centre: (x, y) of the beam in pixels of the detector, None where the user has to say it.
        bad: (rows, columns) rectangles of pixels that are bad, as of :class:`Panel`.
        facts: what a geometry file states beside them.
        remarks: what it states and is not used, a line each.
    """

    panels: tuple[Panel, ...]
    centre: tuple[float, float] | None = None
    bad: tuple[tuple[tuple[int, int], tuple[int, int]], ...] = ()
    facts: Facts = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def places(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(x, y) on the detector of places in the frame, which broadcast; far away between panels."""
        x, y = np.broadcast_arrays(x, y)
        across, down = np.full(x.shape, NOWHERE), np.full(x.shape, NOWHERE)
        rows, columns = np.floor(y + 0.5), np.floor(x + 0.5)
        for panel in self.panels:
            inside = (rows >= panel.rows[0]) & (rows < panel.rows[1])
            inside &= (columns >= panel.columns[0]) & (columns < panel.columns[1])
            if not inside.any():
                continue
            fast, slow = x[inside] - panel.columns[0], y[inside] - panel.rows[0]
            across[inside] = panel.corner[0] + fast * panel.along_row[0] + slow * panel.along_column[0]
            down[inside] = panel.corner[1] + fast * panel.along_row[1] + slow * panel.along_column[1]
        return across, down

    def check(self, shape: tuple[int, int], where: str) -> None:
        """Refuse panels that frames (H, W) do not have.

        Raises:
            InputError: a panel reaches beyond the frame.
        """
        rows = max(panel.rows[1] for panel in self.panels)
        columns = max(panel.columns[1] for panel in self.panels)
        if rows > shape[0] or columns > shape[1]:
            raise InputError(
                f"{where}: the panels need {rows} rows and {columns} columns, the frames have "
                f"{shape[0]} and {shape[1]}"
            )

    def usable(self, shape: tuple[int, int]) -> np.ndarray:
        """(H, W) bool, False at bad pixels and where no panel is."""
        mask = np.zeros(shape, dtype=bool)
        for panel in self.panels:
            mask[slice(*panel.rows), slice(*panel.columns)] = True
        for rows, columns in self.bad:
            mask[slice(*rows), slice(*columns)] = False
        return mask


def parse_panels(text: str, shape: tuple[int, int]) -> Panels:
    """Panels of whole rows: ``0:512:0,0;512:1024:2.5,30`` moves the rows from 512 on by 2.5 pixels in x, 30
    in y.

    Places on the detector are those in the frame but for these shifts.

    Raises:
        InputError: not of this form.
    """
    panels = []
    try:
        for part in text.split(";"):
            first, last, shift = part.split(":")
            x, y = map(float, shift.split(","))
            panels.append(Panel((int(first), int(last)), (0, shape[1]), (x, int(first) + y)))
    except ValueError as error:
        raise InputError(
            f"--panels must be first:last:x,y;first:last:x,y in rows and pixels, got {text!r}"
        ) from error
    for panel in panels:
        if not (0 <= panel.rows[0] < panel.rows[1] and all(map(math.isfinite, panel.corner))):
            raise InputError(f"--panels: rows {panel.rows[0]} to {panel.rows[1]} are none")
    return Panels(tuple(panels))


VECTOR = re.compile(r"([+-]?\s*[0-9.]*(?:[eE][+-]?\d+)?)\s*([xyz])")
METRES = {"m": 1.0, "mm": 1e-3, "": 1.0}
DIMENSION = re.compile(r"dim\d")


def _vector(text: str) -> tuple[float, float]:
    """(x, y) of a CrystFEL direction such as ``+1.0x -0.002y``, in our axes."""
    parts = {"x": 0.0, "y": 0.0, "z": 0.0}
    for number, axis in VECTOR.findall(text):
        number = number.replace(" ", "")
        parts[axis] = float(number + "1" if number in ("", "+", "-") else number)
    return -parts["x"], -parts["y"]


def read_geom(path: Path, modules: tuple[int, int] | None) -> Panels:
    """A geometry file of CrystFEL (``man crystfel_geometry``): panels, bad regions, distance, photon energy.

    Args:
        path: of the file.
        modules: (modules, rows of each) that the frames' rows consist of, where the panels name a module by
            a ``dim`` of its own.

    Raises:
        InputError: unreadable, or without what is needed.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    common: dict[str, str] = {}
    panels: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        line = line.split(";")[0].strip()
        if "=" not in line or line.startswith("rigid_group"):
            continue
        name, value = (part.strip() for part in line.split("=", 1))
        if "/" in name:
            panel, name = name.split("/", 1)
            # What stands before a panel's first line is its default.
            panels.setdefault(panel.strip(), dict(common))[name.strip()] = value
        else:
            common[name] = value
    bad = {name: values for name, values in panels.items() if name.startswith("bad")}
    try:
        parts = {name: _panel(values, modules) for name, values in panels.items() if name not in bad}
        regions = [_region(values, parts) for values in bad.values()]
        first = next(values for name, values in panels.items() if name not in bad)
        facts = _geom_facts(first, f"{path}")
    except (KeyError, ValueError, StopIteration) as error:
        raise InputError(f"{path}: not a CrystFEL geometry ({error or 'no panels'})") from error
    remarks = []
    if lost := sum(region is None for region in regions):
        remarks.append(f"{path}: {lost} bad regions in x and y are not used; give them as a mask")
    if any(name.startswith("mask") for name in common):
        remarks.append(f"{path}: the mask that it names is not used; give it by --mask")
    return Panels(
        tuple(parts.values()),
        (0.0, 0.0),
        tuple(region for region in regions if region),
        facts,
        tuple(remarks),
    )


def _panel(values: dict[str, str], modules: tuple[int, int] | None) -> Panel:
    rows = int(float(values["min_ss"])), int(float(values["max_ss"])) + 1
    columns = int(float(values["min_fs"])), int(float(values["max_fs"])) + 1
    fast, slow = _vector(values["fs"]), _vector(values["ss"])
    numbers = [int(value) for name, value in values.items() if DIMENSION.fullmatch(name) and value.isdigit()]
    if modules is not None and numbers and rows[1] <= modules[1]:
        rows = rows[0] + numbers[0] * modules[1], rows[1] + numbers[0] * modules[1]
    # CrystFEL gives the outer corner of the first pixel.
    corner = tuple(
        -float(values[f"corner_{axis}"]) + (along + down) / 2
        for axis, along, down in zip("xy", fast, slow, strict=True)
    )
    return Panel(rows, columns, (corner[0], corner[1]), fast, slow)


def _region(values: dict[str, str], parts: dict[str, Panel]) -> Any:
    """The rectangle of a bad region in rows and columns, None for one in x and y."""
    if "min_fs" not in values:
        return None
    panel = parts.get(values.get("panel", ""))
    shift = panel.rows[0] if panel is not None and panel.rows[0] > int(float(values["max_ss"])) else 0
    rows = int(float(values["min_ss"])) + shift, int(float(values["max_ss"])) + shift + 1
    return rows, (int(float(values["min_fs"])), int(float(values["max_fs"])) + 1)


def _geom_facts(values: dict[str, str], origin: str) -> Facts:
    facts: Facts = {"pixel_mm": Fact(1e3 / float(values["res"].split()[0]), origin)}

    def number(name: str) -> tuple[float, str] | None:
        text = values.get(name, "").split()
        try:
            return float(text[0]), text[1] if len(text) > 1 else ""
        except (IndexError, ValueError):
            return None

    if (length := number("clen")) is not None:
        offset = number("coffset") or (0.0, "")
        facts["distance_mm"] = Fact(1e3 * (length[0] * METRES[length[1]] + offset[0]), origin)
    if (energy := number("photon_energy")) is not None and energy[0] > 0:
        in_ev = energy[0] * {"": 1.0, "eV": 1.0, "keV": 1e3, "MeV": 1e6}[energy[1]]
        facts["wavelength_nm"] = Fact(PLANCK_EV_NM / in_ev, origin)
    elif (wavelength := number("wavelength")) is not None and wavelength[0] > 0:
        facts["wavelength_nm"] = Fact(wavelength[0] * {"m": 1e9, "A": 0.1}[wavelength[1]], origin)
    if (gain := number("adu_per_photon")) is not None and gain[0] > 0:
        facts["gain"] = Fact(gain[0], origin)
    return facts
