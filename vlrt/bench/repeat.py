"""When to stop measuring: when the medians are steady, or time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

from vlrt.bench.stats import half_width

__all__ = ["Rule", "repeat"]

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Rule:
    """Stop after `min_runs` when every watched median is steady, or at a limit.

    Attributes:
        min_runs: never fewer, unless time is up.
        max_runs: never more.
        bound: half-width of the median's 95 % interval, as a share of the median.
        max_seconds: no run begins after it.
        watched: names of the figures to judge.
    """

    min_runs: int = 6
    max_runs: int = 100
    bound: float = 0.02
    max_seconds: float = 60.0
    watched: tuple[str, ...] = ("ttft", "tpot")


def repeat(
    run: Callable[[], Figures], rule: Rule, clock: Callable[[], float] = time.perf_counter
) -> Generator[Figures, None, str]:
    """Yields what each run measured; returns why it ended: steady, time or runs."""
    started, samples = clock(), {name: list[float]() for name in rule.watched}
    for done in range(1, rule.max_runs + 1):
        figures = run()
        for name, values in samples.items():
            if figures.get(name, 0.0) > 0:
                values.append(figures[name])
        yield figures
        known = [values for values in samples.values() if values]
        if done >= rule.min_runs and all(half_width(v) <= rule.bound for v in known):
            return "steady"
        if clock() - started >= rule.max_seconds:
            return "time"
    return "runs"
