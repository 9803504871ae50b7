"""Made-up runs for the tests of tables, figures and reports."""

import json

import numpy as np
import pandas as pd
import torch

from icobench.geometry.orientation import random_orientations
from icobench.images.image_set import ImageSet
from icobench.images.pixels import photon_counts, usable_pixels
from icobench.sets.pattern_file import write_patterns
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

IMAGES = 7
COST = {"network": 0, "simplex": 4500, "network+simplex": 90, "network+lm": 40}
SPREAD = {"network": 0.8, "simplex": 0.5, "network+simplex": 0.15, "network+lm": 0.1}
AXES = "wxyz"


def made_results(seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    radius = random.uniform(30, 160, IMAGES)
    turn = random_orientations(IMAGES, torch.Generator().manual_seed(seed)).numpy()
    bound = random.uniform(0.05, 0.2, IMAGES)
    frames = []
    for method, cost in COST.items():
        angle = np.abs(random.normal(0, SPREAD[method], IMAGES)) + 0.01
        miss = np.abs(random.normal(0, SPREAD[method], IMAGES)) + 0.001
        frame = {"image": np.arange(IMAGES), "method": method, "true_radius_nm": radius}
        frame |= {f"true_q_{axis}": turn[:, i] for i, axis in enumerate(AXES)}
        frame |= {"radius_nm": radius + miss}
        frame |= {f"q_{axis}": turn[:, i] for i, axis in enumerate(AXES)}
        frame |= {
            "disorientation_deg": angle,
            "radius_error_nm": miss,
            "appendix_c_mean": angle / 100,
            "appendix_c_max": angle / 40,
            "success": (angle < 1) & (miss < 1),
            "objective": random.uniform(1, 2, IMAGES) if cost else np.nan,
            "evaluations": cost + random.integers(0, 9, IMAGES) * (cost > 0),
            "seconds": 0.001 * (1 + cost),
            "radius_std_nm": 0.02,
            "orientation_std_deg": 0.1,
            "bound_radius_nm": bound / 4,
            "bound_orientation_deg": bound,
            "status": "ok",
        }
        frames.append(pd.DataFrame(frame))
    return pd.concat(frames, ignore_index=True)


def made_curves(seed: int = 1) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    rows = []
    for method, cost in COST.items():
        for image in range(IMAGES):
            steps = int(random.integers(4, 12)) if cost else 1
            spent = np.unique(random.integers(1, max(cost, 2), steps)) if cost else [0]
            for step, evaluations in enumerate(spent):
                value = SPREAD[method] * 3 / (1 + step) * random.uniform(0.5, 2)
                rows.append((method, image, step, int(evaluations), value, value / 3, 1.0))
    columns = ["method", "image", "step", "evaluations", "disorientation_deg", "radius_error_nm", "objective"]
    return pd.DataFrame(rows, columns=columns)


def made_run(folder):
    experiment = Experiment(pixels=32, sin_theta_max=0.5)
    results = made_results()
    truth = results[results["method"] == "simplex"]
    radius = torch.tensor(truth["true_radius_nm"].to_numpy())
    turn = torch.tensor(truth[[f"true_q_{axis}" for axis in AXES]].to_numpy())
    mask = usable_pixels(experiment, 3.0)
    intensity = Simulator(experiment).intensity(radius, turn)
    counts = photon_counts(intensity, mask, 1e5, torch.Generator().manual_seed(3))
    results.to_parquet(folder / "results.parquet")
    made_curves().to_parquet(folder / "curves.parquet")
    images = ImageSet(counts, mask.expand(counts.shape), "counts", experiment, radius, turn)
    write_patterns(folder / "test_set.h5", images, {})
    run = {
        "command": "icobench compare --preset 'a<b>&c'",
        "created": "2025-01-02T03:04:05+00:00",
        "versions": {"torch": "2.x", "icobench": "0.1"},
        "machine": {"processor": "abacus", "cores": 2},
        "device": "cpu",
        "seed": 5,
        "commit": None,
        "experiment": experiment.to_dict(),
        "settings": {"preset": "quick", "images": IMAGES, "photons": 1e5, "hole_degrees": 3.0},
        "network": {"training_seconds": 7200.0, "training_simulations": 450_000, "parameters": 123_456},
    }
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def named_bodies(folder):
    """The same run with images of three bodies, which two methods name; one frees the facets of a box."""
    path = folder / "results.parquet"
    results = pd.read_parquet(path)
    true = results["image"].map(lambda image: ("cube", "icosahedron", "hexagonal-prism=1.5")[image % 3])
    own = results["method"].isin(["network+lm", "simplex"])
    body = true.where(own, "icosahedron")
    body[results["image"] == 3] = "icosahedron"
    unnamed = results["method"] == "network"
    wrong = (body != true) & ~unnamed
    results.loc[wrong, ["disorientation_deg", "radius_error_nm"]] = np.nan
    results = results.assign(true_body=true, body=body, size_error_nm=0.3)
    results["success"] &= ~wrong
    results.loc[unnamed, ["true_body", "body", "size_error_nm"]] = None
    results.to_parquet(path)
    normals = np.vstack((np.eye(3), -np.eye(3)))
    facets = {"method": "simplex", "distance_nm": [50.0, 55, 60, 50, 45, 40]}
    facets |= {f"normal_{axis}": normals[:, place] for place, axis in enumerate("xyz")}
    every = [pd.DataFrame(facets).assign(image=image) for image in range(IMAGES)]
    pd.concat(every, ignore_index=True).to_parquet(folder / "facets.parquet")
    return folder
