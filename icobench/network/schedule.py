"""The learning rate of each step, and the end of a training: one cycle, or a plateau rule."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from icobench.network.recipe import Recipe

__all__ = ["Schedule"]

WARM_SHARE = 0.03
"""Share of the steps of one cycle in which the learning rate rises."""

FALL = 0.2
"""The learning rate after a plateau over that before."""

FALLS = 3
"""Plateaus that lower the learning rate; the next one ends the training."""

PROGRESS = 0.01
"""Share of the best validation loss by which a better one must be lower. For the logarithmic loss, which is
the logarithm of an error, it is the difference itself."""


@dataclass
class Schedule:
    """The course of a training under a recipe, and what it depends on beside the step.

    Without a ``patience``, one cycle: linear warm-up over 3 % of the recipe's steps, then cosine to 1 % of
    the peak. The last steps settle.

    With a ``patience``, a constant rate that rises during the first validation interval and falls to a fifth
    when the validation loss stops falling, three times at most. Then the norms settle, and the next plateau
    ends the training; the recipe's steps are a ceiling. Validations come after fixed numbers of steps, so
    that the course does not depend on the clock.

    Attributes:
        recipe: of the training.
        best: least validation loss so far.
        waited: validations since then, or since the last fall.
        falls: plateaus so far.
    """

    recipe: Recipe
    best: float = math.inf
    waited: int = 0
    falls: int = 0

    def learning_rate(self, step: int) -> float:
        """Of one step."""
        recipe, peak = self.recipe, self.recipe.learning_rate
        if recipe.patience is not None:
            return peak * min(1.0, (step + 1) / recipe.validate_steps) * FALL ** min(self.falls, FALLS)
        warm = max(1, round(WARM_SHARE * recipe.steps))
        if step < warm:
            return peak * (step + 1) / warm
        progress = (step - warm) / max(1, recipe.steps - warm)
        return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))

    def settling(self, step: int) -> bool:
        """Whether the batch norms keep their statistics and all is computed in float32."""
        if self.recipe.patience is not None:
            return self.falls >= FALLS
        return step >= round((1 - self.recipe.settle_share) * self.recipe.steps)

    def finished(self, step: int) -> bool:
        """Whether the training ends after ``step`` steps."""
        return self.falls > FALLS or step >= self.recipe.steps

    def observe(self, step: int, validation_loss: Callable[[], float]) -> None:
        """Take note of the validation loss after ``step`` steps, which is computed only if needed."""
        if self.recipe.patience is None or step % self.recipe.validate_steps:
            return
        loss = validation_loss()
        least = PROGRESS * (1.0 if self.recipe.loss == "log" else self.best)
        if math.isinf(self.best) or loss < self.best - least:
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited >= self.recipe.patience:
            self.falls, self.waited = self.falls + 1, 0
