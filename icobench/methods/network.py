"""A trained network alone, without a fit."""

from dataclasses import dataclass

import torch

from icobench.answer import Answer, Progress
from icobench.methods.base import Method, Problem

__all__ = ["NETWORK", "PAPER_NETWORK", "NetworkOptions"]


@dataclass(frozen=True)
class NetworkOptions:
    """Settings.

    Attributes:
        versions: turned and mirrored versions of an image that the network averages, 1 to 8.
    """

    versions: int = 1


def _run(problem: Problem, options: NetworkOptions, progress: Progress) -> Answer:
    answer = problem.ask_network(options.versions)
    unknown = torch.full_like(answer.radius_nm, torch.nan, dtype=torch.float64)
    answer.trace.add(answer.evaluations, answer.radius_nm, answer.quaternion, unknown)
    progress(1.0)
    return answer


NETWORK = Method("network", "trained network alone, no fit", _run, NetworkOptions(), needs_network=True)

PAPER_NETWORK = Method(
    "paper-network", "the published network alone, for log images, no fit", _run, NetworkOptions(),
    needs_network=True, weights="paper",
)  # fmt: skip
