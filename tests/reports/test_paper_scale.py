"""The staged script: what the clock stops goes on, what fails is told, and tiny stages end in a report."""

import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from icobench.errors import InputError
from icobench.fitting.dictionary import DictionaryOptions, build_dictionary, dictionary_for
from icobench.methods.registry import find_method
from icobench.sets.pattern_file import read_patterns
from icobench.simulator.compiled import prepare_kernel

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


def pieces(run, stage):
    from paper_scale.stage import stored_pieces

    return stored_pieces(run.out, stage)


def states(run, stage):
    return {name: piece["state"] for name, piece in pieces(run, stage).items()}


def test_pieces_are_resumed_retried_and_guarded(tiny, monkeypatch):
    from paper_scale import main
    from paper_scale.stage import OutOfTime, Part, Piece

    calls = []

    def work(name, first, then):
        calls.append(name)
        time.sleep(0.01)
        result = first if calls.count(name) == 1 else then
        if isinstance(result, Exception):
            raise result
        return result

    error = RuntimeError("no such luck\nsecond line")
    results = {
        "good": ({"x": 1}, None), "bad": (error, error), "long": (Part({"x": 2}), {"x": 3}),
        "late": (OutOfTime(), 4),
    }  # fmt: skip

    def stage(_):
        made = [Piece(name, lambda name=name: work(name, *results[name])) for name in results]
        waiting = Piece("waiting", lambda: calls.append("waiting") or 5, needs=["good", "long"])
        return [*made, waiting, Piece("unwanted", lambda: calls.append("unwanted"), wanted=lambda: False)]

    monkeypatch.setitem(main.STAGES, "fake", stage)
    assert main.run_stage(replace(tiny, max_minutes=0.0), "fake") == main.MORE
    assert calls == [] and not tiny.out.exists()
    assert main.run_stage(tiny, "fake") == main.FAILED
    assert states(tiny, "fake") == {"good": "done", "bad": "failed", "long": "part", "late": "part"}
    stored = pieces(tiny, "fake")
    spent = stored["late"]["seconds"]
    assert stored["late"]["result"] == {} and spent > 0
    assert stored["bad"]["result"] == {"error": "RuntimeError: no such luck"}
    assert stored["good"]["origin"]["commit"]
    # What is finished is not made again; everything else is, and what waited for it.
    assert main.run_stage(tiny, "fake") == main.FAILED
    assert calls == [*results, "bad", "long", "late", "waiting"]
    assert pieces(tiny, "fake")["good"] == stored["good"]
    long = pieces(tiny, "fake")["long"]
    assert (long["state"], long["result"], long["joules"]) == ("done", {"x": 3}, None)
    # What the stopped call took is not lost.
    late = pieces(tiny, "fake")["late"]
    assert late["result"] == 4 and late["seconds"] >= spent + 0.01
    # A fresh call makes everything again, of other settings, too.
    calls.clear()
    assert main.run_stage(replace(tiny, seed=5, fresh=True), "fake") == main.FAILED
    assert calls == list(results)
    assert pieces(tiny, "fake")["good"]["origin"]["seed"] == 5
    other = replace(tiny, scale=replace(tiny.scale, bodies=17))
    with pytest.raises(InputError, match="other settings"):
        main.run_stage(other, "fake")


def test_the_stored_page_is_that_of_the_stored_results(tmp_path):
    from paper_scale.main import STAGES
    from paper_scale.report import report
    from paper_scale.scales import SCALES

    page = tmp_path / "page.md"
    report(REPORTS / "paper_scale" / "small", SCALES["small"], list(STAGES), page)
    made, stored = page.read_text(), (REPORTS / "paper_scale.md").read_text()
    assert re.sub(r"\(\S*figure", "(figure", made) == re.sub(r"\(\S*figure", "(figure", stored)


def test_tiny_stages_and_their_page(tiny):
    from paper_scale.claims import PAPER, claims
    from paper_scale.fits import table_of
    from paper_scale.main import DONE, MORE, STAGES, run_stage
    from paper_scale.report import report

    assert run_stage(tiny, "data") == DONE
    made = pieces(tiny, "data")["paper set"]["result"]
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
    for _, steps_of_one in course.groupby("image"):
        assert (np.diff(steps_of_one["objective"]) <= 0).all()

    assert run_stage(tiny, "dictionaries") == DONE
    stored = pieces(tiny, "dictionaries")
    sizes = [stored[name]["result"]["patterns"] for name in ("30", "60")]
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
    assert [power_query(torch.device("cuda", number))[-1] for number in (0, 1)] == ["--id=3", "--id=GPU-5a"]


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
    assert pieces(tiny, "data")["paper set"]["result"]["made_in_one_go"]


def test_a_small_page_never_replaces_the_paper_scale_s(tmp_path):
    from paper_scale.main import page_of

    front, small = tmp_path / "paper_scale.md", tmp_path / "paper_scale" / "small" / "README.md"
    assert page_of("small", tmp_path) == page_of("paper", tmp_path) == front
    (tmp_path / "paper_scale" / "paper" / "data").mkdir(parents=True)
    (tmp_path / "paper_scale" / "paper" / "data" / "stage.json").write_text("{}")
    assert page_of("small", tmp_path) == small and page_of("paper", tmp_path) == front


