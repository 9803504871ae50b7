"""Error bars are calibrated on errors of known size."""

import pytest
import torch

from icobench.geometry.rotations import quaternion_multiply, random_quaternions, rotation_vector_to_quaternion
from icobench.network.orbit import embed
from icobench.network.outputs import Layout
from icobench.network.stream import TrainingBatch
from icobench.network.targets import TARGETS, Line
from icobench.network.validation import prediction_errors, spread_factors

RADIUS_STD_NM, TURN_STD_DEG = 2.0, 1.5


class Echo(torch.nn.Module):
    """Its output is its input."""

    def __init__(self):
        super().__init__()
        self.layout = Layout(TARGETS["orbit"], Line())

    def forward(self, x):
        return x


@pytest.mark.parametrize("spreads", [True, False])
def test_factors_bring_the_spreads_to_the_errors(generator, spreads):
    """Predicted spreads of 2 nm and 1.5 degrees; errors of 0.5 nm and, root mean square, 3 degrees."""
    count = 4000
    truth = random_quaternions(count, generator)
    turn = torch.deg2rad(torch.tensor(3.0)) / 3**0.5
    moved = quaternion_multiply(
        rotation_vector_to_quaternion(turn * torch.randn(count, 3, generator=generator, dtype=torch.float64)),
        truth,
    )
    radius = torch.full((count,), 95.0)
    predicted = (radius + 0.5 * torch.randn(count, generator=generator) - 30) / 130
    columns = [embed(moved).float(), predicted[:, None]]
    if spreads:
        log_radius = torch.full((count, 1), RADIUS_STD_NM / 130).log()
        log_turn = (torch.deg2rad(torch.full((count, 1), TURN_STD_DEG)) / 3**0.5).log()
        columns += [log_radius, log_turn]
    batches = [
        TrainingBatch(torch.cat(columns, 1)[rows], truth[rows], radius[rows])
        for rows in torch.arange(count).split(1000)
    ]
    factors = spread_factors(prediction_errors(Echo(), batches))
    # The quantile of 4,000 normal deviates scatters by 2 %.
    expected = {"radius": 0.25, "orientation": 2.0} if spreads else {"radius": 1.0, "orientation": 1.0}
    assert factors == pytest.approx(expected, rel=0.08)
