"""Prompt lookup: text that repeats is guessed from its earlier occurrence, and checked at once.

Speculative decoding without a second model (https://github.com/apoorvumang/prompt-lookup-decoding):
where the last ids stand in the prompt or the answer already, what followed them there is a draft,
and one run of the decoder over all of it tells how far greedy decoding agrees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from vlrt_runtime.backends import Decoder

__all__ = ["BARRIER", "Lookahead", "NGrams"]

Logits = NDArray[np.float32]

BARRIER = -1  # in place of an id that no n-gram may contain and no draft may pass
SIZES = (3, 2)  # of n-grams, the surest first
# Measured with 2 B int4 parameters on two cores: runs of 2, 4, 8 and 16 ids take 1.3, 1.7, 2.6 and
# 4.0 times as long as of one. A guess of 7 that fails costs 1.6 steps, one that holds saves 5.4.
MOST = 7
# Standard deviations of logits between the best two, for several rows to decide. There, logits of
# several rows were up to 0.2 from those of single steps: twice that could change places.
MARGIN = 0.5


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

    The ids are those of single steps. Kernels for several rows round otherwise than those for one,
    so a position whose best two logits are closer than `MARGIN` is run again by itself. Keys and
    values of accepted drafts stay those of several rows, as a prompt's are: a later near tie may
    fall otherwise for that, as it may after a prompt that was prefilled in other pieces.

    A draft is as long as guesses have earned: each that comes true by a clear choice doubles the
    length, each other one halves it, and guesses are made, for nothing, where none is run. So a
    text that does not repeat, or a model that is not sure of it, is left in peace.

    Args:
        decoder: holds the prompt.
        prompt: its ids, with `BARRIER` where nothing may match.
        step: runs one id; the next logits [vocab].
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
        step: Callable[[int], Logits],
        run: Callable[[Sequence[int]], Logits],
        end: int,
        adjust: Callable[[Logits], Logits] = lambda logits: logits,
    ) -> None:
        self.drafted = self.accepted = 0
        self._decoder, self._single, self._run = decoder, step, run
        self._end, self._adjust = end, adjust
        self._ngrams = NGrams(prompt)
        self._length = decoder.length  # positions of ids that were chosen
        self._most = 0  # ids of the next draft
        self._clear = True  # the last logits left no doubt
        self._draft: list[int] = []  # ids in the decoder that are still to be chosen
        self._logits: list[Logits] = []  # behind each of them

    def step(self, token: int) -> Logits:
        """Takes the id just chosen and gives the next scores."""
        guess = self._ngrams.draft(1)
        if guess:
            earned = self._clear and guess == [token]
            self._most = min(self._most * 2 or 1, MOST) if earned else self._most // 2
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

    def _alone(self, token: int) -> Logits:
        self._length += 1
        logits = self._single(token)
        self._clear = self._is_clear(logits)
        return logits

    def _trusted(self, token: int, logits: Logits) -> Logits:
        """Logits behind a token of several rows, or of a single step where it is a close call."""
        self._clear = self._is_clear(logits)
        if self._clear:
            return logits
        self._most = 0
        self._length -= 1
        self.forget()
        return self._alone(token)

    def _is_clear(self, logits: Logits) -> bool:
        scores = self._adjust(logits)
        best = int(np.argmax(scores))
        second = max(scores[:best].max(initial=-np.inf), scores[best + 1 :].max(initial=-np.inf))
        return bool(scores[best] - second >= MARGIN * scores.std())
