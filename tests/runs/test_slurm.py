"""Shards on a real SLURM of one node: killed, requeued, timed out, left alone; results as of one process."""

import contextlib
import fcntl
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path

import h5py
import pandas as pd
import pytest
from optuna.storages import RetryHeartbeatStaleTrialCallback

from icobench.reporting.sweeps import read_points
from icobench.runs.search import FINISHED, count
from icobench.runs.search_storage import load_search

SCRIPT = Path(__file__).parents[1] / "cluster" / "one-node-slurm"
PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmdbd", "sbatch", "sacct", "mariadbd")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        bool(MISSING), reason=f"SLURM is not installed ({', '.join(MISSING)}); make test-cluster"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="a SLURM of one's own needs root"),
]


@pytest.fixture(scope="module")
def slurm():
    """The environment of commands that use it."""
    pytest.importorskip("submitit")
    folder = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))  # sockets need a short name
    started = subprocess.run([SCRIPT, "start", folder], capture_output=True, text=True, timeout=150)
    try:
        if started.returncode:
            pytest.skip(f"SLURM does not start here: {started.stderr.strip()[-300:]}")
        own = Path(__file__).parents[2]
        yield os.environ | {
            "SLURM_CONF": str(folder / "slurm.conf"), "PYTHONPATH": str(own), "ICOBENCH_COMPILE": "1",
            "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
        }  # fmt: skip
    finally:
        subprocess.run([SCRIPT, "stop", folder], capture_output=True, timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def icobench(words: str, folder: Path, environment: dict) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "icobench.cli", *words.split()], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(process: subprocess.Popen) -> tuple[int, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out + err


def until(condition, seconds: float = 120.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def process_of(job: str) -> int:
    """Number of the process that does an array's task."""
    array, task = job.split("_")
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes()
            variables = (path / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        mine = {f"SLURM_ARRAY_JOB_ID={array}".encode(), f"SLURM_ARRAY_TASK_ID={task}".encode()}
        # The batch script and srun itself carry the same variables, but no step's.
        step = any(one.startswith(b"SLURM_STEP_ID=0") for one in variables)
        if step and b"submitit.core._submit" in words and mine <= set(variables):
            return int(path.name)
    raise AssertionError(f"no process of {job}")


def time_out(job: str, environment: dict) -> None:
    """What SLURM does a while before a job's time limit: its steps' processes are all sent the signal."""
    subprocess.run(["scancel", "--signal=USR2", job], env=environment, check=True)


def states_of(job: str, environment: dict) -> list[str]:
    """One for each time that SLURM has started a job."""
    ask = ["sacct", "-D", "-X", "-n", "-o", "State", "-j", job]
    return subprocess.run(ask, env=environment, capture_output=True, text=True).stdout.split()


@pytest.mark.slow
def test_killed_requeued_and_timed_out_shards_lose_nothing(slurm, tmp_path):
    # Sixteen blocks a shard: with four, the second could end while the first one was being timed out.
    line = "--images 6000 --seed 5"
    submitted = icobench(f"generate set.h5 {line} --executor slurm --shards 3 --time 10", tmp_path, slurm)
    shards = tmp_path / "set.h5.shards"
    jobs_file = shards / "cluster" / "jobs.json"
    until(lambda: jobs_file.exists() and len(json.loads(jobs_file.read_text())["jobs"]) == 3)
    jobs = json.loads(jobs_file.read_text())["jobs"]
    parts = tmp_path / "set.h5.parts"

    def blocks(shard: int) -> list[Path]:
        """The finished blocks of a shard, which takes every third one."""
        stored = sorted(parts.glob("0*.h5"))
        return [path for path in stored if int(path.name[:9]) // 128 % 3 == shard - 1]

    kept = until(lambda: blocks(1))[0]
    os.link(kept, tmp_path / "kept")
    time_out(jobs["1"]["id"], slurm)
    first_block = until(lambda: blocks(2))[0]
    made = first_block.stat().st_mtime_ns
    os.kill(process_of(jobs["2"]["id"]), signal.SIGKILL)
    until(lambda: blocks(3))
    subprocess.run(["scontrol", "requeue", jobs["3"]["id"]], env=slurm, check=True)

    # Its block is still the one made before the kill when the shard runs again.
    until(lambda: json.loads(jobs_file.read_text())["jobs"]["2"]["attempt"] == 2)
    assert first_block.stat().st_mtime_ns == made
    log = shards / "cluster" / "logs" / f"{jobs['1']['id']}_0_log.out"
    until(lambda: "Requeued job" in log.read_text())
    # A block that is made anew is a new file; it would be, a moment after the second start.
    until(lambda: log.read_text().count("Starting with JobEnvironment") == 2)
    until(lambda: not kept.exists() or len(blocks(1)) > 1)
    assert not kept.exists() or kept.samefile(tmp_path / "kept")
    code, text = ended(icobench("status set.h5", tmp_path, slurm))
    assert code == 0, text
    assert "shards: " in text

    code, text = ended(submitted)
    assert code == 0, text
    assert "set.h5 holds 6000 images" in text
    attempts = {shard: job["attempt"] for shard, job in json.loads(jobs_file.read_text())["jobs"].items()}
    assert attempts == {"1": 1, "2": 2, "3": 1}
    for shard in ("1", "3"):
        job = jobs[shard]["id"]
        until(lambda job=job: states_of(job, slurm)[-1:] == ["COMPLETED"])  # accounts follow a bit later
        assert states_of(job, slurm) == ["REQUEUED", "COMPLETED"]

    code, text = ended(icobench(f"generate whole.h5 {line}", tmp_path, slurm))
    assert code == 0, text
    with h5py.File(tmp_path / "set.h5") as merged, h5py.File(tmp_path / "whole.h5") as whole:
        for name in (
            "entry_1/data_1/data",
            "entry_1/data_1/mask",
            "icobench/radius_nm",
            "icobench/quaternion",
        ):
            assert (merged[name][()] == whole[name][()]).all()


def test_errors_are_those_of_the_command_and_of_the_site(slurm, tmp_path):
    where = "--run run --executor slurm --shards 2"
    code, text = ended(icobench(f"compare --images 2 --methods magic {where}", tmp_path, slurm))
    assert code == 2
    assert "unknown method 'magic'" in text
    assert list(tmp_path.iterdir()) == []
    code, text = ended(icobench("sweep --run s --executor slurm --partition moon", tmp_path, slurm))
    assert code == 2
    assert "error: sbatch: " in text
    assert "partition" in text


def test_comparisons_sweeps_and_searches_are_as_of_one_process(slurm, tmp_path):
    lines = {
        "compare": "compare --images 16 --test-sets clean,counting --methods dictionary+lm --run {}",
        "sweep": "sweep --axis dictionary --points 125,250 --seeds 1 --images 8 --run {}",
        "tune": "tune simplex --trials 4 --images 2 --budget 20 --run {}",
    }
    many = {
        name: icobench(line.format(name) + " --executor slurm --shards 2 --time 10", tmp_path, slurm)
        for name, line in lines.items()
    }
    for name, process in many.items():
        code, text = ended(process)
        assert code == 0, f"{name}: {text}"
    for name in ("compare", "sweep"):
        code, text = ended(icobench(lines[name].format(f"{name}-here"), tmp_path, slurm))
        assert code == 0, text
    ours, theirs = (
        pd.read_parquet(tmp_path / name / "results.parquet") for name in ("compare-here", "compare")
    )
    pd.testing.assert_frame_equal(
        ours.drop(columns=["seconds", "core_seconds"]), theirs.drop(columns=["seconds", "core_seconds"])
    )
    ours, theirs = (
        read_points(tmp_path / name).drop(columns=["seconds", "fixed_seconds", "fixed_core_seconds"])
        for name in ("sweep-here", "sweep")
    )
    pd.testing.assert_frame_equal(ours, theirs)
    summary = json.loads((tmp_path / "tune" / "summary.json").read_text())
    assert summary["states"]["complete"] + summary["states"]["pruned"] == 4


@pytest.mark.slow
def test_a_stack_by_shards_is_as_by_one_process(slurm, tmp_path):
    """Ctrl-C takes the jobs back halfway; the same command goes on with the pieces that are there."""
    code, text = ended(icobench("generate set.h5 --images 600 --seed 5", tmp_path, slurm))
    assert code == 0, text
    words = "reconstruct set.h5 --method network"
    many = icobench(f"{words} --out many.parquet --executor slurm --shards 3 --time 10", tmp_path, slurm)
    parts = tmp_path / ".many.unfinished" / "parts"
    until(lambda: len(list(parts.glob("*.parquet"))) > 2)
    many.send_signal(signal.SIGINT)
    code, text = ended(many)
    assert code == 130, text
    code, text = ended(
        icobench(f"{words} --out many.parquet --executor slurm --shards 3 --time 10", tmp_path, slurm)
    )
    assert code == 0, text
    code, text = ended(icobench(f"{words} --out one.parquet --workers 1", tmp_path, slurm))
    assert code == 0, text
    one, many = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("one", "many"))
    assert len(one) == 600
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), many.drop(columns="seconds"))
    assert not parts.parent.exists()


@pytest.mark.slow
def test_a_time_out_is_no_death_of_a_searchs_workers(slurm, tmp_path):
    # Where many ask it, SLURM takes seconds to requeue a job: until then the job's own process goes on.
    slow = tmp_path / "bin" / "scontrol"
    slow.parent.mkdir()
    slow.write_text(f'#!/bin/sh\ntest "$1" != requeue || sleep 3\nexec {shutil.which("scontrol")} "$@"\n')
    slow.chmod(0o755)
    there = slurm | {"PATH": f"{slow.parent}{os.pathsep}{slurm['PATH']}"}
    line = "tune simplex --trials 4 --images 2 --budget 400 --run run"
    here = icobench(f"{line} --workers 2 --executor slurm --shards 1 --cpus 2", tmp_path, there)
    run = tmp_path / "run"
    until(lambda: (run / "search.json").exists() and count(load_search(run)[0], "RUNNING") == 2)
    job = json.loads((run / "cluster" / "jobs.json").read_text())["jobs"]["1"]["id"]
    time_out(job, slurm)
    code, text = ended(here)
    assert code == 0, text
    assert states_of(job, slurm)[0] == "REQUEUED"
    study, _ = load_search(run)
    retried = RetryHeartbeatStaleTrialCallback.retried_trial_number
    again = [trial for trial in study.get_trials() if retried(trial) is not None]
    assert again
    assert all(trial.user_attrs["stops"] >= 1 for trial in again)
    assert count(study, *FINISHED) == 4
    log = run / "cluster" / "logs" / f"{job}_0_log.err"
    assert "Traceback" not in log.read_text()


class Terminal:
    """A command at a terminal of its own."""

    def __init__(self, words: str, folder: Path, environment: dict) -> None:
        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "icobench.cli", *words.split()], cwd=folder, env=environment,
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            preexec_fn=self._own_terminal,
        )  # fmt: skip
        os.close(theirs)
        self.text = ""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    @staticmethod
    def _own_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        # Tests that run in the background were told to ignore it, and would pass that on.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone
            while part := os.read(self.ours, 4096):
                self.text += part.decode(errors="replace")

    def press(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def ended(self) -> int:
        code = self.process.wait(120)
        self.reader.join(10)
        os.close(self.ours)
        return code


def queue(environment: dict, form: str = "%i") -> list[str]:
    ask = ["squeue", "-h", "-r", "-o", form]
    return subprocess.run(ask, env=environment, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.slow
def test_ctrl_c_leaves_the_jobs_or_takes_them_back(slurm, tmp_path):
    """And five shards where the site allows arrays of four, two of them at the same time."""

    def partition(state: str) -> None:
        subprocess.run(["scontrol", "update", "PartitionName=main", f"State={state}"], env=slurm, check=True)

    line = "sweep --axis starts --points 1,2,3,4,5 --seeds 1 --images 2 --iterations 5"
    slurms = "--executor slurm --shards 5 --max-running 2 --time 10"

    def interrupted(run: str, answer: bytes) -> str:
        at = Terminal(f"{line} --run {run} {slurms}", tmp_path, slurm)
        jobs = tmp_path / run / "cluster" / "jobs.json"
        until(lambda: jobs.exists() and len(json.loads(jobs.read_text())["jobs"]) == 5)
        at.press(b"\x03")
        until(lambda: "leave the jobs running?" in at.text)
        at.press(answer + b"\n")
        assert at.ended() == 130, at.text
        return at.text

    partition("DOWN")  # all wait
    try:
        assert "the jobs are cancelled" in interrupted("back", b"n")
        until(lambda: not queue(slurm), 20)
        assert "the jobs go on" in interrupted("left", b"y")
        assert len(queue(slurm)) == 5
        jobs = json.loads((tmp_path / "left" / "cluster" / "jobs.json").read_text())["jobs"]
        arrays = [job["id"].partition("_")[0] for job in jobs.values()]
        assert len(set(arrays[:4])) == 1
        assert [word for word in queue(slurm, "%E") if arrays[0] in word] == [
            f"afterany:{arrays[0]}_*(unfulfilled)"
        ]
    finally:
        partition("UP")
    code, text = ended(icobench(f"{line} --run left {slurms}", tmp_path, slurm))
    assert code == 0, text
    assert jobs == json.loads((tmp_path / "left" / "cluster" / "jobs.json").read_text())["jobs"]
    code, text = ended(icobench(f"{line} --run here", tmp_path, slurm))
    assert code == 0, text
    here, left = (
        read_points(tmp_path / name).drop(columns=["seconds", "fixed_seconds", "fixed_core_seconds"])
        for name in ("here", "left")
    )
    pd.testing.assert_frame_equal(here, left)
