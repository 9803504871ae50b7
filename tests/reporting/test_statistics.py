"""Intervals, tests and costs against closed forms, SciPy and small cases done by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import nct, ttest_rel, wilcoxon

from icobench.reporting.statistics import (
    TARGETS,
    as_accurate,
    bootstrap,
    efficiency,
    equivalence,
    expected_running_time,
    first_hits,
    holm,
    paired_test,
    rms_over_bound,
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
    errors = {
        "network": 0.5 * base * rng.lognormal(sigma=0.1, size=60),
        "simplex": base,
        "simplex-race": base,
    }
    results = results_of(errors, radius_error_nm=1.0)
    images, ratio, p = paired_test(results, "network", "simplex")
    expected = wilcoxon(np.log(errors["network"]) - np.log(base)).pvalue
    assert images == 60
    assert p == pytest.approx(expected)
    assert ratio.value == pytest.approx(0.5, rel=0.05)
    assert ratio.low < ratio.value < ratio.high
    assert paired_test(results, "simplex-race", "simplex")[2] == 1
    _, rows = paired_table(results)
    # Two errors of two pairs are four tests; those without a difference have p = 1.
    assert [row[5] for row in rows] == [f"{4 * expected:.2g}", "1", "1", "1"]
    assert [row[-1][:2] for row in rows] == ["no", "ye", "ye", "ye"]


def test_pairs_are_named_beforehand(rng):
    """However the medians lie, and whoever else took part."""
    names = ("network+lm", "cma-es", "simplex", "network", "dictionary+lm")
    results = results_of({name: rng.lognormal(size=40) for name in names}, radius_error_nm=1.0)
    _, rows = paired_table(results)
    assert [row[:3] for row in rows] == [
        [*pair, error]
        for pair in (["network", "simplex"], ["network+lm", "dictionary+lm"])
        for error in ("disorientation", "radius error")
    ]


def test_unanswered_images_count_as_worst(rng):
    """In the ranks of Wilcoxon's test, in the median, and in the mean of the test for equality."""
    base = rng.lognormal(size=60)
    errors = {"a": 0.9 * base * rng.lognormal(sigma=0.02, size=60), "b": base.copy()}
    errors["a"][:5] = np.nan
    images, ratio, p = paired_test(results_of(errors), "a", "b")
    change = np.nan_to_num(np.log(errors["a"] / base), nan=99.0)
    assert images == 60
    assert p == pytest.approx(wilcoxon(change).pvalue)
    assert ratio.value == pytest.approx(np.exp(np.median(change)))
    assert equivalence(results_of(errors), "a", "b").p == 1
    rows = results_of(errors)
    assert paired_test(rows[~((rows["method"] == "a") & (rows["image"] < 5))], "a", "b") == (images, ratio, p)
    errors["b"][:5] = np.nan  # now a tie
    assert paired_test(results_of(errors), "a", "b")[2] == pytest.approx(wilcoxon(change[5:]).pvalue)
    errors["a"][:40] = np.nan
    assert paired_test(results_of(errors), "a", "b")[1].value == math.inf


def pair(rng, images: int, mean_ratio: float = 1.0, spread: float = 0.2) -> pd.DataFrame:
    base = rng.lognormal(size=images)
    change = rng.normal(size=images)
    change = math.log(mean_ratio) + spread * (change - change.mean()) / change.std(ddof=1)
    return results_of({"a": base * np.exp(change), "b": base}, radius_error_nm=0.1, success=True)


def test_equality_is_two_one_sided_tests(rng):
    """Against SciPy's t tests of the shifted logarithms, and the closed form of a sample of known moments."""
    results = pair(rng, 100, 1.02)
    a, b = (np.log(rows["disorientation_deg"].to_numpy()) for _, rows in results.groupby("method"))
    sides = ("greater", -math.log(1.1)), ("less", math.log(1.1))
    expected = max(ttest_rel(a, b + shift, alternative=side).pvalue for side, shift in sides)
    found = equivalence(results, "a", "b")
    assert found.p == pytest.approx(expected)
    half = 1.6604 * 0.2 / 10  # Student's t with 99 degrees of freedom, 95 %
    assert np.log(found.ratio) == pytest.approx(
        [math.log(1.02) + side * half for side in (0, -1, 1)], rel=1e-4
    )
    assert equivalence(results, "b", "a").p == pytest.approx(found.p)


