"""What answers are asked for, how far they are, and leaving them early, in threads and loops."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import vlrt
from support.pictures import gradient, picture
from vlrt_runtime.errors import ImageError, InputError
from vlrt_runtime.model import Model
from vlrt_runtime.options import Keywords, Options, Progress

PICTURE = picture(90, 60)
ASK = "What is this?"


@pytest.fixture
def slow(model: Model, monkeypatch: pytest.MonkeyPatch) -> Model:
    """It takes 2 ms for a token, seconds for an answer."""
    step = Model.step

    def wait(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.002)
        return step(*arguments, **options)

    monkeypatch.setattr(Model, "step", wait)
    return model


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "vlrt-answer"]


# ------------------------------------------------------------------ one definition


def test_the_keywords_of_editors_are_the_options_there_are():
    assert list(Keywords.__annotations__) == list(Options.__annotations__)


@pytest.mark.parametrize("name", ["generate", "stream", "agenerate", "astream"])
def test_every_option_is_shown_with_its_default(name: str):
    parameters = inspect.signature(getattr(Model, name)).parameters
    assert list(parameters)[:2] == ["self", "prompt"]
    assert {n: p.default for n, p in list(parameters.items())[2:]} == vars(Options())


def test_an_option_that_is_none_is_refused(model: Model):
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_tokens'"):
        model.generate(ASK, max_tokens=3)  # pyright: ignore[reportCallIssue]


# ------------------------------------------------------------------ progress


def test_progress_tells_of_every_stage_in_order(model: Model, free: vlrt.Answer):
    told: list[Progress] = []
    images = [PICTURE, gradient(70, 40), PICTURE]
    answer = model.generate(ASK, images=images, max_new_tokens=5, on_progress=told.append)
    length = answer.prompt_tokens
    assert told == [
        *(Progress("preprocess", done, 4) for done in range(5)),
        *(Progress("encode", done, 2) for done in range(3)),  # the third is the first
        *(Progress("project", done, 2) for done in range(3)),
        Progress("prefill", 0, length),
        Progress("prefill", length, length),
        *(Progress("decode", done, 5) for done in range(1, 6)),
    ]


def test_progress_counts_what_is_kept(small_package: Path):
    model, told = Model(small_package, threads=1), list[Progress]()
    model.generate(ASK, images=[PICTURE], max_new_tokens=5)
    again = model.generate(ASK, images=[PICTURE], max_new_tokens=2, on_progress=told.append)
    length = again.prompt_tokens
    assert [each.stage for each in told].count("encode") == 0
    assert Progress("prefill", again.cached_tokens, length) in told
    assert again.cached_tokens == length - 1


def test_a_long_prompt_is_told_of_piece_by_piece(model: Model):
    told: list[Progress] = []
    model.generate("word " * 300, max_new_tokens=1, on_progress=told.append)
    prefill = [each.done for each in told if each.stage == "prefill"]
    assert prefill[:2] == [0, 256]
    assert prefill == sorted(prefill)


def test_what_progress_raises_ends_the_answer(model: Model, free: vlrt.Answer):
    def refuse(progress: Progress) -> None:
        if progress.stage == "prefill":
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        model.generate(ASK, images=[PICTURE], on_progress=refuse)
    again = model.generate(ASK, images=[PICTURE], max_new_tokens=24)
    assert again.token_ids == free.token_ids


@pytest.mark.parametrize(
    ("stage", "done"), [("preprocess", 1), ("encode", 1), ("project", 0), ("prefill", 256)]
)
def test_cancelling_takes_effect_at_the_next_step_of_any_stage(model: Model, stage: str, done: int):
    told: list[Progress] = []

    def hear(progress: Progress) -> None:
        told.append(progress)
        if progress == Progress(progress.stage, done, progress.total) and progress.stage == stage:
            stream.cancel()

    images = [PICTURE, gradient(70, 40)]
    stream = model.stream("word " * 300, images=images, max_new_tokens=4, on_progress=hear)
    answer = stream.result()
    assert (answer.finish_reason, answer.token_ids, answer.text) == ("cancelled", [], "")
    assert (told[-1].stage, told[-1].done) == (stage, done)


# ------------------------------------------------------------------ leaving early


def test_the_end_of_a_with_block_cancels(model: Model, free: vlrt.Answer):
    with model.stream(ASK, images=[PICTURE], max_new_tokens=24) as stream:
        pieces = [next(stream) for _ in range(3)]
    answer = stream.answer
    assert answer is not None
    assert answer.finish_reason == "cancelled"
    assert answer.text.startswith("".join(pieces))
    assert answer.token_ids == free.token_ids[: len(answer.token_ids)]
    assert len(answer.token_ids) < 24
    assert list(stream) == []


def test_closing_before_anything_was_asked_for_computes_nothing(model: Model):
    stream = model.stream(ASK, images=["there is no such file"])
    stream.close()
    stream.close()
    assert list(stream) == []
    with pytest.raises(RuntimeError, match="closed or failed"):
        stream.result()


def test_closing_what_is_whole_changes_nothing(model: Model, free: vlrt.Answer):
    with model.stream(ASK, images=[PICTURE], max_new_tokens=24) as stream:
        answer = stream.result()
    assert stream.answer is answer
    assert answer.finish_reason == "length"


def test_closing_from_within_ends_it(model: Model):
    stream = model.stream(ASK, max_new_tokens=9, on_progress=lambda progress: stream.close())
    assert stream.result().finish_reason == "cancelled"


def test_closing_waits_for_a_reader_in_another_thread(slow: Model):
    stream = slow.stream(ASK, max_new_tokens=2000)
    reader = threading.Thread(target=stream.result)
    begun = time.monotonic()
    reader.start()
    while stream.answer is None and time.monotonic() - begun < 0.2:
        time.sleep(0.01)
    stream.close()
    assert stream.answer is not None
    assert stream.answer.finish_reason == "cancelled"
    reader.join(5)
    assert not reader.is_alive()


# ------------------------------------------------------------------ in an event loop


def test_pieces_come_to_an_event_loop_which_goes_on(
    model: Model, free: vlrt.Answer, monkeypatch: pytest.MonkeyPatch
):
    asked, answered, step = threading.Event(), threading.Event(), Model.step

    def wait(*arguments: Any, **options: Any) -> Any:
        asked.set()
        assert answered.wait(10)  # by the loop, which is free meanwhile
        return step(*arguments, **options)

    monkeypatch.setattr(Model, "step", wait)

    async def ask() -> tuple[list[str], vlrt.Answer]:
        async def reply() -> None:
            while not asked.is_set():
                await asyncio.sleep(0.001)
            answered.set()

        replying = asyncio.create_task(reply())
        stream = model.astream(ASK, images=[PICTURE], max_new_tokens=24)
        pieces = [piece async for piece in stream]
        await replying
        return pieces, await stream.result()

    pieces, answer = asyncio.run(ask())
    assert "".join(pieces) == answer.text == free.text
    assert answer.token_ids == free.token_ids


def test_several_questions_at_once_are_answered_as_one_by_one(model: Model, free: vlrt.Answer):
    async def ask() -> list[vlrt.Answer]:
        asked = [model.agenerate(ASK, images=[PICTURE], max_new_tokens=24) for _ in range(4)]
        return await asyncio.gather(*asked)

    assert [answer.token_ids for answer in asyncio.run(ask())] == [free.token_ids] * 4


def test_an_error_comes_out_in_the_loop(model: Model):
    with pytest.raises(ImageError):
        asyncio.run(model.agenerate(ASK, images=["there is no such file"]))
    with pytest.raises(InputError, match="max_new_tokens 0"):
        model.astream(ASK, max_new_tokens=0)


def test_a_cancelled_task_cancels_the_answer(slow: Model):
    last: list[Progress] = []

    async def ask() -> None:
        asked = slow.agenerate(ASK, max_new_tokens=2000, on_progress=last.append)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asked, 0.3)

    asyncio.run(ask())
    for thread in threads():
        thread.join(5)
    assert last[-1].done < 2000
    assert threads() == []


@pytest.mark.parametrize("how", ["block", "close", "drop", "loop"])
def test_leaving_an_async_answer_early_ends_it(slow: Model, how: str):
    async def ask() -> None:
        stream = slow.astream(ASK, max_new_tokens=2000)
        if how == "block":
            async with stream:
                await anext(stream)
            assert stream.answer is not None
            assert stream.answer.finish_reason == "cancelled"
            return
        await anext(stream)
        if how == "close":
            await stream.aclose()
            assert stream.answer is not None
        elif how == "drop":
            del stream
            gc.collect()
        else:
            kept.append(stream)  # nobody tells it that the loop ends

    kept: list[vlrt.AsyncStream] = []
    asyncio.run(ask())
    for thread in threads():
        thread.join(5)
    assert threads() == []


def test_an_async_answer_that_was_never_begun_is_closed_at_once(model: Model):
    async def ask() -> None:
        async with model.astream(ASK, images=["there is no such file"]) as stream:
            pass
        assert [piece async for piece in stream] == []

    asyncio.run(ask())
    assert threads() == []
