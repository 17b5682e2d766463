"""Prompt lookup: the ids of the greedy loop, whatever is guessed, in fewer runs of the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.generators import exhaust
from support.packages import with_generation
from support.pictures import picture
from vlrt_runtime.greedy import greedy, penalize
from vlrt_runtime.lookup import BARRIER, MARGIN, MOST, Lookahead, NGrams
from vlrt_runtime.model import Model

VOCAB = 40
STOP = 39
LOOP = [1, 2, 3, 4, 5, 6, 7, 8]


class Table:
    """A model whose logits hang on the last two ids, with a cache that can be looked into.

    Args:
        prompt: ids that the cache begins with.
        chain: ids that follow one another; elsewhere logits are noise.
        ties: ids behind which the best two are so close that several rows tell them apart wrongly.
    """

    def __init__(
        self, prompt: Sequence[int], chain: Sequence[int] = (), ties: Sequence[int] = ()
    ) -> None:
        self.held, self.ties, self.runs = list(prompt), ties, []
        self.follows = {pair: chain[i + 2] for i, pair in enumerate(_pairs(chain[:-1]))}

    @property
    def length(self) -> int:
        return len(self.held)

    def rewind(self, length: int) -> None:
        assert 0 <= length <= len(self.held)
        del self.held[length:]

    def scores(self, *, several: bool) -> np.ndarray:
        pair = (self.held[-2], self.held[-1])
        row = np.random.default_rng(pair).normal(size=VOCAB).astype(np.float32)
        row[STOP] = -5
        if pair in self.follows:
            row[self.follows[pair]] = 6
        if self.held[-1] in self.ties:
            best, gap = int(np.argmax(row)), np.float32(0.3 * MARGIN)
            row[(best + 1) % VOCAB] = row[best] + (gap if several else -gap)
        return row

    def step(self, token: int) -> np.ndarray:
        self.runs.append(1)
        self.held.append(token)
        return self.scores(several=False)

    def run(self, tokens: Sequence[int]) -> np.ndarray:
        self.runs.append(len(tokens))
        rows = []
        for token in tokens:
            self.held.append(token)
            rows.append(self.scores(several=True))
        return np.array(rows)


def _pairs(ids: Sequence[int]) -> list[tuple[int, int]]:
    return list(pairwise(ids))


def answer(table: Table, limit: int, *, ahead: bool, penalty: float = 1.0, cancel: int = 999):
    """Ids, reason, and the `Lookahead` where there is one."""
    seen = list(table.held)
    lookahead = None

    def adjust(logits: np.ndarray) -> np.ndarray:
        penalize(logits := logits.copy(), seen, penalty)
        return logits

    def choose(logits: np.ndarray) -> int:
        seen.append(token := int(np.argmax(adjust(logits))))
        return token

    if ahead:
        lookahead = Lookahead(
            table,  # pyright: ignore[reportArgumentType]
            table.held,
            step=table.step,
            run=table.run,
            end=table.length + limit - 1,
            adjust=adjust,
        )
    ids, reason = exhaust(
        greedy(
            table.scores(several=False),
            lookahead.step if lookahead else table.step,
            stop_ids=(STOP,),
            max_new_tokens=limit,
            choose=choose,
            cancelled=lambda: len(seen) - table_length >= cancel,
        )
        if (table_length := len(table.held))
        else None
    )
    if lookahead:
        lookahead.forget()
    return ids, reason, lookahead


def both(prompt: Sequence[int], limit: int, chain: Sequence[int] = (), ties=(), **options: Any):
    """Answers without and with a lookahead are one; returns it, and the table that looked ahead."""
    plain, quick = Table(prompt, chain, ties), Table(prompt, chain, ties)
    ids, reason, _ = answer(plain, limit, ahead=False, **options)
    got, why, ahead = answer(quick, limit, ahead=True, **options)
    assert (got, why) == (ids, reason)
    assert quick.held == plain.held  # nothing guessed is left behind
    return ids, reason, quick, ahead


# ------------------------------------------------------------------ n-grams


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([1, 2, 3, 4, 5, 9, 1, 2, 3], [4, 5, 9, 1]),
        ([7, 2, 3, 4, 8, 2, 3], [4, 8, 2, 3]),  # two will do
        ([2, 3, 4, 0, 2, 3, 5, 0, 2, 3], [5, 0, 2, 3]),  # the latest
        ([1, 2, 3, 4, 0, 9, 2, 3, 5, 0, 1, 2, 3], [4, 0, 9, 2]),  # but three before two
        ([1, 2, 1, 2, 1], [2, 1, 2, 1]),  # a loop goes round again
        ([6, 6, 6], [6, 6, 6, 6]),
        ([1, 2, 3, 4], []),
        ([], []),
        ([5], []),
        ([1, 2, BARRIER, 5, 1, 2], []),
        ([1, 2, 3, BARRIER, 5, 1, 2], [3]),
        ([BARRIER] * 6, []),
        ([4, BARRIER, BARRIER, 7, BARRIER, BARRIER], []),
    ],
)
def test_what_a_draft_is(ids, expected):
    assert NGrams(ids).draft(4) == expected
    assert NGrams(ids).draft(0) == []


# ------------------------------------------------------------------ the loop


def test_a_text_that_repeats_takes_fewer_runs():
    ids, _, table, ahead = both([30, 31, *LOOP, *LOOP[:2]], 64, chain=LOOP * 2 + LOOP[:2])
    assert ids == (LOOP * 9)[2:66]
    assert len(table.runs) <= 64 // (MOST + 1) + 6
    assert max(table.runs) == MOST + 1
    assert ahead.accepted == ahead.drafted == 63 - len(table.runs)


def test_a_text_that_does_not_is_left_in_peace():
    _, _, table, ahead = both([30, 31], 30, chain=[30, 31, *range(28)])
    assert ahead.drafted == 0
    assert set(table.runs) == {1}


def test_a_guess_that_fails_anywhere():
    text, failed = list(range(30)), 0
    for right in range(2 * MOST):
        said = [*text[: 8 + right], 31, 32, 33]
        ids, _, table, ahead = both([*text, 35, 36, 0, 1], 9 + right, chain=said)
        assert ids[: len(said) - 2] == said[2:]
        assert len(table.runs) < len(ids) - 1
        failed += ahead.accepted < ahead.drafted
    assert failed > MOST  # in the others, a guess ends just where the text turns off


@pytest.mark.parametrize("limit", range(1, 30))
def test_the_limit_is_met_exactly_and_no_position_behind_it_is_run(limit):
    prompt = [*LOOP, *LOOP[:2]]
    ids, reason, table, _ = both(prompt, limit, chain=LOOP * 2 + LOOP[:2])
    assert (len(ids), reason) == (limit, "length")
    assert len(table.held) == len(prompt) + limit - 1


@pytest.mark.parametrize("place", range(2, 28))
def test_the_end_within_a_guess(place):
    text = list(range(28))
    ids, reason, _, _ = both([*text, 35, 36, 0, 1], 40, chain=[*text[:place], STOP])
    assert (ids, reason) == (text[2:place], "stop")


@pytest.mark.parametrize("count", range(25))
def test_cancelling_within_a_guess(count):
    ids, reason, _, _ = both([*LOOP, *LOOP[:2]], 30, chain=LOOP * 2 + LOOP[:2], cancel=count)
    assert (ids, reason) == ((LOOP * 4)[2 : 2 + count], "cancelled")


@pytest.mark.parametrize("tie", LOOP)
def test_a_close_call_is_run_by_itself(tie):
    _, _, table, ahead = both([*LOOP, *LOOP[:2]], 40, chain=LOOP * 2 + LOOP[:2], ties=[tie])
    assert ahead.drafted
    assert len(table.runs) < 39


@pytest.mark.parametrize("penalty", [1.0, 1.1, 1.5])
def test_many_texts_with_and_without_a_penalty(penalty):
    drafted = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        few = rng.integers(0, int(rng.integers(3, 12)), 40).tolist()
        chain = rng.permutation(20).tolist()[: int(rng.integers(3, 20))]
        ties = rng.integers(0, 30, 4).tolist()
        *_, ahead = both(few, 60, chain=[*chain, *chain[:2]], ties=ties, penalty=penalty)
        drafted += ahead.drafted
    assert drafted > 1000 if penalty == 1.0 else drafted > 20


# ------------------------------------------------------------------ real packages

TEXTS = (
    "a: 1, b: 2, a: 1, b: 2, a: 1, b: 2, a:",
    "one two three",
    '{"name": "x", "size": 3}, ' * 6,
    "the " * 30,
)


def same(model: Model, prompts: Sequence[str], new: int = 48, **options: Any) -> tuple[int, int]:
    """Asserts equal answers; how much was drafted and accepted."""
    drafted = accepted = 0
    for prompt in prompts:
        plain = model.generate(prompt, max_new_tokens=new, **options)
        quick = model.generate(prompt, max_new_tokens=new, speculate=True, **options)
        assert quick.token_ids == plain.token_ids
        assert (quick.text, quick.finish_reason) == (plain.text, plain.finish_reason)
        drafted += quick.drafted_tokens
        accepted += quick.accepted_tokens
    assert accepted <= drafted
    return drafted, accepted


@pytest.mark.parametrize("precision", ["fp32", "int4"])
@pytest.mark.parametrize(
    "fixture", ["small_qwen2_vl", "tiny_llava", "small_mllama", "tiny_kosmos2"]
)
def test_families_answer_alike(
    request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fixture: str, precision: str
):
    """Random weights are never sure: at fp32, where rows differ by 1e-5, less will do for them."""
    if precision == "fp32":
        monkeypatch.setattr("vlrt_runtime.lookup.MARGIN", 1e-3)
    from vlrt_export.exporter import export

    package = export(request.getfixturevalue(fixture), tmp_path / "package", precision=precision)
    model = Model(package, threads=1, prefix_cache_mb=0)
    drafted, accepted = same(model, TEXTS, raw=True)
    if precision == "fp32":
        assert drafted
        assert accepted


@pytest.mark.parametrize("penalty", [1.05, 1.3])
def test_a_package_with_a_penalty(small_package: Path, tmp_path: Path, penalty: float):
    folder = with_generation(small_package, tmp_path / "p", repetition_penalty=penalty)
    same(Model(folder, threads=1, prefix_cache_mb=0), TEXTS, images=[])


def test_pictures_and_what_is_kept_for_the_next_turn(small_package: Path):
    """The prefix that is kept has no guessed positions: the next question goes on from it."""
    images = [picture(90, 60)]
    quick, plain = (Model(small_package, threads=1) for _ in range(2))
    for text in (*TEXTS, *TEXTS):
        got = quick.generate(text, images=images, max_new_tokens=40, speculate=True)
        expected = plain.generate(text, images=images, max_new_tokens=40)
        assert got.token_ids == expected.token_ids
        assert got.cached_tokens == expected.cached_tokens


def test_a_stream_that_is_cancelled(small_package: Path):
    model = Model(small_package, threads=1)
    stream = model.stream(TEXTS[2], max_new_tokens=40, speculate=True)
    next(stream)
    stream.cancel()
    assert stream.result().finish_reason == "cancelled"
    assert model.generate(TEXTS[2], max_new_tokens=40, speculate=True).finish_reason != "cancelled"
