"""Costs before the first image and for each, and break-even, against closed forms."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from icobench.reporting import break_even as module
from icobench.reporting.break_even import Account, break_even, break_even_curve, not_worse, time_text
from icobench.reporting.figures import plot_break_even, svg
from icobench.reporting.ledger import (
    account,
    accounts_of,
    break_even_table,
    ledger_notes,
    ledger_table,
    published_text,
)
from tests.reporting.made_runs import COST, made_results


def costs(name, fixed, each, images=100):
    return Account(name, fixed, 10 * fixed, np.full(images, each), np.full(images, 10 * each), 0.1)


def made(name, evaluations, other, fixed_simulations=0.0, fixed_other=0.0, images=40, **values):
    """A method whose images all cost the same, on a machine that simulates within 0.001 s."""
    same = np.full(images, other)
    return Account(
        name, fixed_other, fixed_simulations, same + 0.001 * evaluations, np.full(images, evaluations), 0.001,
        fixed_other_seconds=fixed_other, other_seconds=same, **values,
    )  # fmt: skip


def test_break_even_by_hand():
    network, simplex = costs("network", 300.0, 0.0), costs("simplex", 0.0, 100.0)
    assert break_even(network, simplex, "simulations").images == (3.0, 3.0, 3.0)
    assert break_even(network, simplex).images == pytest.approx((3.0, 3.0, 3.0))
    assert break_even(network, simplex).text == "3"
    assert break_even(simplex, network).images.value == 0
    slow = break_even(costs("slow", 300.0, 200.0), simplex)
    assert slow.images.value == math.inf
    assert slow.text == "never"
    _, rows = ledger_table([network, simplex])
    assert rows[0][1:4] == ["3,000", "300", "3,000"]
    assert rows[1][4:] == ["1,000", "100", "1,000"]


def test_the_surface_is_its_closed_form():
    """(25,000 c + 1,000) / (30 c + 0.01), and its two ends."""
    network = made("network", 0, 0.01, 25_000.0, 1000.0)
    hybrid = made("dictionary+lm", 30, 0.02)
    cost = np.array([0.0, 1e-4, 1e-3, 1e-2, 0.1, 2.5, 1e6])
    value, low, high = break_even_curve(network, hybrid, cost)
    np.testing.assert_allclose(value, (25_000 * cost + 1000) / (30 * cost + 0.01))
    np.testing.assert_allclose([low, high], [value, value])
    assert (np.diff(value) < 0).all()
    assert value[0] == pytest.approx(1000 / 0.01)
    dear = break_even(network, hybrid, "simulations").images.value
    assert dear == pytest.approx(25_000 / 30)
    assert value[-1] == pytest.approx(dear, rel=1e-3)
    # As measured it is the surface at the machine's pace.
    assert break_even(network, hybrid).images.value == pytest.approx(value[2])
    assert break_even(network, hybrid, cost=2.5).images.value == pytest.approx(value[5])


def test_a_slow_network_pays_with_dear_simulations_only():
    network, hybrid = made("network", 0, 0.1, 100.0, 10.0), made("dictionary+lm", 30, 0.04)
    value, *_ = break_even_curve(network, hybrid, [1e-4, 0.0019, 0.0021, 1.0])
    assert value[:2].tolist() == [math.inf, math.inf]
    assert np.isfinite(value[2:]).all()


def test_times_are_resampled_by_blocks(rng):
    """25 blocks of 8 images that share a time: the mean scatters as that of 25 numbers."""
    blocks = np.repeat(np.arange(25), 8)
    times = rng.normal(1.0, 0.2, 25)[blocks]
    simplex = Account("simplex", 0.0, 0.0, times, np.full(200, 1000.0), 0.001, blocks=blocks)
    network = made("network", 0, 0.0, 0.0, 1000.0, images=200, blocks=blocks)
    images = break_even(network, simplex).images
    spread = 1.96 * np.std(times) / 5 / times.mean()
    assert images.value == pytest.approx(1000 / times.mean())
    assert math.log(images.high / images.low) == pytest.approx(2 * spread, rel=0.2)
    alone = break_even(replace(network, blocks=None), replace(simplex, blocks=None)).images
    assert math.log(alone.high / alone.low) == pytest.approx(2 * spread / 8**0.5, rel=0.2)


def test_simulations_are_resampled_by_images(rng):
    blocks = np.zeros(100, dtype=int)
    spent = rng.lognormal(3, 0.5, 100)
    fit = Account("simplex", 0.0, 0.0, np.ones(100), spent, 0.001, blocks=blocks)
    images = break_even(made("network", 0, 0.0, 1000.0, images=100), fit, "simulations").images
    spread = 1.96 * spent.std() / 10 / spent.mean()
    assert math.log(images.high / images.low) == pytest.approx(2 * spread, rel=0.2)


def of_runs(paces, blocks_each=5):
    """A method whose time is that of its run."""
    runs = np.repeat(np.arange(len(paces)), 8 * blocks_each)
    blocks = np.repeat(np.arange(len(paces) * blocks_each), 8)
    times = np.array(paces)[runs]
    return Account("simplex", 0.0, 0.0, times, np.zeros(len(runs)), math.nan, runs=runs, blocks=blocks)


def test_runs_are_resampled_and_their_range_is_told():
    paces = np.array([1.0, 1.1, 1.2, 0.9, 2.5, 1.0, 1.3, 1.0])
    method = of_runs(paces)
    network = replace(method, method="network", fixed_other_seconds=1000.0, other_seconds=0 * method.seconds)
    network = replace(network, seconds=0 * method.seconds)
    found = break_even(network, method)
    assert found.images.value == pytest.approx(1000 / paces.mean())
    assert found.runs == pytest.approx(1000 / paces)
    # The mean of runs drawn, since time is constant within each of them.
    draws = paces[np.random.default_rng(1).integers(8, size=(4000, 8))].mean(1)
    assert found.images[1:] == pytest.approx(np.quantile(1000 / draws, [0.025, 0.975]), rel=0.03)
    assert found.text == "400 to 1,112 in 8 runs"
    assert time_text(method) == "0.900 to 2.50 in 8 runs"
    assert break_even(network, of_runs(np.ones(8))).text == "1,000"


def test_a_gpus_seconds_count_by_a_named_rate(monkeypatch):
    network = made("paper-network", 0, 0.01, 25_000.0, 0.0, foreign_seconds=150.0, trained=True)
    simplex = made("simplex", 1000, 0.0)
    headers, rows = ledger_table([network, simplex])
    assert headers[2:4] == [("before: time", "core-s"), ("before: other time", "GPU-s")]
    assert rows[0][2:5] == ["0", "150", "175,000"]
    assert break_even(network, simplex).images.value == pytest.approx((25 + 150) / (1 - 0.01))
    assert "a second of a GPU counts as 1.00 core-seconds" in ledger_notes([network, simplex])
    assert "150 s of a GPU" in published_text([network, simplex])
    assert "GPU" not in ledger_notes([simplex])
    monkeypatch.setattr(module, "EXCHANGE", 10.0)
    assert break_even(network, simplex).images.value == pytest.approx((25 + 1500) / (1 - 0.01))
    # The other way round: simulations on the GPU, training on cores.
    there = replace(network, on_gpu=True)
    assert there.fixed_cost(0.0) == pytest.approx(15.0)


def test_the_paper_is_counted_as_it_counts():
    """25,058 images and 4 hours at 2.5 s a simulation are its 31,000."""
    network = replace(
        made("network", 0, 0.0, 25_058.0, 4 * 3600.0), seconds_per_simulation=2.5, seconds=np.zeros(40)
    )
    simplex = replace(made("simplex", 10_000, 0.0), seconds_per_simulation=2.5, seconds=np.full(40, 25_000.0))
    text = published_text([network, simplex])
    assert "break-even at 3.1 images" in text
    assert "25,058 simulations and the time of 5,760 more" in text
    assert "Number of images at break-even: 4;" in text  # 3.08, and whole images
    assert "Counted so" not in published_text([simplex])


def results_of(**seconds) -> pd.DataFrame:
    """Two blocks of two images for each method: pairs of evaluations and the blocks' core-seconds."""
    rows = [
        {"method": name, "image": image, "evaluations": evaluations, "seconds": 0.5 * times[image // 2],
         "core_seconds": times[image // 2], "block": image // 2}
        for name, (evaluations, times) in seconds.items()
        for image in range(4)
    ]  # fmt: skip
    return pd.DataFrame(rows)


RUN = {
    "machine": {"threads": 1, "workers": 2},
    "device": "cpu",
    "networks": [
        {
            "training_seconds": 100.0, "threads": 2, "training_simulations": 5000, "device": "cpu",
            "search": {"seconds": 99.0, "core_seconds": 30.0, "simulations": 1000},
        }
    ],
    "dictionary": {"seconds": 2.0, "simulations": 1000, "device": "cpu"},
}  # fmt: skip


def test_accounts_read_the_run():
    results = results_of(**{"network+lm": (25, (0.1, 0.3)), "simplex": (5000, (4.0, 6.0))})
    needs = {"needs_network": True, "needs_dictionary": True}
    search = {"seconds": 7.0, "simulations": 300}
    run = {**RUN, "methods": {"network+lm": {**needs, "search": search}}}
    hybrid, simplex = accounts_of(results, run)
    # The quickest pace is the simplex's: 5 s for 5,000 simulations.
    assert hybrid.pace == pytest.approx(1e-3)
    # Two threads for 100 s, both searches, the dictionary: all of it in core-seconds.
    assert hybrid.fixed_seconds == pytest.approx(200 + 30 + 7 + 2)
    assert hybrid.fixed_simulations == 5000 + 1000 + 300 + 1000
    # Each without its simulations: 195 and 29 and 6.7 and 1.
    assert hybrid.fixed_other_seconds == pytest.approx(195 + 29 + 6.7 + 1)
    assert hybrid.trained
    assert not simplex.trained
    assert (simplex.fixed_seconds, simplex.fixed_simulations) == (0, 0)
    assert hybrid.blocks.tolist() == [0, 0, 1, 1]
    assert account("simplex", results, run, 0.002).pace == 0.002


@pytest.mark.parametrize(
    ("card", "fixed", "other", "foreign"),
    [
        ({"training_core_seconds": 180.0}, 180, 175, 0),
        ({"threads": 1}, 100, 95, 0),
        # A stored set was not simulated by the training.
        ({"threads": 1, "data": "0a1b"}, 100, 100, 0),
        ({"device": "cuda"}, 0, 0, 100),
    ],
)
def test_a_training_costs_cores_or_a_gpu(card, fixed, other, foreign):
    results = results_of(network=(0, (0.1, 0.1)), simplex=(5000, (5.0, 5.0)))
    run = {**RUN, "networks": [{**RUN["networks"][0], "search": None, **card}]}
    network, _ = accounts_of(results, run)
    assert network.fixed_seconds == pytest.approx(fixed)
    assert network.fixed_other_seconds == pytest.approx(other)
    assert network.foreign_seconds == foreign
    on_gpu, _ = accounts_of(results, {**run, "device": "cuda:0"})
    assert on_gpu.on_gpu
    assert (on_gpu.fixed_seconds, on_gpu.foreign_seconds) == pytest.approx((foreign, fixed))


def test_a_dictionary_shows_the_pace_where_no_fit_is_quick():
    results = results_of(**{"dictionary+lm": (10, (0.1, 0.1))})
    (fit,) = accounts_of(results, RUN)
    assert fit.pace == pytest.approx(2e-3)
    assert fit.other_seconds == pytest.approx(np.full(4, 0.08))
    (alone,) = accounts_of(results_of(network=(0, (0.1, 0.1))), {"networks": []})
    assert math.isnan(alone.seconds_per_simulation)
    assert alone.other_seconds.tolist() == alone.seconds.tolist() == [0.1] * 4
    assert ledger_table([alone])[1][0][-1] == "-"


def test_a_machine_that_slows_down_is_compared_within_the_block():
    """Simulations of 1 and 3 ms: the other method's 0.5 s beside its simulations are found in both blocks."""
    results = results_of(simplex=(5000, (5.0, 15.0)), fit=(100, (0.6, 0.8)))
    simplex, fit = accounts_of(results, {})
    assert simplex.pace == pytest.approx(2e-3)
    assert simplex.other_seconds == pytest.approx(np.zeros(4))
    assert fit.other_seconds == pytest.approx(np.full(4, 0.5))


def test_pooled_runs_keep_their_runs_and_blocks():
    results = results_of(simplex=(5000, (5.0, 5.0)))
    (simplex,) = accounts_of(results.assign(run=["a", "a", "b", "b"], block=[0, 1, 0, 1]), {})
    assert simplex.runs.tolist() == [0, 0, 1, 1]
    assert simplex.blocks.tolist() == [0, 1, 2, 3]


def test_ledger_in_both_currencies():
    results = made_results()
    run = {
        "network": {"training_seconds": 7200.0, "training_simulations": 450_000},
        "dictionary": {"seconds": 9.0, "simulations": 1000},
        "methods": {name: {"needs_network": "network" in name} for name in COST},
    }
    accounts = accounts_of(results, run)
    headers, rows = ledger_table(accounts)
    assert [row[0] for row in rows] == list(COST)
    assert all(len(row) == len(headers) for row in rows)
    by_name = {row[0]: row for row in rows}
    assert by_name["network"][1:3] == ["450,000", "7,200"]
    assert by_name["simplex"][1:3] == ["0", "0"]
    _, cells = break_even_table(results, accounts)
    pairs = {(first, second): images for first, second, *images, _ in cells}
    spent = results[results["method"] == "simplex"]["evaluations"].mean()
    by_time, by_simulations = pairs[("network", "simplex")]
    assert by_simulations.startswith(f"{math.ceil(450_000 / spent):,}")
    assert by_time.startswith(f"{math.ceil(7200 / 4.5):,}")
    assert not any(first == "simplex" for first, _ in pairs)
    assert "break-even at 3.1 images" in published_text(accounts)
    assert "Not charged" in ledger_notes(accounts)


def test_a_method_that_failed_half_way_has_no_break_even():
    results = made_results()
    results = results[(results["method"] != "network") | (results["image"] < 3)]
    run = {"network": {"training_seconds": 7200.0, "training_simulations": 450_000}}
    accounts = accounts_of(results, run)
    _, rows = break_even_table(results, accounts)
    assert rows
    assert not any("network" in row[:2] for row in rows)
    assert "Counted so" not in published_text(accounts)


def accuracy_of(**factors) -> pd.DataFrame:
    """Methods whose errors on 40 images are those of the first, with scatter, times a factor."""
    random = np.random.default_rng(3)
    rows = []
    for name, factor in factors.items():
        errors = factor * random.lognormal(0, 0.1, 40)
        rows += [
            {"method": name, "image": image, "disorientation_deg": error, "radius_error_nm": error,
             "success": error < 2}
            for image, error in enumerate(errors)
        ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_method_may_be_better_but_not_worse():
    results = accuracy_of(simplex=1.0, same=1.0, better=0.5, worse=1.5)
    for method, expected in (("same", True), ("better", True), ("worse", False)):
        assert not_worse(results, method, "simplex") is expected
    assert not not_worse(results[results["image"] < 20], "same", "simplex")  # too few to tell
    assert not not_worse(results.assign(success=False), "same", "simplex")


def test_the_surface_is_drawn_for_networks_and_their_competitors():
    results = made_results()
    run = {"network": {"training_seconds": 7200.0, "training_simulations": 450_000}}
    accounts = accounts_of(results, run)
    figure = plot_break_even(results, accounts, {"the paper": 2.5})
    (panel,) = (axes for axes in figure.axes if axes.get_title())
    assert panel.get_title() == "against simplex"
    lines = {line.get_label(): line for line in panel.get_lines()}
    cost, images = lines["network+lm"].get_data()
    by_name = {costs.method: costs for costs in accounts}
    expected = break_even_curve(by_name["network+lm"], by_name["simplex"], cost)[0]
    shown = np.isfinite(images)
    assert shown.any()
    np.testing.assert_allclose(images[shown], expected[shown])
    assert [text.get_text() for text in panel.texts] == ["the paper: 2.5 s"]
    assert svg(figure).startswith(b"<?xml")
    assert plot_break_even(results, [by_name["network"]], {}) is None
    assert plot_break_even(results, [by_name["simplex"]], {}) is None
