"""For tests of the server: models whose pace a test sets, and clients that misbehave."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from vlrt_runtime.answer import Answer
from vlrt_runtime.model import Model
from vlrt_runtime.stream import Stream

__all__ = ["Gated", "Raw", "until"]


class Gated:
    """A model that says its next piece when a test lets it.

    Attributes:
        let: released once for each piece.
        pieces: said so far, by all answers.
        order: the questions, in the order of their turns.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.let = threading.Semaphore(0)
        self.pieces = 0
        self.order: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def stream(self, messages: Any, **options: Any) -> Any:
        self.order.append(messages[-1]["content"])
        return _GatedStream(self, self.model.stream(messages, **options))


class _GatedStream:
    def __init__(self, gated: Gated, stream: Stream) -> None:
        self.gated, self.real = gated, stream
        self.cancelled = False

    def __iter__(self) -> Iterator[str]:
        for piece in self.real:
            while not self.cancelled and not self.gated.let.acquire(timeout=0.01):
                pass
            self.gated.pieces += 1
            yield piece

    def cancel(self) -> None:
        self.cancelled = True
        self.real.cancel()

    def result(self) -> Answer:
        return self.real.result()


class Raw:
    """A client that sends what it is told to, byte by byte."""

    def __init__(self, port: int, sent: bytes = b"") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.send(sent)

    @classmethod
    def post(cls, port: int, body: dict[str, Any], length: int | None = None) -> Raw:
        """A chat completion; a `length` beyond that of the body is a promise that is not kept."""
        content = json.dumps(body).encode()
        return cls(port, cls.head(len(content) if length is None else length) + content)

    @staticmethod
    def head(length: int) -> bytes:
        return (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % length
        )

    def send(self, sent: bytes) -> None:
        self.socket.sendall(sent)

    def read(self) -> bytes:
        """What comes until the server hangs up."""
        received = bytearray()
        while piece := self.socket.recv(1 << 16):
            received += piece
        return bytes(received)

    def read_until(self, mark: bytes) -> bytes:
        received = bytearray()
        while mark not in received:
            piece = self.socket.recv(1 << 16)
            assert piece, received
            received += piece
        return bytes(received)

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def until(true: Callable[[], Any], seconds: float = 10.0) -> None:
    """Waits for something to become true; fails where it does not."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not become true"
        time.sleep(0.005)
