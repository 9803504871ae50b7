"""The polar grid samples where it says, and the layers turn with the image."""

import math

import numpy as np
import pytest
import torch

from icobench.geometry.orientation import random_orientations
from icobench.geometry.rotations import rotate_about_beam
from icobench.network.architectures import CompactNetwork
from icobench.network.orbit import embed
from icobench.network.polar import HarmonicSum, PolarGrid, RoundConvolution, WrappedConvolution


def test_grid_samples_where_it_says():
    """Bilinear sampling is exact for linear functions of x and y; past the last pixel all is dark."""
    grid = PolarGrid(12, 32)
    x = torch.arange(128.0).expand(128, 128)
    sampled = grid(torch.stack((x, x.T)).unsqueeze(0))[0]
    theta = (torch.arange(12) + 0.5) / 12 * math.pi / 2
    azimuth = torch.arange(32) / 32 * 2 * math.pi
    radius = 64 * torch.sin(theta)[:, None]
    places = torch.stack((64 + radius * torch.cos(azimuth), 64 + radius * torch.sin(azimuth)))
    inside = (places <= 127).all(0)
    assert int((~inside).sum()) == 2
    np.testing.assert_allclose(sampled[:, inside], places[:, inside], atol=1e-3)


def test_wrapped_sectors_are_those_of_the_other_end(generator):
    image = torch.rand(1, 1, 128, 128, generator=generator)
    plain, wrapped = PolarGrid(6, 16)(image), PolarGrid(6, 16, 3)(image)
    torch.testing.assert_close(wrapped, torch.cat((plain[..., -3:], plain, plain[..., :3]), -1))


def test_round_convolution_is_a_convolution(generator):
    """By harmonics as by sums over pairs of sectors; folded, too."""
    layer = RoundConvolution(5, 16)
    x = torch.randn(3, 5, 16, generator=generator)
    weight, bias = layer.weight.detach(), layer.bias.detach()
    expected = sum(
        torch.einsum("oi,bis->bos", weight[..., step], torch.roll(x, -step, -1)) for step in range(16)
    )
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected + bias[:, None], rtol=1e-4, atol=1e-5)
        layer.fold()
        torch.testing.assert_close(layer(x), expected + bias[:, None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_wrapped_convolution_commutes_with_turns(stride, generator):
    layer = WrappedConvolution(2, 3, stride)
    image = torch.randn(1, 2, 24, 32, generator=generator)
    turned = torch.roll(image, 2 * stride, -1)
    out = layer(image)
    assert out.shape == (1, 3, 24 // stride, 32 // stride)
    torch.testing.assert_close(layer(turned), torch.roll(out, 2, -1))


def turn_matrix(angle, generator):
    """(13, 13): what a turn of the body about the beam does to orbit vectors, from those of random bodies."""
    quaternion = random_orientations(60, generator)
    turned = rotate_about_beam(quaternion, torch.tensor(angle).double().expand(60))
    return torch.linalg.lstsq(embed(quaternion), embed(turned)).solution


def test_harmonics_turn_as_the_orbit_vector_does(generator):
    """Features moved on by a sector turn the vector as the body turns about the beam, for any features."""
    torch.manual_seed(1)
    harmonics = HarmonicSum(5, 6, 16)
    features = torch.randn(1, 5, 16, generator=generator)
    with torch.no_grad():
        vector, moved = harmonics(features), harmonics(torch.roll(features, 3, -1))
    expected = vector.double() @ turn_matrix(3 * 2 * math.pi / 16, generator)
    torch.testing.assert_close(moved.double(), expected, rtol=1e-4, atol=1e-5)


class Wrapped(torch.nn.Module):
    """What the grid would do to the sectors."""

    def forward(self, x):
        return torch.cat((x[..., -2:], x, x[..., :2]), -1)


def test_an_untrained_network_turns_with_the_image(generator):
    """Sixteenths of a turn: the orbit vector turns exactly, radius and spreads stay."""
    torch.manual_seed(1)
    network = CompactNetwork(widths=(8, 8, 16), hidden=16).eval()
    torch.nn.init.normal_(network.material)
    network.grid = Wrapped()  # images below are polar already
    image = torch.rand(1, 3, 96, 256, generator=generator)
    image[:, 2] = 0.3  # the constant
    with torch.no_grad():
        first, second = network(image), network(torch.roll(image, 5 * 16, -1))
    torch.testing.assert_close(first[:, 13:], second[:, 13:])
    expected = first[:, :13].double() @ turn_matrix(5 * 2 * math.pi / 16, generator)
    torch.testing.assert_close(second[:, :13].double(), expected, rtol=1e-4, atol=1e-6)
    assert float((second - first)[:, :13].norm()) > 1e-4
