"""The cluster's bookkeeping, on programs that only pretend to be SLURM's."""

import io
import json
import os
import re
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from icobench import cli
from icobench.errors import InputError
from icobench.runs import cluster, shard_job
from icobench.runs.cluster import ClusterRun
from icobench.runs.shard_job import ShardCommand, ShardJob
from icobench.runs.slurm import ClusterOptions, job_states, parse_minutes
from icobench.runs.status import describe

PROGRAMS = {
    "srun": "",
    "scontrol": "echo MaxArraySize = 4",
    "scancel": ('echo "$@" >> cancelled; test ! -e scancel-fails || { cat scancel-fails >&2; exit 1; }'),
    "sacct": "cat accounting; test ! -e sacct-fails || { echo 'sacct: no route to host' >&2; exit 1; }",
    "sbatch": (
        "test ! -e refuse || { echo 'sbatch: error: invalid partition' >&2; exit 1; }\n"
        "test ! -e interrupt || kill -INT $PPID\n"
        "echo x >> submitted; number=$(wc -l < submitted)\n"
        'for last; do :; done; cp "$last" "script-$number"; echo "Submitted batch job $number"'
    ),
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder, the working one, of programs that read there how they are to behave."""
    pytest.importorskip("submitit")
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in PROGRAMS.items():
        (folder / name).write_text(f"#!/bin/sh\ncd {shlex.quote(str(folder))}\n{text}\n")
        (folder / name).chmod(0o755)
    (folder / "accounting").write_text("JobID|State|NodeList\n")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(cluster, "POLL_SECONDS", 0.0)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return folder


def accounts(slurm: Path, **states: str) -> None:
    lines = [f"{job.removeprefix('job')}|{state}|node" for job, state in states.items()]
    (slurm / "accounting").write_text("\n".join(["JobID|State|NodeList", *lines]) + "\n")


def submitted(slurm: Path) -> int:
    return len((slurm / "submitted").read_text().splitlines()) if (slurm / "submitted").exists() else 0


def icobench(line: str, monkeypatch, capsys) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["icobench", *shlex.split(line)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, capsys.readouterr().err


def nothing(shard: int) -> ShardCommand:
    return ShardCommand(["sweep"], print, (shard, 2))


class Enough(Exception):  # noqa: N818
    pass


def after(polls: int, seen: list, action=lambda poll: None):
    """For wait: note the states; do something after each; end after so many."""

    def progress(states):
        seen.append(dict(states))
        if len(seen) == polls:
            raise Enough
        action(len(seen))

    return progress


def run_of(folder: Path, **more) -> ClusterRun:
    return ClusterRun(folder, ["sweep"], replace(ClusterOptions(2), **more))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sweep --axis nonsense --run run", "unknown axis 'nonsense'"),
        ("sweep --axis starts --points some --run run", "--points must be numbers"),
        ("compare --methods magic --run run", "unknown method 'magic'"),
        ("tune simplex --space nowhere.toml --run run", "nowhere.toml: No such file"),
        ("generate set.h5 --photons -1", "photons must lie in"),
        ("sweep --axis starts --run run --time 0", "--time must be at least a minute"),
        ("sweep --axis starts --run run --time=-5", "--time must be positive"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_submitted(slurm, monkeypatch, capsys, line, message):
    code, err = icobench(f"{line} --executor slurm", monkeypatch, capsys)
    assert code == 2
    assert message in err
    assert submitted(slurm) == 0
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("line", ["compare --methods dictionary+lm", "sweep --axis starts", "tune simplex"])
def test_a_folder_of_something_else_is_refused_before_too(slurm, monkeypatch, capsys, line):
    Path("run").mkdir()
    Path("run/thesis.tex").write_text("mine")
    code, err = icobench(f"{line} --run run --executor slurm", monkeypatch, capsys)
    assert code == 2
    assert "run: not empty and not a" in err
    assert submitted(slurm) == 0
    assert [path.name for path in Path("run").iterdir()] == ["thesis.tex"]


def test_what_is_not_installed_is_said_first(slurm, monkeypatch, capsys):
    line = "sweep --axis starts --run run --executor slurm"
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(slurm / "nowhere"))
        code, err = icobench(line, monkeypatch, capsys)
        assert (code, "there is no SLURM" in err) == (2, True)
    for name in [name for name in sys.modules if name.partition(".")[0] == "submitit"] + ["submitit"]:
        monkeypatch.setitem(sys.modules, name, None)
    code, err = icobench(line, monkeypatch, capsys)
    assert (code, "needs submitit: pip install" in err) == (2, True)
    assert list(Path().iterdir()) == []


def test_no_more_shards_than_points_and_one_spelling_of_the_folder(slurm, monkeypatch, capsys):
    accounts(slurm, **{f"job{job}_{task}": "FAILED" for job in range(1, 5) for task in (0, 1)})
    line = "sweep --axis starts --points 1,2 --seeds 1 --images 2 --executor slurm --shards 5 --retries 0"
    code, err = icobench(f"{line} --run run", monkeypatch, capsys)
    assert code == 1
    assert "2 shards, as there are no more pieces" in err
    assert json.loads(Path("run/cluster/jobs.json").read_text())["shards"] == 2
    for number, spelled in enumerate(("run/", str(Path("run").resolve()), "./run"), 2):
        code, err = icobench(f"{line} --run {spelled}", monkeypatch, capsys)
        assert code == 1, err  # tried again
        assert submitted(slurm) == number
    code, err = icobench(f"{line.replace('1,2', '1,3')} --run run", monkeypatch, capsys)
    assert code == 2
    assert "has the shards of another command" in err


def test_a_folder_belongs_to_a_command_once_slurm_has_taken_a_job(slurm):
    (slurm / "refuse").touch()
    with pytest.raises(InputError, match="sbatch: error: invalid partition"):
        run_of(Path("run"), partition="moon").wait(nothing, lambda states: None)
    (slurm / "refuse").unlink()
    run = ClusterRun(Path("run"), ["compare"], ClusterOptions(3))
    with pytest.raises(Enough):
        run.wait(nothing, after(1, []))
    with pytest.raises(InputError, match="divided into 3 shards, not 2"):
        run_of(Path("run"))


def test_while_accounting_fails_nothing_is_submitted_again(slurm):
    with pytest.raises(Enough):
        run_of(Path("run")).wait(nothing, after(1, []))
    assert submitted(slurm) == 1
    accounts(slurm, job1_0="RUNNING", job1_1="FAILED")
    (slurm / "sacct-fails").touch()
    run, seen = run_of(Path("run")), []
    for job in run.described["jobs"].values():
        job["submitted"] -= 3600

    def action(poll):
        if poll == 1:
            assert run.trouble == "sacct failed: sacct: no route to host"
            assert submitted(slurm) == 1
        if poll == 2:
            (slurm / "sacct-fails").unlink()

    with pytest.raises(Enough):
        run.wait(nothing, after(3, seen, action))
    assert seen[:2] == 2 * [{1: "UNKNOWN", 2: "UNKNOWN"}]
    assert seen[2] == {1: "RUNNING", 2: "PENDING"}
    assert submitted(slurm) == 2
    run.cancel()
    assert (slurm / "cancelled").read_text().split() == ["1_0", "1_1", "2"]


def test_ctrl_c_while_slurm_takes_a_job_loses_no_job(slurm):
    (slurm / "interrupt").touch()
    with pytest.raises(KeyboardInterrupt):
        run_of(Path("run")).wait(nothing, lambda states: None)
    jobs = json.loads(Path("run/cluster/jobs.json").read_text())["jobs"]
    assert {shard: job["id"] for shard, job in jobs.items()} == {"1": "1_0", "2": "1_1"}


def test_a_shard_is_done_as_long_as_its_pieces_are_there(slurm):
    with pytest.raises(Enough):
        run_of(Path("run")).wait(nothing, after(1, []))
    for shard in (1, 2):
        Path(f"run/cluster/done-{shard:05d}.json").write_text(json.dumps({"seconds": 1.0}))
    assert set(run_of(Path("run")).wait(nothing, lambda states: None).values()) == {"DONE"}
    seen = []
    with pytest.raises(Enough):
        run_of(Path("run")).wait(nothing, after(1, seen), lambda shard: shard == 1)
    assert seen == [{1: "DONE", 2: "PENDING"}]
    assert submitted(slurm) == 2


def test_a_time_limit_shorter_than_one_point_is_said(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)  # a job takes its command's
    monkeypatch.setattr("torch.set_num_threads", lambda number: None)
    points = tmp_path / "points"
    points.mkdir()
    clock = [0.0]
    monkeypatch.setattr(shard_job.time, "monotonic", lambda: clock[0])

    def requeued(minutes: float, work=lambda: None, **more) -> bool:
        """An attempt that is stopped after so long: whether there is to be another."""

        def call(shard):
            clock[0] += 60 * minutes
            work()
            raise Enough

        job.command = ShardCommand(["sweep"], call, **{"kept": ((points, "*.json"),), **more})
        with pytest.raises(Enough):
            job()
        return job.checkpoint() is not None

    job = ShardJob(ShardCommand(["sweep"], print), 3, tmp_path, 1, 10)
    assert all(requeued(9.5, kept=()) for _ in range(4))  # nobody can know
    assert all(requeued(3) for _ in range(4))  # others came first
    assert requeued(9.5)
    assert requeued(9.5, (points / "1.json").touch)
    assert requeued(9.5)
    assert not (tmp_path / "refused-00003.json").exists()
    assert not requeued(9.5)
    assert "--time is shorter than one point or trial" in (tmp_path / "refused-00003.json").read_text()


def test_states_of_tasks_that_wait_are_read_from_their_array(slurm):
    rows = ["JobID|State", "1_0|RUNNING", "1_0.batch|RUNNING", "1_[1-3,5%2]|PENDING", "7|CANCELLED by 0"]
    (slurm / "accounting").write_text("\n".join(rows) + "\n")
    states, trouble = job_states(["1_0", "1_2", "7"])
    assert trouble == ""
    assert states == {
        "1_0": "RUNNING", "7": "CANCELLED", **dict.fromkeys(("1_1", "1_2", "1_3", "1_5"), "PENDING"),
    }  # fmt: skip


def test_times_as_sbatch_takes_them():
    texts = {"90": 90, "90:30": 91, "2:00:00": 120, "1-0": 1440, "1-2:30": 1590, "0:01:00": 1}
    assert {text: parse_minutes(text) for text in texts} == texts
    for bad in ("0", "-5", "-1-0", "0:59", "1:-30:0", "soon", "1:2:3:4", "--5"):
        with pytest.raises(InputError, match="--time must be"):
            parse_minutes(bad)


def options_of(slurm: Path, number: int) -> dict[str, str]:
    """What a submitted script asks for, by name."""
    lines = (slurm / f"script-{number}").read_text().splitlines()
    asked = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH --")]
    return dict(line.split("=", 1) if "=" in line else (line, "") for line in asked)


def test_what_sbatch_is_asked_for(slurm, monkeypatch, capsys):
    accounts(slurm, **{f"job1_{task}": "FAILED" for task in (0, 1)})
    line = (
        "sweep --axis starts --points 1,2 --seeds 1 --images 2 --run run --executor slurm --retries 0 "
        "--partition cpu --time 1:30:00 --cpus 3 --gpus 2 --memory 8G --account mine --qos low "
        "--constraint avx --max-running 1 --setup 'module load gcc' --setup 'ulimit -c 0'"
    )
    code, _ = icobench(line, monkeypatch, capsys)
    assert code == 1
    asked = options_of(slurm, 1)
    logs = Path("run/cluster/logs").resolve()
    assert asked == {
        "array": "0-1%1", "job-name": "icobench-sweep", "partition": "cpu", "time": "90",
        "cpus-per-task": "3", "gpus-per-node": "2", "mem": "8G", "account": "mine", "qos": "low",
        "constraint": "avx", "nodes": "1", "open-mode": "append", "signal": "USR2@90", "wckey": "submitit",
        "output": f"{logs}/%A_%a_0_log.out", "error": f"{logs}/%A_%a_0_log.err",
    }  # fmt: skip
    script = (slurm / "script-1").read_text()
    assert script.index("module load gcc") < script.index("ulimit -c 0") < script.index("\nsrun")


@pytest.mark.parametrize("bound", [0, 2])
def test_arrays_are_split_at_the_sites_limit_and_keep_a_bound_together(slurm, bound):
    run = ClusterRun(Path("run"), ["sweep"], ClusterOptions(9, max_running=bound))
    states = {f"job1_{task}": "RUNNING" for task in range(4)}

    def action(poll):
        if poll == 1:  # one fails while others are at work
            accounts(slurm, **states | {"job1_1": "FAILED"})

    with pytest.raises(Enough):
        run.wait(nothing, after(2, [], action))
    asked = [options_of(slurm, number) for number in (1, 2, 3, 4)]
    size = f"%{bound or 4}"
    assert [one.get("array") for one in asked] == [f"0-3{size}", f"0-3{size}", None, None]
    # Bounds of their own would let three arrays run three times as many.
    waits = [None, "afterany:1", "afterany:1:2", "afterany:1:2:3"] if bound else 4 * [None]
    assert [one.get("dependency") for one in asked] == waits
    assert run.described["jobs"]["2"]["id"] == "4"


def test_jobs_that_cannot_be_cancelled_are_named(slurm):
    run = run_of(Path("run"))
    with pytest.raises(Enough):
        run.wait(nothing, after(1, []))
    (slurm / "scancel-fails").write_text(
        "scancel: error: Kill job error on job id 1_0: Invalid job id specified\n"
    )
    run.cancel()  # all have ended
    (slurm / "scancel-fails").write_text("scancel: error: Unable to contact slurm controller\n")
    with pytest.raises(
        InputError, match=r"may still run: scancel: error: Unable to contact .*scancel 1_0 1_1"
    ):
        run.cancel()


@pytest.mark.parametrize("answer", ["y", "n", ""])
def test_ctrl_c_at_a_terminal_asks_whether_to_leave_the_jobs(slurm, monkeypatch, capsys, answer):
    """As the test on a real SLURM and terminal, which is not everywhere."""

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(cluster, "time", SimpleNamespace(time=time.time, sleep=interrupt))
    terminal = io.StringIO(f"{answer}\n")
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    line = "sweep --axis starts --points 1,2 --seeds 1 --images 2 --run run --executor slurm --shards 2"
    code, err = icobench(line, monkeypatch, capsys)
    assert code == 130
    assert "leave the jobs running?" in err
    if answer == "n":
        assert (slurm / "cancelled").read_text().split() == ["1_0", "1_1"]
        assert "the jobs are cancelled" in err
    else:
        assert not (slurm / "cancelled").exists()
        assert "the jobs go on; icobench status run" in err


def test_the_status_of_a_failed_shard_ends_its_log(slurm, monkeypatch, capsys):
    with pytest.raises(Enough):
        run_of(Path("run")).wait(nothing, after(1, []))
    accounts(slurm, job1_0="FAILED", job1_1="CANCELLED by 0")
    Path("run/cluster/done-00002.json").write_text(json.dumps({"seconds": 12.3}))
    log = Path("run/cluster/logs/1_0_0_log.err")
    log.write_text("submitit INFO (x)\nTraceback\nRuntimeError: out of memory\n\nsrun: job 1 ended\n")
    lines, rows = describe(Path("run"))
    assert lines == ["shards: 1 done, 1 failed"]
    assert rows == [
        ("1/2", "failed", "1_0", "1", "", "RuntimeError: out of memory"),
        ("2/2", "done", "1_1", "1", "12", ""),
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["icobench", "status", "run"])
    with pytest.raises(SystemExit):
        cli.main()
    assert re.search(r"1/2 +failed +1_0 +1 +RuntimeError: out of memory", capsys.readouterr().out)


def test_no_password_is_in_the_state_of_shards(slurm, monkeypatch, capsys):
    accounts(slurm, **{f"job{job}_{task}": "FAILED" for job in (1, 2) for task in (0, 1)})
    storage = "postgresql://me:secret@host/db"
    line = f"tune simplex --run run --storage {storage} --executor slurm --shards 2 --retries 0"
    for _ in range(2):  # the same command goes on
        code, err = icobench(line, monkeypatch, capsys)
        assert code == 1, err
    text = Path("run/cluster/jobs.json").read_text()
    assert "postgresql://me:***@host/db" in text
    assert "secret" not in text
