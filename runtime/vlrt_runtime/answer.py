"""What comes back from a model: an answer, and how long its stages took."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields
from typing import Any

from vlrt_runtime.entities import Entity
from vlrt_runtime.greedy import FinishReason

__all__ = ["Answer", "Clock", "Timings"]


@dataclass
class Timings:
    """Milliseconds by stage.

    Attributes:
        load: opening the package, once per model.
        queued: waiting for other answers of the model, before all else; counted nowhere else.
        preprocess: pictures from their bytes to patches, and the prompt to ids.
        encode: the vision encoder, all pictures.
        project: the projector, all pictures.
        prefill: the prompt through the decoder.
        ttft: time to first token: from its turn, pictures still bytes, to the first id.
        tpot: time per id after the first, the one that stops included; 0 where there is none.
        total: from its turn to the last id.
    """

    load: float = 0.0
    queued: float = 0.0
    preprocess: float = 0.0
    encode: float = 0.0
    project: float = 0.0
    prefill: float = 0.0
    ttft: float = 0.0
    tpot: float = 0.0
    total: float = 0.0

    def as_dict(self, digits: int = 3) -> dict[str, float]:
        """By name, rounded."""
        return {f.name: round(getattr(self, f.name), digits) for f in fields(self)}


@dataclass(frozen=True)
class Answer:
    """What the model said.

    Attributes:
        text: the answer, without special tokens.
        token_ids: the new ids, without the stop id; with those of the stop text, where one of
            `stop` ended the answer.
        finish_reason: stop (the model ended, or a stop text came), length (a limit did) or
            cancelled.
        prompt_tokens: positions of the prompt, pictures included; 0 where the answer was cancelled
            before it was read.
        image_tokens: positions that pictures took.
        timings: milliseconds by stage.
        entities: what the answer points at, of models that do.
        cached_tokens: positions of the prompt whose keys and values were there from before.
        drafted_tokens: ids that speculation guessed and the decoder ran.
        accepted_tokens: those of them that became part of the answer.
        constraint_ms: what a schema cost, milliseconds an id; None where there was none.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    image_tokens: int
    timings: Timings
    entities: tuple[Entity, ...] = ()
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    constraint_ms: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The object that `vlrt run --json` prints; entities and drafts where there are some."""
        said: dict[str, Any] = {
            "text": self.text,
            "token_ids": self.token_ids,
            "finish_reason": self.finish_reason,
            "prompt_tokens": self.prompt_tokens,
            "image_tokens": self.image_tokens,
            "timings_ms": self.timings.as_dict(),
        }
        if self.drafted_tokens:
            said["drafted_tokens"] = self.drafted_tokens
            said["accepted_tokens"] = self.accepted_tokens
        if self.constraint_ms is not None:
            said["constraint_ms"] = round(self.constraint_ms, 3)
        if self.entities:
            said["entities"] = [entity.as_dict() for entity in self.entities]
        return said


@dataclass
class Clock:
    """Fills in timings, one stage after the other."""

    timings: Timings
    start: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self._last = self.start
        self._tokens = 0

    def lap(self, stage: str) -> None:
        """A stage has ended."""
        now = time.perf_counter()
        setattr(self.timings, stage, (now - self._last) * 1e3)
        self._last = now

    def token(self) -> None:
        """An id has been chosen."""
        timings = self.timings
        timings.total = self.since_start()
        self._tokens += 1
        if self._tokens == 1:
            timings.ttft = timings.total
        else:
            timings.tpot = (timings.total - timings.ttft) / (self._tokens - 1)

    def since_start(self) -> float:
        """Milliseconds."""
        return (time.perf_counter() - self.start) * 1e3
