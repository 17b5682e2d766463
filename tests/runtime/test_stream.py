"""An answer as it comes: pieces, cancelling, errors, several threads, timings."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support.packages import with_generation
from support.pictures import gradient, picture
from vlrt_runtime.errors import ImageError
from vlrt_runtime.model import Model

PICTURE = picture(90, 60)
ASK = "What is this?"


def test_pieces_make_the_text(model: Model, free):
    stream = model.stream(ASK, images=[PICTURE], max_new_tokens=24)
    assert stream.answer is None
    pieces = list(stream)
    assert len(pieces) > 8
    assert "".join(pieces) == free.text
    assert stream.answer is not None
    assert stream.answer.token_ids == free.token_ids
    assert list(stream) == []
    assert stream.result() is stream.answer


def test_the_rest_of_a_stream_is_its_result(model: Model, free):
    stream = model.stream(ASK, images=[PICTURE], max_new_tokens=24)
    next(stream)
    assert stream.result().token_ids == free.token_ids


def test_nothing_is_computed_before_it_is_asked_for(model: Model):
    model.stream(ASK, images=["there is no such file"])


def test_an_error_in_a_stream_comes_out_once_and_leaves_no_answer(model: Model, free):
    stream = model.stream(ASK, images=["there is no such file"])
    with pytest.raises(ImageError):
        next(stream)
    assert list(stream) == []
    with pytest.raises(RuntimeError, match="closed or failed"):
        stream.result()
    again = model.generate(ASK, images=[PICTURE], max_new_tokens=24)
    assert again.token_ids == free.token_ids


@pytest.mark.parametrize("after", [0, 1, 7])
def test_cancelling_between_tokens(model: Model, free, after: int):
    stream = model.stream(ASK, images=[PICTURE], max_new_tokens=24)
    pieces = [next(stream) for _ in range(after)]
    stream.cancel()
    answer = stream.result()
    assert answer.finish_reason == "cancelled"
    assert answer.text.startswith("".join(pieces))
    assert answer.token_ids == free.token_ids[: len(answer.token_ids)]
    assert len(answer.token_ids) < 24
    assert model.generate(ASK, images=[PICTURE], max_new_tokens=24).token_ids == free.token_ids


@pytest.mark.parametrize("stage", ["encode", "projector", "prefill"])
def test_cancelling_from_another_thread_between_stages(
    model: Model, free, stage: str, monkeypatch: pytest.MonkeyPatch
):
    reached, go_on, runs = threading.Event(), threading.Event(), []
    original = getattr(model, stage)

    def slow(*arguments: Any) -> Any:
        runs.append(stage)
        reached.set()
        assert go_on.wait(20)
        return original(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(model, stage, slow)
        stream = model.stream(ASK, images=[PICTURE, gradient(70, 40)], max_new_tokens=24)
        with ThreadPoolExecutor(1) as pool:
            result = pool.submit(stream.result)
            assert reached.wait(20)
            stream.cancel()
            go_on.set()
            answer = result.result(20)
    assert (answer.finish_reason, answer.token_ids, answer.text) == ("cancelled", [], "")
    assert len(runs) == 1
    assert model.generate(ASK, images=[PICTURE], max_new_tokens=24).token_ids == free.token_ids


def test_four_threads_get_what_one_gets(model: Model):
    asked = [(ASK, [PICTURE]), ("Words.", []), ("Two?", [PICTURE, gradient(70, 40)]), ("b", [])]

    def ask(index: int) -> list[int]:
        prompt, images = asked[index % len(asked)]
        return model.generate(prompt, images=images, max_new_tokens=20).token_ids

    alone = [ask(index) for index in range(len(asked))]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(ask, range(24)))
    assert together == alone * 6


# ------------------------------------------------------------------ timings


def test_timings_are_filled_and_add_up(model: Model):
    answer = model.generate(ASK, images=[picture(600, 400)], max_new_tokens=6)
    times = answer.timings
    assert min(times.as_dict(9).values()) > 0
    stages = times.preprocess + times.encode + times.project + times.prefill
    assert stages <= times.ttft
    assert times.ttft + 5 * times.tpot == pytest.approx(times.total)
    assert times.load == model.load_ms


def test_the_time_of_the_stop_id_is_a_step_of_its_own(small_package: Path, free, tmp_path: Path):
    ids = free.token_ids
    count = next(n for n in range(2, 24) if ids[n] not in ids[:n])
    package = with_generation(small_package, tmp_path / "changed", stop_ids=[ids[count]])
    times = Model(package, threads=1).generate(ASK, images=[PICTURE]).timings
    assert times.ttft + count * times.tpot == pytest.approx(times.total)


def test_one_token_has_no_time_per_token(model: Model):
    times = model.generate("x", max_new_tokens=1).timings
    assert times.tpot == 0
    assert times.total == times.ttft > 0
