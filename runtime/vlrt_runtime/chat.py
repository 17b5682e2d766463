"""Messages to prompt text, by the checkpoint's own chat template in jinja2's sandbox.

A message is {"role": ..., "content": text or parts}; a part is {"type": "text", "text": ...} or
{"type": "image"}, with the picture under "image" or in the list beside the messages.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn, cast

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vlrt_runtime.errors import InputError

__all__ = ["Message", "as_messages", "compile_template"]

Message = Mapping[str, Any]


def as_messages(
    prompt: str | Sequence[Message], images: Sequence[Any]
) -> tuple[list[dict[str, Any]], list[Any]]:
    """A prompt in its full form: messages whose contents are parts, and the pictures in order.

    A text gets all pictures in front of it. In messages, picture parts without a picture of their
    own take the next of `images`.

    Raises:
        InputError: a message is malformed, or parts and pictures do not match.
    """
    if isinstance(prompt, str):
        parts = [{"type": "image"} for _ in images] + [{"type": "text", "text": prompt}]
        return [{"role": "user", "content": parts}], list(images)
    waiting, pictures = list(images), list[Any]()
    messages: list[dict[str, Any]] = []
    for number, message in enumerate(prompt):
        where = f"message {number}"
        role, content = message.get("role"), message.get("content")
        if role not in ("system", "user", "assistant"):
            raise InputError(f"{where}: role {role!r}, expected system, user or assistant")
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        if not isinstance(content, list):
            raise InputError(f"{where}: content is {type(content).__name__}, expected text or list")
        parts = [_part(part, where, waiting, pictures) for part in cast(list[Any], content)]
        messages.append({"role": role, "content": parts})
    if not messages:
        raise InputError("messages: the list is empty; expected at least one user message")
    if waiting:
        raise InputError(
            f"images: {len(images)} given, {len(images) - len(waiting)} used by the messages; "
            'add {"type": "image"} parts where they belong'
        )
    return messages, pictures


def _part(part: Any, where: str, waiting: list[Any], pictures: list[Any]) -> dict[str, Any]:
    entry: Message = cast(Message, part) if isinstance(part, Mapping) else {}
    if entry.get("type") == "text" and isinstance(entry.get("text"), str):
        return {"type": "text", "text": entry["text"]}
    if entry.get("type") != "image":
        raise InputError(
            f'{where}: a part is {{"type": "text", "text": ...}} or {{"type": "image"}}, '
            f"got {part!s:.80}"
        )
    picture = entry.get("image")
    if picture is None:
        if not waiting:
            raise InputError(f"{where}: more picture parts than pictures were given")
        picture = waiting.pop(0)
    pictures.append(picture)
    return {"type": "image"}


def compile_template(
    source: str, special_tokens: Mapping[str, str]
) -> Callable[[Sequence[Message]], str]:
    """A function from messages to the prompt text, ending where the answer begins.

    The template sees what transformers gives it: messages, add_generation_prompt, bos_token and
    the like, raise_exception, strftime_now, tojson, and the `generation` block. It runs in a
    sandbox: a package may come from anywhere.

    Raises:
        InputError: the template cannot be parsed, or refuses the messages.
    """
    environment: Any = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    try:
        template = environment.from_string(source)
    except TemplateError as error:
        raise InputError(f"chat template: {error}; the package's template is damaged") from error

    def render(messages: Sequence[Message]) -> str:
        try:
            return template.render(
                messages=messages, add_generation_prompt=True, **dict(special_tokens)
            )
        except (TemplateError, TypeError, OverflowError) as error:
            raise InputError(f"chat template: it refuses these messages: {error}") from error

    return render


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
