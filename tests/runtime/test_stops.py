"""Stop texts: wherever they fall among the pieces, and in the answers of a model."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import pytest

import vlrt
from support.generators import exhaust
from support.pictures import picture
from vlrt_runtime.errors import InputError
from vlrt_runtime.model import Model
from vlrt_runtime.text import stream_until

PICTURE = picture(90, 60)
ASK = "What is this?"


def cut(pieces: Sequence[str], stops: Sequence[str], skip: int = 0) -> tuple[list[str], str, int]:
    """The pieces that come out, the reason, and how many were asked for."""
    taken: list[str] = []

    def source() -> Generator[str, None, str]:
        for piece in pieces:
            taken.append(piece)
            yield piece
        return "length"

    said: list[str] = []
    out, reason = exhaust(stream_until(source(), stops, said, skip))
    assert out == said
    assert all(out)
    return out, reason, len(taken)


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [
        (["one ", "two ", "three"], ["two"], (["one "], "stop", 2)),
        (["one t", "w", "o three"], ["two"], (["one "], "stop", 3)),
        (["one t", "w", "ice"], ["two"], (["one ", "twice"], "length", 3)),
        (["a", "a", "a", "b"], ["aab"], (["a"], "stop", 4)),
        (["abc"], ["c", "b"], (["a"], "stop", 1)),
        (["ab", "cd"], ["bcd", "bc"], (["a"], "stop", 2)),
        (["ab", "cd"], ["abcde", "bc"], (["a"], "stop", 2)),
        (["x", "\n"], ["\n\n"], (["x", "\n"], "length", 2)),
        (["end"], ["end"], ([], "stop", 1)),
        (["whole"], ["no"], (["whole"], "length", 1)),
        (["wé", "🎉", "!"], ["🎉"], (["wé"], "stop", 2)),
    ],
)
def test_text_ends_before_the_first_stop(pieces, stops, expected):
    assert cut(pieces, stops) == expected


def test_the_beginning_of_the_text_may_be_left_alone():
    assert cut(["stop ", "and ", "stop"], ["stop"], skip=5) == (["stop ", "and "], "stop", 3)
    assert cut(["st", "op", "stop"], ["stop"], skip=4) == (["st", "op"], "stop", 3)
    assert cut(["st", "op"], ["stop"], skip=1) == (["st", "op"], "length", 2)


def test_any_text_in_any_pieces_is_cut_where_it_should_be():
    random = np.random.default_rng(3)
    for _ in range(400):
        text = "".join(random.choice(list("ab"), random.integers(1, 12)))
        stops = ["".join(random.choice(list("ab"), random.integers(1, 5))) for _ in range(2)]
        at = np.sort(random.integers(0, len(text) + 1, 3))
        pieces = [p for p in (text[: at[0]], text[at[0] : at[1]], text[at[1] :]) if p]
        ends = [text[:n] for n in range(len(text) + 1) if text[:n].endswith(tuple(stops))]
        longest = max((len(s) for s in stops if ends and ends[0].endswith(s)), default=0)
        out, reason, _ = cut(pieces, stops)
        assert "".join(out) == (ends[0] if ends else text)[: -longest or None]
        assert (reason == "stop") == any(stop in text for stop in stops)


# ------------------------------------------------------------------ with a model


@pytest.fixture(scope="module")
def model(small_package: Path) -> Model:
    return Model(small_package, threads=1)


@pytest.mark.parametrize("length", [1, 4, 9])
def test_an_answer_ends_before_a_stop_text(model: Model, free: vlrt.Answer, length: int):
    stop = free.text[6 : 6 + length]
    stream = model.stream(ASK, images=[PICTURE], max_new_tokens=24, stop=["never said", stop])
    text = "".join(stream)
    answer = stream.result()
    assert text == answer.text == free.text[: free.text.index(stop)]
    assert answer.finish_reason == "stop"
    count = len(answer.token_ids)
    assert answer.token_ids == free.token_ids[:count]
    assert count < 24 or stop not in model.codec.decode(free.token_ids[:23])


def test_a_stop_that_does_not_come_changes_nothing(model: Model, free: vlrt.Answer):
    answer = model.generate(ASK, images=[PICTURE], max_new_tokens=24, stop=["never said"])
    assert (answer.text, answer.finish_reason) == (free.text, "length")


def test_what_was_kept_is_gone_on_from_after_a_stop(model: Model, free: vlrt.Answer):
    model.generate(ASK, images=[PICTURE], max_new_tokens=24, stop=[free.text[6:8]])
    again = model.generate(ASK, images=[PICTURE], max_new_tokens=24)
    assert again.token_ids == free.token_ids


@pytest.mark.parametrize(
    ("stop", "said"),
    [
        ("one", "stop: expected a list of texts, got one; put it in brackets"),
        ([""], "stop: expected texts that are not empty, got ''"),
        ([3], "stop: expected texts that are not empty, got 3"),
    ],
)
def test_stops_that_cannot_be_are_refused(model: Model, stop, said: str):
    with pytest.raises(InputError, match=said):
        model.stream(ASK, stop=stop)
