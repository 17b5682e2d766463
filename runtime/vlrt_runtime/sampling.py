"""The next id by chance: temperature, top-k, top-p, min-p, and a seed.

The filters are those of transformers' logits warpers, in its order, so that a checkpoint's own
`generation_config.json` means the same here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrt_runtime.errors import InputError

__all__ = ["Sampler", "Sampling", "candidates"]


@dataclass(frozen=True)
class Sampling:
    """How the next id is drawn. Temperature 0, the default, is greedy whatever else is said.

    Attributes:
        temperature: logits are divided by it: below 1 surer, above 1 more various.
        top_k: only so many of the likeliest ids may be drawn; 0 for all.
        top_p: only the likeliest that together have this probability
            (https://arxiv.org/abs/1904.09751); 1 for all.
        min_p: none that is less likely than this share of the likeliest
            (https://arxiv.org/abs/2407.01082); 0 for all.
        seed: the same seed gives the same answer, on the same machine with as many threads; None
            for another one each time.

    Raises:
        InputError: a value is out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0 <= _number(self.temperature) < math.inf, "0 up")
        _check("top_k", self.top_k, _whole(self.top_k), "a whole number from 0 up")
        _check("top_p", self.top_p, 0 < _number(self.top_p) <= 1, "above 0, up to 1")
        _check("min_p", self.min_p, 0 <= _number(self.min_p) <= 1, "0 to 1")
        _check("seed", self.seed, self.seed is None or _whole(self.seed), "a whole number from 0")

    @property
    def greedy(self) -> bool:
        """The likeliest id is always taken."""
        return self.temperature == 0


class Sampler:
    """Draws ids: one number of the generator for each, so that a seed repeats an answer."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed)

    def __call__(self, logits: NDArray[np.float32]) -> int:
        """An id, by logits [vocab]."""
        ids, probabilities = candidates(logits, self._sampling)
        reached: NDArray[np.float64] = np.cumsum(probabilities)
        drawn = self._random.random() * float(reached[-1])
        at = int(np.count_nonzero(reached <= drawn))
        return int(ids[min(at, len(ids) - 1)])


def candidates(
    logits: NDArray[np.float32], sampling: Sampling
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The ids that may be drawn, ascending, and the probability of each.

    Args:
        logits: [vocab]; what is minus infinity is out already.
        sampling: at a temperature above 0.
    """
    ids = np.flatnonzero(logits > -np.inf)
    scores = logits[ids].astype(np.float64) / sampling.temperature
    if 0 < sampling.top_k < len(ids):
        least = np.partition(scores, -sampling.top_k)[-sampling.top_k]
        ids, scores = _of(scores >= least, ids, scores)
    probabilities = _softmax(scores)
    if sampling.top_p < 1:
        # All that are out are the least likely, up to 1 - p of probability. Those below an equal
        # share of that are among them in any case, so that they need not be put in order.
        out = 1 - sampling.top_p
        keep = probabilities > out / len(ids)
        rest = float(probabilities[~keep].sum())
        order = np.argsort(probabilities[keep], kind="stable")
        above = rest + np.cumsum(probabilities[keep][order]) > out
        above[-1] = True  # one is left, whatever p is
        keep[np.flatnonzero(keep)[order[~above]]] = False
        ids, scores = _of(keep, ids, scores)
        probabilities = _softmax(scores)
    if sampling.min_p > 0:
        keep = probabilities >= sampling.min_p * probabilities.max()
        ids, scores = _of(keep, ids, scores)
        probabilities = _softmax(scores)
    return ids, probabilities


def _of(keep: NDArray[np.bool_], *arrays: NDArray[Any]) -> list[NDArray[Any]]:
    return [array[keep] for array in arrays]


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    raised = np.exp(scores - scores.max())
    return raised / raised.sum()


def _number(value: Any) -> float:
    """The value, or NaN, which is in no range."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain else math.nan


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check(name: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise InputError(f"{name} {value!r}: expected {expected}")
