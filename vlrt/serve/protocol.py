"""HTTP/1.1 by uvicorn and h11, with time limits for clients that neither speak nor listen."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from vlrt.serve.options import ServeOptions

__all__ = ["patient_protocol"]


def patient_protocol(options: ServeOptions) -> type[asyncio.Protocol]:
    """Uvicorn's protocol, whose connections are dropped when a client takes too long.

    uvicorn itself waits for ever for a request's head, for what is left of a refused body, and for
    a client that stops reading.
    """

    class PatientProtocol(H11Protocol):
        _head: asyncio.TimerHandle | None = None
        _reader: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._await_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle and not self.cycle.response_complete:
                self._head = _stopped(self._head)  # the application has limits of its own
            elif self._head is None:
                self._await_head()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._abort_later()

        def resume_writing(self) -> None:
            super().resume_writing()
            if not self.transport.is_closing():
                self._reader = _stopped(self._reader)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.transport.is_closing():
                self._abort_later()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._abort_later()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._head, self._reader = _stopped(self._head), _stopped(self._reader)

        def _await_head(self) -> None:
            self._head = self.loop.call_later(options.header_seconds, self.transport.close)

        def _abort_later(self) -> None:
            """Closing waits until everything is sent, and for ever where nobody reads."""
            if self._reader is None:
                self._reader = self.loop.call_later(options.write_seconds, self.transport.abort)

    return PatientProtocol


def _stopped(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
