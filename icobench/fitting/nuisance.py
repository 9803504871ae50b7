"""Nuisance parameters: what shapes an image beside radius and orientation, and is fitted with them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from icobench.answer import Answer
from icobench.errors import InputError
from icobench.images.image_source import DECADES
from icobench.simulator.experiment import Experiment

__all__ = ["DECADES", "NUISANCES", "Nuisance"]

NUISANCES = {
    "background": {"background": (0.0, 10.0, 0.3)},
    "refractive_index": {"index_real": (0.7, 1.1, 0.03), "index_imag": (0.0, 0.3, 0.02)},
    "centre": {"centre_x": (-1.5, 1.5, 0.5), "centre_y": (-1.5, 1.5, 0.5)},
    "shape": {"shape": (0.0, 1.0, 0.1)},
    "gamma": {"gamma": (0.2, 2.0, 0.1)},
    "decades": {"decades": (2.0, 15.0, 0.7)},
}
"""Columns of each, with their smallest and largest value and their longest step in one iteration of a fit: a
constant background, in units of the particle's mean intensity on the usable pixels; the refractive index; by
how many pixels the beam is from where the experiment has it; the parameter of a family of bodies, as a share
of its range (:class:`~icobench.geometry.shapes.Shape`); the exponent of the detector's response; the
decades that a log image spans, which is the same for images that are read as if they had six."""


@lru_cache(maxsize=32)
def _limits(names: tuple[str, ...], device: torch.device) -> Tensor:
    rows = [row for name in names for row in NUISANCES[name].values()]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 3).T.to(device)


@dataclass(frozen=True)
class Nuisance:
    """Nuisance parameters of B images; there may be none.

    Attributes:
        names: of :data:`NUISANCES`, in the order of that table.
        values: (B, P) float64, the columns of all names side by side.
    """

    names: tuple[str, ...]
    values: Tensor

    @classmethod
    def none(cls, count: int) -> "Nuisance":
        """No nuisance parameters for ``count`` images."""
        return cls((), torch.zeros(count, 0, dtype=torch.float64))

    @classmethod
    def start(cls, names: Sequence[str], count: int, experiment: Experiment, kind: str = "") -> "Nuisance":
        """The experiment's values for ``count`` images.

        Raises:
            InputError: an unknown name, or one that images of this kind do not have.
        """
        if unknown := set(names) - set(NUISANCES):
            raise InputError(
                f"unknown nuisance parameter {sorted(unknown)[0]!r}; choose from {', '.join(NUISANCES)}"
            )
        for name, wrong in (("decades", kind != "log"), ("gamma", kind == "log")):
            if kind and name in names and wrong:
                raise InputError(f"{name} cannot be fitted to {kind} images; decades are of log images")
        index = experiment.refractive_index
        begin = {"background": (0.0,), "refractive_index": (index.real, index.imag), "centre": (0.0, 0.0)}
        begin |= {"shape": (0.5,), "gamma": (1.0,), "decades": (DECADES,)}
        ordered = tuple(name for name in NUISANCES if name in names)
        row = [value for name in ordered for value in begin[name]]
        return cls(ordered, torch.tensor(row, dtype=torch.float64).expand(count, -1).clone())

    @classmethod
    def from_answer(cls, answer: Answer) -> "Nuisance":
        """The fitted values of an answer, the opposite of :meth:`to_columns`."""
        names = tuple(name for name in NUISANCES if set(NUISANCES[name]) <= set(answer.nuisance))
        values = [answer.nuisance[column] for name in names for column in NUISANCES[name]]
        return cls(names, torch.stack(values, 1)) if values else cls.none(len(answer))

    def to_columns(self) -> dict[str, Tensor]:
        """The values by column, (B,) each, on the CPU."""
        return dict(zip(self.columns, self.values.cpu().clone().unbind(1), strict=True))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of :attr:`values`."""
        return tuple(column for name in self.names for column in NUISANCES[name])

    def of(self, name: str) -> Tensor | None:
        """(B, 1 or 2) values of one name, None if it is not among the names."""
        if name not in self.names:
            return None
        first = self.columns.index(next(iter(NUISANCES[name])))
        return self.values[:, first : first + len(NUISANCES[name])]

    def with_share(self, share: Tensor) -> "Nuisance":
        """The same with these values (B,) of the shape's parameter, if it is among the names."""
        values = self.values.clone()
        for place in [number for number, column in enumerate(self.columns) if column == "shape"]:
            values[:, place] = share
        return replace(self, values=values)

    def take(self, rows: Tensor | slice) -> "Nuisance":
        """The parameters of the images with these indices."""
        if isinstance(rows, Tensor):
            rows = rows.to(self.values.device)
        return Nuisance(self.names, self.values[rows])

    def to(self, device: torch.device) -> "Nuisance":
        """The same on another device."""
        return replace(self, values=self.values.to(device, non_blocking=True))

    def moved(self, step: Tensor) -> "Nuisance":
        """After a step (B, P), within the bounds."""
        if not self.names:
            return self
        smallest, largest, _ = self.limits
        return Nuisance(self.names, torch.minimum(torch.maximum(self.values + step, smallest), largest))

    @property
    def limits(self) -> Tensor:
        """(3, P) smallest and largest values, and longest steps."""
        return _limits(self.names, self.values.device)

    @property
    def simulated(self) -> tuple[str, ...]:
        """The names that the simulator differentiates by, in its order."""
        return tuple(name for name in self.names if name in ("refractive_index", "centre"))

    @property
    def exponent(self) -> Tensor | None:
        """(B, 1) power to which intensities are raised, None for a linear detector."""
        decades = self.of("decades")
        return self.of("gamma") if decades is None else DECADES / decades

    @property
    def exponent_slope(self) -> Tensor:
        """(B, 1) derivative of the exponent by its parameter."""
        decades = self.of("decades")
        return torch.ones_like(self.values[:, :1]) if decades is None else -DECADES / decades.square()
