"""The trained network alone, without a fit."""

import torch

from icobench.fitting.result import Trace
from icobench.fitting.warm_start import AMBIGUOUS, OK
from icobench.methods.base import Method, Outcome, Problem, Progress

__all__ = ["NETWORK", "UNTRAINED"]

UNTRAINED = "outside-training"
"""The status of images unlike those that the network was trained with; its error bars do not hold there."""

AMBIGUOUS_SCORE_GAP = 0.1
"""Two hypotheses whose scores are closer than this cannot be told apart by the network alone."""


def _run(problem: Problem, progress: Progress) -> Outcome:
    answer = problem.ask_network()
    count = len(problem.images)
    nothing = torch.full((count,), torch.nan, dtype=torch.float64)
    none = torch.zeros(count, dtype=torch.long)
    quaternion = answer.quaternion[:, 0]
    gap = answer.score[:, 0] - answer.score[:, 1]
    status = [
        UNTRAINED if not known else AMBIGUOUS if close else OK
        for known, close in zip(answer.familiar.tolist(), (gap < AMBIGUOUS_SCORE_GAP).tolist(), strict=True)
    ]
    trace = Trace()
    trace.add(none, answer.radius_nm, quaternion, nothing)
    progress(1.0)
    return Outcome(
        answer.radius_nm, quaternion, nothing, none, answer.radius_std_nm, answer.orientation_std_deg,
        status, trace,
    )  # fmt: skip


NETWORK = Method("network", "trained network alone, no fit", _run, needs_network=True)
