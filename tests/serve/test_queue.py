"""Turns: first come, first served; a bound on those who wait; and stopping."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from support.serve import Gated, Raw, until
from vlrt.serve.errors import ApiError
from vlrt.serve.line import Line


def hello(text: str = "Hello", **options: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 4, **options}


@pytest.fixture
def gated(demo_model) -> Gated:
    return Gated(demo_model)


def test_first_come_first_served_and_429_beyond_the_queue(serve, gated):
    server = serve(gated, queue=3)
    with ThreadPoolExecutor(4) as pool:
        answers = []
        for number in range(4):
            answers.append(pool.submit(server.post, hello(str(number))))
            until(lambda n=number: server.engine.line.running + server.engine.line.waiting == n + 1)
        assert server.get("/health").json() == {
            "status": "ok", "model": "demo", "running": 1, "waiting": 3,
        }  # fmt: skip
        refused = server.post(hello("late"))
        assert refused.status_code == 429
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert int(refused.headers["retry-after"]) >= 1
        assert 0 < int(refused.headers["retry-after-ms"]) <= 1600
        gated.let.release(100)
        assert [answer.result().status_code for answer in answers] == [200] * 4
    assert gated.order == ["0", "1", "2", "3"]
    assert server.post(hello("late")).status_code == 200


def test_the_openai_client_comes_back_by_itself(serve, gated):
    server = serve(gated, queue=0)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.post, hello("first"))
        until(lambda: server.engine.line.running == 1)
        with pytest.raises(openai.RateLimitError):
            server.openai().chat.completions.create(model="demo", **hello())
        client = server.openai(max_retries=5)
        second = pool.submit(client.chat.completions.create, model="demo", **hello("second"))
        refused = 'vlrt_requests_total{path="/v1/chat/completions",status="429"}'
        until(lambda: server.metric(refused) >= 2)
        gated.let.release(100)
        assert first.result().status_code == 200
        assert second.result().choices[0].message.content
    assert gated.order == ["first", "second"]


def test_a_place_in_the_line_is_told(serve, gated):
    server = serve(gated)
    with Raw.post(server.port, hello("a")) as first:
        until(lambda: server.engine.line.running == 1)
        with Raw.post(server.port, hello("b")):
            until(lambda: server.engine.line.waiting == 1)
            third = Raw.post(server.port, hello("c", stream=True, vlrt={"stages": True}))
            head = third.read_until(b'"stage"')
            assert b"HTTP/1.1 200" in head  # the stream has begun
            until(lambda: server.engine.line.waiting == 2)
        first.close()
        gated.let.release(100)
        told = (head + third.read_until(b"[DONE]")).decode()
    lines = [line[6:] for line in told.split("\r\n") if line.startswith("data: {")]
    stages = [c["vlrt"] for c in map(json.loads, lines) if "stage" in c.get("vlrt", {})]
    places = [stage["done"] for stage in stages if stage["stage"] == "queued"]
    assert places[0] == 2
    assert places[-1] == 1
    third.close()


def test_several_at_once(serve, gated):
    server = serve(gated, parallel=2)
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(server.post, hello(str(n))) for n in range(3)]
        until(lambda: len(gated.order) == 2 and server.engine.line.waiting == 1)
        gated.let.release(100)
        assert all(answer.result().status_code == 200 for answer in answers)


def test_signs_of_life_while_nothing_comes(serve, gated):
    server = serve(gated, ping_seconds=0.05)
    with Raw.post(server.port, hello(stream=True)) as raw:
        raw.read_until(b": still here\n\n")
        gated.let.release(100)
        raw.read_until(b"[DONE]")


def test_stopping(serve, gated):
    server = serve(gated, grace_seconds=1.5)
    messages = hello()["messages"]
    with ThreadPoolExecutor(3) as pool:
        chat = server.openai().chat.completions
        gated.let.release(2)
        stream = chat.create(model="demo", messages=messages, stream=True)
        next(stream)
        waiting = pool.submit(server.post, hello("waits"))
        until(lambda: server.engine.line.waiting == 1)
        server.server.should_exit = True
        assert waiting.result().status_code == 503  # sent away at once
        assert waiting.result().json()["error"]["code"] == "stopping"
        with pytest.raises(httpx.ConnectError):  # nobody new comes in
            until(lambda: server.get("/health").status_code == 0)
        with pytest.raises(openai.APIError, match="the server is stopping"):  # after the grace
            list(stream)
    until(lambda: not server.thread.is_alive())


def test_stopping_lets_an_answer_end(serve, gated):
    server = serve(gated, grace_seconds=10)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.post, hello())
        until(lambda: server.engine.line.running == 1)
        server.server.should_exit = True
        until(lambda: server.engine.stopping)
        gated.let.release(100)
        assert answer.result().status_code == 200
    until(lambda: not server.thread.is_alive())


# ------------------------------------------------------------------ the line by itself


def nothing(place: int, of: int) -> None:
    """Whoever waits is not told."""


def test_leaving_while_the_turn_comes_gives_it_on():
    async def scene() -> Line:
        line = Line(1, 5)
        await line.enter(nothing)
        second, third = (asyncio.ensure_future(line.enter(nothing)) for _ in range(2))
        await asyncio.sleep(0)
        line.leave()  # to the second, which does not know yet
        second.cancel()
        await asyncio.wait((second, third))
        assert second.cancelled()
        assert not third.cancelled()
        assert (line.running, line.waiting) == (1, 0)
        line.leave()
        return line

    assert asyncio.run(scene()).running == 0


def test_places_move_up():
    async def scene() -> list[tuple[int, int, int]]:
        line, told = Line(1, 5), list[tuple[int, int, int]]()
        await line.enter(nothing)
        waiting = [
            asyncio.ensure_future(line.enter(lambda p, of, n=n: told.append((n, p, of))))
            for n in range(3)
        ]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        line.leave()
        await waiting[1]
        line.close()
        with pytest.raises(ApiError, match="stopping"):
            await waiting[2]
        with pytest.raises(ApiError, match="stopping"):
            await line.enter(nothing)
        return told

    told = asyncio.run(scene())
    assert told[:3] == [(0, 1, 1), (1, 2, 2), (2, 3, 3)]
    assert told[3:] == [(1, 1, 2), (2, 2, 2), (2, 1, 1)]