def test_equality_can_fail(rng):
    assert as_accurate(pair(rng, 100), "a", "b").shown
    assert not as_accurate(pair(rng, 100, 1.2, 0.01), "a", "b").shown
    assert not as_accurate(pair(rng, 100, 1 / 1.2, 0.01), "a", "b").shown
    assert not as_accurate(
        pair(rng, 100, 1.0, 1.0), "a", "b"
    ).shown  # no difference, and no proof of equality
    assert as_accurate(pair(rng, 30, 1.0, 0.01), "a", "b").shown
    assert not as_accurate(pair(rng, 29, 1.0, 0.01), "a", "b").shown
    astray = pair(rng, 100, 1.0, 0.01)
    astray.loc[(astray["method"] == "a") & (astray["image"] < 20), "disorientation_deg"] *= 50
    assert not as_accurate(astray, "a", "b").shown


def test_equality_has_the_power_of_its_closed_form(rng):
    """As many of 400 normal samples of 50 pairs pass as the noncentral t distribution says."""
    images, spread, trials = 50, 0.25, 400
    change = rng.normal(scale=spread, size=(trials, images))
    passed = 0
    for sample in change:
        results = results_of({"a": np.exp(sample), "b": np.ones(images)})
        passed += equivalence(results, "a", "b").shown
    quantile, shift = 1.6766, math.log(1.1) * math.sqrt(images) / spread
    # Both one-sided tests pass; that neither does is impossible here, so their shares add.
    power = 2 * nct.sf(quantile, images - 1, shift) - 1
    assert passed / trials == pytest.approx(power, abs=4 * math.sqrt(power * (1 - power) / trials))


def test_nothing_against_nothing_is_not_equality():
    images = 40
    same = results_of(
        {"a": np.full(images, 20.0), "b": np.full(images, 20.0)}, radius_error_nm=5.0, success=False
    )
    assert not as_accurate(same, "a", "b").shown
    assert as_accurate(same.assign(success=True), "a", "b").shown
    assert not as_accurate(same.assign(success=same["method"] == "a"), "a", "b").shown
    for value in (np.nan, np.inf, 0.0):
        nothing = same.assign(success=True, disorientation_deg=value)
        assert not as_accurate(nothing, "a", "b").shown
        assert paired_test(nothing, "a", "b")[2] == 1


def test_efficiency_of_an_efficient_method_is_one(rng):
    """Errors drawn with the bound as their standard deviation, and with twice that."""
    bound = rng.uniform(0.1, 0.3, 4000)
    draws = rng.normal(size=4000)
    for factor, expected in ((1.0, 1.0), (2.0, 0.25)):
        answers = results_of({"made": factor * np.abs(draws) * bound}, bound=bound)
        interval = efficiency(answers, "disorientation_deg", "bound")
        assert interval.value == pytest.approx(expected, rel=0.08)
        assert interval.low < interval.value < interval.high
        ratio = rms_over_bound(answers, "disorientation_deg", "bound")
        assert ratio.value == pytest.approx(factor, rel=0.04)
        assert ratio.low < ratio.value < ratio.high
        assert ratio.low == pytest.approx(interval.high**-0.5)
        # What the ratio of the medians would say of the same errors.
        assert answers["disorientation_deg"].median() / np.median(bound) < 0.75 * factor
    for measure in (efficiency, rms_over_bound):
        assert measure(answers.assign(bound=np.nan), "disorientation_deg", "bound") is None
    answers.loc[0, "disorientation_deg"] = np.nan
    assert rms_over_bound(answers, "disorientation_deg", "bound").value == math.inf


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
