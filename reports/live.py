"""How many images a second are reconstructed while they come, and of a long stack: live.json and live.md.

    python reports/live.py [--seconds 300] [--rate 120] [--frames 10000] [--only watch|stack] [--methods ...]
        [--pulses 1] [--workers 0] [--out FILE.json]

On a machine with a GPU the commands use it, as they always do.

**Watch.** ``icobench replay --publish`` sends images at a rate, whether or not they are received, and
``icobench watch`` subscribes. A train has ``--pulses`` images, and the latency counts from the moment at
which it was due to be sent. The first seconds are left out: there it answers what had come while it loaded
the networks.

**Stack.** ``icobench reconstruct`` of a file of so many frames, and the same stopped by Ctrl-C and started
again.

The load of the machine before each measurement stands beside it. --page makes the page anew from live.json.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from icobench.images.bridge import FIRST_TRAIN
from icobench.images.formats import DATA_PATH, MASK_PATH
from icobench.provenance import provenance, short_commit
from icobench.runs.pool import chosen_device
from icobench.simulator.experiment import Experiment
from icobench.storage import write_json

HERE = Path(__file__).parent
PROGRAM = [sys.executable, "-m", "icobench.cli"]
IMAGES = 400
WARM_SECONDS = 15.0
STARTED = 4
"""Pieces of a stack until its processes have started."""
PORT = 46_110
SEED = 28
TARGETS = {"network": (120, 400), "network+lm": (120, 35)}
"""Images a second of a stream, and of a stack."""


def memory(process: subprocess.Popen) -> float:
    """MB that a process has in memory now, without its children."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 1024
    except (OSError, StopIteration):
        return np.nan


