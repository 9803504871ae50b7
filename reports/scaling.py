"""What ten million images cost, from the times of shards that really ran: writes scaling.md and scaling.json.

    python reports/scaling.py [SET.h5.shards MORE.h5.shards [--note "what else the machine did"]]

Folders of ``icobench generate --executor slurm``, beside their sets, made with different numbers of images:
so what a shard costs before its first image is told from what an image costs. The reconstructions' times are
those of the stored comparison in reports/compare_quick. Without folders, the page is made anew from
scaling.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from icobench.provenance import provenance
from icobench.sets.generation import shard_range
from icobench.simulator.experiment import Experiment
from icobench.storage import write_json

HERE = Path(__file__).parent
IMAGES = 10_000_000
SHARDS = 64


def measured(folder: Path) -> pd.DataFrame:
    """Images, cores and seconds of every finished shard."""
    state = folder / "cluster"
    jobs = json.loads((state / "jobs.json").read_text())
    words = jobs["command"]
    images = int(words[words.index("--images") + 1])
    rows = []
    for path in sorted(state.glob("done-*.json")):
        done = json.loads(path.read_text())
        shard = shard_range(images, int(path.stem.split("-")[1]), jobs["shards"])
        rows.append(
            {"set": folder.name, "images": len(shard), "cores": done["cpus"], "seconds": done["seconds"]}
        )
    return pd.DataFrame(rows)


def simulating(shards: pd.DataFrame, start: float, each: float, stored: float, note: str) -> list[str]:
    """What was measured, and what it means for all images; ``stored`` are bytes of an image."""
    cores = int(shards["cores"].iloc[0])
    hours = cores * (SHARDS * start + IMAGES * each) / 3600
    minutes = (start + IMAGES / SHARDS * each) / 60
    lines = [
        f"{len(shards)} shards ran on a SLURM of one node, {cores} core each. {note}".strip(),
        "",
        "| set | shards | images in a shard | seconds, median | fastest | slowest |",
        "|:--|--:|--:|--:|--:|--:|",
    ]
    for (name, images), rows in shards.groupby(["set", "images"]):
        t = rows["seconds"]
        lines.append(
            f"| {name} | {len(rows)} | {images:,} | {t.median():.1f} | {t.min():.1f} | {t.max():.1f} |"
        )
    return [
        *lines,
        "",
        f"A straight line through these: {start:.1f} s before the first image (Python, tables, joining)",
        f"and {1e3 * each:.1f} ms for each.",
        "",
        f"**Simulating {IMAGES:,} images of photon counts** in {SHARDS} shards would take",
        f"{hours:,.0f} core hours,",
        f"{minutes:,.0f} minutes if all shards run at once; beginning them is",
        f"{cores * SHARDS * start / 36 / hours:.1f} % of that. The files would hold",
        f"{stored / 1e3:.1f} kB an image,",
        f"{stored * IMAGES / 1e9:,.0f} GB in all;",
        f"{SHARDS} shards write {SHARDS * stored / each / 1e6:,.1f} MB/s. One process joins them at the end:",
        f"until then they and the whole take {2 * stored * IMAGES / 1e9:,.0f} GB of disk. Shards of",
        f"{IMAGES // SHARDS:,} images are {IMAGES / SHARDS / shards['images'].max():,.0f} times larger than",
        "the largest that was measured: a straight line over so far is a guess within a factor of two.",
        "",
    ]


def reconstructing() -> list[str]:
    """The same for every method of the stored comparison."""
    compared = pd.read_parquet(HERE / "compare_quick" / "results.parquet")
    machine = json.loads((HERE / "compare_quick" / "run.json").read_text())["machine"]
    cores = machine["threads"] * machine.get("workers", 1)  # of which a method's seconds are
    lines = [
        "**Reconstructing them**, from the seconds per image of `reports/compare_quick`",
        f"({machine['processor']}, {cores} threads, which count as {cores} cores):",
        "",
        "| method | s per image | core hours | days on 64 cores |",
        "|:--|--:|--:|--:|",
    ]
    for method, seconds in compared.groupby("method", sort=False)["seconds"].mean().items():
        hours = IMAGES * seconds * cores / 3600
        lines.append(f"| {method} | {seconds:.3f} | {hours:,.0f} | {hours / 64 / 24:,.1f} |")
    return lines


def measurements(folders: list[Path], note: str) -> dict[str, Any]:
    """Of shards: what is stored in scaling.json."""
    shards = pd.concat([measured(folder) for folder in folders], ignore_index=True)
    if shards["images"].nunique() < 2 or shards["cores"].nunique() != 1:
        raise SystemExit("give shards of different numbers of images, and of the same number of cores")
    design = np.stack((np.ones(len(shards)), shards["images"]), 1)
    (start, each), *_ = np.linalg.lstsq(design, shards["seconds"].to_numpy(), rcond=None)
    largest = max(folders, key=lambda folder: folder.with_suffix("").stat().st_size)
    images = shards[shards["set"] == largest.name]["images"].sum()
    return {
        **provenance(0, torch.device("cpu"), Experiment()),
        "command": " ".join(["python reports/scaling.py", *(folder.name for folder in folders)]),
        "note": note, "shards": shards.to_dict("records"), "start_seconds": float(start),
        "seconds_per_image": float(each),
        "bytes_per_image": largest.with_suffix("").stat().st_size / images,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--note", default="")
    folders, note = vars(parser.parse_args()).values()
    if folders:
        out = measurements(folders, note)
        write_json(HERE / "scaling.json", out)
    out = json.loads((HERE / "scaling.json").read_text())
    start, each, stored = (out[name] for name in ("start_seconds", "seconds_per_image", "bytes_per_image"))
    shards = pd.DataFrame(out["shards"])
    text = [
        "# What ten million images cost",
        "",
        *simulating(shards, start, each, stored, out["note"]),
        *reconstructing(),
        "",
        "These are extrapolations from one machine. They hold as long as a shard has its cores to itself,",
        f"and the file system keeps up. Shards measured on {out['machine']['processor']}; numbers in",
        "`scaling.json`, made by `reports/scaling.py`.",
    ]
    (HERE / "scaling.md").write_text("\n".join(text) + "\n")


main()
