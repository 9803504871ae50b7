"""What data sets and headers of other people's files state, in the places of CXI, NeXus, LCLS, EDF, CBF."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from icobench.images.facts import Fact, Facts, same

__all__ = ["PLANCK_EV_NM", "header_facts", "tree_facts"]

PLANCK_EV_NM = 1239.841984
"""h c in eV nm (CODATA 2018), from photon energies to wavelengths."""

JOULE_EV = 1 / 1.602176634e-19

WAVELENGTHS_NM = (0.01, 1000.0)
"""Others are no wavelengths of light that diffracts from particles: a missing value, or another unit."""

UNITS = {
    "m": 1e9, "meter": 1e9, "metre": 1e9, "mm": 1e6, "um": 1e3, "micron": 1e3, "µm": 1e3, "nm": 1.0,
    "a": 0.1, "å": 0.1, "angstrom": 0.1, "angstroms": 0.1, "pm": 1e-3, "cm": 1e7,
}  # fmt: skip
"""Nanometres in a unit of length, by its lower-case name."""

ENERGIES = {"ev": 1.0, "kev": 1e3, "j": JOULE_EV, "joule": JOULE_EV, "joules": JOULE_EV}
"""Electronvolts in a unit of energy."""

Item = tuple[str, Any, str]
"""Path of a data set, its value and its unit, empty if none is stated."""


def tree_facts(items: Iterable[Item], where: str, frames: int, shape: tuple[int, ...]) -> Facts:
    """What data sets state in the places of CXI and NeXus.

    CXI has SI units (Maia, Nature Methods 9, 854, 2012): ``source_1/energy`` (J), ``detector_1/distance``,
    ``x_pixel_size``, ``corner_position``, ``basis_vectors``; NeXus states its units.

    Args:
        items: path, value and unit of data sets; the first of two that state the same counts.
        where: file, for messages.
        frames, shape: of the images: (H, W).
    """
    facts: Facts = {}
    lengths: dict[str, Fact] = {}
    for path, value, unit in items:
        name, place = path.rsplit("/", 1)[-1].lower(), f"{where}, {path}"
        parent = path.rsplit("/", 2)[-2].lower() if path.count("/") > 1 else ""
        try:
            numbers = np.asarray(value, dtype=float)
        except (TypeError, ValueError):
            continue
        if name in WAVELENGTH_NAMES or (
            name in ENERGY_NAMES and (name != "energy" or parent.startswith(BEAMS))
        ):
            if "wavelength_nm" not in facts and (fact := _wavelength(name, numbers, unit, place, frames)):
                facts["wavelength_nm"] = fact
            continue
        usable = numbers[np.isfinite(numbers)]
        if not usable.size:
            continue
        if name in ("distance", "detector_distance") and parent.startswith(("detector", "instrument")):
            if (usable > 0).all():
                lengths.setdefault("distance_mm", Fact(_length(usable, unit) / 1e6, place))
        elif name in ("x_pixel_size", "y_pixel_size") and (usable > 0).all():
            lengths.setdefault(name, Fact(_length(usable, unit) / 1e6, place))
        elif name in ("beam_center_x", "beam_center_y"):
            lengths.setdefault(name, Fact((float(np.median(usable)), unit.lower()), place))
        elif name == "image_center" and usable.size in (2, 3):
            facts.setdefault("centre", Fact((float(usable[0]), float(usable[1])), place))
        elif name in ("corner_position", "corner_positions") and usable.size == 3:
            lengths.setdefault("corner", Fact(usable, place))
        elif name == "basis_vectors" and numbers.ndim >= 2 and numbers.shape[-2:] == (2, 3):
            lengths.setdefault("basis", Fact(numbers.reshape(-1, 2, 3), place))
        elif name == "saturation_value" and usable.size == 1 and usable[0] > 0:
            facts.setdefault("saturation", Fact(float(usable[0]), place))
    return facts | _geometry(lengths, facts, shape)


SYMBOLS = {"j": "J", "ev": "eV", "kev": "keV", "a": "angstrom"}
WAVELENGTH_NAMES = (
    "wavelength",
    "incident_wavelength",
    "photon_wavelength_a",
    "wavelength_nm",
    "beam_wavelength",
)
ENERGY_NAMES = ("energy", "incident_energy", "photon_energy", "photon_energy_ev", "incident_photon_energy")
BEAMS = ("source", "beam", "monochromator", "photon")


def _length(values: np.ndarray, unit: str) -> float:
    """The median of lengths in nm; in metres where no unit is stated."""
    return float(np.median(values)) * UNITS.get(unit.lower(), 1e9)


def _wavelength(name: str, numbers: np.ndarray, unit: str, place: str, frames: int) -> Fact | None:
    """The wavelength in nm that numbers state, one or one for each frame; None if they state none."""
    values = np.atleast_1d(numbers.squeeze()).astype(float)
    unit, energy = unit.lower(), name in ENERGY_NAMES
    by_name = {"photon_wavelength_a": "a", "wavelength_nm": "nm", "photon_energy_ev": "ev"}
    unit = by_name.get(name, unit)
    good = np.isfinite(values) & (values > 0)
    if values.ndim != 1 or not good.any():
        return None
    middle = float(np.median(values[good]))
    known = ENERGIES if energy else UNITS
    guessed = ""
    if unit not in known:
        # CXI is in SI units, where a photon of 1 keV has 1.6e-16 J and waves of 13.5 nm have 1.35e-8 m.
        if middle < (1e-12 if energy else 1e-6):
            unit = "j" if energy else "m"
        elif energy and 1 <= middle <= 1e5:
            unit, guessed = "ev", ", no unit stated, taken as eV"
        else:
            stated = f"in {unit!r}" if unit else "without a unit"
            return Fact(None, place, problem=f"states {middle:g} {stated}")
    in_nm = (
        np.where(good, PLANCK_EV_NM / np.where(good, values * known[unit], 1), np.nan)
        if energy
        else values * known[unit]
    )
    in_nm = np.where(good, in_nm, np.nan)
    wavelength = float(np.nanmedian(in_nm))
    if not WAVELENGTHS_NM[0] <= wavelength <= WAVELENGTHS_NM[1]:
        return Fact(None, place, problem=f"states {middle:g} {unit}, which is no wavelength of light")
    text = f"{place} ({middle:.6g} {SYMBOLS.get(unit, unit)}{guessed})"
    if len(in_nm) == frames > 1 and not np.allclose(in_nm, wavelength, rtol=1e-6, equal_nan=False):
        return Fact(wavelength, text, np.where(good, in_nm, wavelength))
    return Fact(wavelength, text)


def _geometry(lengths: dict[str, Fact], facts: Facts, shape: tuple[int, ...]) -> Facts:
    """The flat detector and its axes from lengths in the places of CXI and NeXus."""
    found: Facts = {}
    if "distance_mm" in lengths:
        found["distance_mm"] = lengths["distance_mm"]
    sizes = [lengths[name] for name in ("x_pixel_size", "y_pixel_size") if name in lengths]
    if sizes:
        if len(sizes) == 2 and not same("pixel_mm", sizes[0].value, sizes[1].value):
            problem = f"states pixels of {sizes[0].value:g} x {sizes[1].value:g} mm, which are not square"
            found["pixel_mm"] = Fact(None, sizes[0].origin, problem=problem)
        else:
            found["pixel_mm"] = sizes[0]
    pixel = found["pixel_mm"].value if "pixel_mm" in found else None
    if "centre" not in facts and {"beam_center_x", "beam_center_y"} <= lengths.keys():
        parts = [lengths[name] for name in ("beam_center_x", "beam_center_y")]
        centre = []
        for value, unit in (part.value for part in parts):
            if unit in UNITS and pixel:  # a length from the corner of the first pixel
                value = value * UNITS[unit] / 1e6 / pixel - 0.5
            centre.append(value)
        found["centre"] = Fact((centre[0], centre[1]), parts[0].origin)
    if "basis" in lengths:
        basis = lengths["basis"].value
        if len(basis) == 1 or (len(basis) > 4 and np.allclose(basis, basis[:1])):
            found |= _axes(basis[0], lengths, pixel, facts)
    return found


def _axes(basis: np.ndarray, lengths: dict[str, Fact], pixel: float | None, facts: Facts) -> Facts:
    """Which way rows and columns run, and where the beam is, by CXI's basis vectors and corner.

    Looking along the beam, CXI's x points to the left and its y up; ours to the right and down.
    """
    origin, found = lengths["basis"].origin, {}
    slow, fast = -basis[0], -basis[1]
    size = np.linalg.norm(basis, axis=1)
    if not (size > 0).all():
        return {}
    along = [int(np.argmax(np.abs(vector))) for vector in (slow, fast)]
    if sorted(along) != [0, 1] or any(
        abs(vector[axis]) < 0.999 * length
        for vector, axis, length in zip((slow, fast), along, size, strict=True)
    ):
        return {
            "flip": Fact(
                None, origin, problem="states a detector that is turned or tilted, which is not supported"
            )
        }
    if along == [0, 1]:  # rows run along x
        found["transpose"] = Fact(True, origin)
    signs = {axis: vector[axis] > 0 for vector, axis in zip((slow, fast), along, strict=True)}
    if flip := "".join(letter for axis, letter in enumerate("xy") if not signs[axis]):
        found["flip"] = Fact(flip, origin)
    if "corner" in lengths and "centre" not in facts:
        corner = -lengths["corner"].value
        # corner + column * fast + row * slow = 0 in the plane, counted from the first pixel's corner.
        row, column = np.linalg.solve(np.stack((slow[:2], fast[:2]), 1), -corner[:2])
        found["centre"] = Fact((float(column) - 0.5, float(row) - 0.5), lengths["corner"].origin)
    return found


def header_facts(header: Mapping[str, Any], origin: str) -> Facts:
    """What the header of an EDF, CBF or MarCCD file states, as fabio gives it."""
    text = {str(name).lower(): str(value) for name, value in header.items()}
    lines = "\n".join(f"{name} {value}" for name, value in text.items())
    facts: Facts = {}

    def read(name: str, patterns: tuple[str, ...], convert: Callable[[float], float]) -> None:
        for pattern in patterns:
            if (match := re.search(pattern, lines, re.IGNORECASE | re.MULTILINE)) and float(match[1]) > 0:
                facts.setdefault(name, Fact(convert(float(match[1])), origin))

    number, end = r"[ =:]*([0-9.eE+-]+)", r" *m?$"
    # EDF is in metres; CBF states its units.
    read(
        "wavelength_nm",
        (rf"^wavelength{number}{end}", rf"# wavelength{number} *m"),
        lambda metres: metres * 1e9,
    )
    read("wavelength_nm", (rf"# wavelength{number} *A",), lambda angstrom: angstrom / 10)
    read(
        "distance_mm",
        (rf"^sampledistance{number}{end}", rf"# detector_distance{number} *m"),
        lambda metres: metres * 1e3,
    )
    read("pixel_mm", (rf"^psize_1{number}{end}", rf"# pixel_size{number} *m"), lambda metres: metres * 1e3)
    if match := re.search(r"# beam_xy *\(? *([0-9.]+) *, *([0-9.]+)", lines, re.IGNORECASE):
        facts["centre"] = Fact((float(match[1]), float(match[2])), origin)
    elif "center_1" in text and "center_2" in text:
        facts["centre"] = Fact((float(text["center_1"]), float(text["center_2"])), origin)
    wavelength = facts.get("wavelength_nm")
    if wavelength and not WAVELENGTHS_NM[0] <= wavelength.value <= WAVELENGTHS_NM[1]:
        facts["wavelength_nm"] = Fact(
            None, origin, problem=f"states {wavelength.value:g} nm, which is no wavelength of light"
        )
    return facts
