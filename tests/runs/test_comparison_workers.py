"""A comparison on several processes: the same results, failures noted, methods of a user's own."""

import json

import pandas as pd
import torch

from icobench.runs.campaign import Campaign
from icobench.methods.registry import METHODS
from icobench.methods.plugin_file import add_file
from icobench.runs.settings import read_settings
from icobench.simulator.experiment import Experiment
from icobench.runs.comparison_workers import Inputs, automatic_workers, compute_blocks
from icobench.runs.pool import one_thread

FAILED = ("counting, fragile", "voxels, fragile")
CPU = torch.device("cpu")
PRESET = """
images = 10
test_sets = ["clean", "counting", "voxels"]
methods = ["few", "fragile", "dictionary+lm"]

[define.few]
starts = 2
iterations = 3
"""
FILE = """
from icobench.methods import METHODS, Method


def run(problem, progress):
    if problem.kind == "counts" and 8 in problem.numbers.tolist():
        raise ValueError("eight")
    return METHODS["dictionary+lm"].function(problem, progress)


FRAGILE = Method("fragile", "fails at image 8 of counts", run)
"""


def test_results_do_not_depend_on_the_number_of_workers(tmp_path):
    preset, file = tmp_path / "own.toml", tmp_path / "fragile.py"
    preset.write_text(PRESET)
    file.write_text(FILE)
    experiment = Experiment()
    inputs = Inputs(experiment, config=preset, files=(file,))
    try:
        settings = read_settings(preset)
        add_file(file)
        results = {}
        for workers in (1, 2):
            with one_thread():
                made = Campaign(tmp_path / str(workers), settings, experiment, 3, CPU, None, workers)
                if workers > 1:
                    compute_blocks(made, inputs, CPU)
                    assert made.missing() == 2 * [(METHODS["fragile"], 1)]
                results[workers] = made.run().drop(columns="seconds")
                assert made.failures == dict.fromkeys(FAILED, "ValueError: eight")
            described = json.loads((tmp_path / str(workers) / "counting" / "run.json").read_text())
            assert described["machine"]["threads"] == 1
            assert described["machine"].get("workers", 1) == workers
            assert described["dictionary"]["simulations"] > 0
        pd.testing.assert_frame_equal(results[1], results[2])
    finally:
        for name in ("few", "fragile"):
            METHODS.pop(name, None)


def test_as_many_workers_as_slurm_gave_cores(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert automatic_workers(CPU) == 3
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "64")
    assert automatic_workers(CPU) == 8
