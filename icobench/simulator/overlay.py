"""The overlay of a convex body's projected entrance and exit facets, as segments.

Seen along the beam, the body is a silhouette cut into pieces by the projections of its edges.
On each piece a ray enters through one facet and leaves through another, so the field is a sum
over the borders between pieces. Three kinds of segment make up these borders:

- `outer`: silhouette edges, and exit edges cut where the ray's entrance facet changes;
- `inner`: entrance edges cut where the ray's exit facet changes;
- `front`: entrance edges, whole.

The cutting is done in two steps. :func:`plan` decides which segments exist (integers, no derivative);
:func:`segments` computes their geometry from radius and rotation by smooth formulas, so that it
can be differentiated, also inside ``torch.func`` transforms.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from icobench.geometry.convex import ConvexBody

__all__ = ["BodyTensors", "Plan", "Segments", "body_tensors", "plan", "segments"]

TILT_RAD = 1e-9
"""Every body is turned by this angle about a generic axis: projected edges that coincide exactly
(symmetric orientations) are then told apart far above round-off and far below the float32 tolerance."""

SHORTEST = 1e-7
"""Pieces of an edge shorter than this fraction of it are dropped."""


class BodyTensors(NamedTuple):
    """A :class:`ConvexBody` as float64 tensors on one device."""

    normals: Tensor
    offsets: Tensor
    vertices: Tensor
    edges: Tensor
    edge_facets: Tensor


def body_tensors(body: ConvexBody) -> BodyTensors:
    """Convert a body, tilted by :data:`TILT_RAD`."""
    axis = torch.tensor((0.61, -0.53, 0.59), dtype=torch.float64) * TILT_RAD
    tilt = torch.eye(3, dtype=torch.float64) + torch.tensor(
        ((0.0, -axis[2], axis[1]), (axis[2], 0.0, -axis[0]), (-axis[1], axis[0], 0.0)),
        dtype=torch.float64,
    )
    return BodyTensors(
        torch.as_tensor(body.normals) @ tilt.T,
        torch.as_tensor(body.offsets),
        torch.as_tensor(body.vertices) @ tilt.T,
        torch.as_tensor(body.edges),
        torch.as_tensor(body.edge_facets),
    )


class Plan(NamedTuple):
    """Which segments a batch of orientations has; all indices, padded with ``live`` False.

    For each kind: ``edge`` (B, S) edge index, ``facet`` (B, S) the facet on the other side of the
    body (for silhouette edges unused), ``low`` and ``high`` (B, S) the facets whose change cuts
    the segment's start and end, -1 where the edge's own end does.
    """

    outer: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
    inner: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
    front: tuple[Tensor, Tensor]


class Segments(NamedTuple):
    """Geometry of the segments of one kind, float64, lengths in units of nm.

    Attributes:
        start, stop: (B, S, 2) the projected end points.
        entrance: (B, S, 2) z where the ray enters, at start and stop.
        exit: (B, S, 2) z where the ray leaves, at start and stop.
        slope_in: (B, S, 2, 2) gradient of the entrance plane on the left and right side.
        slope_out: (B, S, 2, 2) gradient of the exit plane on the left and right side.
        sign: (B, S) +1 or -1, 0 for padding.
    """

    start: Tensor
    stop: Tensor
    entrance: Tensor
    exit: Tensor
    slope_in: Tensor
    slope_out: Tensor
    sign: Tensor


def _planes(body: BodyTensors, rotation: Tensor) -> tuple[Tensor, Tensor]:
    """Rotated facet normals (B, F, 3) and vertices (B, V, 3), circumradius 1."""
    return body.normals @ rotation.mT, body.vertices @ rotation.mT


def _height(normals: Tensor, offsets: Tensor, points: Tensor) -> Tensor:
    """z of the plane ``normals . r = offsets`` above the points' (x, y)."""
    across = (normals[..., :2] * points[..., :2]).sum(-1)
    return (offsets - across) / normals[..., 2]


