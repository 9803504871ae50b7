"""The networks' sizes, heads and errors."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from icobench.errors import InputError
from icobench.network.architectures import ARCHITECTURES, PaperNetwork, build_network
from icobench.network.targets import TARGETS


def multiplications(network):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, 128, 128))
    return counter.get_total_flops() / 2


def test_the_published_network_has_its_published_size():
    """3, 4, 6 and 4 blocks of 64 to 512 filters: 26 M parameters and 0.32 G multiplications an image."""
    network = PaperNetwork()
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(26.0e6, rel=0.005)
    assert multiplications(network) == pytest.approx(0.32e9, rel=0.01)
    assert network(torch.zeros(2, 3, 128, 128)).shape == (2, 5)
    strided = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.stride == (2, 2)]
    assert len(strided) == 1 + 4 + 4  # the first, one in each stack and its shortcut
    assert sum(isinstance(m, torch.nn.Tanh) for m in network.modules()) == 1 + 17
    assert not any(isinstance(m, torch.nn.ReLU) for m in network.modules())


def test_the_compact_network_is_compact():
    network = build_network("compact", {})
    assert sum(p.numel() for p in network.parameters()) <= 3e6
    assert multiplications(network.eval().fold()) < 0.065e9


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("target", TARGETS)
def test_every_target_on_every_network(architecture, target):
    options = {"widths": [4, 4, 8], "hidden": 8} if architecture == "compact" else {}
    network = build_network(architecture, {"target": target, **options}).eval()
    others = 6 + 2 if architecture == "compact" else 1
    assert network(torch.zeros(1, 3, 128, 128)).shape == (1, TARGETS[target].dimension + others)


@pytest.mark.parametrize("shared", [False, True])
def test_an_image_s_answer_does_not_depend_on_the_batch(generator, shared):
    """Whether or not all images have one mask, which is then seen once."""
    images = torch.rand(5, 3, 128, 128, generator=generator)
    if shared:
        images[:, 1] = images[0, 1]
    for architecture in ARCHITECTURES:
        network = build_network(architecture, {}).eval()
        with torch.no_grad():
            torch.testing.assert_close(network(images)[2:3], network(images[2:3]), rtol=1e-4, atol=1e-5)


def test_the_material_matters_to_each_image(generator):
    network = build_network("compact", {}).eval()
    torch.nn.init.normal_(network.material)
    images = torch.rand(1, 3, 128, 128, generator=generator).repeat(3, 1, 1, 1)
    images[:, 2] = torch.tensor([0.0, 0.5, 0.0])[:, None, None]
    with torch.no_grad():
        together, alone = network(images), network(images[1:2])
    torch.testing.assert_close(together[0], together[2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)
    assert float((together[1] - together[0]).norm()) > 1e-3


def test_merging_norms_changes_nothing(generator):
    torch.manual_seed(3)
    network = build_network("compact", {"widths": [4, 4, 8], "hidden": 8})
    images = torch.rand(4, 3, 128, 128, generator=generator)
    network(images)  # gives the norms statistics
    network.eval()
    with torch.no_grad():
        before = network(images)
        torch.testing.assert_close(network.fold()(images), before, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())


def test_the_published_network_has_36_weighted_layers():
    """Two for each of its 3 + 4 + 6 + 4 blocks, the first and the last; 1 x 1 shortcuts do not count."""
    layers = [m for m in build_network("paper", {}).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    shortcuts = [m for m in layers if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert len(layers) - len(shortcuts) == 36
    assert len(shortcuts) == 4


def test_bad_options():
    with pytest.raises(InputError, match="unknown architecture 'vast'"):
        build_network("vast", {})
    with pytest.raises(InputError, match="circles for radii"):
        build_network("compact", {"periods_nm": [16, 256]})
    with pytest.raises(InputError, match="colour"):
        build_network("compact", {"colour": "red"})
    for architecture in ARCHITECTURES:
        with pytest.raises(InputError, match="unknown target 'euler'"):
            build_network(architecture, {"target": "euler"})
        with pytest.raises(InputError, match="activation 'step'"):
            build_network(architecture, {"activation": "step"})
