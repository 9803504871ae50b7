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
        state.evaluations.index_add_(0, rows, rows.new_ones(1).expand(len(rows)))
        return self.function(rows, points).nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)

    def _active(self, state: Simplices) -> Tensor:
        """Rows of the simplices that have not met their tolerance."""
        if self.xatol > 0 or self.fatol > 0:
            extent = (state.points[:, 1:] - state.points[:, :1]).abs().amax((1, 2))
            spread = (state.values[:, 1:] - state.values[:, :1]).abs().amax(1)
            state.active &= ~((extent <= self.xatol) & (spread <= self.fatol))
            return state.active.nonzero()[:, 0]
        return torch.arange(len(state.points), device=state.points.device)

    def step(self, state: Simplices) -> bool:
        """One iteration of every active simplex, in place; False where there is none.

        The processor waits for a GPU three times: for how many go on, how many try a second point, and how
        many shrink.
        """
        rows = self._active(state)
        if not len(rows):
            return False
        old, old_values = state.points[rows], state.values[rows]
        best, worst = old_values[:, 0], old_values[:, -1]
        centre, corner = old[:, :-1].mean(1), old[:, -1]
        new = (2 * centre - corner).clamp(self.lower, self.upper)
        new_value = self._evaluate(state, rows, new)

        # A second point for those that expand, contract outside or contract inside.
        expand, contract = new_value < best, new_value >= old_values[:, -2]
        inside = new_value >= worst
        factor = torch.where(expand, EXPAND, torch.where(inside, CONTRACT_INSIDE, CONTRACT_OUTSIDE))[:, None]
        trial = ((1 + factor) * centre - factor * corner).clamp(self.lower, self.upper)
        tried = (expand | contract).nonzero()[:, 0]
        value = torch.full_like(new_value, torch.inf)
        value = value.index_copy(0, tried, self._evaluate(state, rows[tried], trial[tried]))
        bound = torch.minimum(new_value, worst)
        # SciPy: an expansion and an inside contraction must be better, an outside one not worse.
        accepted = (value < bound) | (contract & ~inside & (value == bound))
        points = torch.cat((old[:, :-1], torch.where(accepted[:, None], trial, new).unsqueeze(1)), 1)
        values = torch.cat((old_values[:, :-1], torch.where(accepted, value, new_value).unsqueeze(1)), 1)

        shrink = (contract & ~accepted).nonzero()[:, 0]
        if len(shrink):
            first = old[shrink, :1]
            shrunk = (first + SHRINK * (old[shrink, 1:] - first)).clamp(self.lower, self.upper)
            corners = shrunk.shape[1]
            among = rows[shrink, None].expand(-1, corners).flatten()
            again = self._evaluate(state, among, shrunk.flatten(0, 1))
            points[shrink] = torch.cat((first, shrunk), 1)
            values[shrink, 1:] = again.unflatten(0, (-1, corners))
        state.points[rows], state.values[rows] = self._sort(points, values)
        return True
