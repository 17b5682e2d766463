"""A request's body: of bounded size, in bounded time, in bounded memory for all together."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

from starlette.requests import ClientDisconnect, Request

from vlrt.serve.errors import ApiError
from vlrt.serve.options import ServeOptions

__all__ = ["Bodies", "Body"]


class Body(bytearray):
    """What has come so far; `size` stays when it is cleared."""

    size = 0


class Bodies:
    """Those that are held at once.

    Attributes:
        held: bytes.
    """

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.held = 0

    @contextmanager
    def hold(self) -> Generator[Body]:
        """One, empty; what is read into it counts as held until it is left."""
        body = Body()
        try:
            yield body
        finally:
            self.held -= body.size

    async def read(self, request: Request, body: Body) -> None:
        """Fills it.

        Raises:
            ApiError: it is not JSON by its type, too large, too slow, or others hold too much.
            ClientDisconnect: the client went before it was whole.
        """
        kind = request.headers.get("content-type", "").partition(";")[0]
        if kind.strip().lower() != "application/json":
            raise ApiError(415, "Content-Type: expected application/json", code="not_json")
        if int(request.headers.get("content-length", "0")) > self.options.max_body:  # h11 saw to it
            raise self._large()
        seconds = self.options.body_seconds
        try:
            await asyncio.wait_for(self._fill(request, body), seconds)
        except asyncio.TimeoutError:
            message = f"body: not whole after {seconds:g} s; send it faster, or less"
            raise ApiError(408, message, code="body_timeout") from None

    async def _fill(self, request: Request, body: Body) -> None:
        more = True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk, more = message.get("body", b""), message.get("more_body", False)
            body += chunk
            body.size += len(chunk)
            self.held += len(chunk)
            if body.size > self.options.max_body:
                raise self._large()
            if self.held > self.options.max_bodies:
                message = "busy: requests hold too much memory; come back in 5 s"
                raise ApiError(429, message, code="memory_full", headers={"retry-after": "5"})

    def _large(self) -> ApiError:
        message = f"body: more than {self.options.max_body} bytes; send smaller or fewer pictures"
        return ApiError(413, message, code="body_too_large")
