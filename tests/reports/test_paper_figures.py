"""Figures 4a and 4b, claims and their page: arithmetic against what can be counted by hand."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from icobench.reporting.statistics import Interval

REPORTS = Path(__file__).parents[2] / "reports"


@pytest.fixture(scope="module", autouse=True)
def scripts():
    """Scripts of reports/ find each other beside them."""
    sys.path.insert(0, str(REPORTS))
    yield
    sys.path.remove(str(REPORTS))


def evaluation(folder: Path, **columns: Any) -> Path:
    """A stored evaluation of the test set `paper`."""
    folder.mkdir()
    size = len(columns["appendix_c_mean"])
    shared = {"true_radius_nm": np.linspace(30, 160, size), "boundary_distance_deg": np.full(size, 10.0)}
    errors = {
        "disorientation_deg": np.full(size, 0.5),
        "radius_error_nm": np.full(size, 0.2),
        "test_set": "paper",
    }
    pd.DataFrame({**shared, **errors, **columns}).to_parquet(folder / "evaluation.parquet")
    described = {
        "networks": [{"digest": folder.name}],
        "machine": {},
        "device": "cpu",
        "commit": "abc+",
        "seed": 99,
    }
    (folder / "evaluation.json").write_text(json.dumps(described))
    return folder


def test_the_tail_is_counted_by_distance_from_the_boundary():
    from figure4a import far_by_distance

    distance = [0.1, 0.2, 0.3, 0.4, 0.7, 1.5, 3.0, 5.0, 36.0]
    mean = [0.3, 0.01, 0.06, 0.049, 0.2, 0.01, 0.01, 0.01, 0.02]
    rows = far_by_distance(pd.DataFrame({"boundary_distance_deg": distance, "appendix_c_mean": mean}))
    assert [row["images"] for row in rows] == [4, 1, 1, 1, 2]
    assert [row["beyond"] for row in rows] == [2, 1, 0, 0, 0]
    assert rows[0]["share"] == 0.5
    assert rows[0]["low"] < 0.5 < rows[0]["high"]


def test_the_stored_answers_of_the_published_network_have_the_tail_at_the_boundary():
    """What the training on the H200 reported: `paper_network/README.md` and its summary."""
    from figure4a import far_by_distance, read_evaluation

    table, described = read_evaluation(REPORTS / "paper_network" / "full")
    reported = described["sets"]["paper test"]["appendix_c_mean"]
    assert table["appendix_c_mean"].median() == pytest.approx(reported["median"], rel=1e-6)
    assert table["appendix_c_mean"].quantile(0.99) == pytest.approx(reported["99"], rel=1e-4)
    near, *_, far = far_by_distance(table)
    assert near["share"] == pytest.approx(0.28, abs=0.005)
    assert far["beyond"] == 0
    assert far["images"] > 3000


def test_figure_4a_is_drawn_and_told(tmp_path, monkeypatch):
    import figure4a

    near = evaluation(tmp_path / "near", appendix_c_mean=np.linspace(0.001, 0.003, 40))
    wide = evaluation(tmp_path / "wide", appendix_c_mean=np.r_[np.full(36, 0.01), np.full(4, 0.2)])
    out = tmp_path / "figure4a.png"
    words = ["figure4a.py", "--network", f"one={near}", "--network", f"two={wide}", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    figure4a.main()
    assert out.read_bytes().startswith(b"\x89PNG")
    curves = json.loads(out.with_suffix(".json").read_text())["curves"]
    assert curves["one"]["appendix_c_mean"]["median"]["value"] == pytest.approx(0.002)
    assert curves["two"]["beyond"]["share"] == 0.1
    assert curves["two"]["by_distance"]["over 4"]["beyond"] == 4
    other = evaluation(tmp_path / "other", appendix_c_mean=np.full(30, 0.01))
    monkeypatch.setattr(sys, "argv", [*words[:4], f"three={other}", *words[5:]])
    with pytest.raises(SystemExit, match="other images"):
        figure4a.main()


def test_costs_before_the_first_image_are_counted_as_the_paper_counts_them():
    """25,058 images and four hours at 2.5 s a simulation: "31,000"."""
    from figure4b import spent

    published = {"paper": {"cpu": 2.5, "gpu": 2.5}, "here": {"cpu": 1e-3, "gpu": 1e-5}}
    assert spent(25_058, 0.0, 4 * 3600, published) == pytest.approx(
        {"paper": 30_818, "here": 25_058 + 1.44e9}
    )
    assert spent(100, 5.0, 0.0, published) == pytest.approx({"paper": 102, "here": 5_100})


def test_a_course_carries_every_image_forward(rng):
    from figure4b import course

    rows = [
        {"image": image, "step": step, "evaluations": 5 * (step + 1) + image, "appendix_c_mean": rng.random()}
        for image in range(12)
        for step in range(6)
    ]
    fits = pd.DataFrame(rows)
    shown = course(fits.sample(frac=1, random_state=1))
    assert shown[0]["simulations"] == 5 + 11  # where the last image has its first value
    for point in shown:
        latest = [
            fits[(fits["image"] == image) & (fits["evaluations"] <= point["simulations"])][
                "appendix_c_mean"
            ].iloc[-1]
            for image in range(12)
        ]
        expected = np.quantile(latest, [0.05, 0.5, 0.95])
        assert [point["low"], point["median"], point["high"]] == pytest.approx(expected.tolist())


def test_where_errors_do_not_fall_with_the_training_set():
    from figure4b import rises

    assert rises({20: [3.0, 4.0], 78: [2.0, 1.0], 313: [0.5, 0.6]}) == []
    (found,) = rises({313: [1.1, 1.3], 20: [3.0], 78: [1.0, 1.2]})
    assert found == {"from": 78, "to": 313, "seeds_overlap": True}
    assert not rises({1: [1.0], 2: [1.5]})[0]["seeds_overlap"]


@pytest.mark.parametrize(
    ("paper", "ours", "more", "judgement"),
    [
        (2.0, 1.0, {}, "bettered"),
        (2.0, 1.96, {}, "reproduced"),
        (2.0, Interval(2.09, 2.0, 2.2), {}, "reproduced"),
        (2.0, 2.2, {}, "not reached"),
        (1.0, 0.6, {"limit": True}, "reproduced, below the limit"),
        (1.0, 1.1, {"limit": True}, "not reached"),
        (1.0, 0.1, {"unlike": "another card"}, "not comparable: another card"),
        (1.0, None, {"unlike": "another card"}, "not measured yet"),
        (1.0, Interval(3.0, 2.0, 4.0), {"tested": "undecided"}, "undecided"),
    ],
)
def test_a_claim_is_judged(paper, ours, more, judgement):
    from claims import Row

    row = Row("what", paper, ours, "s", "how", **more)
    assert row.judgement == judgement
    assert (row.ratio is None) == (ours is None or "unlike" in more)


def test_results_of_retired_networks_say_so():
    from stored import digests_of, retired_text, shipped_digests

    shipped = next(iter(shipped_digests()))
    assert digests_of({"networks": f"{shipped}-000000000000"}) == [shipped, "000000000000"]
    assert digests_of({"network": None, "networks": []}) == []
    assert digests_of({"network": {"digest": shipped}}) == [shipped]
    assert retired_text([shipped]) == ""
    assert "000000000000" in retired_text([shipped, "000000000000"])


def test_a_dirty_tree_stays_marked(tmp_path, monkeypatch):
    import origins
    import stored

    for module in (origins, stored):
        monkeypatch.setattr(module, "HERE", tmp_path)
    card = {"digest": "000000000000"}
    for name, commit in (("laptop", "1234567890"), ("laptop/a", "1234567890"), ("laptop/b", "abcdef0123+")):
        (tmp_path / name).mkdir()
        run = {
            "command": "icobench compare",
            "commit": commit,
            "created": "2026-11-26",
            "seed": 0,
            "networks": [card],
        }
        (tmp_path / name / ("campaign.json" if name == "laptop" else "run.json")).write_text(json.dumps(run))
    (row,) = [line for line in origins.origins_table().splitlines() if "laptop" in line]
    assert "| 1234567, abcdef0+ |" in row
    assert "**retired**: 000000000000" in row


def test_break_even_by_images_is_the_former_rule():
    """Without scatter there is nothing to resample: fixed costs over savings."""
    from worse import _by_images

    from icobench.reporting.break_even import Account

    flat = np.full(40, 2.0)
    first = Account("first", 100.0, 0.0, flat, np.zeros(40), 1.0)
    second = Account("second", 0.0, 0.0, flat + 0.5, np.zeros(40), 1.0)
    assert _by_images(first, second) == pytest.approx((200.0, 200.0, 200.0))
    assert _by_images(first, first).value == np.inf


def test_photon_numbers_are_drawn_from_what_is_stored(tmp_path, monkeypatch):
    import photon_numbers

    columns = (
        "disorientation_deg_rms",
        "bound_orientation_deg_rms",
        "radius_error_nm_rms",
        "bound_radius_nm_rms",
    )
    results = {f"{photons:g}": dict.fromkeys(columns, photons**-0.5) for photons in (1e4, 1e5, 1e6)}
    (tmp_path / "photons.json").write_text(json.dumps({"results": results}))
    monkeypatch.setattr(sys, "argv", ["photon_numbers.py", "--out", str(tmp_path / "photons.png")])
    photon_numbers.main()
    assert (tmp_path / "photons.png").read_bytes().startswith(b"\x89PNG")
