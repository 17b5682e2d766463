"""An answer's events as the objects of OpenAI's protocol."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from vlrt.serve.engine import Done, Event
from vlrt.serve.wire import (
    Choice,
    Chunk,
    ChunkChoice,
    Completion,
    Delta,
    Extension,
    Finish,
    PromptDetails,
    Said,
    Stage,
    StageChunk,
    Usage,
    encode,
)
from vlrt_runtime.answer import Answer

__all__ = ["Completions"]

LAST = b"data: [DONE]\n\n"


@dataclass
class Completions:
    """Of one request.

    Attributes:
        model: its name.
        stages: whether chunks tell what is being done.
        usage: whether the last chunk tells the usage.
    """

    model: str
    stages: bool = False
    usage: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    _begun: bool = False

    def whole(self, done: Done) -> bytes:
        """The answer as one object."""
        choices = [Choice(Said(done.answer.text), _finish(done.answer))]
        return encode(
            Completion(
                self.id, self.created, self.model, choices, _usage(done.answer), _extension(done)
            )
        )

    def lines(self, event: Event) -> Iterator[bytes]:
        """Server-sent events for an event: none, one or several."""
        if isinstance(event, Stage):
            if self.stages:
                yield self._sent(StageChunk(**self._named(ChunkChoice(Delta())), vlrt=event))
            return
        if not self._begun:
            self._begun = True
            yield self._sent(Chunk(**self._named(ChunkChoice(Delta("assistant", "")))))
        if isinstance(event, str):
            yield self._sent(Chunk(**self._named(ChunkChoice(Delta(content=event)))))
            return
        last = ChunkChoice(Delta(), _finish(event.answer))
        yield self._sent(Chunk(**self._named(last), vlrt=_extension(event)))
        if self.usage:
            yield self._sent(Chunk(**self._named(), usage=_usage(event.answer)))
        yield LAST

    def _named(self, *choices: ChunkChoice) -> dict[str, Any]:
        named = {"id": self.id, "created": self.created, "model": self.model}
        return {**named, "choices": list(choices)}

    def _sent(self, chunk: Chunk | StageChunk) -> bytes:
        if self.usage and chunk.usage is msgspec.UNSET:
            chunk.usage = None
        return b"data: %b\n\n" % encode(chunk)


def _finish(answer: Answer) -> Finish:
    return "length" if answer.finish_reason == "length" else "stop"


def _usage(answer: Answer) -> Usage:
    prompt, new = answer.prompt_tokens, len(answer.token_ids)
    return Usage(prompt, new, prompt + new, PromptDetails(answer.cached_tokens))


def _extension(done: Done) -> Extension:
    answer = done.answer
    return Extension(
        answer.text,
        answer.timings.as_dict(),
        round(done.queue_ms, 3),
        [entity.as_dict() for entity in answer.entities],
        answer.cached_tokens,
        answer.image_tokens,
    )
