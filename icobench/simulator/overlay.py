"""The overlay of a convex body's projected entrance and exit facets, as segments.

Seen along the beam, the body is a silhouette cut into pieces by the projections of its edges.
On each piece a ray enters through one facet and leaves through another, so the field is a sum
over the borders between pieces. Four kinds of segment make up these borders:

- *silhouette* edges, between an entrance and an exit facet, uncut;
- *exit* edges, cut where the ray's entrance facet changes;
- *inner*: entrance edges, cut where the ray's exit facet changes;
- *front*: entrance edges, uncut.

The cutting is done in two steps. :func:`plan` decides which segments exist (integers, no derivative);
:func:`segments` computes their geometry from the rotation by smooth formulas, so that it
can be differentiated, also inside ``torch.func`` transforms.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from icobench.geometry.convex import ConvexBody

__all__ = [
    "MOST_FACETS", "STEEPEST", "BodyTensors", "Plan", "Segments", "body_tensors", "empty_plan", "plan",
    "segments",
]  # fmt: skip

TILT_RAD = 2e-12
"""Every body is turned by this angle about a generic axis: projected edges that coincide exactly
(symmetric orientations) are then told apart above round-off and far below the float64 tolerance."""

SHORTEST = 1e-10
"""Pieces of an edge shorter than this fraction of it are dropped."""

STEEPEST = {torch.float32: 1e8, torch.float64: 1e12}
"""Bound on the slopes of nearly vertical facets: products of four of them stay in the type's range."""

MOST_FACETS = 128
"""Of a body that overlay.cpp plans."""

PAIRS_AT_ONCE = 1 << 22
"""Edges times pairs of facets that compete along them, for the bodies planned at once."""

UPRIGHT = 1e-11
"""A facet whose normal has a smaller z component is taken as vertical: no ray enters or leaves through it."""


class BodyTensors(NamedTuple):
    """A :class:`ConvexBody` as float64 tensors on one device."""

    normals: Tensor
    offsets: Tensor
    vertices: Tensor
    edges: Tensor
    edge_facets: Tensor
    between: Tensor
    """(F, F) the edge between two facets, -1 where they are no neighbours."""
    touches: Tensor
    """(V, F) whether the vertex lies on the facet."""


def body_tensors(body: ConvexBody) -> BodyTensors:
    """Convert a body, tilted by :data:`TILT_RAD`."""
    x, y, z = 0.61 * TILT_RAD, -0.53 * TILT_RAD, 0.59 * TILT_RAD
    tilt = torch.tensor(((1.0, -z, y), (z, 1.0, -x), (-y, x, 1.0)), dtype=torch.float64)
    between = torch.full((len(body.normals),) * 2, -1)
    first, second = torch.as_tensor(body.edge_facets).unbind(-1)
    between[first, second] = between[second, first] = torch.arange(len(first))
    tables = BodyTensors(
        torch.as_tensor(body.normals) @ tilt.T,
        torch.as_tensor(body.offsets),
        torch.as_tensor(body.vertices) @ tilt.T,
        torch.as_tensor(body.edges),
        torch.as_tensor(body.edge_facets),
        between,
        torch.as_tensor(np.abs(body.vertices @ body.normals.T - body.offsets) < 1e-7),
    )
    return BodyTensors(*(table.contiguous() for table in tables))  # as kernels read them


class Plan(NamedTuple):
    """Which segments a batch of orientations has; indices, padded with ``sign`` 0.

    Attributes:
        edge: (B, S) edge of the body that the segment is a part of.
        sides: (B, S, 4) entrance facet on the left and right, exit facet on the left and right.
        across: (B, S) the facet on the other side of the body.
        uncut: (B, S, 2) whether the segment's start and end are those of the edge.
        carrier, crossed: (B, S, 2) where they are not: the exit edge and the entrance edge that cross there.
            A crossing's position is computed along the carrier for segments of either edge, since nearly
            parallel edges would not meet otherwise.
        pair: (B, S, 2, 2) the facets on either side of the crossed edge.
        on_entrance, on_exit: (B, S) whether the edge belongs to that surface; both do for silhouette
            and, by the front sum's definition, for front segments.
        sign: (B, S) float64 +1 or -1, 0 for padding.
        weight: (B, S, 2) float64; the segment counts in the first and in the second sum
            (:mod:`~icobench.simulator.edge_sum`).
        live: (B,) number of segments before the padding.
    """

    edge: Tensor
    sides: Tensor
    across: Tensor
    uncut: Tensor
    carrier: Tensor
    crossed: Tensor
    pair: Tensor
    on_entrance: Tensor
    on_exit: Tensor
    sign: Tensor
    weight: Tensor
    live: Tensor

    def narrowed(self, width: int) -> "Plan":
        """The first ``width`` columns of all tables."""
        columns = [table[:, :width].contiguous() for table in self[:-1]]
        return Plan._make([*columns, self.live])


