"""Methods that cost nothing."""

import torch

from icobench.answer import Answer
from icobench.methods import Problem


class FakeMethod:
    """Answers a fixed orientation and radius, and remembers which images it got."""

    def __init__(self) -> None:
        self.blocks: list[list[int]] = []
        self.stop_after: int | None = None

    def __call__(self, problem: Problem, options, progress) -> Answer:
        if self.stop_after is not None and len(self.blocks) >= self.stop_after:
            raise KeyboardInterrupt
        self.blocks.append(problem.images.numbers.tolist())
        count = len(problem.images)
        objective = problem.objective()
        radius = torch.full((count,), 80.0, dtype=torch.float64)
        quaternion = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64).repeat(count, 1)
        value = objective.value(torch.arange(count), radius, quaternion)
        answer = Answer(radius, quaternion, value, objective.simulator.evaluations.clone())
        answer.trace.add(answer.evaluations, radius, quaternion, value)
        return answer
