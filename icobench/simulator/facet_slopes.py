"""How the field changes when a facet is moved along its normal, in closed form.

A facet that moves outwards by a small step adds a layer of material, where its rays leave or in front of the
rest of their way. With kappa = k (n - 1), w = q_z - kappa and n_z the normal's component along the beam

    dF/do_j = 1 / n_z sum over i of B(i, j)                                        (exit facet j),
    dF/do_i = 1 / |n_z| [(1 + kappa / w) A(i) - kappa / w sum over j of B(i, j)]   (entrance facet i),

where A(i) is the integral of exp(-i (k_x x + k_y y + q_z z_in)) over the projected entrance facet i, and
B(i, j) that of exp(-i (k_x x + k_y y + kappa z_in + w z_out)) over the rays that enter through i and leave
through j.
Both are polygon transforms over the segments of :mod:`~icobench.simulator.edge_sum`; here every side of a
segment counts for its own facets.
"""

import torch
from torch import Tensor

from icobench.geometry.rotations import quaternion_to_matrix, rotation_vector_to_quaternion
from icobench.simulator.overlay import BodyTensors, plan, segments

__all__ = ["facet_slopes"]

TURN_RAD = (0.5e-7, 0.8e-7, 0.3e-7)
"""Bodies are turned by this: a facet exactly along the beam, through which no ray enters, has a derivative as
well, the same on both sides of that orientation."""


@torch.no_grad()
def facet_slopes(
    body: BodyTensors, rotation: Tensor, radius: Tensor, waves: Tensor, kappa: complex, dtype: torch.dtype
) -> Tensor:
    """Derivatives of the field by the distances of the facets, nm^2: (B, F, P), complex.

    Args:
        body: of circumradius 1.
        rotation: (B, 3, 3) float64.
        radius: (B,) in nm.
        waves: (4, P) float64 rows k_x, k_y, q_z and ones, in 1/nm.
        kappa: k (n - 1) in 1/nm.
        dtype: of real and imaginary parts; phases are of float64.
    """
    turn = quaternion_to_matrix(rotation_vector_to_quaternion(rotation.new_tensor(TURN_RAD)))
    rotation = turn @ rotation
    where = plan(body, rotation)
    unit, scale = segments(body, rotation, where, torch.float64), radius[:, None, None]
    points, entrance, leave = unit.points * scale[..., None], unit.entrance * scale, unit.exit * scale
    edge = points[:, :, 1] - points[:, :, 0]
    length = edge.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    normal = torch.stack((edge[..., 1], -edge[..., 0]), -1) / length

    transverse, depth, kind = waves[:2].to(torch.complex128), waves[2] - kappa, dtype.to_complex()

    def forms(place: Tensor, at_entrance: Tensor, at_exit: Tensor) -> Tensor:
        """k_x x + k_y y + kappa z_in + w z_out of (..., 2), (...) and (...): (..., P)."""
        coefficients = torch.cat((place, at_entrance[..., None], at_exit[..., None]), -1)
        return coefficients.to(transverse) @ torch.stack((*transverse, 0 * depth + kappa, depth))

    start, stop = forms(points, entrance, leave).unbind(2)
    half, middle = (-0.5j * (stop - start)).to(kind), (-0.5j * (start + stop)).to(kind)
    ratio = torch.where(half.abs() < 1e-2, 1 + half.square() / 6, torch.sinh(half) / half)
    # The integral of the wave along the segment, and |K|^2 along it.
    length = length.to(dtype)
    wave = 1j * length * torch.exp(middle) * ratio
    square = (2 * half / length).abs().square()
    entering, leaving = where.sides[..., :2], where.sides[..., 2:]
    uncut = where.on_entrance & where.on_exit
    sign = torch.where(uncut, where.sign, -where.sign)
    outline = uncut & (entering[..., 1] != leaving[..., 1])  # both sides are those of the body's inside

    weight = 1 / (body.normals @ rotation.mT)[..., 2].abs()
    share = (kappa / depth if kappa else torch.zeros_like(depth)).to(kind)
    slopes = torch.zeros(*weight.shape, waves.shape[1], dtype=kind, device=waves.device)
    for side in (0, 1):
        gradients = unit.slopes[:, :, side], unit.slopes[:, :, 2 + side]
        across = forms(normal, *((gradient * normal).sum(-1) for gradient in gradients)).to(kind)
        factor = (sign if side == 0 else torch.where(outline, sign, -sign)).to(dtype)[..., None]
        term = across.conj() * (factor / (square + across.abs().square()).clamp_min(1e-30)) * wave
        whole = (entering[..., side] == leaving[..., side])[..., None]

        def of_facets(facet: Tensor, kept: Tensor) -> Tensor:
            chosen = torch.nn.functional.one_hot(facet, weight.shape[1]) * kept
            return (chosen.mT * weight[..., None]).to(term) @ term  # noqa: B023

        slopes += (1 + share) * of_facets(entering[..., side], whole)
        slopes += of_facets(leaving[..., side], ~whole) - share * of_facets(entering[..., side], ~whole)
    return slopes
