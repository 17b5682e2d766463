"""Statistics against numpy and scipy, the repetition rule with a fake clock."""

from __future__ import annotations

import math
from itertools import count

import numpy as np
import pytest

from vlrt.bench.measure import drift, flops_of
from vlrt.bench.repeat import Rule, repeat
from vlrt.bench.stats import half_width, median_interval, ratio, summary
from vlrt_runtime.manifest import PrecisionSpec

stats = pytest.importorskip("scipy.stats")


def test_a_summary_is_numpys():
    samples = np.random.default_rng(1).lognormal(3, 0.4, 37)
    s = summary(samples.tolist())
    np.testing.assert_allclose(
        (s.median, s.p90, s.p99, s.sd, s.count),
        (*np.percentile(samples, (50, 90, 99)), np.std(samples, ddof=1), 37),
    )


@pytest.mark.parametrize("n", [6, 7, 20, 101])
def test_the_medians_interval_is_scipys_quantile_test(n: int):
    samples = np.random.default_rng(n).normal(10, 1, n)
    interval = stats.quantile_test(samples, q=0, p=0.5).confidence_interval(0.95)
    assert median_interval(samples.tolist()) == pytest.approx((interval.low, interval.high))


def test_five_samples_say_nothing_of_their_median():
    assert median_interval([1, 2, 3, 4, 5]) is None
    assert half_width([1, 2, 3, 4, 5]) == math.inf


@pytest.mark.parametrize(("m", "n"), [(4, 4), (6, 9), (13, 8)])
def test_the_ratios_interval_is_what_mann_whitney_does_not_refuse(m: int, n: int):
    rng = np.random.default_rng(m)
    a, b = rng.lognormal(2, 0.2, m), rng.lognormal(2.1, 0.2, n)
    r = ratio(a.tolist(), b.tolist())

    def p(by: float) -> float:
        return stats.mannwhitneyu(a * by, b, method="exact").pvalue

    assert p(r.low * 1.0001) > 0.05 >= p(r.low * 0.9999)
    assert p(r.high * 0.9999) > 0.05 >= p(r.high * 1.0001)
    assert r.low < r.estimate < r.high


def test_the_interval_of_many_samples_is_near_the_true_ratio_as_often_as_it_says():
    rng = np.random.default_rng(5)
    trials = [
        ratio(rng.lognormal(0, 0.1, 8).tolist(), rng.lognormal(0.1, 0.1, 8).tolist())
        for _ in range(400)
    ]
    hit = np.mean([r.low <= math.exp(0.1) <= r.high for r in trials])
    assert 0.92 < hit <= 1  # 95 %, three standard errors of 400 trials below


def test_large_samples_take_the_normal_approximation():
    rng = np.random.default_rng(2)
    a, b = rng.lognormal(0, 0.1, 80).tolist(), rng.lognormal(0.2, 0.1, 90).tolist()
    r = ratio(a, b)
    assert r.verdict == "slower"
    assert stats.mannwhitneyu(np.array(a) * r.low * 0.99, b).pvalue < 0.05


def test_three_runs_each_show_nothing():
    assert ratio([1, 1.1, 1.2], [9, 9.1, 9.2]).verdict == "no difference shown"


def _ends(values: list[float], rule: Rule, seconds: float) -> tuple[int, str]:
    figures = iter(values)
    ticks = count(0, seconds)
    runs = repeat(lambda: {"ttft": next(figures)}, rule, clock=lambda: next(ticks))
    done = 0
    while True:
        try:
            next(runs)
        except StopIteration as end:
            return done, end.value
        done += 1


def test_steady_figures_end_at_the_fewest_runs():
    assert _ends([100.0] * 50, Rule(min_runs=6), seconds=1) == (6, "steady")


def test_noise_goes_on_until_the_median_is_known():
    noise = np.random.default_rng(0).normal(100, 10, 500).tolist()
    done, why = _ends(noise, Rule(min_runs=6, bound=0.03, max_runs=500, max_seconds=1e9), 1)
    assert why == "steady"
    assert done > 6
    assert half_width(noise[:done]) <= 0.03 < half_width(noise[: done - 1])


def test_time_and_runs_are_limits():
    wild = [1.0, 100.0] * 100
    assert _ends(wild, Rule(max_seconds=10), seconds=4) == (3, "time")
    assert _ends(wild, Rule(max_runs=9), seconds=0) == (9, "runs")


def test_matrices_are_measured_against_what_they_multiply_with():
    assert flops_of(PrecisionSpec("int4", 32, 4)) == "flops_int4"
    assert flops_of(PrecisionSpec("int8", 0, 4)) == "flops_int8_rows"
    assert flops_of(PrecisionSpec("int8", 128, 0)) == "flops"  # computes with float32
    assert flops_of(PrecisionSpec("fp16", 128, 4)) == "flops"


def test_a_throttled_series_has_drifted_and_a_noisy_one_has_not():
    rng = np.random.default_rng(0)
    assert drift((rng.normal(100, 1, 40) + np.linspace(0, 20, 40)).tolist()) > 0.1
    assert abs(drift(rng.normal(100, 1, 40).tolist())) < 0.02
    assert drift([1.0, 1.0, 9.0]) == 0.0
