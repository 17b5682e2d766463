"""The server's own description, OpenAPI 3.1, of the types that it reads and writes."""

from __future__ import annotations

from typing import Any

import msgspec

from vlrt.serve.options import ServeOptions
from vlrt.serve.requests import ChatRequest
from vlrt.serve.wire import Chunk, Completion, ErrorBody, Health, ModelCard, ModelList, StageChunk
from vlrt_runtime.version import __version__

__all__ = ["description"]

COMPONENTS = "#/components/schemas/"
REASONS = {
    400: "The request cannot be answered as it is",
    401: "The API key is missing or wrong",
    403: "The Host or Origin header is not allowed",
    404: "There is no such thing",
    408: "The body did not come in time",
    413: "The body is too large",
    415: "The body is not JSON",
    429: "Too many requests wait; Retry-After says when to come back",
    500: "The server failed",
    501: "The server lacks a library for this",
    503: "The server is stopping",
}
Json = dict[str, Any]


def description(options: ServeOptions) -> Json:
    """For `/openapi.json`."""
    types = (
        *(ChatRequest, Completion, ModelList, ModelCard, Health, ErrorBody),
        *(Chunk, StageChunk),  # of streams: described, if not as a body
    )
    schemas, components = msgspec.json.schema_components(types, ref_template=COMPONENTS + "{name}")
    asked, completion, models, card, health, error, *_ = schemas
    failures = {
        str(status): {"description": text, "content": _json(error)}
        for status, text in REASONS.items()
    }
    for status in ("429", "503"):
        failures[status]["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    common = {status: failures[status] for status in ("401", "403", "500")}
    answered = {
        "description": "The answer; where stream is true, events: Chunk and StageChunk",
        "content": _json(completion) | {"text/event-stream": {"schema": {"type": "string"}}},
    }
    name = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    chat: Json = {
        "operationId": "createChatCompletion",
        "summary": "Answer messages with text and pictures",
        "requestBody": {"required": True, "content": _json(asked)},
        "responses": {"200": answered} | failures,
    }
    paths: Json = {
        "/v1/chat/completions": {"post": chat},
        "/v1/models": {"get": _get("listModels", "The model", models, common)},
        "/v1/models/{model}": {
            "get": _get("retrieveModel", "The model", card, common | {"404": failures["404"]})
            | {"parameters": [name]}
        },
        "/health": {
            "get": _get("health", "How the server is", health, common, "503") | {"security": []}
        },
        "/metrics": {
            "get": _get("metrics", "Figures for Prometheus", None, common),
        },
    }
    described: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "vlrt",
            "version": __version__,
            "description": f"{options.name}, by OpenAI's protocol of chat completions",
        },
        "paths": paths,
        "components": {"schemas": components},
    }
    if options.api_key is not None:
        scheme = {"type": "http", "scheme": "bearer"}
        described["components"]["securitySchemes"] = {"key": scheme}
        described["security"] = [{"key": []}]
    return described


def _get(
    name: str,
    summary: str,
    schema: Json | None,
    failures: Json,
    *more: str,
) -> Json:
    content = {"text/plain": {"schema": {"type": "string"}}} if schema is None else _json(schema)
    good = {status: {"description": summary, "content": content} for status in ("200", *more)}
    return {"operationId": name, "summary": summary, "responses": failures | good}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}
