"""The paper's data set made anew: time, size and memory; the same after a kill -9 and from shards.

    python reports/paper_set.py [--images N] [--out FILE]

Runs `icobench generate --preset paper` three times in a scratch folder: at one go, killed half way and
started again, and in three shards that are merged. Compares the arrays byte for byte and tests how the bodies
are distributed.
"""

import argparse
import hashlib
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import torch
from scipy import stats

from icobench.geometry.rotations import quaternion_angle
from icobench.images.formats import DATA_PATH, MASK_PATH
from icobench.network.orbit import DIMENSION, embed
from icobench.provenance import provenance
from icobench.sets.pattern_file import TRUTH_GROUP
from icobench.simulator.experiment import Experiment
from icobench.storage import atomic_path

ARRAYS = (DATA_PATH, MASK_PATH, f"{TRUTH_GROUP}/radius_nm", f"{TRUTH_GROUP}/quaternion")
PAPER_SECONDS = 17 * 3600


def digests(path: Path) -> dict[str, str]:
    """SHA-256 of every array, read in pieces."""
    found = {}
    with h5py.File(path) as stream:
        for name in ARRAYS:
            digest = hashlib.sha256()
            for start in range(0, len(stream[name]), 512):
                digest.update(stream[name][start : start + 512].tobytes())
            found[name] = digest.hexdigest()
    return found


def uniformity(path: Path) -> dict[str, float]:
    """p-values: radii, share of disorientation angles below 36 degrees, mean orbit vector."""
    with h5py.File(path) as stream:
        radius = stream[TRUTH_GROUP]["radius_nm"][()]
        quaternion = torch.as_tensor(stream[TRUTH_GROUP]["quaternion"][()])
    count, edge = len(radius), math.pi / 5
    below = int((quaternion_angle(quaternion) < edge).sum())
    mean = embed(quaternion).double().mean(0)
    return {
        "radius, Kolmogorov-Smirnov": stats.kstest(radius, stats.uniform(30, 130).cdf).pvalue,
        "angle below 36 deg, binomial": stats.binomtest(
            below, count, 60 / math.pi * (edge - math.sin(edge))
        ).pvalue,
        "orbit vector, chi square": stats.chi2.sf(float(DIMENSION * count * mean.square().sum()), DIMENSION),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, help="fewer than the paper's, for a trial")
    parser.add_argument("--out", type=Path, default=Path("reports/paper_set.json"))
    arguments = parser.parse_args()
    options = ["--preset", "paper"] + (["--images", str(arguments.images)] if arguments.images else [])

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def command(*words: str) -> list[str]:
            return [sys.executable, "-m", "icobench.cli", *words]

        def generate(out: str, *more: str) -> float:
            begin = time.perf_counter()
            subprocess.run(command("generate", out, *options, *more), cwd=folder, check=True)
            return time.perf_counter() - begin

        seconds = generate("whole.h5")
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        expected = digests(folder / "whole.h5")
        with h5py.File(folder / "whole.h5") as stream:
            images = len(stream[DATA_PATH])

        child = subprocess.Popen(command("generate", "killed.h5", *options), cwd=folder)
        while child.poll() is None and len(list(folder.glob("killed.h5.parts/*.h5"))) < images / 128 / 2:
            time.sleep(0.05)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        kept = len(list(folder.glob("killed.h5.parts/*.h5")))
        generate("killed.h5")

        shards = [f"shard{number}.h5" for number in (1, 2, 3)]
        for number, shard in enumerate(shards, 1):
            generate(shard, "--shard", f"{number}/3")
        subprocess.run(command("merge", "merged.h5", *shards), cwd=folder, check=True)

        results = {
            "images": images,
            "scale": "the paper's" if arguments.images is None else "small",
            "seconds": round(seconds, 1),
            "ms_per_image": round(1000 * seconds / images, 2),
            "times_faster_than_the_paper": None if arguments.images else round(PAPER_SECONDS / seconds),
            "file_MiB": round((folder / "whole.h5").stat().st_size / 2**20, 1),
            "peak_memory_MiB": round(peak / 1024),
            "blocks_kept_by_the_killed_run": kept,
            "killed_and_resumed_equal": digests(folder / "killed.h5") == expected,
            "merged_shards_equal": digests(folder / "merged.h5") == expected,
            "sha256": expected,
            "p_values": uniformity(folder / "whole.h5"),
        }
    origin = provenance(0, torch.device("cpu"), Experiment())
    origin["command"] = " ".join(["python", *sys.argv])
    with atomic_path(arguments.out.resolve()) as temporary:
        temporary.write_text(json.dumps({**origin, "results": results}, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
