"""Exact relabelling: quarter turns and mirrors of the image are turns of the body.

A turn of the image about the beam is the same turn of the body about z. A mirror of the image is a
mirror of the body, which for a centrosymmetric body is a half turn. Pixel (H/2, W/2) is the beam; row
and column 0 have no partner and must hold no signal (they lie outside the forward half space at
``sin_theta_max`` 1) or be masked.
"""

import math

import torch
from torch import Tensor

from icobench.geometry.rotations import quaternion_multiply, rotate_about_beam

__all__ = ["DIHEDRAL", "dihedral_images", "dihedral_orientations"]

DIHEDRAL = 8
"""Four quarter turns, each with and without a mirror."""


def _mirror_rows(images: Tensor) -> Tensor:
    """Change the sign of k_y: row i goes to row -i about the beam's row."""
    return torch.roll(images.flip(-2), 1, -2)


def dihedral_images(images: Tensor, index: int) -> Tensor:
    """Image number ``index`` of the dihedral group: (..., H, W) -> (..., H, W).

    ``index % 4`` quarter turns from x to y, after a mirror k_y -> -k_y where ``index >= 4``.
    """
    if index >= 4:
        images = _mirror_rows(images)
    for _ in range(index % 4):
        images = _mirror_rows(images).transpose(-2, -1)
    return images


def dihedral_orientations(quaternion: Tensor, index: int) -> Tensor:
    """Orientations that belong to :func:`dihedral_images`: (..., 4) -> (..., 4)."""
    if index >= 4:
        quaternion = quaternion_multiply(quaternion.new_tensor((0.0, 0.0, 1.0, 0.0)), quaternion)
    angle = quaternion.new_full(quaternion.shape[:-1], (index % 4) * math.pi / 2)
    return rotate_about_beam(quaternion, angle)