def empty_plan(batch: int, width: int, device: torch.device) -> Plan:
    """Tables that are not filled yet, for up to ``width`` segments."""

    def table(kind: torch.dtype, *columns: int) -> Tensor:
        return torch.empty(batch, width, *columns, dtype=kind, device=device)

    number, flag, real = torch.long, torch.bool, torch.float64
    return Plan(
        table(number), table(number, 4), table(number), table(flag, 2), table(number, 2), table(number, 2),
        table(number, 2, 2), table(flag), table(flag), table(real), table(real, 2),
        torch.empty(batch, dtype=number, device=device),
    )  # fmt: skip


class Segments(NamedTuple):
    """Geometry of the segments for circumradius 1, float64.

    Attributes:
        points: (B, S, 2, 2) projected end points, [start or stop, xy].
        entrance, exit: (B, S, 2) z where the ray enters and leaves, at start and stop.
        slopes: (B, S, 4, 2) gradients of the planes of :attr:`Plan.sides`.
    """

    points: Tensor
    entrance: Tensor
    exit: Tensor
    slopes: Tensor


def plan(body: BodyTensors, rotation: Tensor) -> Plan:
    """Find the segments of every orientation (B, 3, 3), float64, in pieces that bound the memory."""
    # Edges times pairs of competing facets, about half of all.
    size = len(body.edges) * len(body.normals) ** 2 // 4
    pieces = [_plan(body, part) for part in rotation.split(max(1, PAIRS_AT_ONCE // size))]
    if len(pieces) == 1:
        return pieces[0]
    longest = max(piece.edge.shape[1] for piece in pieces)
    *tables, live = zip(*pieces, strict=True)
    padded = [torch.cat([_padded(table, longest) for table in column]) for column in tables]
    return Plan._make([*padded, torch.cat(live)])


def _padded(table: Tensor, longest: int) -> Tensor:
    """(B, S, ...) extended to ``longest`` by the values of an uncut edge that does not count."""
    missing = longest - table.shape[1]
    filler = table.new_full((len(table), missing, *table.shape[2:]), table.dtype == torch.bool)
    return torch.cat((table, filler), 1)


@torch.no_grad()
def _plan(body: BodyTensors, rotation: Tensor) -> Plan:
    """Find the segments of some orientations.

    Along a projected edge, the facets of the other side compete: the ray leaves through the lowest
    exit facet and has entered through the highest entrance facet. Where one facet wins is
    an interval, since the planes' heights are linear along the edge.
    """
    normals, vertices = body.normals @ rotation.mT, body.vertices @ rotation.mT
    is_exit = normals[..., 2] > 0
    first_exit, second_exit = is_exit[:, body.edge_facets].unbind(-1)
    exit_edge, entrance_edge = first_exit & second_exit, ~(first_exit | second_exit)

    # The facets that compete above or below an edge: the other side's, (B, E, K).
    covers = normals[..., 2].abs() > UPRIGHT
    both_sides = torch.stack((~is_exit & covers, is_exit & covers), 1).flatten(0, 1)
    most = int(both_sides.sum(1).max())
    facets, live = (table.unflatten(0, (-1, 2)) for table in _compact(both_sides, most))
    planes = torch.cat((-normals[..., :2], body.offsets.expand(len(normals), -1)[..., None]), -1)
    planes = _rows(planes / normals[..., 2:], facets.flatten(1)).unflatten(1, (2, -1))
    # Signed so that the lowest wins; a facet that does not compete is placed far above all others.
    planes = planes * torch.tensor((-1.0, 1.0), dtype=planes.dtype, device=planes.device)[:, None, None]
    planes[..., 2] = torch.where(live, planes[..., 2], 1e12)
    ends = torch.cat((vertices[..., :2], torch.ones_like(vertices[..., :1])), -1)[:, body.edges]
    side = (~exit_edge).long()
    rivals = _rows(facets, side)
    rival_planes = _rows(planes.flatten(2), side).unflatten(2, planes.shape[2:])
    competes = _rows(live, side)
    # A facet through the edge's end is exactly as high there: no round-off may cut near it.
    number = torch.arange(len(body.edges), device=rivals.device)[:, None]
    touches = body.touches[body.edges].mT[number, rivals] & competes.unsqueeze(-1)
    corner = vertices[..., 2][:, body.edges]
    corner = torch.where(exit_edge.unsqueeze(-1), -corner, corner).unsqueeze(-1)
    heights = torch.where(touches.mT, corner, (rival_planes.unsqueeze(2) * ends.unsqueeze(-2)).sum(-1))
    at_start, at_stop = heights.unbind(2)
    excess_start = at_start.unsqueeze(-1) - at_start.unsqueeze(-2)
    excess_stop = at_stop.unsqueeze(-1) - at_stop.unsqueeze(-2)
    cut = excess_start / (excess_start - excess_stop)
    above_start, above_stop = excess_start > 0, excess_stop > 0
    low, low_rival = torch.where(above_start, cut, 0.0).max(-1)
    high, high_rival = torch.where(above_stop, cut, 1.0).min(-1)
    beaten = (above_start & above_stop).any(-1)
    cut_edge = (exit_edge | entrance_edge).unsqueeze(-1)
    wins = cut_edge & competes & ~beaten & (high - low > SHORTEST)
    low_facet = torch.where(low > 0, rivals.gather(2, low_rival), -1)
    high_facet = torch.where(high < 1, rivals.gather(2, high_rival), -1)

    # One column more than rivals: the segments that are uncut edges (silhouette and front).
    exists = torch.cat((wins, ~exit_edge.unsqueeze(-1)), -1)
    index, kept = _compact(exists.flatten(1))
    edge, column = index // exists.shape[-1], index % exists.shape[-1]
    is_edge = column == exists.shape[-1] - 1
    piece = edge * rivals.shape[-1] + column.clamp_max(rivals.shape[-1] - 1)
    across, low_facet, high_facet = (
        table.flatten(1).gather(1, piece) for table in (rivals, low_facet, high_facet)
    )
    rival = torch.stack((low_facet, high_facet), -1)
    uncut = (rival < 0) | (is_edge | ~kept).unsqueeze(-1)
    this_edge, facet = edge.unsqueeze(-1).expand_as(rival), across.unsqueeze(-1).expand_as(rival)
    rival = torch.where(uncut, facet, rival)
    partner = body.between[facet, rival]

    first, second = body.edge_facets[edge].unbind(-1)
    out_edge, in_edge = exit_edge.gather(1, edge), entrance_edge.gather(1, edge)
    silhouette = is_edge & ~in_edge
    # A silhouette edge has its entrance facet's plane on both sides of the front sum, and its exit
    # facet's plane in the back sum.
    first_leaves = first_exit.gather(1, edge)
    entering, leaving = torch.where(first_leaves, second, first), torch.where(first_leaves, first, second)
    piece_out = out_edge & ~is_edge
    in_left = torch.where(silhouette, entering, torch.where(piece_out, across, first))
    in_right = torch.where(silhouette, entering, torch.where(piece_out, across, second))
    piece_in = in_edge & ~is_edge
    out_left = torch.where(silhouette, entering, torch.where(piece_in, across, first))
    out_right = torch.where(silhouette, leaving, torch.where(piece_in, across, second))
    # Two facets that are no neighbours compete over a sliver too thin to matter: cut by their planes.
    inner_cut = piece_in.unsqueeze(-1) & (partner >= 0)
    sign = torch.where((silhouette & first_leaves) | piece_in, 1.0, -1.0) * kept
    weight = torch.stack((~piece_in, ~(piece_out | silhouette)), -1)
    return Plan(
        edge,
        torch.stack((in_left, in_right, out_left, out_right), -1),
        across,
        uncut,
        torch.where(inner_cut, partner, this_edge),
        torch.where(inner_cut | (partner < 0), this_edge, partner),
        torch.where(
            inner_cut.unsqueeze(-1),
            body.edge_facets[edge].unsqueeze(2),
            torch.stack((facet, rival), -1),
        ),
        ~piece_out | ~kept,
        ~piece_in | ~kept,
        sign.double(),
        weight.double(),
        kept.sum(1),
    )


def _compact(exists: Tensor, size: int | None = None) -> tuple[Tensor, Tensor]:
    """Columns where ``exists`` (B, C), moved to the front: index and live, each (B, S)."""
    counts = exists.sum(1)
    slot = exists.cumsum(1) - 1
    row, column = exists.nonzero(as_tuple=True)
    size = max(int(counts.max()), 1) if size is None else size
    index = torch.zeros((len(exists), size), dtype=torch.long, device=exists.device)
    index[row, slot[row, column]] = column
    return index, torch.arange(size, device=exists.device) < counts[:, None]


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """``table[b, index[b, ...]]`` for table (B, N, ...): (B, ..., ...)."""
    start = torch.arange(len(index), device=index.device) * table.shape[1]
    return table.flatten(0, 1)[index + start.view(-1, *(1,) * (index.ndim - 1))]


def _height(planes: Tensor, points: Tensor) -> Tensor:
    """z of planes (..., 4), normal and offset, above the points' (x, y)."""
    return (planes[..., 3] - (planes[..., :2] * points[..., :2]).sum(-1)) / planes[..., 2]


def segments(body: BodyTensors, rotation: Tensor, where: Plan, dtype: torch.dtype) -> Segments:
    """Geometry of the segments that were planned at the same rotation, for circumradius 1, float64.

    The ``dtype`` is that of the sum over the segments to come.
    """
    normals, vertices = body.normals @ rotation.mT, body.vertices @ rotation.mT
    steepest = STEEPEST[dtype]
    slopes = -normals[..., :2] / normals[..., 2:]
    slopes = slopes * (steepest / slopes.norm(dim=-1, keepdim=True).clamp_min(steepest))
    planes = torch.cat((normals, body.offsets.expand(len(normals), -1).unsqueeze(-1)), -1)

    # Where the carrier crosses the other edge: the planes beside that are equally high there.
    start, stop = _rows(vertices, body.edges[where.carrier]).unbind(3)
    plane = _rows(planes, where.pair).unsqueeze(-2)
    heights = _height(plane, torch.stack((start, stop), 3).unsqueeze(3))
    excess = heights[:, :, :, 0] - heights[:, :, :, 1]
    span = torch.where(where.uncut, 1.0, excess[..., 0] - excess[..., 1])
    edge_end = torch.tensor((0.0, 1.0), dtype=span.dtype, device=span.device).expand_as(span)
    along = torch.where(where.uncut, edge_end, excess[..., 0] / span).unsqueeze(-1)
    points = start + along * (stop - start)

    start, stop = _rows(vertices, body.edges[where.crossed]).unbind(3)
    way = stop - start
    square = way[..., :2].square().sum(-1).clamp_min(1e-300)
    share = ((points - start)[..., :2] * way[..., :2]).sum(-1) / square
    meets = where.carrier != where.crossed
    across = _height(_rows(planes, where.across).unsqueeze(2), points)
    below = torch.where(meets, start[..., 2] + share * way[..., 2], across)
    swapped = meets & (where.carrier != where.edge.unsqueeze(-1))
    on_edge = torch.where(swapped, below, points[..., 2])
    opposite = torch.where(swapped, points[..., 2], below)
    return Segments(
        points[..., :2],
        torch.where(where.on_entrance.unsqueeze(-1), on_edge, opposite),
        torch.where(where.on_exit.unsqueeze(-1), on_edge, opposite),
        _rows(slopes, where.sides),
    )
