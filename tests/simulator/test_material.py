"""Refractive indices from tabulated scattering factors."""

import pytest

from icobench.errors import InputError
from icobench.simulator.material import refractive_index


def test_silver_and_gold_at_13_5_nm():
    """The brief's n = 0.8903 + 0.0794j; gold of the Center for X-Ray Optics: delta 0.1011, beta 0.0517."""
    assert refractive_index("Ag") == pytest.approx(0.8903 + 0.0794j, abs=1e-4)
    assert refractive_index("Au") == pytest.approx(1 - 0.1011 + 0.0517j, abs=3e-4)


def test_compounds_need_a_density():
    assert refractive_index("SiO2@2.2") == refractive_index("SiO2", density=2.2)
    with pytest.raises(InputError, match="density"):
        refractive_index("SiO2")


@pytest.mark.parametrize(
    ("material", "wavelength_nm", "words"),
    [("Xx", 13.5, "no element"), ("", 13.5, "density"), ("Ag", 1e6, "no scattering factors")],
)
def test_unknown_materials_are_refused(material, wavelength_nm, words):
    with pytest.raises(InputError, match=words):
        refractive_index(material, wavelength_nm)