@torch.no_grad()
def plan(body: BodyTensors, rotation: Tensor) -> Plan:
    """Find the segments of every orientation.

    Along a projected edge, the facets of the other side compete: the ray leaves through the lowest
    exit facet and has entered through the highest entrance facet. Where one facet wins is
    an interval, since the planes' heights are linear along the edge.

    Args:
        body: constants, from :func:`body_tensors`.
        rotation: (B, 3, 3) float64.
    """
    normals, vertices = _planes(body, rotation)
    is_exit = normals[..., 2] > 0
    first_exit, second_exit = is_exit[:, body.edge_facets].unbind(-1)
    exit_edge, entrance_edge = first_exit & second_exit, ~(first_exit | second_exit)

    # The facets that compete above an edge: the other side's, (B, E, K).
    most = max(int(is_exit.sum(1).max()), int((~is_exit).sum(1).max()))
    exits, exits_live = _compact(is_exit, most)
    entrances, entrances_live = _compact(~is_exit, most)
    upper = exit_edge.unsqueeze(-1)
    rivals = torch.where(upper, entrances.unsqueeze(1), exits.unsqueeze(1))
    competes = torch.where(upper, entrances_live.unsqueeze(1), exits_live.unsqueeze(1))
    competes = competes & (exit_edge | entrance_edge).unsqueeze(-1)

    # Heights of their planes over both ends (B, E, 2, K); signed so that the lowest wins.
    points = vertices[:, body.edges].unsqueeze(-2)
    below = _height(_rows(normals, exits)[:, None, None], body.offsets[exits][:, None, None], points)
    above = _height(_rows(normals, entrances)[:, None, None], body.offsets[entrances][:, None, None], points)
    ends = torch.where(upper.unsqueeze(-1), -above, below)
    # A facet that does not compete is lifted out of everybody's way.
    at_start, at_stop = torch.where(competes.unsqueeze(2), ends, 1e12).unbind(2)
    excess_start = at_start.unsqueeze(-1) - at_start.unsqueeze(-2)
    excess_stop = at_stop.unsqueeze(-1) - at_stop.unsqueeze(-2)
    cut = excess_start / (excess_start - excess_stop)
    above_start, above_stop = excess_start > 0, excess_stop > 0
    low, low_rival = torch.where(above_start, cut, 0.0).max(-1)
    high, high_rival = torch.where(above_stop, cut, 1.0).min(-1)
    beaten = (above_start & above_stop).any(-1)
    wins = competes & ~beaten & (high - low > SHORTEST)
    low_facet = torch.where(low > 0, rivals.gather(2, low_rival), -1)
    high_facet = torch.where(high < 1, rivals.gather(2, high_rival), -1)

    pieces = wins & upper
    pieces[..., 0] |= first_exit ^ second_exit
    tables = (rivals, low_facet, high_facet)
    return Plan(
        _pieces(pieces, tables),
        _pieces(wins & entrance_edge.unsqueeze(-1), tables),
        _compact(entrance_edge),
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


def _pieces(
    exists: Tensor, tables: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Existing pieces of (B, E, K): edge, facet, low, high, live, each (B, S)."""
    index, live = _compact(exists.flatten(1))
    facet, low, high = (table.flatten(1).gather(1, index) for table in tables)
    edge = index // exists.shape[-1]
    return edge, facet, torch.where(live, low, -1), torch.where(live, high, -1), live


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """``table[b, index[b, s]]`` for table (B, N, C): (B, S, C)."""
    batch = torch.arange(len(index), device=index.device).unsqueeze(1)
    return table[batch, index]


def segments(
    body: BodyTensors, rotation: Tensor, where: Plan, steepest: float
) -> tuple[Segments, Segments, Segments]:
    """Geometry of the planned segments for circumradius 1: outer, inner, front.

    Args:
        body: constants.
        rotation: (B, 3, 3) float64.
        where: from :func:`plan` at the same rotation.
        steepest: bound on the slopes of nearly vertical facets.
    """
    normals, vertices = _planes(body, rotation)
    slopes = -normals[..., :2] / normals[..., 2:]
    slopes = slopes * (steepest / slopes.norm(dim=-1, keepdim=True).clamp_min(steepest))
    is_exit = normals[..., 2] > 0

    def edge(index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ends, sides = body.edges[index], body.edge_facets[index]
        return (
            _rows(vertices, ends[..., 0]),
            _rows(vertices, ends[..., 1]),
            sides[..., 0],
            sides[..., 1],
        )

    def height(facet: Tensor, point: Tensor) -> Tensor:
        return _height(_rows(normals, facet), body.offsets[facet], point)

    def cut(facet: Tensor, rival: Tensor, start: Tensor, stop: Tensor, end: float) -> Tensor:
        at_start = height(facet, start) - height(rival.clamp_min(0), start)
        at_stop = height(facet, stop) - height(rival.clamp_min(0), stop)
        free = rival < 0
        span = torch.where(free, torch.ones_like(at_start), at_start - at_stop)
        return torch.where(free, torch.full_like(at_start, end), at_start / span)

    def pieces(kind: tuple) -> tuple[Tensor, ...]:
        index, facet, low, high, live = kind
        start, stop, first, second = edge(index)
        t_low = cut(facet, low, start, stop, 0.0)
        t_high = cut(facet, high, start, stop, 1.0)
        z_start, z_stop = height(facet, start), height(facet, stop)
        times = torch.stack((t_low, t_high), -1)
        other = z_start.unsqueeze(-1) + times * (z_stop - z_start).unsqueeze(-1)
        points = start.unsqueeze(-2) + times.unsqueeze(-1) * (stop - start).unsqueeze(-2)
        # Padding names any facet, whose plane may lie far away; give it no depth.
        other = torch.where(live.unsqueeze(-1), other, points[..., 2])
        own = torch.stack((_rows(slopes, first), _rows(slopes, second)), -2)
        across = _rows(slopes, facet).unsqueeze(-2).expand_as(own)
        return points, other, own, across, first, second, live

    points, other, own, across, first, second, live = pieces(where.outer)
    first_exit = _rows(is_exit.unsqueeze(-1), first)
    second_exit = _rows(is_exit.unsqueeze(-1), second)
    border = first_exit ^ second_exit
    # A silhouette edge has its entrance facet's plane on both sides of the front sum, and
    # its exit facet's plane in the back sum: written as (entrance, exit) slopes out.
    entrance_slope = torch.where(first_exit, own[..., 1, :], own[..., 0, :])
    exit_slope = torch.where(first_exit, own[..., 0, :], own[..., 1, :])
    both = torch.stack((entrance_slope, exit_slope), -2)
    z_own = points[..., 2]
    outer = Segments(
        points[..., 0, :2],
        points[..., 1, :2],
        torch.where(border, z_own, other),
        z_own,
        torch.where(border.unsqueeze(-1), entrance_slope.unsqueeze(-2).expand_as(both), across),
        torch.where(border.unsqueeze(-1), both, own),
        torch.where(border[..., 0] & first_exit[..., 0], 1.0, -1.0) * live,
    )
    points, other, own, across, _, _, live = pieces(where.inner)
    inner = Segments(
        points[..., 0, :2], points[..., 1, :2], points[..., 2], other, own, across, live.double()
    )
    index, live = where.front
    start, stop, first, second = edge(index)
    own = torch.stack((_rows(slopes, first), _rows(slopes, second)), -2)
    z_own = torch.stack((start[..., 2], stop[..., 2]), -1)
    front = Segments(start[..., :2], stop[..., :2], z_own, z_own, own, own, -live.double())
    return outer, inner, front
