"""A task that costs nothing, for searches."""

import math
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import torch

from icobench.runs.search import Search
from icobench.runs.search_space import read_space
from icobench.runs.search_tasks import BLOCK, SimplexTask
from icobench.simulator.experiment import Experiment

CPU = "cpu"


@dataclass(frozen=True)
class Bowl(SimplexTask):
    """Best at a first simplex of 10 degrees. ``deadly``: a file whose finder removes it and dies."""

    deadly: str = ""

    @property
    def identity(self):
        return {"bowl": self.images}

    def evaluate(self, values, folder, device, report, note):
        if self.deadly and Path(self.deadly).exists() and values["starts"] == 60:
            Path(self.deadly).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        assert torch.get_num_threads() == 1
        loss = math.log10(values["rotation_deg"] / 10) ** 2
        for image in range(self.images):
            note({"seconds": 0.5 * (image + 1), "simulations": 10 * (image + 1)})
            report(image, loss + 0.01 * (image % 3))
        return loss + 0.01, values.get("budget", self.budget) * 1.8


def search(folder, trials=8, **more) -> Search:
    task = more.pop("task", Bowl(2 * BLOCK, "counting", 2500, 0, Experiment()))
    return Search(folder, more.pop("url", None), task, read_space("simplex"), trials, 3, **more)


def told(study):
    return [(trial.params, trial.values, trial.state.name) for trial in study.get_trials()]
