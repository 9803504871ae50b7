"""Nelder-Mead, many simplices at once.

The steps are those of SciPy's ``Nelder-Mead`` (Lagarias et al., SIAM J. Optim. 9, 112, 1998): reflect,
expand, contract outside or inside, shrink. All reflections of an iteration are evaluated as one batch, then
the simplices that expand or contract as another, then the few that shrink.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

__all__ = ["NelderMead", "Simplices"]

EXPAND, CONTRACT_OUTSIDE, CONTRACT_INSIDE = 2.0, 0.5, -0.5
"""Trial points along the line from the worst corner through the centre of the others, where the worst corner
lies at -1 and its reflection at 1."""

SHRINK = 0.5
UNBOUNDED = torch.tensor(math.inf)


@dataclass
class Simplices:
    """State of S simplices in D dimensions, vertices sorted best first.

    Attributes:
        points: (S, D + 1, D).
        values: (S, D + 1), ascending.
        evaluations: (S,) function values.
        active: (S,) False once a simplex has met its tolerance.
    """

    points: Tensor
    values: Tensor
    evaluations: Tensor
    active: Tensor

    def take(self, rows: Tensor) -> "Simplices":
        """The simplices with these indices."""
        return Simplices(*(getattr(self, field.name)[rows] for field in fields(self)))


class NelderMead:
    """Minimise a batched function from given initial simplices.

    Args:
        function: maps rows (K,) and points (K, D) to values (K,); row s belongs to simplex s.
        lower, upper: bounds (D,). Points are clipped into them, as in SciPy.
        xatol, fatol: a simplex stops when both its extent and its spread of values fall below.

    A value that is not a number counts as infinite.
    """

    def __init__(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        lower: Tensor = -UNBOUNDED,
        upper: Tensor = UNBOUNDED,
        xatol: float = 0.0,
        fatol: float = 0.0,
    ) -> None:
        self.function = function
        self.lower, self.upper = lower, upper
        self.xatol, self.fatol = xatol, fatol

    @staticmethod
    def _sort(points: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        order = values.argsort(dim=1, stable=True)
        return torch.take_along_dim(points, order.unsqueeze(-1), 1), values.gather(1, order)

    def start(self, points: Tensor) -> Simplices:
        """Evaluate the initial simplices, (S, D + 1, D)."""
        # As SciPy does: corners beyond the upper bound are mirrored into the interior first.
        points = torch.where(points > self.upper, 2 * self.upper - points, points)
        points = points.clamp(self.lower, self.upper)
        rows = torch.arange(len(points), device=points.device)
        no_values = torch.full_like(points[..., 0], torch.inf)
        state = Simplices(points, no_values, torch.zeros_like(rows), torch.ones_like(rows).bool())
        values = self._evaluate(state, rows.repeat_interleave(points.shape[1]), points.flatten(0, 1))
        state.points, state.values = self._sort(points, values.unflatten(0, points.shape[:2]))
        return state

    def _evaluate(self, state: Simplices, rows: Tensor, points: Tensor) -> Tensor:
        if not len(rows):
            return points.new_zeros(0)
        state.evaluations.index_add_(0, rows, torch.ones_like(rows))
        return self.function(rows, points).nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)

    def step(self, state: Simplices) -> Simplices:
        """One iteration of every active simplex, in place."""
        extent = (state.points[:, 1:] - state.points[:, :1]).abs().amax((1, 2))
        spread = (state.values[:, 1:] - state.values[:, :1]).abs().amax(1)
        state.active &= ~((extent <= self.xatol) & (spread <= self.fatol))
        rows = state.active.nonzero()[:, 0]
        if not len(rows):
            return state
        points, values = state.points[rows], state.values[rows]
        centre = points[:, :-1].mean(1)
        worst = points[:, -1]

        def along(factor: float, which: Tensor) -> Tensor:
            return ((1 + factor) * centre[which] - factor * worst[which]).clamp(self.lower, self.upper)

        new = along(1.0, torch.arange(len(rows), device=rows.device))
        new_value = self._evaluate(state, rows, new)
        reflected = new_value.clone()

        expand = (reflected < values[:, 0]).nonzero()[:, 0]
        contract = reflected >= values[:, -2]
        outside = (contract & (reflected < values[:, -1])).nonzero()[:, 0]
        inside = (contract & (reflected >= values[:, -1])).nonzero()[:, 0]
        tried = torch.cat((expand, outside, inside))
        trial = torch.cat(
            (along(EXPAND, expand), along(CONTRACT_OUTSIDE, outside), along(CONTRACT_INSIDE, inside))
        )
        value = self._evaluate(state, rows[tried], trial)
        bound = torch.cat((reflected[expand], reflected[outside], values[inside, -1]))
        # SciPy: an expansion and an inside contraction must be better, an outside one not worse.
        ties = torch.zeros_like(tried, dtype=torch.bool)
        ties[len(expand) : len(expand) + len(outside)] = True
        accepted = (value < bound) | (ties & (value == bound))
        new[tried[accepted]] = trial[accepted]
        new_value[tried[accepted]] = value[accepted]
        failed = torch.zeros_like(contract)
        failed[tried[~accepted]] = True

        points = torch.cat((points[:, :-1], new.unsqueeze(1)), 1)
        values = torch.cat((values[:, :-1], new_value.unsqueeze(1)), 1)
        shrink = (failed & contract).nonzero()[:, 0]
        if len(shrink):
            old = state.points[rows[shrink]]
            shrunk = (old[:, :1] + SHRINK * (old[:, 1:] - old[:, :1])).clamp(self.lower, self.upper)
            corners = shrunk.shape[1]
            again = self._evaluate(state, rows[shrink].repeat_interleave(corners), shrunk.flatten(0, 1))
            points[shrink] = torch.cat((old[:, :1], shrunk), 1)
            values[shrink, 1:] = again.unflatten(0, (-1, corners))
        state.points[rows], state.values[rows] = self._sort(points, values)
        return state
