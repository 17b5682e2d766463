"""Servers of the demo model on real sockets, in threads of this process."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import openai
import pytest

import vlrt
from vlrt.demo import PICTURE
from vlrt.serve.app import create_app
from vlrt.serve.engine import Engine
from vlrt.serve.options import ServeOptions
from vlrt.serve.server import Server, bind
from vlrt_runtime.model import Model

OPTIONS = ServeOptions("demo", max_tokens=64, grace_seconds=2.0)


@dataclass
class Running:
    """A server that runs."""

    url: str
    port: int
    options: ServeOptions
    engine: Engine
    server: Server
    thread: threading.Thread

    @property
    def connections(self) -> set[Any]:
        return self.server.server_state.connections

    def openai(self, **options: Any) -> openai.OpenAI:
        given = {"api_key": "none", "timeout": 30, "max_retries": 0, **options}
        return openai.OpenAI(base_url=f"{self.url}/v1", **given)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30, **options)

    def post(self, body: Any = None, **options: Any) -> httpx.Response:
        """A chat completion; `body` as JSON, or `content`."""
        if body is not None:
            options["json"] = body
        return httpx.post(f"{self.url}/v1/chat/completions", timeout=30, **options)

    def metric(self, name: str) -> float:
        lines = self.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


Serve = Callable[..., Running]


@pytest.fixture(scope="session")
def demo_model() -> Model:
    return vlrt.load("demo", parallel=8)  # the server's own line is what is tested


@pytest.fixture(scope="module")
def serve(demo_model: Model) -> Iterator[Serve]:
    """Starts servers with options of their own, and stops them at the end."""
    started: list[tuple[Server, threading.Thread]] = []

    def start(model: Any = None, send_buffer: int | None = None, **options: Any) -> Running:
        chosen = replace(OPTIONS, **options)
        app = create_app(demo_model if model is None else model, chosen)
        server, bound = Server(app, chosen), bind("127.0.0.1", 0)
        if send_buffer is not None:  # what the system takes of an answer that nobody reads
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        bound.listen(128)
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        started.append((server, thread))
        port = bound.getsockname()[1]
        return Running(
            f"http://127.0.0.1:{port}",
            port,
            chosen,
            app.state.engine,
            server,
            thread,
        )

    yield start
    for server, _ in started:
        server.should_exit = True
    for _, thread in started:
        thread.join(15)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def server(serve: Serve) -> Running:
    return serve()


@pytest.fixture(scope="session")
def picture_url() -> str:
    return "data:image/png;base64," + base64.b64encode(PICTURE.read_bytes()).decode()
