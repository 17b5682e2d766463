"""Objects that go over the wire, in OpenAI's form; `vlrt` keys are extensions of ours.

msgspec writes them and describes them (`openapi`), so what is promised is what is sent.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = [
    "Choice",
    "Chunk",
    "ChunkChoice",
    "Completion",
    "Delta",
    "Details",
    "ErrorBody",
    "ErrorTold",
    "Extension",
    "Health",
    "ModelCard",
    "ModelList",
    "Said",
    "Stage",
    "StageChunk",
    "Usage",
    "encode",
]

Finish = Literal["stop", "length"]
encode = msgspec.json.Encoder().encode


class PromptDetails(msgspec.Struct):
    """Of the prompt's tokens."""

    cached_tokens: int


class Usage(msgspec.Struct):
    """Tokens; the one that ends an answer is not counted."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Extension(msgspec.Struct):
    """What vlrt tells beside the protocol.

    `entities` and `timings_ms` are as `vlrt run --json` prints them; `text` is the whole answer,
    to which the entities' spans refer; `queue_ms` is how long the request waited for its turn.
    """

    text: str
    timings_ms: dict[str, float]
    queue_ms: float
    entities: list[dict[str, Any]]
    cached_tokens: int
    image_tokens: int


class Stage(msgspec.Struct):
    """What is being done: `done` of `total` places, pictures or positions."""

    stage: str
    done: int
    total: int


class Said(msgspec.Struct):
    """An answer."""

    content: str
    role: Literal["assistant"] = "assistant"
    refusal: None = None


class Choice(msgspec.Struct):
    """There is one."""

    message: Said
    finish_reason: Finish
    index: int = 0
    logprobs: None = None


class Completion(msgspec.Struct):
    """A whole answer."""

    id: str
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    vlrt: Extension
    object: Literal["chat.completion"] = "chat.completion"


class Delta(msgspec.Struct, omit_defaults=True):
    """What an answer goes on with."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(msgspec.Struct):
    """There is one, or none beside usage."""

    delta: Delta
    finish_reason: Finish | None = None
    index: int = 0
    logprobs: None = None


class _AnyChunk(msgspec.Struct, kw_only=True):
    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"


class Chunk(_AnyChunk, kw_only=True):
    """A piece of an answer; the one with `finish_reason` has the extension."""

    vlrt: Extension | msgspec.UnsetType = msgspec.UNSET


class StageChunk(_AnyChunk, kw_only=True):
    """No piece, but what is being done; where the request's `vlrt.stages` asked for it."""

    vlrt: Stage


class Details(msgspec.Struct):
    """What vlrt tells of its model; the limits are those of `ServeOptions`."""

    family: str
    device: str
    max_context: int
    max_tokens: int
    max_pictures: int
    max_body: int
    max_pixels: int


class ModelCard(msgspec.Struct):
    """The model."""

    id: str
    created: int
    vlrt: Details
    object: Literal["model"] = "model"
    owned_by: str = "vlrt"


class ModelList(msgspec.Struct):
    """All models: one."""

    data: list[ModelCard]
    object: Literal["list"] = "list"


class Health(msgspec.Struct):
    """How the server is."""

    status: Literal["ok", "stopping"]
    model: str
    running: int
    waiting: int


class ErrorTold(msgspec.Struct):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct):
    """In place of an answer."""

    error: ErrorTold