def core_seconds(process: subprocess.Popen) -> float:
    """Core time that a process has taken, without its children."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return np.nan


def begun(folder: Path, *words: str, log: str) -> subprocess.Popen:
    """A command of the package, which says what it says into a file."""
    # A shell's background jobs ignore Ctrl-C, and so would their children.
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    return subprocess.Popen(
        [*PROGRAM, *words], cwd=folder, stderr=(folder / log).open("wb"), preexec_fn=heard
    )


def made(folder: Path, frames: int) -> Path:
    """A file of images, simulated ones repeated: only their number counts here."""
    first = folder / "first.h5"
    if not first.exists():
        words = ["generate", first.name, "--images", str(IMAGES), "--seed", str(SEED)]
        subprocess.run([*PROGRAM, *words], cwd=folder, check=True, capture_output=True)
    path = folder / f"stack-{frames}.h5"
    with h5py.File(first) as source, h5py.File(path, "w") as stream:
        images = source[DATA_PATH][()]
        shape = (frames, *images.shape[1:])
        data = stream.create_dataset(DATA_PATH, shape, images.dtype, chunks=(1, *shape[1:]), compression=1)
        for start in range(0, frames, len(images)):
            data[start : start + len(images)] = images[: frames - start]
        stream[MASK_PATH] = source[MASK_PATH][0]  # the same hole in all
        source.copy("icobench", stream)
    return path


def watched(folder: Path, method: str, rate: float, seconds: float, pulses: int) -> dict[str, Any]:
    """One session with a stream that does not wait."""
    sent = made(folder, IMAGES if pulses == 1 else 2 * pulses)  # whole trains
    out, load = folder / "live.parquet", os.getloadavg()[0]
    out.unlink(missing_ok=True)
    words = ["--rate", str(rate), "--pulses", str(pulses), "--port", str(PORT), "--images", "10000000"]
    server = begun(folder, "replay", sent.name, *words, "--publish", "--idle", "300", log="replay.log")
    words = ["--subscribe", "--method", method, "--out", out.name, "--mask", "first.h5"]
    client = begun(folder, "watch", f"tcp://127.0.0.1:{PORT}", *words, log="watch.log")
    used, spent, ready = [], [], np.inf
    while client.poll() is None and time.time() < ready + WARM_SECONDS + seconds:
        if "\nready" in (folder / "watch.log").read_text():
            ready = min(ready, time.time())
            used.append(memory(client))
            spent.append(core_seconds(client))
        time.sleep(1)
    load = max(load, os.getloadavg()[0])
    client.send_signal(signal.SIGINT)
    client.wait()
    server.terminate()
    print((folder / "watch.log").read_text())
    table = pd.read_parquet(out)
    train = (table["train"] - FIRST_TRAIN).to_numpy()
    number = train * pulses + table["index"].to_numpy()
    arrived = (
        table["arrived"].astype("int64").to_numpy()
        / 10 ** {"ms": 3, "us": 6, "ns": 9}[table["arrived"].dt.unit]
    )
    sent_at = train * pulses / rate
    due = sent_at + (arrived - sent_at).min()
    late = arrived + table["latency_s"].to_numpy() - due
    counted = (due > ready + WARM_SECONDS) & (due < ready + WARM_SECONDS + seconds - 2)
    later = table[counted]
    span = (number[counted].max() - number[counted].min() + 1) / rate
    used = [value for value in used if np.isfinite(value)]
    half = used[len(used) // 2 :]
    return {
        "method": method, "rate": rate, "pulses": pulses, "seconds": float(span), "load": load,
        "images": len(later), "missed": round(span * rate) - len(later), "per_second": len(later) / span,
        "hits": int(later["radius_nm"].notna().sum()),
        "fitted_per_second": float((later["method"] != "network").sum() / span),
        "latency_ms": (1e3 * np.quantile(late[counted], (0.5, 0.99))).tolist(),
        "memory_mb": [max(used[: len(used) // 2]), max(half)],
        "core_ms": 1e3 * (spent[-1] - spent[0]) / max(int((due > ready).sum()), 1),
        "doubled": int(table.duplicated(["source", "train", "index"]).sum()),
    }  # fmt: skip


def stacked(folder: Path, method: str, frames: int, workers: int) -> dict[str, Any]:
    """A long stack at one go, and one that is interrupted and goes on."""
    path, load = made(folder, frames), os.getloadavg()[0]
    tables, seconds, used, spent = [], [], [], []
    course: list[tuple[float, int]] = []
    for name, stop in (("whole.parquet", False), ("twice.parquet", True)):
        words = ["reconstruct", path.name, "--method", method, "--workers", str(workers), "--out", name]
        begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        process = begun(folder, *words, log="stack.log")
        while process.poll() is None:
            used.append(memory(process))
            pieces = list((folder / f".{Path(name).stem}.unfinished" / "parts").glob("*.parquet"))
            if stop and len(pieces) > STARTED:
                process.send_signal(signal.SIGINT)
                process.wait()
            if not stop and (not course or len(pieces) > course[-1][1]):
                course.append((time.monotonic(), len(pieces)))
            time.sleep(0.1)
        seconds.append(time.monotonic() - begin)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if stop:
            assert process.returncode == 130, process.returncode
            subprocess.run([*PROGRAM, *words], cwd=folder, check=True, capture_output=True)
        tables.append(pd.read_parquet(folder / name).drop(columns=["seconds"]))
    used = [value for value in used if np.isfinite(value)]
    return {
        "method": method, "frames": frames, "workers": workers, "seconds": seconds[0],
        "per_second": frames / seconds[0], "sustained": sustained(course, frames),
        "load": load, "core_ms": 1e3 * spent[0] / frames,
        "memory_mb": [float(np.quantile(used, 0.5)), max(used)],
        "same_table": bool(tables[0].equals(tables[1])),
    }  # fmt: skip


def sustained(course: list[tuple[float, int]], frames: int) -> float:
    """Frames a second once all processes work: between the first and the last look after some pieces."""
    later = [look for look in course if look[1] > STARTED]
    (begin, first), (end, last) = later[0], later[-1]
    return frames * (last - first) / last / (end - begin)


def page(results: dict[str, Any]) -> str:
    """Markdown."""
    made = {row["origin"]["command"]: row["origin"] for row in results["watch"] + results["stack"]}
    machine = results["machine"]
    on_gpu = "gpu" in machine
    lines = [
        "# Images that come, and long stacks",
        "",
        "Images of 1e5 photons, 128 x 128. Load is the number of processes that wanted a core in the minute",
        "before or at the end, whichever is more. Made on",
        f"{machine.get('gpu', machine['processor'])}, {machine['cores']} cores, by",
        "",
        *(
            f"- `{command}` at {short_commit(origin.get('tree', origin['commit']))}, {origin['created'][:10]}"
            for command, origin in made.items()
        ),
        "",
    ]
    if results["watch"]:
        lines += [
            "`icobench watch` on a stream that does not wait. Latency: from when a train was due to be sent",
            f"to its answer, after the first {WARM_SECONDS:g} s. Memory: of the main process, largest in the",
            "first half and in the second.",
            "",
            "| method | sent a second | images a train | seconds | load | answered a second | not received |"
            " doubled | fits a second | latency, median (ms) | 99 % (ms) | core time an image (ms)"
            " | memory (MB) |",
            "|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for row in results["watch"]:
            median, worst = row["latency_ms"]
            lines.append(
                f"| {row['method']} | {row['rate']:,g} | {row['pulses']} | {row['seconds']:.0f} "
                f"| {row['load']:.1f} "
                f"| {row['per_second']:.1f} | {row['missed']} | {row['doubled']} "
                f"| {row['fitted_per_second']:.1f} | {median:.0f} | {worst:.0f} | {row['core_ms']:.1f} "
                f"| {row['memory_mb'][0]:.0f}, {row['memory_mb'][1]:.0f} |"
            )
        lines += [
            "",
            "European XFEL's detectors take up to 3,520 images a second, 352 in a train."
            if on_gpu
            else "Targets: 120 a second for 300 seconds, 99 % within 100 ms, constant memory.",
            "",
        ]
    if results["stack"]:
        lines += [
            "`icobench reconstruct` of a file, start and end of the program included; and from the fifth",
            f"piece to the last, when all processes work. Interrupted: stopped by Ctrl-C after {STARTED + 1}",
            "pieces and started again. Processes: 0 for as many as are worth it.",
            "",
            "| method | frames | processes | load | seconds | frames a second | from the fifth piece on"
            " | target | core time a frame (ms)"
            " | memory, median and largest (MB) | the same table after an interruption |",
            "|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|:--|",
        ]
        for row in results["stack"]:
            lines.append(
                f"| {row['method']} | {row['frames']:,} | {row['workers']} | {row['load']:.1f} "
                f"| {row['seconds']:.0f} | {row['per_second']:.1f} | {row['sustained']:.1f} "
                f"| {'-' if on_gpu else TARGETS[row['method']][1]} "
                f"| {row['core_ms']:.1f} "
                f"| {row['memory_mb'][0]:.0f}, {row['memory_mb'][1]:.0f} "
                f"| {'yes' if row['same_table'] else '**no**'} |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--rate", type=float, default=120.0)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--only", choices=("watch", "stack"))
    parser.add_argument("--pulses", type=int, default=1, help="images of a train")
    parser.add_argument("--workers", type=int, default=0, help="processes for a stack")
    parser.add_argument("--methods", default="network,network+lm")
    parser.add_argument("--out", type=Path, default=HERE / "live.json")
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    file = given.out
    if not given.page:
        origin = provenance(SEED, chosen_device("auto"), Experiment())
        origin["command"] = " ".join(["python reports/live.py", *sys.argv[1:]])
        results = json.loads(file.read_text()) if file.exists() else {"watch": [], "stack": []}
        with tempfile.TemporaryDirectory() as temporary:
            for method in given.methods.split(","):
                for name in ("watch", "stack") if given.only is None else (given.only,):
                    if name == "watch":
                        row = watched(Path(temporary), method, given.rate, given.seconds, given.pulses)
                    else:
                        row = stacked(Path(temporary), method, given.frames, given.workers)
                    same = ("method", "rate", "pulses", "frames", "workers")
                    kept = [
                        other
                        for other in results[name]
                        if any(other.get(key) != row.get(key) for key in same)
                    ]
                    results[name] = [*kept, row | {"origin": origin}]
                    write_json(file, {**origin, **results})
    file.with_suffix(".md").write_text(page(json.loads(file.read_text())))


if __name__ == "__main__":
    main()
