"""Clients that misbehave: the server stays up, answers others, and frees what they held."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from support.serve import Gated, Raw, until
from vlrt_runtime.memory import private

HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
MB = 1 << 20


@pytest.fixture(scope="module")
def hasty(serve):
    """A server of little patience."""
    return serve(
        max_body=MB,
        max_bodies=3 * MB,
        max_connections=40,
        header_seconds=0.5,
        keep_seconds=1,
        body_seconds=0.5,
        write_seconds=0.5,
    )


@pytest.fixture(autouse=True)
def _unharmed(hasty) -> Iterator[None]:
    """Whatever a test did: others are answered, and nothing is held."""
    yield
    assert hasty.post(HELLO).status_code == 200
    until(lambda: hasty.engine.line.running == 0)
    assert hasty.metric("vlrt_held_bytes") == 0


def refusal(raw: Raw) -> tuple[int, str]:
    head, _, body = raw.read_until(b"}}").partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"]


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"P",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localh",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
    ],
)
def test_half_a_head_is_dropped(hasty, sent: bytes):
    with Raw(hasty.port, sent) as raw:
        assert raw.read() == b""


def test_half_a_head_after_a_request_is_dropped(hasty):
    with Raw(hasty.port, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /he") as raw:
        assert raw.read().count(b"HTTP/1.1 200") == 1


def test_half_a_body_is_told_and_dropped(hasty):
    with Raw.post(hasty.port, HELLO, length=5000) as raw:
        assert refusal(raw) == (408, "body_timeout")
        raw.read()  # ends: the server hangs up


def test_a_slow_body(hasty):
    with Raw(hasty.port, Raw.head(1000)) as raw:
        done = threading.Event()

        def trickle() -> None:
            with contextlib.suppress(OSError):  # the server has hung up
                while not done.wait(0.05):
                    raw.send(b" ")

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            assert refusal(raw) == (408, "body_timeout")
            until(lambda: not thread.is_alive())
        finally:
            done.set()
            thread.join()


def test_a_huge_body_is_refused_by_its_length(hasty):
    with Raw(hasty.port, Raw.head(10**15)) as raw:
        assert refusal(raw) == (413, "body_too_large")


def test_a_huge_body_without_a_length(hasty):
    head = Raw.head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    with Raw(hasty.port, head) as raw:
        for _ in range(40):
            raw.send(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        assert refusal(raw) == (413, "body_too_large")


def test_many_bodies_at_once_are_bounded(hasty):
    many = [Raw(hasty.port, Raw.head(MB) + b" " * (MB - 9)) for _ in range(3)]
    until(lambda: hasty.metric("vlrt_held_bytes") > 2.9 * MB)
    with Raw(hasty.port, Raw.head(MB) + b" " * (MB - 9)) as raw:
        assert refusal(raw) == (429, "memory_full")
    for each in many:
        each.close()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"\xff\xfe{}",
        b'{"messages": [{"role": "user", "content": "\xff"}]}',
        b'{"messages": [{"role": "user", "content": "x"}], "seed": 1e400}',
        b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"messages": ' + b"[" * 100_000,
        b'{"messages": [{"role": "user", "content": "x"}], "response_format": {"type": '
        b'"json_schema", "json_schema": {"name": "x", "schema": ' + b'{"a":' * 50_000,
    ],
)
def test_malformed_json(hasty, body: bytes):
    response = hasty.post(content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] in ("invalid_json", "invalid_value")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"GET / HTTP/9.9\r\n\r\n",
        b"A" * 100_000,
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 2_000_000 + b"\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n",
        Raw.head(-5),
        Raw.head(5).replace(b"\r\n\r\n", b"\r\nContent-Length: 6\r\n\r\nhello!"),
        Raw.head(5).replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: gzip\r\n\r\nhello"),
    ],
)
def test_what_is_not_http(hasty, sent: bytes):
    with contextlib.suppress(ConnectionError), Raw(hasty.port, sent) as raw:
        assert raw.read().split()[1:2] in ([b"400"], [b"403"], [b"501"])


def bomb(width: int, height: int) -> bytes:
    """A valid PNG of so many white pixels, in a thousandth of their bytes."""
    row = b"\0" + b"\xff" * (width // 8)
    squeeze = zlib.compressobj(9)
    content = b"".join(squeeze.compress(row * 64) for _ in range(height // 64)) + squeeze.flush()
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)),
        (b"IDAT", content),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c))
        for name, c in parts
    )


def pictured(*contents: bytes, **options: Any) -> dict[str, Any]:
    urls = ["data:image/png;base64," + base64.b64encode(c).decode() for c in contents]
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": u}} for u in urls]
    parts.append({"type": "text", "text": "What?"})
    return {"messages": [{"role": "user", "content": parts}], "max_tokens": 2, **options}


@pytest.mark.parametrize("stream", [False, True])
def test_a_bomb(hasty, stream: bool):
    before = private()
    response = hasty.post(pictured(bomb(20_000, 20_000), stream=stream))
    assert response.status_code == 400
    assert "picture too large" in response.json()["error"]["message"]
    assert before is not None
    assert private() - before < 30 * MB  # not one of its pixels was decoded


def test_several_pictures_together_are_bounded(hasty):
    one = bomb(6400, 6400)  # 41 million pixels: one may be, two may not
    response = hasty.post(pictured(one, one))
    assert response.status_code == 400
    assert "picture too large" in response.json()["error"]["message"]
    response = hasty.post(pictured(*[b"x"] * 9))
    assert response.json()["error"]["code"] == "too_many_images"


def test_half_a_picture(hasty, picture_url):
    whole = base64.b64decode(picture_url.partition(",")[2])
    response = hasty.post(pictured(whole[: len(whole) // 2]))
    assert response.status_code == 400
    assert "bytes" in response.json()["error"]["message"]


def test_too_many_connections_are_turned_away(hasty):
    held = [Raw(hasty.port) for _ in range(45)]
    try:
        assert hasty.get("/health").status_code == 503
    finally:
        for raw in held:
            raw.close()
    until(lambda: hasty.get("/health").status_code == 200)


def test_a_schema_that_is_too_large(hasty):
    schema = {"enum": [f"word {n}" for n in range(20_000)]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    response = hasty.post({**HELLO, "response_format": form})
    assert response.status_code == 400
    assert "a schema of more than" in response.json()["error"]["message"]


# ------------------------------------------------------------------ clients that vanish


@pytest.fixture
def gated(serve, demo_model):
    model = Gated(demo_model)
    return serve(model, max_tokens=1000, queue=4, write_seconds=0.5), model


LONG = {"type": "json_schema", "json_schema": {"name": "x", "schema": {
    "type": "string", "minLength": 900, "maxLength": 900,
}}}  # fmt: skip
TALK = {
    "messages": [{"role": "user", "content": "Talk"}],
    "max_tokens": 1000,
    "response_format": LONG,
}


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_vanishes_mid_answer(gated, stream: bool):
    server, model = gated
    with Raw.post(server.port, {**TALK, "stream": stream}) as raw:
        for _ in range(5):
            model.let.release()
        until(lambda: model.pieces == 5)
        if stream:
            raw.read_until(b'"content"')
    until(lambda: server.engine.line.running == 0)
    assert model.pieces <= 6  # within a token of the cancel
    assert server.metric('vlrt_answers_total{ended="abandoned"}') == 1
    for _ in range(20):
        model.let.release()
    assert server.post(HELLO).status_code == 200


def test_a_client_that_vanishes_while_it_waits(gated):
    server, model = gated
    with Raw.post(server.port, TALK):
        until(lambda: len(model.order) == 1)
        with Raw.post(server.port, TALK):
            until(lambda: server.engine.line.waiting == 1)
        until(lambda: server.engine.line.waiting == 0)
    until(lambda: server.engine.line.running == 0)
    assert len(model.order) == 1  # the other never had a turn


def test_a_client_that_does_not_read(serve):
    server = serve(max_tokens=1000, write_seconds=0.5, keep_seconds=1, send_buffer=4096)
    with Raw(server.port) as raw:
        raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        body = json.dumps({**TALK, "stream": True}).encode()
        raw.send(Raw.head(len(body)) + body)
        until(lambda: server.engine.line.running == 1)
        assert server.post(HELLO).status_code == 200  # the turn ends though nobody reads it
        until(lambda: len(server.connections) == 0)  # and so does the connection
        with contextlib.suppress(ConnectionResetError):
            assert b"[DONE]" not in raw.read()


def test_a_client_that_vanishes_half_way_through_its_body(hasty):
    Raw.post(hasty.port, HELLO, length=5000).close()
    until(lambda: hasty.metric("vlrt_held_bytes") == 0)
