"""Points are made once, kept whole, divided and merged; what is measured is what was asked for."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from icobench import cli
from icobench.errors import InputError
from icobench.images.image_set import ImageSet
from icobench.network.checkpoint import read_weights
from icobench.network.recipe import Recipe
from icobench.reporting.sweeps import read_points, sweep_markdown, sweep_table, write_sweep
from icobench.runs import sweep
from icobench.runs.pieces import execute
from icobench.runs.sweep import Sweep, merge_sweeps, parse_points
from icobench.runs.sweep_points import AXES, SweepSettings, measure, portion
from icobench.simulator.experiment import Experiment
from icobench.storage import share

CPU = torch.device("cpu")
SETTINGS = SweepSettings("starts", 4, "counting", 0, "simplex", 50, 50, None, None, Experiment())


@pytest.fixture
def measured(monkeypatch):
    """Points that cost nothing, and a list of those that were computed."""
    made = []

    def measure(settings, point, repetition, folder, device, progress):
        made.append((point, repetition))
        rng = np.random.default_rng((point, repetition))
        errors = {name: rng.random(settings.images).tolist() for name in
                  ("disorientation_deg", "radius_error_nm", "appendix_c_mean", "appendix_c_max")}  # fmt: skip
        return {
            "point": point, "repetition": repetition, "fixed_simulations": 0, "fixed_seconds": 0.0,
            "seconds": rng.random(), "evaluations": [90 * point] * settings.images, **errors,
        }  # fmt: skip

    monkeypatch.setattr(sweep, "measure", measure)
    return made


def run(folder, settings, points, seeds, shard=(1, 1), report=lambda share, text: None):
    """Compute what is missing of a sweep, or of a shard of it; the table of all that is stored."""
    work = Sweep(folder, settings, points, seeds, shard[1])
    work.open()
    execute(work, CPU, shard=shard, report=report)
    return read_points(folder)


def path(folder, point, repetition):
    return folder / "points" / f"starts-{point:08d}-seed{repetition}.json"


def test_points_of_the_command_line():
    assert parse_points("1/64,1/2,1", 20_046) == (313, 10_023, 20_046)
    assert parse_points("1e3, 10,10") == (10, 1000)
    assert all(parse_points(axis.points, 20_046) for axis in AXES.values())
    assert min(axis.seeds for axis in AXES.values()) >= 3
    for bad in ("1/2", "0", "-3", "a", "1/0", "", "1e400", "1e999999999", "1e-999999999", "9" * 5000, "nan"):
        with pytest.raises(InputError, match="--points must be"):
            parse_points(bad)


@pytest.mark.parametrize("total", [1, 2, 3, 7, 30])
def test_shards_divide_without_rest(total):
    pieces = list(range(21))
    shares = [share(pieces, (number, total)) for number in range(1, total + 1)]
    assert sorted(piece for own in shares for piece in own) == pieces
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_only_what_is_missing_is_computed(measured, tmp_path):
    run(tmp_path / "run", SETTINGS, (1, 2), 2)
    assert sorted(measured) == [(1, 0), (1, 1), (2, 0), (2, 1)]
    measured.clear()
    path(tmp_path / "run", 2, 1).unlink()
    table = run(tmp_path / "run", SETTINGS, (1, 2, 3), 2)
    assert sorted(measured) == [(2, 1), (3, 0), (3, 1)]
    assert len(table) == 3 * 2 * 4
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_shards_on_machines_of_their_own_merge_to_the_whole(measured, tmp_path):
    for number in (1, 2):
        run(tmp_path / str(number), SETTINGS, (1, 2, 4), 2, (number, 2))
    with pytest.raises(InputError, match="3 of 6 points are in no folder"):
        merge_sweeps(tmp_path / "all", [tmp_path / "1"])
    assert not (tmp_path / "all").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no sweep"):
        merge_sweeps(tmp_path / "all", [tmp_path / "1", tmp_path / "empty"])
    assert merge_sweeps(tmp_path / "all", [tmp_path / "2", tmp_path / "1"]) == 6
    run(tmp_path / "whole", SETTINGS, (1, 2, 4), 2)
    merged, whole = read_points(tmp_path / "all"), read_points(tmp_path / "whole")
    assert merged.equals(whole)
    assert merge_sweeps(tmp_path / "all", [tmp_path / "1", tmp_path / "2"]) == 6
    run(tmp_path / "other", replace(SETTINGS, seed=1), (1,), 1)
    with pytest.raises(InputError, match=r"another sweep than .*seed 1, not 0"):
        merge_sweeps(tmp_path / "x", [tmp_path / "1", tmp_path / "other"])
    changed = path(tmp_path / "2", 4, 1)
    stored = json.loads(changed.read_text())
    stored["result"]["disorientation_deg"][0] += 1
    changed.write_text(json.dumps(stored))
    with pytest.raises(InputError, match="differs from"):
        merge_sweeps(tmp_path / "y", [tmp_path / "whole", tmp_path / "2"])


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_merge_checks_everything_before_it_writes(measured, tmp_path):
    """Both what is in the folders and what is in the target already."""
    run(tmp_path / "whole", SETTINGS, (1, 2), 1)
    for number in (1, 2):
        run(tmp_path / str(number), SETTINGS, (1, 2), 1, (number, 2))
    shards = [tmp_path / "1", tmp_path / "2"]
    own = path(tmp_path / "2", 1, 0)

    def change(path, **values):
        stored = json.loads(path.read_text())
        path.write_text(json.dumps({**stored, **values}))

    good, result = own.read_bytes(), json.loads(own.read_text())["result"]
    for values, message in (
        ({"identity": {"axis": "starts"}}, "a point of another sweep"),
        ({"result": None}, "damaged; remove it"),
        ({"result": {"point": 1}}, "damaged; remove it"),
        ({"result": {**result, "evaluations": [1]}}, "damaged; remove it"),
        ({"result": {**result, "evaluations": [7, 7, 7, 7]}}, "differs from .*whole"),
    ):
        change(own, **values)
        before = files(tmp_path)
        for out in ("new", "whole"):
            if out == "whole" or "differs" not in message:
                with pytest.raises(InputError, match=message):
                    merge_sweeps(tmp_path / out, shards)
        assert files(tmp_path) == before
        own.write_bytes(good)
    change(tmp_path / "2" / "sweep.json", identity=1)
    with pytest.raises(InputError, match=r"2/sweep.json: damaged"):
        merge_sweeps(tmp_path / "new", shards)
    assert not (tmp_path / "new").exists()


def test_a_merge_keeps_what_is_in_the_target(measured, tmp_path):
    run(tmp_path / "out", SETTINGS, (1, 2), 1)
    run(tmp_path / "more", SETTINGS, (4,), 1)
    assert merge_sweeps(tmp_path / "out", [tmp_path / "more"]) == 3
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["points"] == [1, 2, 4]
    assert len(read_points(tmp_path / "out")) == 3 * 4


def test_what_cannot_be_merged_is_named_in_a_line(measured, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        run(tmp_path / f"s{number}", SETTINGS, (1, 2), 1, (number, 2))
    (tmp_path / "afile").write_text("mine")
    for words, message in (
        ("afile s1 s2", "afile: is a file; choose another name"),
        ("out s1 missing", "missing: no such folder"),
        ("out s1 afile", "afile: is a file, not a sweep"),
    ):
        monkeypatch.setattr("sys.argv", ["icobench", "merge", *words.split()])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert (ended.value.code, capsys.readouterr().err) == (2, f"error: {message}\n")
    assert not (tmp_path / "out").exists()


def test_a_shard_without_points_has_nothing_to_do(measured, tmp_path):
    seen = []
    for number in (3, 1, 2):
        report = lambda share, text: seen.append(share)  # noqa: E731
        run(tmp_path / "run", SETTINGS, (1, 2), 1, (number, 3), report)
    assert sorted(measured) == [(1, 0), (2, 0)]
    assert seen[0] == 1.0
    assert len(read_points(tmp_path / "run")) == 2 * 4


def test_points_of_this_process_have_one_thread_as_a_workers(measured, monkeypatch, tmp_path):
    threads = []
    inner = sweep.measure
    monkeypatch.setattr(
        sweep, "measure", lambda *values: threads.append(torch.get_num_threads()) or inner(*values)
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run(tmp_path / "run", SETTINGS, (1, 2), 1)
        assert threads == [1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_another_experiment_or_number_of_shards_is_refused(measured, tmp_path):
    folder = tmp_path / "run"
    run(folder, SETTINGS, (1, 2), 1, (1, 2))
    before = {path: path.read_bytes() for path in folder.rglob("*.json")}
    with pytest.raises(InputError, match="divided into 2 shards, not 3"):
        Sweep(folder, SETTINGS, (1, 2), 1, 3).check()
    other = replace(SETTINGS, experiment=Experiment(refractive_index=0.9 + 0.086j))
    with pytest.raises(InputError, match=r"other settings; .*experiment.refractive_index"):
        Sweep(folder, other, (1, 2), 1).check()
    assert before == {path: path.read_bytes() for path in folder.rglob("*.json")}
    run(folder, SETTINGS, (1, 2), 1)  # all that is missing, here
    assert sorted(measured) == [(1, 0), (2, 0)]
    next((folder / "points").iterdir()).write_text("{")
    with pytest.raises(InputError, match=r"damaged; remove it"):
        read_points(folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="not empty and not a sweep"):
        Sweep(tmp_path / "full", SETTINGS, (1,), 1).check()


def test_table_and_figure_come_from_stored_points(measured, tmp_path):
    run(tmp_path / "run", SETTINGS, (1, 2), 3)
    measured.clear()
    table = write_sweep(tmp_path / "run")
    assert not measured
    assert list(table["point"]) == [1, 1, 1, 2, 2, 2]
    points = read_points(tmp_path / "run")
    own = points[(points["point"] == 2) & (points["repetition"] == 1)]
    row = table.iloc[4]
    assert row["disorientation_median"] == pytest.approx(own["disorientation_deg"].median())
    assert row["success_rate"] == 1.0
    assert row["simulations_per_image"] == 180
    assert sweep_markdown(sweep_table(points)).count("\n") == 4
    assert (tmp_path / "run" / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_portions_of_a_training_set_lie_in_each_other():
    empty = torch.zeros(40, 1, 1)
    images = ImageSet(empty, empty > 0, "intensity", radius_nm=torch.arange(40.0))
    small, large = (portion(images, count, 1).radius_nm for count in (5, 20))
    assert torch.equal(large[:5], small)
    assert not torch.equal(portion(images, 20, 2).radius_nm, large)
    assert len(set(large.tolist())) == 20
    with pytest.raises(InputError, match="a portion of 41 images"):
        portion(images, 41, 1)


def test_a_network_learns_from_as_many_images_as_are_asked(tmp_path):
    recipe = Recipe(steps=2, batch=4, network={"widths": [8, 8, 8], "hidden": 16})
    settings = replace(SETTINGS, axis="dataset", method="network", recipe=recipe, images=2)
    found = measure(settings, 3, 0, tmp_path / "training")
    assert found["fixed_simulations"] == 3
    card = read_weights(tmp_path / "training" / "network.safetensors").card
    for name in ("seconds", "core_seconds"):
        assert found[f"fixed_{name}"] == pytest.approx(card[f"training_{name}"], abs=0.06)
    assert found["fixed_core_seconds"] > 0
    assert len(found["disorientation_deg"]) == len(found["bound_orientation_deg"]) == 2
    assert (tmp_path / "training" / "network.safetensors").exists()
    assert not (tmp_path / "training" / "checkpoint.pt").exists()


def test_the_iterations_of_a_simplex_and_the_photons_of_an_image_are_varied(tmp_path):
    few, many = (
        measure(replace(SETTINGS, axis="iterations", images=2, starts=2), n, 1, tmp_path) for n in (3, 9)
    )
    assert sum(few["evaluations"]) < sum(many["evaluations"])
    assert few["bound_radius_nm"] == many["bound_radius_nm"]  # of the same images
    assert few["fixed_simulations"] == 0
    settings = replace(SETTINGS, axis="photons", method="simplex-race", images=1)
    dim, bright = (measure(settings, photons, 0, tmp_path) for photons in (10**4, 10**6))
    # A hundred times the photons are a tenth of the error; their bodies are the same.
    ratio = np.divide(dim["bound_orientation_deg"], bright["bound_orientation_deg"])
    np.testing.assert_allclose(ratio, 10, rtol=0.05)
    assert min(bright["evaluations"]) > 0


def test_a_stored_set_is_known_by_its_content(tmp_path):
    settings = []
    for folder, content in (("here", b"one"), ("there", b"one"), ("else", b"two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "set.h5").write_bytes(content)
        settings.append(replace(SETTINGS, axis="dataset", data=tmp_path / folder / "set.h5"))
    first, same, other = (each.identity["data"] for each in settings)
    assert first == same != other
    assert str(tmp_path) not in str(first)
