"""The staged script: what the clock stops goes on, what fails is told, and tiny stages end in a report."""

import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from icobench.errors import InputError
from icobench.sets.pattern_file import read_patterns

REPORTS = Path(__file__).parents[2] / "reports"


@pytest.fixture(scope="module", autouse=True)
def _reports_importable():
    sys.path.insert(0, str(REPORTS))
    yield
    sys.path.remove(str(REPORTS))


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A run of every cheap stage in seconds."""
    monkeypatch.setenv("ICOBENCH_COMPILE", "1")
    from paper_scale.scales import SCALES
    from paper_scale.stage import Run

    scale = replace(
        SCALES["small"], name="tiny", splits=(("train", 5), ("validation", 2), ("test", 3)), sliced_images=1,
        fit_images=3, fit_block=2, starts=2, iterations=3, dictionaries=(30, 60), dictionary_images=1,
        race=False,
    )  # fmt: skip
    return Run(scale, tmp_path / "out", tmp_path / "work", torch.device("cpu"))


def document(run, stage):
    return json.loads((run.out / f"{stage}.json").read_text())


def test_pieces_are_resumed_retried_and_guarded(tiny, monkeypatch):
    from paper_scale import main
    from paper_scale.stage import OutOfTime, Part

    calls = []

    def work(stage):
        def note(name, result):
            calls.append(name)
            time.sleep(0.01)
            if isinstance(result, Exception):
                raise result
            return result

        stage.piece("good", lambda: note("good", {"x": 1}))
        stage.piece("bad", lambda: note("bad", RuntimeError("no such luck\nsecond line")))
        stage.piece("long", lambda: note("long", Part({"x": 2}) if "long" not in calls else {"x": 3}))
        stage.piece("late", lambda: note("late", OutOfTime() if "late" not in calls else 4))

    monkeypatch.setitem(main.STAGES, "fake", work)
    assert main.run_stage(replace(tiny, max_minutes=0.0), "fake") == main.MORE
    assert calls == []
    assert main.run_stage(tiny, "fake") == main.FAILED
    found = document(tiny, "fake")
    assert {name: piece["state"] for name, piece in found["pieces"].items()} == {
        "good": "done", "bad": "failed", "long": "part", "late": "part",
    }  # fmt: skip
    spent = found["pieces"]["late"]["seconds"]
    assert found["pieces"]["late"]["result"] == {} and spent > 0
    assert found["pieces"]["bad"]["result"] == {"error": "RuntimeError: no such luck"}
    assert found["scale"] == "tiny" and found["origins"][0]["commit"]
    # What is finished is not made again; everything else is.
    assert main.run_stage(tiny, "fake") == main.FAILED
    assert calls == ["good", "bad", "long", "late", "bad", "long", "late"]
    assert document(tiny, "fake")["pieces"]["long"] | {"seconds": 0, "origin": 0} == {
        "state": "done", "result": {"x": 3}, "seconds": 0, "joules": None, "origin": 0,
    }  # fmt: skip
    # What the stopped call took is not lost.
    late = document(tiny, "fake")["pieces"]["late"]
    assert late["result"] == 4 and late["seconds"] >= spent + 0.01
    # A fresh call makes everything again, of other settings, too.
    ended = len(calls)
    assert main.run_stage(replace(tiny, seed=5, fresh=True), "fake") == main.FAILED
    assert calls[ended:] == ["good", "bad", "long", "late"]
    assert document(tiny, "fake")["origins"][0]["seed"] == 5
    assert main.run_stage(replace(tiny, fresh=True), "fake") == main.FAILED
    other = replace(tiny, scale=replace(tiny.scale, bodies=17))
    with pytest.raises(InputError, match="other settings"):
        main.run_stage(other, "fake")


def test_a_new_call_leaves_the_old_origin(tiny):
    from paper_scale.store import Store

    first = Store(tiny.out, "x", tiny.scale, 0, tiny.device)
    first.put("a", "done", 1, 1.0, None)
    second = Store(tiny.out, "x", tiny.scale, 0, tiny.device)
    second.origin["commit"] = "another"
    second.put("b", "done", 2, 1.0, 5.0)
    found = document(tiny, "x")
    assert [found["pieces"][name]["origin"] for name in "ab"] == [0, 1]
    assert found["origins"][1]["commit"] == "another"


def test_tiny_stages_and_their_page(tiny):
    from paper_scale.claims import PAPER, claims
    from paper_scale.fits import table_of
    from paper_scale.main import DONE, MORE, STAGES, run_stage
    from paper_scale.report import report

    assert run_stage(tiny, "data") == DONE
    made = document(tiny, "data")["pieces"]["paper set"]["result"]
    assert made["images"] == 10 and made["made_in_one_go"]
    assert len(read_patterns(tiny.work / "tiny.h5", "test")) == 3

    # One block of two, then the rest.
    assert run_stage(replace(tiny, max_minutes=1e-9), "simplex") == MORE
    assert run_stage(tiny, "simplex") == DONE
    rows, course = (table_of(tiny.out, "simplex", "simplex", what) for what in ("results", "curves"))
    assert list(rows["image"]) == [0, 1, 2]
    first = tiny.out / "simplex" / "simplex-00000.results.parquet"
    shutil.copy(first, first.with_name("simplex-race-00000.results.parquet"))
    assert len(table_of(tiny.out, "simplex", "simplex", "results")) == 3
    assert len(table_of(tiny.out, "simplex", "simplex-race", "results")) == 2
    steps = tiny.scale.iterations + 1  # the start counts as one
    assert course.groupby("image").size().tolist() == [steps] * 3
    # Two simplices of five corners, then one to six evaluations an iteration of each.
    assert (course[course["step"] == 0]["evaluations"] == 2 * 5).all()
    assert rows["evaluations"].between(10 + 6 * 1 + 1, 10 + 6 * 6 + 5).all()
    for _, own in course.groupby("image"):
        assert (np.diff(own["objective"]) <= 0).all()

    assert run_stage(tiny, "dictionaries") == DONE
    sizes = [piece["result"]["patterns"] for piece in document(tiny, "dictionaries")["pieces"].values()]
    assert sizes[0] < sizes[1] and abs(sizes[1] - 60) < 25

    assert run_stage(tiny, "ledger") == DONE
    page = tiny.out / "report.md"
    report(tiny.out, tiny.scale, list(STAGES), page)
    text = page.read_text()
    assert "still owed" in text and "**tiny**" in text and "(figure4b.png)" in text
    fits = {claim.what: claim for claim in claims(tiny.out, tiny.scale)}
    counted = fits["simulations for an image, 50 x 50"]
    assert counted.ours == pytest.approx(rows["evaluations"].mean())
    assert counted.ratio == pytest.approx(PAPER["simplex_simulations"] / rows["evaluations"].mean())
    assert fits["training the published network"].ratio is None
    # Every row of a table has as many cells as its header.
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_power_meter_reads_watts_and_ignores_what_is_none():
    from paper_scale.energy import PowerMeter

    script = "import time\nfor w in ('[N/A]', 100, 300):\n print(w, flush=True)\ntime.sleep(60)"
    with PowerMeter([sys.executable, "-c", script]) as meter:
        begin = time.perf_counter()
        while len(meter.samples) < 2:
            assert time.perf_counter() - begin < 30
            time.sleep(0.01)
    assert meter.joules == pytest.approx(200 * (time.perf_counter() - meter.begin), rel=0.5)
    with PowerMeter(["no-such-program-here"]) as none:
        pass
    assert none.joules is None


def test_power_is_that_of_the_gpu_in_use(monkeypatch):
    from paper_scale.energy import power_query

    assert power_query(torch.device("cpu")) == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert power_query(torch.device("cuda"))[-1] == "--id=0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5a")
    assert [power_query(torch.device("cuda", one))[-1] for one in (0, 1)] == ["--id=3", "--id=GPU-5a"]


def test_the_set_is_timed_by_what_was_made(tiny):
    """Stopped after its last block it is only joined in the next call: it is made again."""
    from paper_scale import data
    from paper_scale.main import DONE, MORE, run_stage
    from paper_scale.stage import OutOfTime, Stage

    stage = Stage(tiny, "data")

    def stop(*_):
        raise OutOfTime

    stage.check_clock = stop
    with pytest.raises(OutOfTime):
        data.data_set(stage)
    assert list(tiny.work.glob("*.parts/0*.h5")) and not (tiny.work / "tiny.h5").exists()
    assert run_stage(replace(tiny, max_minutes=0), "data") == MORE
    assert run_stage(tiny, "data") == DONE
    assert document(tiny, "data")["pieces"]["paper set"]["result"]["made_in_one_go"]


def test_a_small_page_never_replaces_the_paper_scale_s(tmp_path):
    from paper_scale.main import page_of

    front, small = tmp_path / "paper_scale.md", tmp_path / "paper_scale" / "small" / "README.md"
    assert page_of("small", tmp_path) == page_of("paper", tmp_path) == front
    (tmp_path / "paper_scale" / "paper").mkdir(parents=True)
    (tmp_path / "paper_scale" / "paper" / "data.json").write_text("{}")
    assert page_of("small", tmp_path) == small and page_of("paper", tmp_path) == front


@pytest.fixture
def networked(tiny, tmp_path, monkeypatch):
    """The tiny run with the smallest networks; the trainings it does, by folder."""
    from paper_scale import fits, networks

    smallest = {"widths": [4, 4, 4], "hidden": 8, "blocks": [0, 0, 0]}
    published = replace(
        tiny.scale.paper_network, architecture="compact", network={**smallest, "target": "quaternion"},
        steps=2, batch=2,
    )  # fmt: skip
    # Three different ones: equal recipes would give the very same weights.
    sizes = ("1 M", {**smallest, "hidden": 12}), ("2 M", {**smallest, "hidden": 16})
    scale = replace(
        tiny.scale, paper_network=published, compact=replace(tiny.scale.compact, network=smallest, batch=2),
        compact_minutes=0.0, sizes=sizes, size_minutes=0.0,
        evaluation_images=4, fit_images=2, fit_block=1, sweep_sizes=(2, 4), sweep_seeds=2, sweep_minutes=0.0,
        sweep_images=3, own_network=True, export=True,
    )  # fmt: skip
    monkeypatch.setenv("ICOBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fits, "HYBRIDS", ("network", "network+lm", "dictionary+lm"))
    monkeypatch.setattr(networks, "speed", lambda *_: {"one_image_ms": 1.0, "images_per_second": 1.0})
    trained, train = [], networks.train

    def noted(recipe, experiment, folder, *rest, **settings):
        trained.append(folder.name)
        return train(recipe, experiment, folder, *rest, **settings)

    monkeypatch.setattr(networks, "train", noted)
    return replace(tiny, scale=scale, seed=3), trained


def test_networks_survive_a_lost_machine_and_are_not_mixed(networked, monkeypatch, capsys):
    from paper_scale import networks
    from paper_scale.figures import sweep_points
    from paper_scale.main import DONE, MORE, STAGES, run_stage
    from paper_scale.report import report
    from paper_scale.stage import OutOfTime

    run, trained = networked
    stages = ("paper-network", "compact-network", "larger-network")

    def states(stage):
        return {name: piece["state"] for name, piece in document(run, stage)["pieces"].items()}

    def stop(*_):
        raise OutOfTime

    # The clock stops every stage after its training, before the network is judged.
    with monkeypatch.context() as stopped:
        stopped.setattr(networks, "judged", stop)
        assert [run_stage(run, stage) for stage in stages] == [MORE] * 3
    first = ["train-paper", "probe-compact", "train-compact", "probe-1M", "train-1M"]
    assert trained == first
    assert states("compact-network")["training compact"] == "done"
    # The hybrids wait for this network, and take no other.
    assert run_stage(run, "hybrids") == MORE
    assert "left for later" in capsys.readouterr().out
    assert list(states("hybrids")) == ["dictionary", "dictionary+lm 0", "dictionary+lm 1", "dictionary+lm"]

    # With the folder of work everything goes on.
    kept = replace(run, out=run.out.with_name("kept"), work=run.work.with_name("kept-work"))
    for name in ("out", "work"):
        shutil.copytree(getattr(run, name), getattr(kept, name))
    trained.clear()
    assert run_stage(kept, "compact-network") == DONE
    assert trained == []

    # Without it, a network that was not judged is trained again; then its evaluation stays as it is.
    shutil.rmtree(run.work)
    assert [run_stage(run, stage) for stage in stages] == [DONE] * 3
    assert trained == ["train-paper", "train-compact", "train-1M", "probe-2M", "train-2M"]
    judged = document(run, "compact-network")["pieces"]["evaluation compact"]["result"]
    assert judged["clean"]["networks"] == judged["digest"]
    shutil.rmtree(run.work)
    trained.clear()
    assert [run_stage(run, stage) for stage in stages] == [DONE] * 3
    assert trained == []

    # An export that is still owed takes the weights, too.
    for stage, piece, names in (
        ("compact-network", "export compact", ["train-compact"]),
        ("larger-network", "export", [f"train-{_largest(run)}"]),
    ):
        found = document(run, stage)
        found["pieces"][piece]["state"] = "failed"
        (run.out / f"{stage}.json").write_text(json.dumps(found))
        assert run_stage(run, stage) == DONE
        assert trained == names
        trained.clear()

    assert run_stage(run, "hybrids") == DONE
    source = document(run, "compact-network")["pieces"]["export compact"]["result"]["source"]
    cards = document(run, "hybrids")["pieces"]["networks"]["result"]
    assert [card["digest"] for card in cards] == [source]
    before = document(run, "hybrids")
    shutil.copy(run.work / "larger-network" / f"train-{_largest(run)}" / "network.safetensors",
                run.out / "compact.safetensors")  # fmt: skip
    with pytest.raises(InputError, match="--stage hybrids --fresh"):
        run_stage(run, "hybrids")
    assert document(run, "hybrids") == before

    assert run_stage(run, "sweep") == DONE
    assert {size: [one["seed"] for one in rows] for size, rows in sweep_points(run.out).items()} == {
        2: [3, 4], 4: [3, 4],
    }  # fmt: skip
    assert run_stage(run, "ledger") == DONE
    report(run.out, run.scale, list(STAGES), run.out / "report.md")
    assert "seed 3." in (run.out / "report.md").read_text()


def _largest(run):
    return document(run, "larger-network")["pieces"]["largest that pays off"]["result"]["name"]


def test_every_stage_runs_without_what_a_gpu_machine_lacks(tmp_path):
    """In a process where roma and others cannot be imported: all stages import, a tiny one runs."""
    script = """
