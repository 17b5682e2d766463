"""The greedy loop with a fake model: a table from each token to the logits after it."""

from __future__ import annotations

import numpy as np
import pytest

from support.generators import exhaust
from vlrt_runtime.greedy import greedy, penalize

STOP = 9


def logits(*winners: int, size: int = 10) -> np.ndarray:
    row = np.zeros(size, np.float32)
    row[list(winners)] = 1.0
    return row


class Script:
    """A model that says `tokens` one after the other, and counts what it is asked."""

    def __init__(self, *tokens: int) -> None:
        self.tokens = tokens
        self.fed: list[int] = []

    @property
    def first(self) -> np.ndarray:
        return logits(self.tokens[0])

    def step(self, token: int) -> np.ndarray:
        self.fed.append(token)
        return logits(self.tokens[len(self.fed)])


def play(script: Script, limit: int = 8, **options):
    return exhaust(
        greedy(script.first, script.step, stop_ids=(STOP, 8), max_new_tokens=limit, **options)
    )


@pytest.mark.parametrize(
    ("tokens", "limit", "expected", "steps"),
    [
        ((1, 2, 3, STOP), 8, ([1, 2, 3], "stop"), 3),
        ((1, 8), 8, ([1], "stop"), 1),
        ((STOP,), 8, ([], "stop"), 0),
        ((1, 2, 3, 4), 3, ([1, 2, 3], "length"), 2),
        ((1,), 1, ([1], "length"), 0),
        ((1, 2, STOP), 3, ([1, 2], "stop"), 2),
        ((1, 2, STOP), 2, ([1, 2], "length"), 1),
    ],
)
def test_it_ends_with_a_reason_and_wastes_no_step(tokens, limit, expected, steps):
    script = Script(*tokens)
    assert play(script, limit) == expected
    assert script.fed == list(tokens[:steps])


def test_nothing_is_produced_where_nothing_is_allowed():
    script = Script(1, 2)
    assert play(script, 0) == ([], "length")
    assert script.fed == []


@pytest.mark.parametrize(("winners", "expected"), [((3, 5, 7), 3), ((0, 9), 0), (range(10), 0)])
def test_the_first_maximum_wins(winners, expected):
    loop = greedy(logits(*winners), lambda token: logits(STOP), stop_ids=(), max_new_tokens=1)
    assert exhaust(loop) == ([expected], "length")


@pytest.mark.parametrize("after", range(4))
def test_cancelling_ends_before_the_next_id_and_wastes_no_step(after):
    script, ids = Script(1, 2, 3, 4, 5), []
    loop = greedy(
        script.first,
        script.step,
        stop_ids=(STOP,),
        max_new_tokens=8,
        cancelled=lambda: len(ids) >= after,
    )
    reasons = []

    def keep():
        reasons.append((yield from loop))

    ids.extend(keep())
    assert (ids, reasons) == ([1, 2, 3, 4, 5][:after], ["cancelled"])
    assert script.fed == ids[:-1]


def test_ids_come_as_they_are_chosen():
    script = Script(1, 2, 3)
    loop = greedy(script.first, script.step, stop_ids=(), max_new_tokens=3)
    for position, token in enumerate(script.tokens):
        assert next(loop) == token
        assert len(script.fed) == position


def test_another_choice_may_be_made():
    script = Script(1, 2, STOP)
    seen = []

    def choose(row: np.ndarray) -> int:
        seen.append(int(np.argmax(row)))
        return seen[-1] + 3

    assert play(script, 2, choose=choose) == ([4, 5], "length")
    assert script.fed == [4]


def test_what_a_step_raises_comes_out():
    def step(token: int) -> np.ndarray:
        raise MemoryError("no room")

    loop = greedy(logits(1), step, stop_ids=(), max_new_tokens=5)
    assert next(loop) == 1
    with pytest.raises(MemoryError, match="no room"):
        next(loop)


# ------------------------------------------------------------------ the penalty


def test_a_penalty_makes_what_was_said_less_likely():
    row = np.array([2.0, -2.0, 0.0, 3.0], np.float32)
    penalize(row, [0, 1, 2], 2.0)
    np.testing.assert_array_equal(row, np.array([1.0, -4.0, 0.0, 3.0], np.float32))


def test_a_penalty_counts_once_however_often_a_token_was_said():
    row = np.array([8.0, 1.0], np.float32)
    penalize(row, [0, 0, 0], 2.0)
    assert row.tolist() == [4.0, 1.0]


def test_ids_without_a_logit_and_an_empty_prompt_are_no_harm():
    row = np.array([8.0, 1.0], np.float32)
    penalize(row, [7], 2.0)
    penalize(row, [], 2.0)
    assert row.tolist() == [8.0, 1.0]
    assert row.dtype == np.float32
