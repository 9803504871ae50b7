"""How training changes the weights: optimisers by name, the learning rate of each step, and the end.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) treats the momentum of a layer's weights
as a matrix, outputs by inputs, and makes its singular values equal before it is applied: directions with a
small gradient are learnt as fast as the others. :class:`torch.optim.Muon` came with torch 2.9 and only takes
matrices; here the kernels of convolutions count as matrices, too.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from icobench.network.architectures import Network
from icobench.network.recipe import Recipe

__all__ = ["Muon", "Schedule", "make_optimisers", "orthogonal"]

STEPS = 5
COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Of the quintic whose repetition takes singular values to between 0.7 and 1.2 (Jordan et al.)."""

LIKE_ADAM = 0.2
"""Root mean square of a matrix's step over the learning rate. It is about that of AdamW (Liu et al. 2025,
arXiv:2502.16982), so that both optimisers can share one learning rate."""

WARM_SHARE = 0.03
"""Share of the steps of one cycle in which the learning rate rises."""

FALL = 0.2
"""The learning rate after a plateau over that before."""

FALLS = 3
"""Plateaus that lower the learning rate; the next one ends the training."""

PROGRESS = 0.01
"""Share of the best validation loss by which a better one must be lower. For the logarithmic loss, which is
the logarithm of an error, it is the difference itself."""


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix with the same singular vectors and nearly equal singular values, (M, N) -> (M, N) float32.

    Newton-Schulz steps X <- (a + b X X^T + c (X X^T)^2) X. Their factors are multiplied as small square
    matrices before they are applied to X, as most of a layer's matrices are far longer than wide.
    """
    wide = matrix.float()
    if tall := wide.shape[0] > wide.shape[1]:
        wide = wide.mT
    wide = wide / wide.norm().clamp_min(1e-7)
    gram = wide @ wide.mT
    a, b, c = COEFFICIENTS
    product = None
    for step in range(STEPS):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor if product is None else factor @ product
        if step < STEPS - 1:
            gram = factor @ (factor @ gram)
    assert product is not None
    wide = product @ wide
    return wide.mT if tall else wide


class Muon(Optimizer):
    """Momentum with Nesterov's look ahead, made orthogonal layer by layer; weight decay as in AdamW.

    The parameters have two or more dimensions, the first of them the outputs.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, weight_decay: float = 0.0, momentum: float = 0.95
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step along the gradients of the parameters."""
        for group in self.param_groups:
            for weights in group["params"]:
                if weights.grad is None:
                    continue
                state, gradient = self.state[weights], weights.grad
                if not state:
                    state["mean"] = torch.zeros_like(weights)
                state["mean"].lerp_(gradient, 1 - group["momentum"])
                matrix = gradient.lerp(state["mean"], group["momentum"]).flatten(1)
                scale = LIKE_ADAM * max(matrix.shape) ** 0.5
                weights.mul_(1 - group["lr"] * group["weight_decay"])
                weights.add_(orthogonal(matrix).reshape(weights.shape), alpha=-group["lr"] * scale)


def make_optimisers(recipe: Recipe, network: Network) -> list[Optimizer]:
    """The optimisers of a network's parameters; each parameter has one.

    Under "muon" these are Muon for convolutions and linear layers but the last ones, whose outputs are the
    network's numbers, and AdamW for all other parameters.
    """
    muon = recipe.optimiser == "muon"
    layers = (layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d))
    inner = [layer.weight for layer in layers if layer not in network.last_layers and muon]
    inner_ids = {id(weights) for weights in inner}  # tensors compare by their values
    rest = [values for values in network.parameters() if id(values) not in inner_ids]
    # Biases and the scales of norms are not decayed.
    groups: list[dict[str, Any]] = [
        {"params": [values for values in rest if values.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [values for values in rest if values.ndim <= 1]},
    ]
    adamw = AdamW(groups, recipe.learning_rate, weight_decay=0.0)
    return [Muon(inner, recipe.learning_rate, recipe.weight_decay), adamw] if muon else [adamw]


@dataclass
class Schedule:
    """The learning rate of each step, and the end of a training: one cycle, or a plateau rule.

    Without a ``patience``, one cycle: linear warm-up over 3 % of the recipe's steps, then cosine to 1 % of
    the peak. The last steps settle.

    With a ``patience``, a constant rate that rises during the first validation interval and falls to a fifth
    when the validation loss stops falling, three times at most. Then the norms settle, and the next plateau
    ends the training; the recipe's steps are a ceiling. Validations come after fixed numbers of steps, so
    that the course does not depend on the clock.
    """

    recipe: Recipe
    best: float = math.inf
    """Least validation loss so far."""
    waited: int = 0
    """Validations since then, or since the last fall."""
    falls: int = 0
    """Plateaus so far."""

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
