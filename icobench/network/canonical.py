"""The grid on which networks learn: any detector is brought to it (:mod:`icobench.network.inputs`)."""

from icobench.errors import InputError
from icobench.network.inputs import CANONICAL_PIXELS
from icobench.simulator.experiment import Experiment

__all__ = ["require_canonical"]


def require_canonical(experiment: Experiment, where: str = "") -> None:
    """See that training can use an experiment; its wavelength and material do not matter.

    Args:
        experiment: physics and grid.
        where: in front of the message, such as a file's name and a colon.

    Raises:
        InputError: its pixels are not those of the canonical grid; the message says in what.
    """
    found = []
    if not experiment.orthographic:
        found.append("a flat detector")
    if experiment.pixels != CANONICAL_PIXELS:
        found.append(f"{experiment.pixels} x {experiment.pixels} pixels")
    if experiment.sin_theta_max != 1:
        found.append(f"sin_theta_max {experiment.sin_theta_max:g}")
    if experiment.centre_offset != (0.0, 0.0):
        found.append("an off-centre beam")
    if experiment.solid_angle_factor:
        found.append("a solid-angle factor")
    if found:
        raise InputError(
            f"{where}training needs {CANONICAL_PIXELS} x {CANONICAL_PIXELS} pixels over the whole forward"
            f" half space, not {', '.join(found)}; other detectors' images are brought to this grid"
        )
