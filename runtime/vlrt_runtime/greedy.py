"""The greedy loop: ids out of logits. It knows no family and no tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["FinishReason", "greedy", "likeliest", "penalize"]

FinishReason = Literal["stop", "length", "cancelled"]
Logits = NDArray[np.float32]
Scores = Any  # logits [vocab], or what `choose` makes an id of in their place


def likeliest(logits: Logits) -> int:
    """The largest of logits [vocab]; the first of several."""
    return int(np.argmax(logits))


def greedy(
    logits: Scores,
    step: Callable[[int], Scores],
    *,
    stop_ids: Collection[int],
    max_new_tokens: int,
    choose: Callable[[Scores], int] = likeliest,
    cancelled: Callable[[], bool] = lambda: False,
) -> Generator[int, None, FinishReason]:
    """Yields the new token ids, without the one that stops; returns why it ended.

    Args:
        logits: [vocab], after the prompt.
        step: takes the id just chosen and gives the next logits [vocab].
        stop_ids: ids that end the answer.
        max_new_tokens: ids to yield at most.
        choose: the next id of logits; the first maximum wins.
        cancelled: asked before every id and every step.
    """
    for produced in range(max_new_tokens):
        if cancelled():
            return "cancelled"
        token = choose(logits)
        if token in stop_ids:
            return "stop"
        yield token
        if produced + 1 < max_new_tokens and not cancelled():
            logits = step(token)
    return "length"


def penalize(logits: Logits, seen: Sequence[int] | NDArray[Any], penalty: float) -> None:
    """Makes the ids already seen less likely, in place (https://arxiv.org/abs/1909.05858).

    As transformers' RepetitionPenaltyLogitsProcessor: negative logits are multiplied by it, others
    divided.
    """
    ids = np.unique(np.asarray(seen, np.int64))
    ids = ids[(ids >= 0) & (ids < len(logits))]  # a placeholder may have no logit
    values = logits[ids]
    logits[ids] = np.where(values < 0, values * penalty, values / penalty)