import sys
BLOCKED = {"roma", "optuna", "cma", "asv", "tifffile", "joblib", "submitit"}
sys.modules.update(dict.fromkeys(BLOCKED))  # None: an import fails
sys.path[:0] = [REPORTS, TREE]
import torch
from dataclasses import replace
from pathlib import Path
import paper_scale.main as main
from paper_scale.scales import SCALES
from paper_scale.stage import Run
scale = replace(SCALES["small"], splits=(("train", 2), ("test", 1)), sliced_images=1)
run = Run(scale, Path(OUT), Path(OUT), torch.device("cpu"))
assert main.run_stage(run, "data") == 0
import icobench.fitting.cma_es, icobench.commands.networks, icobench.runs.comparison
assert all(sys.modules[name] is None for name in BLOCKED)
"""
    given = {"REPORTS": str(REPORTS), "TREE": str(REPORTS.parent), "OUT": str(tmp_path)}
    head = "".join(f"{name} = {value!r}\n" for name, value in given.items())
    done = subprocess.run([sys.executable, "-c", head + script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "data.json").read_text())["pieces"]
    assert {piece["state"] for piece in found.values()} == {"done"}


def test_bad_words(tmp_path, capsys):
    from paper_scale.main import BAD_INPUT, main

    assert main(["--stage", "nonsense", "--scale", "small", "--out", str(tmp_path)]) == BAD_INPUT
    assert "unknown stage 'nonsense'" in capsys.readouterr().err
