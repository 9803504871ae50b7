"""Refractive indices of materials from tabulated scattering factors."""

import cmath

from icobench.errors import InputError

__all__ = ["refractive_index"]


def refractive_index(material: str, wavelength_nm: float = 13.5, density: float | None = None) -> complex:
    """Complex refractive index n of a material, with Im n > 0 for absorption.

    From the scattering factors of Henke, Gullikson and Davis, At. Data Nucl. Data Tables 54, 181 (1993), as
    the package ``periodictable`` holds them.

    Args:
        material: an element or a compound, such as "Ag", or with its density "SiO2@2.2".
        wavelength_nm: vacuum wavelength.
        density: in g/cm^3; by default that of the element, or that behind the @.

    Raises:
        InputError: an unknown material, no density, or a wavelength that the tables do not have.

    Example:
        >>> refractive_index("Ag")
        (0.8903+0.0794j)
    """
    from periodictable import formula, xsf

    try:
        compound = formula(material, density=density)
    except Exception as error:  # its parser has kinds of its own
        raise InputError(f"--material {material}: no element or compound ({error})") from error
    if not compound.atoms or compound.density is None:
        raise InputError(f"--material {material}: give its density in g/cm^3, as in SiO2@2.2")
    # Its tables are in Angstrom, and its absorption has the other sign.
    index = complex(xsf.index_of_refraction(compound, wavelength=10 * wavelength_nm)).conjugate()
    if not cmath.isfinite(index) or index.imag <= 0:
        raise InputError(f"--material {material}: no scattering factors at {wavelength_nm:g} nm")
    return complex(round(index.real, 4), round(index.imag, 4))
