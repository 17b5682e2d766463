"""Prompt lookup: text that repeats is guessed from its earlier occurrence, and checked at once.

Speculative decoding without a second model (https://github.com/apoorvumang/prompt-lookup-decoding):
where the last ids stand in the prompt or the answer already, what followed them there is a draft,
and one run of the decoder over all of it tells how far greedy decoding agrees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrt_runtime.backends import Decoder

__all__ = ["BARRIER", "Lookahead", "NGrams"]

Scores = Any  # see `vlrt_runtime.greedy`

BARRIER = -1  # in place of an id that no n-gram may contain and no draft may pass
SIZES = (3, 2)  # of n-grams, the surest first
MOST = 7  # ids of a draft
MARGIN = 0.05  # standard deviations of logits between the best two, for several rows to decide


class NGrams:
    """Ids, and where their last n-grams were before; O(1) for each id that is added.

    Args:
        ids: to begin with; `BARRIER`s among them match nothing.
    """

    def __init__(self, ids: Sequence[int] = ()) -> None:
        self._ids: list[int] = []
        self._behind: dict[tuple[int, ...], int] = {}  # n-gram -> index behind its last occurrence
        self._next: int | None = None
        for token in ids:
            self.add(token)

    def add(self, token: int) -> None:
        """Appends an id."""
        self._ids.append(token)
        self._next = None
        for size in SIZES:
            ngram = tuple(self._ids[-size:])
            if len(ngram) < size or BARRIER in ngram:
                continue
            if self._next is None:
                self._next = self._behind.get(ngram)
            self._behind[ngram] = len(self._ids)

    def draft(self, most: int) -> list[int]:
        """Up to so many ids that may come next; a loop at the end goes round again."""
        drafted: list[int] = []
        if self._next is None:
            return drafted
        period = len(self._ids) - self._next
        for i in range(most):
            token = drafted[i - period] if i >= period else self._ids[self._next + i]
            if token == BARRIER:
                break
            drafted.append(token)
        return drafted


class Lookahead:
    """A `step` for the greedy loop that runs the decoder over several ids where it can guess them.

    The answer is that of single steps. Kernels for several rows round otherwise than those for one,
    so a position whose best two logits are closer than `MARGIN` is run again by itself. Keys and
    values of accepted drafts stay those of several rows, as a prompt's are.

    A draft is as long as guesses have earned: each that comes true doubles the length, each that
    does not halves it, and guesses are made, for nothing, where none is run. So a text that does
    not repeat is left in peace.

    Args:
        decoder: holds the prompt.
        prompt: its ids, with `BARRIER` where nothing may match.
        step: runs one id; the next scores.
        run: runs several ids; logits float32 [n, vocab] behind each.
        end: positions of the decoder that are never exceeded.
        adjust: logits as the choice will see them; must leave its argument alone.

    Attributes:
        drafted: ids that were run before they were chosen.
        accepted: those of them that were then chosen.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompt: Sequence[int],
        *,
        step: Callable[[int], Scores],
        run: Callable[[Sequence[int]], NDArray[Any]],
        end: int,
        adjust: Callable[[NDArray[Any]], NDArray[Any]] = lambda logits: logits,
    ) -> None:
        self.drafted = self.accepted = 0
        self._decoder, self._single, self._run = decoder, step, run
        self._end, self._adjust = end, adjust
        self._ngrams = NGrams(prompt)
        self._length = decoder.length  # positions of ids that were chosen
        self._most = 0  # ids of the next draft
        self._draft: list[int] = []  # ids in the decoder that are still to be chosen
        self._logits: list[NDArray[Any]] = []  # behind each of them

    def step(self, token: int) -> Scores:
        """Takes the id just chosen and gives the next scores."""
        guess = self._ngrams.draft(1)
        if guess:
            self._most = min(self._most * 2 or 1, MOST) if guess == [token] else self._most // 2
        self._ngrams.add(token)
        if self._draft and self._draft[0] == token:
            self.accepted += 1
            self._length += 1
            del self._draft[0]
            return self._trusted(token, self._logits.pop(0))
        self.forget()
        draft = self._ngrams.draft(min(self._most, self._end - self._length - 1))
        if not draft:
            return self._alone(token)
        first, *self._logits = self._run([token, *draft])
        self._draft = draft
        self._length += 1
        self.drafted += len(draft)
        return self._trusted(token, first)

    def forget(self) -> None:
        """Leaves the decoder with the ids that were chosen; to be called at the end as well."""
        self._draft, self._logits = [], []
        self._decoder.rewind(self._length)

    def _alone(self, token: int) -> Scores:
        self._length += 1
        return self._single(token)

    def _trusted(self, token: int, logits: NDArray[Any]) -> Scores:
        """Logits behind a token of several rows, or of a single step where it is a close call."""
        scores = self._adjust(logits)
        if scores.max() - np.partition(scores, -2)[-2] >= MARGIN * scores.std():
            return logits
        self._length -= 1
        self.forget()
        return self._alone(token)
