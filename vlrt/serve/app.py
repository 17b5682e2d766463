"""The routes, as an ASGI application."""

from __future__ import annotations

import asyncio
import time
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from vlrt.serve.body import Bodies
from vlrt.serve.chunks import Completions
from vlrt.serve.engine import Engine
from vlrt.serve.errors import ApiError, as_api_error, unknown_model
from vlrt.serve.guard import Guard, KeyCheck
from vlrt.serve.metrics import Metrics
from vlrt.serve.openapi import description
from vlrt.serve.options import ServeOptions
from vlrt.serve.prompt import Question, question
from vlrt.serve.reply import Reply
from vlrt.serve.requests import ChatRequest, parse
from vlrt.serve.wire import Details, Health, ModelCard, ModelList, encode
from vlrt_runtime.model import Model

__all__ = ["create_app"]

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}


def create_app(model: Model, options: ServeOptions) -> Starlette:
    """A server of one model; its `state.engine` closes it down."""
    engine = Engine(model, options, Metrics())
    routes = _Routes(engine)
    middleware = [Middleware(Guard, engine)]
    if options.api_key is not None:
        middleware.append(Middleware(KeyCheck, options.api_key))
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", _Chat(engine), methods=["POST"]),
            Route("/v1/models", routes.models),
            Route("/v1/models/{name:path}", routes.model),
            Route("/health", routes.health),
            Route("/metrics", routes.metrics),
            Route("/openapi.json", routes.openapi),
            Route("/", routes.page),
            Route("/static/{name}", routes.static),
        ],
        middleware=middleware,
        exception_handlers={
            HTTPException: _http_error,
            ApiError: _error,
            Exception: _error,
        },
    )
    app.state.engine = engine
    return app


class _Chat:
    """`POST /v1/chat/completions`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.bodies = Bodies(engine.options)
        engine.metrics.gauge("vlrt_held_bytes", "Of requests' bodies", lambda: self.bodies.held)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application."""
        options = self.engine.options
        with self.bodies.hold() as body:
            try:
                await self.bodies.read(Request(scope, receive), body)
                request, asked = await asyncio.to_thread(_read, body, options)
                usage = request.stream_options and request.stream_options.include_usage
                completions = Completions(
                    options.name,
                    stages=bool(request.vlrt and request.vlrt.stages),
                    usage=bool(usage),
                )
                stream = bool(request.stream)
                await Reply(self.engine, asked, completions, stream=stream)(scope, receive, send)
            except ClientDisconnect:
                self.engine.metrics.answers.labels("abandoned").inc()
            except Exception as error:
                raise as_api_error(error) from error


def _read(body: bytearray, options: ServeOptions) -> tuple[ChatRequest, Question]:
    """In a thread: a body of megabytes takes a while, and pictures may have to be fetched."""
    request = parse(body)
    body.clear()
    return request, question(request, options)


class _Routes:
    """What is small."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.options = engine, engine.options
        self.description = encode(description(engine.options))
        model, options = engine.model, engine.options
        details = Details(
            model.manifest.family,
            model.device,
            model.manifest.generation.max_context,
            options.max_tokens,
            options.max_pictures,
            options.max_body,
            options.max_pixels,
        )
        self.card = ModelCard(options.name, int(time.time()), details)

    async def models(self, request: Request) -> Response:
        return _json(ModelList([self.card]))

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name != self.options.name:
            raise unknown_model(name, self.options.name)
        return _json(self.card)

    async def health(self, request: Request) -> Response:
        line, stopping = self.engine.line, self.engine.stopping
        status = "stopping" if stopping else "ok"
        told = Health(status, self.options.name, line.running, line.waiting)
        return _json(told, 503 if stopping else 200)

    async def metrics(self, request: Request) -> Response:
        return Response(self.engine.metrics.text(), media_type="text/plain; version=0.0.4")

    async def openapi(self, request: Request) -> Response:
        return Response(self.description, media_type="application/json")

    async def page(self, request: Request) -> Response:
        return _file("index.html")

    async def static(self, request: Request) -> Response:
        return _file(request.path_params["name"])


def _file(name: str) -> Response:
    """A file of the page; the folder is flat, and what is not listed in it is not there."""
    for file in files("vlrt.serve").joinpath("static").iterdir():
        suffix = name[name.rfind(".") :]
        if file.name == name and suffix in TYPES:
            return Response(file.read_bytes(), media_type=TYPES[suffix])
    raise ApiError(404, f"{name!r:.80}: no such file", code="not_found")


def _json(value: Any, status: int = 200) -> Response:
    return Response(encode(value), status, media_type="application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path!r:.200}: {error.detail}"
    headers = error.headers
    return ApiError(error.status_code, message, code="not_found", headers=headers).response()


async def _error(request: Request, error: Exception) -> Response:
    return as_api_error(error).response()
