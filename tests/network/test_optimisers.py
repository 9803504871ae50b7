"""Muon against singular values, against torch's own on matrices, and what it is given of a network."""

import dataclasses

import pytest
import torch

from icobench.network.architectures import ARCHITECTURES, build_network
from icobench.network.optimisers import Muon, make_optimisers, orthogonal
from icobench.network.recipe import Recipe
from icobench.network.training import train
from icobench.simulator.experiment import Experiment


@pytest.mark.parametrize("shape", [(24, 24), (16, 200), (200, 16)])
def test_orthogonal_keeps_the_singular_vectors_and_levels_the_values(shape):
    generator = torch.Generator().manual_seed(1)
    left = torch.linalg.qr(torch.randn(shape[0], min(shape), generator=generator))[0]
    right = torch.linalg.qr(torch.randn(shape[1], min(shape), generator=generator))[0]
    values = torch.logspace(0, -2, min(shape))
    weights = left.T @ orthogonal(3 * left * values @ right.T) @ right
    diagonal = weights.diagonal()
    assert ((diagonal > 0.6) & (diagonal < 1.25)).all()
    assert (weights - torch.diag(diagonal)).abs().max() < 1e-3


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
def test_matrices_go_as_under_torch_and_kernels_as_their_matrices():
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(12, 40, generator=generator)
    gradients = torch.randn(6, 12, 40, generator=generator)

    def course(weights, optimiser):
        for gradient in gradients:
            weights.grad = gradient.reshape(weights.shape)
            optimiser.step()
        return weights.detach().reshape(12, 40)

    matrix, kernel, reference = (
        torch.nn.Parameter(start.reshape(shape).clone()) for shape in ((12, 40), (12, 5, 2, 4), (12, 40))
    )
    settings = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9}
    expected = course(reference, torch.optim.Muon([reference], adjust_lr_fn="match_rms_adamw", **settings))
    weights = course(matrix, Muon([matrix], **settings))
    # torch computes the singular vectors' part in bfloat16.
    change = (expected - start).norm()
    assert (weights - expected).norm() < 0.02 * change
    assert torch.equal(weights, course(kernel, Muon([kernel], **settings)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_parameter_has_one_optimiser_and_answers_are_left_to_adamw(architecture):
    network = build_network(architecture, {"target": "quaternion"})
    muon, adamw = make_optimisers(Recipe(steps=1, optimiser="muon"), network)
    parts = [
        [parameter for group in optimiser.param_groups for parameter in group["params"]]
        for optimiser in (muon, adamw)
    ]
    assert sorted(map(id, parts[0] + parts[1])) == sorted(map(id, network.parameters()))
    assert all(parameter.ndim > 1 for parameter in parts[0])
    answering = {id(layer.weight) for layer in network.last_layers}
    assert answering <= set(map(id, parts[1]))
    # All other weights of layers are Muon's; biases of rings, (1, C, rings, 1), are not.
    assert all(
        parameter.ndim == 1 or id(parameter) in answering or parameter.shape[0] == parameter.shape[-1] == 1
        for parameter in parts[1]
    )
    (only,) = make_optimisers(Recipe(steps=1, optimiser="adamw"), network)
    assert sum(len(group["params"]) for group in only.param_groups) == len(list(network.parameters()))


def test_resuming_under_muon_is_exact(tmp_path):
    recipe = Recipe(
        steps=4, batch=16, variants=8, network={"widths": [4, 4, 8], "hidden": 8}, radius_nm=(28.0, 32.0),
        optimiser="muon",
    )  # fmt: skip
    uninterrupted = train(recipe, Experiment(), tmp_path / "whole", seed=3)
    stopped = tmp_path / "stopped"
    for _ in range(8):
        result = train(recipe, Experiment(), stopped, seed=3, max_minutes=0.0)
        if result.finished:
            break
    assert result.finished
    first, second = uninterrupted.network.state_dict(), result.network.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    plain = train(dataclasses.replace(recipe, optimiser="adamw"), Experiment(), tmp_path / "plain", seed=3)
    assert any(not torch.equal(first[name], value) for name, value in plain.network.state_dict().items())
