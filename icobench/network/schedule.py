"""The learning rate of each step, and the end of a training: one cycle, or a plateau rule."""

import math
from collections.abc import Callable
from typing import Any

from icobench.network.recipe import Recipe

__all__ = ["Cycle", "Plateau", "schedule_of"]

WARM_SHARE = 0.03
"""Share of the steps of one cycle in which the learning rate rises."""

FALL = 0.2
"""The learning rate after a plateau over that before."""

FALLS = 3
"""Plateaus that lower the learning rate; the next one ends the training."""

PROGRESS = 0.01
"""Share of the best validation loss by which a better one must be lower. For the logarithmic loss, which is
the logarithm of an error, it is the difference itself."""


class Cycle:
    """Linear warm-up over 3 % of the recipe's steps, then cosine to 1 % of the peak."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def learning_rate(self, step: int) -> float:
        """Of one step."""
        recipe = self.recipe
        warm = max(1, round(WARM_SHARE * recipe.steps))
        if step < warm:
            return recipe.learning_rate * (step + 1) / warm
        progress = (step - warm) / max(1, recipe.steps - warm)
        return recipe.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))

    def settling(self, step: int) -> bool:
        """Whether the batch norms keep their statistics and all is computed in float32."""
        return step >= round((1 - self.recipe.settle_share) * self.recipe.steps)

    def finished(self, step: int) -> bool:
        """Whether the training ends after ``step`` steps."""
        return step >= self.recipe.steps

    def observe(self, step: int, validation_loss: Callable[[], float]) -> None:
        """Take note of the validation loss after ``step`` steps, which is computed only if needed."""

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state`."""


class Plateau(Cycle):
    """A constant rate that falls to a fifth when the validation loss stops falling, three times at most.

    The plateau after that ends the training. The rate rises during the first validation interval. The norms
    settle after the last fall. Validations come after fixed numbers of steps, so that the course does not
    depend on the clock. The recipe's steps are a ceiling.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.patience, self.interval = recipe.patience or 1, recipe.validate_steps
        self.best, self.waited, self.falls = math.inf, 0, 0

    def learning_rate(self, step: int) -> float:
        warm = min(1.0, (step + 1) / self.interval)
        return self.recipe.learning_rate * warm * FALL ** min(self.falls, FALLS)

    def settling(self, step: int) -> bool:
        return self.falls >= FALLS

    def finished(self, step: int) -> bool:
        return self.falls > FALLS or super().finished(step)

    def observe(self, step: int, validation_loss: Callable[[], float]) -> None:
        if step % self.interval:
            return
        loss = validation_loss()
        least = PROGRESS * (1.0 if self.recipe.loss == "log" else self.best)
        if math.isinf(self.best) or loss < self.best - least:
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            self.falls, self.waited = self.falls + 1, 0

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "falls": self.falls}

    def restore(self, state: dict[str, Any]) -> None:
        self.best, self.waited, self.falls = state["best"], state["waited"], state["falls"]


def schedule_of(recipe: Recipe) -> Cycle:
    """The schedule of a recipe."""
    return Cycle(recipe) if recipe.patience is None else Plateau(recipe)
