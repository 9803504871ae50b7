"""Intervals, tests and costs against closed forms, SciPy and small cases done by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import wilcoxon

from icobench.reporting.ledger import Account, account, break_even, ledger_table, seconds_per_simulation
from icobench.reporting.statistics import (
    TARGETS,
    bootstrap,
    efficiency,
    expected_running_time,
    first_hits,
    holm,
    paired_test,
)
from icobench.reporting.tables import paired_table


def median(x):
    return np.median(x, axis=-1)


def results_of(errors: dict[str, list[float]], **columns) -> pd.DataFrame:
    frames = [
        pd.DataFrame({"image": range(len(own)), "method": name, "disorientation_deg": own, **columns})
        for name, own in errors.items()
    ]
    return pd.concat(frames, ignore_index=True)


def test_intervals_are_scipys(rng):
    values = rng.lognormal(size=150)
    found = bootstrap(values, median, seed=3)
    expected = scipy_bootstrap(
        (values,), np.median, method="percentile", n_resamples=4000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert found.value == np.median(values)
    assert found.low == pytest.approx(expected.low, rel=0.05)
    assert found.high == pytest.approx(expected.high, rel=0.05)
    assert bootstrap(values, median, seed=3) == found
    with pytest.raises(ValueError, match="no images"):
        bootstrap(np.zeros(0), median)


def test_intervals_cover_the_truth(rng):
    """95 % of intervals of the mean of normal numbers hold it; 200 of them scatter by 2 %."""
    covered = 0
    for trial in range(200):
        found = bootstrap(rng.normal(size=60), lambda x: x.mean(-1), seed=trial)
        covered += found.low <= 0 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_images_without_an_answer_reach_infinity():
    found = bootstrap(np.array([1.0] * 6 + [np.inf] * 4), median)
    assert found.value == 1
    assert found.high == math.inf


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_paired_tests_are_scipys(rng):
    base = rng.lognormal(size=60)
    errors = {"a": 0.5 * base * rng.lognormal(sigma=0.1, size=60), "b": base, "c": base}
    results = results_of(errors)
    images, ratio, p = paired_test(results, "a", "b")
    expected = wilcoxon(np.log(errors["a"]) - np.log(base)).pvalue
    assert images == 60
    assert p == pytest.approx(expected)
    assert ratio.value == pytest.approx(0.5, rel=0.05)
    assert ratio.low < ratio.value < ratio.high
    assert paired_test(results, "b", "c")[2] == 1
    _, rows = paired_table(results)
    assert [row[-1] for row in rows] == [f"{2 * expected:.2g}", "1"]
    errors["a"][:5] = np.nan
    assert paired_test(results_of(errors), "a", "b")[0] == 55


def test_efficiency_of_an_efficient_method_is_one(rng):
    """Errors drawn with the bound as their standard deviation, and with twice that."""
    bound = rng.uniform(0.1, 0.3, 4000)
    draws = rng.normal(size=4000)
    for factor, expected in ((1.0, 1.0), (2.0, 0.25)):
        answers = results_of({"made": factor * np.abs(draws) * bound}, bound=bound)
        interval = efficiency(answers, "disorientation_deg", "bound")
        assert interval.value == pytest.approx(expected, rel=0.08)
        assert interval.low < interval.value < interval.high
    assert efficiency(answers.assign(bound=np.nan), "disorientation_deg", "bound") is None


def test_first_hits_and_running_time_by_hand():
    curves = pd.DataFrame(
        {
            "method": "a", "image": [0, 0, 0, 1, 1], "evaluations": [1, 5, 9, 1, 7],
            "disorientation_deg": [20.0, 2.0, 0.5, 30.0, 8.0], "radius_error_nm": [5.0, 0.5, 0.05, 9.0, 2.0],
        }
    )  # fmt: skip
    results = pd.DataFrame(
        {
            "method": ["a", "a"], "image": [0, 1], "evaluations": [12, 10],
            "disorientation_deg": [0.05, 8.0], "radius_error_nm": [0.05, 2.0],
        }
    )  # fmt: skip
    hits, total = first_hits(curves, results, "a")
    by_target = dict(zip(TARGETS, hits.T.tolist(), strict=True))
    assert by_target[(10.0, 3.0)] == [5, 7]
    assert by_target[(3.0, 1.0)] == [5, math.inf]
    assert by_target[(1.0, 0.1)] == [9, math.inf]
    assert by_target[(0.1, 0.1)] == [12, math.inf]
    assert total.tolist() == [12, 10]
    times = dict(zip(TARGETS, expected_running_time(hits, total), strict=True))
    assert times[(10.0, 3.0)] == 6
    assert times[(3.0, 1.0)] == 5 + 10
    assert np.isfinite(hits).sum() == 20 + 1
    none, _ = first_hits(curves[:0], results[:0], "a")
    assert none.shape == (0, 20)


def costs(name, fixed, each, images=100):
    return Account(name, fixed, 10 * fixed, np.full(images, each), np.full(images, 10 * each), 0.1)


def test_break_even_by_hand():
    network, simplex = costs("network", 300.0, 0.0), costs("simplex", 0.0, 100.0)
    found = break_even(network, simplex, "simulations")
    assert found.images == (3.0, 3.0, 3.0)
    assert found.as_accurate
    assert break_even(simplex, network, "seconds").images.value == 0
    slow = costs("slow", 300.0, 200.0)
    assert break_even(slow, simplex, "seconds").images.value == math.inf
    _, rows = ledger_table([network, simplex])
    assert rows[0][1:4] == ["3,000", "300", "3,000"]
    assert rows[1][4:] == ["1,000", "100", "1,000"]
    solved = np.ones(100, dtype=bool)
    lost = solved.copy()
    lost[:20] = False
    assert not break_even(network, simplex, "seconds", (lost, solved)).as_accurate
    assert break_even(network, simplex, "seconds", (solved, lost)).as_accurate


def test_break_even_has_an_interval(rng):
    uneven = Account("uneven", 0.0, 0.0, rng.lognormal(sigma=1.0, size=80), np.zeros(80), 1.0)
    found = break_even(costs("network", 50.0, 0.0, 80), uneven, "seconds").images
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(50 / uneven.seconds.mean())


def test_accounts_read_the_run():
    results = pd.DataFrame(
        {
            "method": ["network+lm"] * 2 + ["simplex"] * 2, "image": [0, 1, 0, 1],
            "seconds": [0.1, 0.3, 4.0, 6.0], "evaluations": [20, 30, 4000, 6000],
        }
    )  # fmt: skip
    run = {
        "methods": {
            "network+lm": {"needs_network": True, "needs_dictionary": True, "search": None},
            "simplex": {"needs_network": False, "needs_dictionary": False, "search": None},
        },
        "network": {"training_seconds": 100.0, "training_simulations": 5000},
        "dictionary": {"seconds": 2.0, "simulations": 1000},
    }
    per_simulation = seconds_per_simulation(results)
    assert per_simulation == pytest.approx(1e-3)
    hybrid = account("network+lm", results, run, per_simulation)
    assert (hybrid.fixed_seconds, hybrid.fixed_simulations) == (102.0, 6000.0)
    assert hybrid.evaluations.tolist() == [20, 30]
    free = account("simplex", results, run, per_simulation)
    assert free.fixed_simulations == 0
