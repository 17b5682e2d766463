"""Messages to prompt text, by the checkpoint's own chat template in jinja2's sandbox.

A message is {"role": ..., "content": text or parts}; a part is {"type": "text", "text": ...} or
{"type": "image"}, with the picture under "image" or in the list beside the messages; or the same of
"video", where "fps" and "max_frames" may stand beside it (see `vlrt_runtime.video`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn, cast

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from vlrt_runtime.errors import InputError, PackageError
from vlrt_runtime.sandbox import Sandbox
from vlrt_runtime.video import Video, as_video

__all__ = ["Message", "as_messages", "compile_template"]

Message = Mapping[str, Any]


def as_messages(
    prompt: str | Sequence[Message], images: Sequence[Any], videos: Sequence[Any] = ()
) -> tuple[list[dict[str, Any]], list[Any]]:
    """A prompt in its full form: messages whose contents are parts, and the pictures in order.

    A text gets all pictures in front of it, then all videos. In messages, picture parts without a
    picture of their own take the next of `images`, and so do videos. Among the pictures that are
    returned, a `Video` stands for one.

    Raises:
        InputError: a message is malformed, or parts and pictures do not match.
    """
    if isinstance(prompt, str):
        parts = [{"type": "image"} for _ in images] + [{"type": "video"} for _ in videos]
        parts.append({"type": "text", "text": prompt})
        return [{"role": "user", "content": parts}], [*images, *map(as_video, videos)]
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes | bytearray):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"prompt: {type(prompt).__name__}, expected text or a list of messages")
    pictures = list[tuple[str, Any]]()
    messages: list[dict[str, Any]] = []
    for number, message in enumerate(prompt):
        where = f"message {number}"
        if not isinstance(message, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(
                f'{where}: expected {{"role": ..., "content": ...}}, got {message!r:.80}'
            )
        role, content = message.get("role"), message.get("content")
        if role not in ("system", "user", "assistant"):
            raise InputError(f"{where}: role {role!r}, expected system, user or assistant")
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        if not isinstance(content, list):
            raise InputError(f"{where}: content is {type(content).__name__}, expected text or list")
        parts = _Parts(_part(part, where, pictures) for part in cast(list[Any], content))
        messages.append({"role": role, "content": parts})
    if not messages:
        raise InputError("messages: the list is empty; expected at least one user message")
    waiting = {"image": list(images), "video": [as_video(video) for video in videos]}
    for kind, given in waiting.items():
        places = sum(part == kind and source is None for part, source in pictures)
        if places != len(given):
            raise InputError(
                f'{kind}s: {len(given)} given, for {places} {{"type": "{kind}"}} parts of the '
                "messages that have none of their own; there must be one for each"
            )
    return messages, [
        waiting[kind].pop(0) if picture is None else picture for kind, picture in pictures
    ]


class _Parts(list[dict[str, Any]]):
    """Parts of a message that read as their text where a template wants text (Mllama's system)."""

    def __str__(self) -> str:
        return "".join(part.get("text", "") for part in self)


def _part(part: Any, where: str, pictures: list[tuple[str, Any]]) -> dict[str, Any]:
    entry: Message = cast(Message, part) if isinstance(part, Mapping) else {}
    if entry.get("type") == "text" and isinstance(entry.get("text"), str):
        return {"type": "text", "text": entry["text"]}
    kind = entry.get("type")
    if kind not in ("image", "video"):
        raise InputError(
            f'{where}: a part is {{"type": "text", "text": ...}}, {{"type": "image"}} or '
            f'{{"type": "video"}}, got {part!s:.80}'
        )
    source = entry.get(kind)
    if kind == "video" and source is not None and not isinstance(source, Video):
        source = Video(source, entry.get("fps"), entry.get("max_frames"))
    pictures.append((kind, source))
    return {"type": kind}


def compile_template(
    source: str, special_tokens: Mapping[str, str]
) -> Callable[[Sequence[Message]], str]:
    """A function from messages to the prompt text, ending where the answer begins.

    The template sees what transformers gives it: messages, add_generation_prompt, bos_token and
    the like, raise_exception, strftime_now, tojson, and the `generation` block. It runs in a
    sandbox: a package may come from anywhere.

    Raises:
        PackageError: the template cannot be parsed.
        InputError: from the function: the template refuses the messages.
    """
    environment: Any = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    try:
        template = environment.guarded(source)
    except Exception as error:  # RecursionError and the like, of templates nested too deeply
        raise PackageError(
            f"chat template: it is damaged: {_reason(error)}; export the package again"
        ) from error

    def render(messages: Sequence[Message]) -> str:
        variables = {**special_tokens, "messages": messages, "add_generation_prompt": True}
        try:
            return "".join(environment.pieces(template, variables))
        except Exception as error:  # a template is a program: it may fail in any way
            raise InputError(
                f"chat template: it refuses these messages: {_reason(error)}"
            ) from error

    return render


def _reason(error: Exception) -> str:
    known = isinstance(error, TemplateError | TypeError | OverflowError) and str(error)
    return known or f"{type(error).__name__} {error}".strip()


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}`: marks the assistant's words, and renders them."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The block's body, as if the tags were not there."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(style: str) -> str:
    return datetime.now().strftime(style)


def _tojson(value: Any, indent: int | None = None, **options: Any) -> str:
    # Unlike jinja2's own: no escapes for HTML, letters as they are.
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)
