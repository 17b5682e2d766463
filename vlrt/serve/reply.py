"""What goes back for a question: one object, or server-sent events as the answer comes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.types import Receive, Scope, Send

from vlrt.serve.chunks import Completions
from vlrt.serve.engine import Done, Engine
from vlrt.serve.errors import as_api_error
from vlrt.serve.prompt import Question
from vlrt.serve.wire import encode

__all__ = ["Reply"]

ALIVE = b": still here\n\n"  # a comment of server-sent events


class Reply:
    """Answers a question while its client is there; a client that goes ends the answer."""

    def __init__(
        self, engine: Engine, asked: Question, completions: Completions, *, stream: bool
    ) -> None:
        self.engine, self.asked, self.completions = engine, asked, completions
        self.stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application."""
        answering = asyncio.ensure_future(
            self._streamed(send) if self.stream else self._whole(send)
        )
        watching = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait((answering, watching), return_when=asyncio.FIRST_COMPLETED)
        finally:
            watching.cancel()
            if not answering.done():
                self.engine.metrics.answers.labels("abandoned").inc()
                answering.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await answering

    async def _whole(self, send: Send) -> None:
        async with aclosing(self.engine.answer(self.asked)) as events:
            async for event in events:
                if isinstance(event, Done):
                    content = self.completions.whole(event)
                    length = (b"content-length", b"%d" % len(content))
                    await _start(send, b"application/json", length)
                    await send({"type": "http.response.body", "body": content})

    async def _streamed(self, send: Send) -> None:
        """The status goes out with the first event: what fails before has a status of its own."""
        started = False
        async with aclosing(_with_pings(self._lines(), self.engine.options.ping_seconds)) as lines:
            try:
                async for line in lines:
                    if not started:
                        await _start(send, b"text/event-stream")
                        started = True
                    await send({"type": "http.response.body", "body": line, "more_body": True})
            except Exception as error:
                if not started:
                    raise
                line = b"data: %b\n\n" % encode(as_api_error(error).body())
                await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _lines(self) -> AsyncGenerator[bytes, None]:
        async with aclosing(self.engine.answer(self.asked)) as events:
            async for event in events:
                for line in self.completions.lines(event):
                    yield line


async def _start(send: Send, media_type: bytes, *more: tuple[bytes, bytes]) -> None:
    headers = [(b"content-type", media_type), *more]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _with_pings(
    lines: AsyncGenerator[bytes, None], seconds: float
) -> AsyncGenerator[bytes, None]:
    """The lines, and a sign of life whenever there has been none for so long."""
    coming: asyncio.Future[bytes] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(lines))
            await asyncio.wait((coming,), timeout=seconds)
            if not coming.done():
                yield ALIVE
                continue
            line, coming = coming, None
            try:
                yield line.result()
            except StopAsyncIteration:
                return
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.wait((coming,))
        await lines.aclose()
