"""What a search is: its task, its space, its storage; and the study that these make."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icobench.runs.network_task import RUNGS, NetworkTask
from icobench.runs.search_space import SearchSpace
from icobench.runs.simplex_task import BLOCK, SimplexTask
from icobench.runs.study import open_study

if TYPE_CHECKING:
    import optuna

__all__ = ["Search"]

PURPOSE = 11
"""Of the sampler's random numbers."""


@dataclass(frozen=True)
class Search:
    """What is searched, and where it is stored.

    Attributes:
        folder: of the run.
        url: of Optuna's storage, None for a journal in the folder.
        task: evaluates settings.
        space: what may vary.
        trials: completed or pruned, in total.
        seed: of the sampler.
        multi: whether accuracy and cost are both minimised; then nothing is pruned.
        study: its name in the storage, None for that of what is searched.
    """

    folder: Path
    url: str | None
    task: SimplexTask | NetworkTask
    space: SearchSpace
    trials: int
    seed: int
    multi: bool = False
    study: str | None = None

    @property
    def kind(self) -> str:
        """simplex or network."""
        return "simplex" if isinstance(self.task, SimplexTask) else "network"

    @property
    def identity(self) -> dict[str, Any]:
        """What a study must agree in to be continued."""
        name = self.study or (f"{self.kind}-multi" if self.multi else self.kind)
        return {
            "name": name, "objectives": 2 if self.multi else 1,
            "space": self.space.digest, "task": self.task.identity, "sampler_seed": self.seed,
        }  # fmt: skip

    def open(self, worker: int = 0, create: bool = True) -> "optuna.Study":
        """The study with a sampler for its next trial.

        Seeded by the number of trials, so that a search that was stopped goes on as it would have.
        """
        import optuna

        pruner: optuna.pruners.BasePruner
        if self.kind == "simplex":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                pruner = optuna.pruners.WilcoxonPruner(p_threshold=0.1, n_startup_steps=BLOCK)
        else:
            pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=RUNGS, reduction_factor=3)
        study = open_study(self.folder, self.url, self.identity, pruner=pruner, create=create)
        key = (PURPOSE, len(study.get_trials(deepcopy=False)), worker)
        seed = int(np.random.SeedSequence(self.seed, spawn_key=key).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        return study
