"""A socket, uvicorn, and a stop that lets answers end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Generator
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from vlrt.serve.engine import Engine
from vlrt.serve.options import ServeOptions
from vlrt.serve.protocol import patient_protocol
from vlrt_runtime.errors import InputError

__all__ = ["Server", "bind"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address, not yet listening; port 0 takes any that is free.

    Raises:
        InputError: the address is not of this machine, or taken.
    """
    if not 0 <= port <= 65535:  # the system would take it modulo 65536
        raise InputError(f"--port {port}: expected 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        if sys.platform != "win32":  # there it would let two servers share a port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        message = f"{host}:{port}: {error.strerror}; choose others with --host and --port"
        raise InputError(message) from error
    return bound


class Server(uvicorn.Server):
    """Serves until SIGINT or SIGTERM; a second SIGINT waits for nothing.

    Told to stop, it takes no more requests and sends those away that wait; answers under way have
    `grace_seconds` to end, and are ended then.

    Attributes:
        engine: of the application.
    """

    def __init__(self, app: Starlette, options: ServeOptions) -> None:
        self.engine: Engine = app.state.engine
        self.options = options
        super().__init__(
            uvicorn.Config(
                app,
                http=patient_protocol(options),
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=options.keep_seconds,
                limit_concurrency=options.max_connections,
                timeout_graceful_shutdown=int(options.grace_seconds) + 2,
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops as the class says."""
        self.engine.close()
        loop = asyncio.get_running_loop()
        ending = loop.call_later(self.options.grace_seconds, self.engine.cancel)
        await super().shutdown(sockets)
        ending.cancel()
        self.engine.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """As uvicorn's, but for raising the signal again: a server that was stopped has ended."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first stops; a second SIGINT does so at once."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
