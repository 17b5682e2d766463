"""A request as the model takes it: messages, pictures, options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vlrt.serve.errors import ApiError, unknown_model
from vlrt.serve.options import ServeOptions
from vlrt.serve.pictures import picture_bytes
from vlrt.serve.requests import ChatRequest, RequestMessage, TextPart
from vlrt.serve.wire import encode
from vlrt_runtime.options import Keywords

__all__ = ["Question", "question"]

MAX_SCHEMA = 1 << 16  # bytes, as JSON


@dataclass(frozen=True)
class Question:
    """What `Model.stream` will be asked.

    Attributes:
        messages: with a placeholder for each picture.
        pictures: their files' bytes, in order.
        options: keywords for the answer.
    """

    messages: list[dict[str, Any]]
    pictures: list[bytes]
    options: Keywords


def question(request: ChatRequest, options: ServeOptions) -> Question:
    """Reads messages and pictures; blocks where pictures have to be fetched.

    Raises:
        ApiError: the model is another, or there is too much text, or too many pictures, or one
            that cannot be had.
    """
    if request.model is not None and request.model != options.name:
        raise unknown_model(request.model, options.name)
    _within(request, options)
    pictures: list[bytes] = []
    messages = [
        _message(message, f"messages[{number}]", pictures, options)
        for number, message in enumerate(request.messages)
    ]
    limit = min(request.limit or options.max_tokens, options.max_tokens)
    asked: Keywords = {
        "max_new_tokens": limit,
        "sampling": request.sampling,
        "stop": request.stops,
        "schema": request.schema,
    }
    return Question(messages, pictures, asked)


def _within(request: ChatRequest, options: ServeOptions) -> None:
    """Before any picture is fetched or decoded."""
    if request.schema is not None and len(encode(request.schema)) > MAX_SCHEMA:
        raise ApiError(
            400, f"response_format: a schema of more than {MAX_SCHEMA} bytes; simplify it",
            code="invalid_value", param="response_format",
        )  # fmt: skip
    text = pictures = 0
    for message in request.messages:
        if isinstance(message.content, str):
            text += len(message.content)
            continue
        texts = [part.text for part in message.content if isinstance(part, TextPart)]
        text += sum(map(len, texts))
        pictures += len(message.content) - len(texts)
    if text > options.max_text:
        raise ApiError(
            400, f"messages: {text} characters, expected at most {options.max_text}; shorten them",
            code="context_length_exceeded", param="messages",
        )  # fmt: skip
    if pictures > options.max_pictures:
        raise ApiError(
            400, f"messages: {pictures} pictures, expected at most {options.max_pictures}",
            code="too_many_images", param="messages",
        )  # fmt: skip


def _message(
    message: RequestMessage, where: str, pictures: list[bytes], options: ServeOptions
) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    if isinstance(message.content, str):
        return {"role": role, "content": message.content}
    parts: list[dict[str, Any]] = []
    for number, part in enumerate(message.content):
        if isinstance(part, TextPart):
            parts.append({"type": "text", "text": part.text})
            continue
        place = f"{where}.content[{number}].image_url.url"
        pictures.append(picture_bytes(part.image_url.url, place, options))
        parts.append({"type": "image"})
    return {"role": role, "content": parts}
