"""Interpolation on the Ewald sphere: the far field of a point anywhere in the body is carried exactly."""

import numpy as np
import pytest
import torch

from icobench.simulator.experiment import Experiment
from icobench.simulator.skeleton import build_skeleton, to_pixels


@pytest.mark.parametrize("sine", [0.3, 0.7, 0.75, 1.0])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-4), (torch.float64, 1e-11)], ids=["float32", "float64"]
)
def test_plane_waves(sine, dtype, tolerance, rng):
    experiment = Experiment(sin_theta_max=sine, pixels=64)
    radius = 60.0
    skeleton = build_skeleton(experiment, radius, dtype)
    points = rng.normal(size=(12, 3))
    points *= radius / np.linalg.norm(points, axis=1, keepdims=True)  # the surface is the hardest
    k, valid = experiment.wave_number, experiment.valid().numpy()
    ky, kx = np.meshgrid(*(experiment.sines().numpy() * k,) * 2, indexing="ij")
    qz = np.sqrt(np.maximum(k**2 - kx**2 - ky**2, 0)) - k
    expected = np.exp(-1j * np.tensordot(points, np.stack((kx, ky, qz)), 1)) * valid
    phase = torch.as_tensor(points) @ skeleton.waves[:3]
    values = torch.cat((torch.cos(phase), -torch.sin(phase))).to(dtype)
    real, imag = to_pixels(skeleton, values).unflatten(0, (2, -1))
    error = np.linalg.norm(real.numpy() + 1j * imag.numpy() - expected) / np.linalg.norm(expected)
    assert error < tolerance
    assert (real[:, ~experiment.valid()] == 0).all()
    np.testing.assert_allclose(skeleton.waves[:2].norm(dim=0) <= k, True)
    on_sphere = (skeleton.waves[2] + k) ** 2 + skeleton.waves[:2].square().sum(0)
    np.testing.assert_allclose(on_sphere, k**2, rtol=1e-5)