@pytest.fixture
def networked(tiny, tmp_path, monkeypatch):
    """The tiny run with the smallest networks, trained for two steps; the trainings it does, by folder."""
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
        evaluation_images=4, fit_images=2, fit_block=1, sweep_sizes=(2,), sweep_seeds=2, sweep_minutes=0.0,
        sweep_images=3, own_network=True, export=True,
    )  # fmt: skip
    prepare_kernel(tiny.device)  # before the cache moves, where the kernel lies
    monkeypatch.setenv("ICOBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fits, "HYBRIDS", ("network", "network+lm", "dictionary+lm"))
    small = DictionaryOptions(30)
    monkeypatch.setattr(fits, "build_dictionary", lambda simulator: build_dictionary(simulator, small))
    monkeypatch.setattr(fits, "dictionary_for", lambda simulator: dictionary_for(simulator, small))

    def with_small_dictionary(name):
        method = find_method(name)
        return method.with_options(dictionary=small.size) if "+" in name else method

    monkeypatch.setattr(fits, "find_method", with_small_dictionary)
    monkeypatch.setattr(networks, "speed", lambda *_: {"one_image_ms": 1.0, "images_per_second": 1.0})
    monkeypatch.setattr(networks, "AHEAD", {"cpu": 1})
    monkeypatch.setattr(networks, "LEAST_STEPS", 2)
    trained, train = [], networks.train

    def noted(recipe, experiment, folder, *rest, **settings):
        trained.append(folder.name)
        return train(recipe, experiment, folder, *rest, **settings)

    monkeypatch.setattr(networks, "train", noted)
    return replace(tiny, scale=scale, seed=3), trained


@pytest.mark.slow
def test_networks_survive_a_lost_machine_and_are_not_mixed(networked, monkeypatch, capsys):
    from paper_scale import networks
    from paper_scale.figures import sweep_points
    from paper_scale.main import DONE, MORE, STAGES, run_stage
    from paper_scale.report import report
    from paper_scale.stage import OutOfTime

    run, trained = networked
    stages = ("paper-network", "compact-network", "larger-network")

    def stop(*_):
        raise OutOfTime

    # The clock stops every stage after its training, before the network is judged.
    with monkeypatch.context() as stopped:
        stopped.setattr(networks, "judged", stop)
        assert [run_stage(run, stage) for stage in stages] == [MORE] * 3
    sizes = ["probe-1M", "train-1M", "probe-2M", "train-2M"]
    assert trained == ["train-paper", "probe-compact", "train-compact", *sizes]
    assert states(run, "compact-network")["training compact"] == "done"
    # The hybrids wait for this network, and take no other.
    assert run_stage(run, "hybrids") == MORE
    assert "left for later" in capsys.readouterr().out
    assert set(states(run, "hybrids")) == {
        "dictionary", "dictionary+lm 0", "dictionary+lm 1", "dictionary+lm",
    }  # fmt: skip

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
    assert trained == ["train-paper", "train-compact", "train-1M", "train-2M"]
    judged = pieces(run, "compact-network")["evaluation compact"]["result"]
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
        stored = pieces(run, stage)[piece]
        (run.out / stage / "pieces" / f"{piece}.json").write_text(json.dumps(stored | {"state": "failed"}))
        assert run_stage(run, stage) == DONE
        assert trained == names
        trained.clear()

    assert run_stage(run, "hybrids") == DONE
    source = pieces(run, "compact-network")["export compact"]["result"]["source"]
    cards = pieces(run, "hybrids")["networks"]["result"]
    assert [card["digest"] for card in cards] == [source]
    before = pieces(run, "hybrids")
    shutil.copy(run.work / "larger-network" / f"train-{_largest(run)}" / "network.safetensors",
                run.out / "compact.safetensors")  # fmt: skip
    with pytest.raises(InputError, match="--stage hybrids --fresh"):
        run_stage(run, "hybrids")
    assert pieces(run, "hybrids") == before

    assert run_stage(run, "sweep") == DONE
    assert {size: [row["seed"] for row in rows] for size, rows in sweep_points(run.out).items()} == {
        2: [3, 4],
    }  # fmt: skip
    assert run_stage(run, "ledger") == DONE
    report(run.out, run.scale, list(STAGES), run.out / "report.md")
    assert "seed 3." in (run.out / "report.md").read_text()


def _largest(run):
    return pieces(run, "larger-network")["largest that pays off"]["result"]["name"]


def test_every_stage_runs_without_what_a_gpu_machine_lacks(tmp_path):
    """In a process where roma and others cannot be imported: all stages import, a tiny one runs."""
    script = """
import sys
BLOCKED = {"roma", "optuna", "cma", "asv", "tifffile", "submitit"}
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
    assert set(states(SimpleNamespace(out=tmp_path), "data").values()) == {"done"}


def test_bad_words(tmp_path, capsys):
    from paper_scale.main import BAD_INPUT, main

    assert main(["--stage", "nonsense", "--scale", "small", "--out", str(tmp_path)]) == BAD_INPUT
    assert "unknown stage 'nonsense'" in capsys.readouterr().err
