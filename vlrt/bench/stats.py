"""Statistics of samples whose distribution is not known: ranks only, no normality assumed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

__all__ = ["Ratio", "Summary", "half_width", "median_interval", "ratio", "summary"]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """Of one figure's samples, in their unit; `sd` is the sample standard deviation (n - 1)."""

    median: float
    p90: float
    p99: float
    sd: float
    count: int


@dataclass(frozen=True)
class Ratio:
    """How many times as large b's samples are as a's, with its confidence interval.

    The interval is (0, inf) where there are too few samples to say anything.
    """

    estimate: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """For durations: b is slower, faster, or nothing is shown."""
        if self.low > 1:
            return "slower"
        return "faster" if self.high < 1 else "no difference shown"


def summary(samples: Sequence[float]) -> Summary:
    """Percentiles by linear interpolation, as numpy's default."""
    values = np.asarray(samples, np.float64)
    p50, p90, p99 = (float(v) for v in np.percentile(values, (50, 90, 99)))
    sd = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return Summary(p50, p90, p99, sd, len(values))


def median_interval(
    samples: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, float] | None:
    """The order statistics that enclose the median; None where there are too few samples.

    Samples below the median are Binomial(n, 1/2) in number, whatever the distribution, so the k-th
    smallest and k-th largest enclose it with probability 1 - 2 P(X < k) (Conover, Practical
    Nonparametric Statistics, 3.2). Six samples are the fewest for 95 %.
    """
    ordered, n = sorted(samples), len(samples)
    below, k = 0.0, 0
    while k < n / 2 and 2 * (below + math.comb(n, k) / 2**n) <= 1 - confidence:
        below += math.comb(n, k) / 2**n
        k += 1
    return (ordered[k - 1], ordered[n - k]) if k else None


def half_width(samples: Sequence[float]) -> float:
    """Half the interval of the median as a share of the median; inf where it is not known."""
    interval = median_interval(samples)
    middle = float(np.median(samples)) if len(samples) else 0.0
    return (interval[1] - interval[0]) / 2 / middle if interval and middle > 0 else math.inf


def ratio(a: Sequence[float], b: Sequence[float], confidence: float = CONFIDENCE) -> Ratio:
    """The ratio b / a by Hodges and Lehmann, on logarithms.

    The estimate is the median of all pairwise ratios; the interval holds the ratios that a
    two-sided Mann-Whitney test would not refuse (Hollander and Wolfe, Nonparametric Statistical
    Methods, 4.3). It is exact for few samples, where a bootstrap of the median is too narrow.
    """
    if not a or not b or min(*a, *b) <= 0:
        return Ratio(math.nan, 0.0, math.inf)
    pairs = np.sort(np.divide.outer(np.asarray(b, np.float64), np.asarray(a, np.float64)).ravel())
    estimate = float(np.exp(np.median(np.log(pairs))))
    k = _critical(len(a), len(b), 1 - confidence)
    if k == 0:
        return Ratio(estimate, 0.0, math.inf)
    return Ratio(estimate, float(pairs[k - 1]), float(pairs[len(pairs) - k]))


@cache
def _critical(m: int, n: int, alpha: float) -> int:
    """The largest k with 2 P(U < k) <= alpha, U the Mann-Whitney statistic of equal samples."""
    if m * n > 2500:  # the normal approximation is exact to a rank or so from here on
        sd = math.sqrt(m * n * (m + n + 1) / 12)
        from statistics import NormalDist

        return max(0, math.floor(m * n / 2 + NormalDist().inv_cdf(alpha / 2) * sd))
    # U's counts are the coefficients of the Gaussian binomial: prod (1 - x^(n+i)) / (1 - x^i).
    counts = [1] + [0] * (m * n)
    for i in range(1, m + 1):
        for u in range(m * n, n + i - 1, -1):
            counts[u] -= counts[u - n - i]
        for u in range(i, m * n + 1):
            counts[u] += counts[u - i]
    below, total, k = 0, math.comb(m + n, m), 0
    while k < m * n / 2 and 2 * (below + counts[k]) / total <= alpha:
        below += counts[k]
        k += 1
    return k
