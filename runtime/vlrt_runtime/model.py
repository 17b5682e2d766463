"""`Model`: a package that answers. Pictures and a question in, text out."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from vlrt_runtime.chat import Message, as_messages, compile_template
from vlrt_runtime.decoder import Decoder
from vlrt_runtime.embedding import EmbeddingTable
from vlrt_runtime.entities import Entity, placed
from vlrt_runtime.errors import ContextLengthError, InputError
from vlrt_runtime.families import Layout, Picture, family_of
from vlrt_runtime.greedy import FinishReason, greedy, penalize
from vlrt_runtime.image import ImageSource, load_image
from vlrt_runtime.package import Package
from vlrt_runtime.session import Graph, default_threads, open_session, pick_device
from vlrt_runtime.text import TextCodec

__all__ = ["Answer", "Model", "Stream", "Timings"]

DEFAULT_NEW_TOKENS = 256
EMBEDS = "image_embeds"  # the projector's output that takes the place of placeholders
Prompt = str | Sequence[Message]


@dataclass
class Timings:
    """Milliseconds by stage.

    Attributes:
        load: opening the package, once per model.
        preprocess: pictures from their bytes to patches, and the prompt to ids.
        encode: the vision encoder, all pictures.
        project: the projector, all pictures.
        prefill: the prompt through the decoder.
        ttft: time to first token: from the call, pictures still bytes, to the first id.
        tpot: time per output token after the first; 0 where there is none.
        total: from the call to the last id.
    """

    load: float = 0.0
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
        token_ids: the new ids, without the one that stopped.
        finish_reason: stop (the model ended), length (a limit did) or cancelled.
        prompt_tokens: positions of the prompt, pictures included.
        image_tokens: positions that pictures took.
        timings: milliseconds by stage.
        entities: what the answer points at, of models that do.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    image_tokens: int
    timings: Timings
    entities: tuple[Entity, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The object that `vlrt run --json` prints."""
        return {
            "text": self.text,
            "token_ids": self.token_ids,
            "finish_reason": self.finish_reason,
            "prompt_tokens": self.prompt_tokens,
            "image_tokens": self.image_tokens,
            "timings_ms": self.timings.as_dict(),
            "entities": [entity.as_dict() for entity in self.entities],
        }


class Stream(Iterator[str]):
    """Pieces of an answer as they come; `answer` is whole once they have ended."""

    def __init__(self, pieces: Generator[str, None, Answer], cancelled: threading.Event) -> None:
        self._pieces = pieces
        self._cancelled = cancelled
        self.answer: Answer | None = None

    def __next__(self) -> str:
        """The next piece: whole characters."""
        try:
            return next(self._pieces)
        except StopIteration as end:
            self.answer = self.answer or cast(Answer, end.value)
            raise StopIteration from None

    def cancel(self) -> None:
        """Ends the answer before its next token, or between two stages; from any thread."""
        self._cancelled.set()

    def result(self) -> Answer:
        """The whole answer; takes the pieces that are left."""
        for _ in self:
            pass
        assert self.answer is not None
        return self.answer


@dataclass
class _Clock:
    """Fills in timings, one stage after the other."""

    timings: Timings
    start: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self._last = self.start

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        setattr(self.timings, stage, (now - self._last) * 1e3)
        self._last = now

    def since_start(self) -> float:
        return (time.perf_counter() - self.start) * 1e3


class Model:
    """An opened package.

    Safe to use from several threads: sessions are shared, every answer has a cache of its own.

    Args:
        package: a folder, or a name that was exported before.
        device: cpu, cuda, or auto for what the package was exported for.
        threads: cores to use; all that this process may use where not given.
        min_pixels: pictures are scaled up to this area; the package's limit where not given.
        max_pixels: pictures are scaled down to this area; the package's limit where not given.

    Raises:
        PackageNotFoundError: there is no such package.
        PackageError: it is damaged.
        DeviceError: the device is not to be had here.
        InputError: an option cannot be used.
    """

    def __init__(
        self,
        package: str | os.PathLike[str],
        *,
        device: str = "auto",
        threads: int | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
    ) -> None:
        started = time.perf_counter()
        if threads is not None and threads < 1:
            raise InputError(f"threads {threads}: expected at least 1")
        self.package = Package.open(package)
        self.manifest = manifest = self.package.manifest
        self.device = pick_device(device, manifest.device)
        self.threads = threads or default_threads()
        self.family = family_of(manifest, min_pixels=min_pixels, max_pixels=max_pixels)
        self.codec = TextCodec(
            self.package.path("tokenizer.json"), manifest.special_tokens.get("bos_token")
        )
        template = self.family.template
        if (path := self.package.path("chat_template.jinja")).name in manifest.files:
            template = path.read_text("utf-8")
        self._render = compile_template(template, manifest.special_tokens) if template else None
        self.embed = EmbeddingTable(self.package.path(manifest.embedding.file))
        self.vision_encoder = Graph(self._session("vision_encoder"))
        self.projector = Graph(self._session("projector"))
        self._decoder = self._session("decoder")
        self.load_ms = (time.perf_counter() - started) * 1e3

    def generate(
        self,
        prompt: Prompt,
        *,
        images: Sequence[ImageSource] = (),
        max_new_tokens: int = DEFAULT_NEW_TOKENS,
        raw: bool = False,
    ) -> Answer:
        """Answers a prompt, greedily.

        Args:
            prompt: a question, or messages (see `vlrt_runtime.chat`) for several turns.
            images: pictures: paths, bytes, PIL images or numpy arrays.
            max_new_tokens: ids to add at most.
            raw: the prompt is the whole text, placeholders included; no chat template.

        Raises:
            ImageError: a picture cannot be used.
            ContextLengthError: the prompt is longer than the model's context.
            InputError: prompt and pictures do not match, or an option cannot be used.
        """
        return self.stream(prompt, images=images, max_new_tokens=max_new_tokens, raw=raw).result()

    def stream(
        self,
        prompt: Prompt,
        *,
        images: Sequence[ImageSource] = (),
        max_new_tokens: int = DEFAULT_NEW_TOKENS,
        raw: bool = False,
    ) -> Stream:
        """As `generate`, piece by piece: nothing is computed before the first is asked for."""
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens {max_new_tokens}: expected at least 1")
        if isinstance(images, (str, bytes, os.PathLike)):
            raise InputError("images: expected a list of pictures, got one; put it in brackets")
        cancelled = threading.Event()
        pieces = self._pieces(prompt, images, max_new_tokens, raw, cancelled)
        return Stream(pieces, cancelled)

    def prepare(
        self, prompt: Prompt, images: Sequence[ImageSource] = (), *, raw: bool = False
    ) -> tuple[Layout, list[Picture]]:
        """Pictures and prompt as they will enter the graphs; raises what `generate` raises."""
        if raw:
            if not isinstance(prompt, str):
                raise InputError("prompt: a raw prompt is text, not messages")
            text, sources = prompt, list(images)
        else:
            messages, sources = as_messages(prompt, images)
            text = self.chat_text(messages)
        token_ids = self.family.token_ids(text, len(sources), self.codec)
        pictures = [self.family.picture(load_image(source)) for source in sources]
        layout = self.family.layout(token_ids, pictures)
        length, most = len(layout.token_ids), self.manifest.generation.max_context
        if length == 0:
            raise InputError("prompt: it is empty")
        if length >= most:
            raise ContextLengthError(
                f"prompt: {length} tokens, {int(layout.slots.sum())} of them pictures; the model's "
                f"context is {most}; shorten the text or lower max_pixels"
            )
        return layout, pictures

    def chat_text(self, messages: Sequence[Message]) -> str:
        """The prompt text of messages, by the package's chat template."""
        if self._render is None:
            raise InputError(f"{self.manifest.name}: it has no chat template; use a raw prompt")
        return self._render(messages)

    def encode(self, picture: Picture) -> dict[str, NDArray[Any]]:
        """The vision encoder's outputs for a picture."""
        return self.vision_encoder(picture.inputs)

    def splice(
        self, layout: Layout, projected: Sequence[dict[str, NDArray[Any]]]
    ) -> NDArray[np.float32]:
        """The prompt's embeddings with rows of pictures in their slots, [1, s, hidden]."""
        embeds = self.embed(layout.token_ids)
        rows = [outputs[EMBEDS][0] for outputs in projected if EMBEDS in outputs]
        if rows:
            stacked = np.concatenate(rows)
            if len(stacked) != (slots := int(layout.slots.sum())):
                raise InputError(f"pictures: {len(stacked)} rows for {slots} slots of the prompt")
            embeds[layout.slots] = stacked
        return embeds[None]

    def decoder(self) -> Decoder:
        """A decoder with an empty cache."""
        return Decoder(self._decoder)

    def choose(self, logits: NDArray[np.float32], seen: Sequence[int]) -> int:
        """The next token by greedy decoding; applies the checkpoint's penalty to `logits`."""
        penalty = self.manifest.generation.repetition_penalty
        if penalty != 1.0:
            penalize(logits, seen, penalty)
        return int(np.argmax(logits))

    def _session(self, name: str) -> Any:
        return open_session(self.package.graph(name), device=self.device, threads=self.threads)

    def _pieces(
        self,
        prompt: Prompt,
        images: Sequence[ImageSource],
        max_new_tokens: int,
        raw: bool,
        cancelled: threading.Event,
    ) -> Generator[str, None, Answer]:
        clock = _Clock(Timings(load=self.load_ms))
        layout, pictures = self.prepare(prompt, images, raw=raw)
        clock.lap("preprocess")
        token_ids: list[int] = []
        reason: FinishReason = "cancelled"
        if not cancelled.is_set():
            encoded = [self.encode(picture) for picture in pictures]
            clock.lap("encode")
            projected = [self.projector(outputs) for outputs in encoded]
            embeds = self.splice(layout, projected)
            clock.lap("project")
            if not cancelled.is_set():
                ids = self._ids(layout, embeds, max_new_tokens, cancelled, clock)
                prompt_ids = layout.token_ids.tolist()
                reason = yield from self.family.stream(self.codec, prompt_ids, ids, token_ids)
        timings = clock.timings
        timings.total = timings.total or clock.since_start()
        if len(token_ids) > 1:
            timings.tpot = (timings.total - timings.ttft) / (len(token_ids) - 1)
        image_tokens = sum(picture.tokens for picture in pictures)
        text, found = self.family.read(self.codec, layout.token_ids.tolist(), token_ids)
        entities = placed(found, [picture.size for picture in pictures])
        length = len(layout.token_ids)
        return Answer(text, token_ids, reason, length, image_tokens, timings, entities)

    def _ids(
        self,
        layout: Layout,
        embeds: NDArray[np.float32],
        max_new_tokens: int,
        cancelled: threading.Event,
        clock: _Clock,
    ) -> Generator[int, None, FinishReason]:
        decoder, settings = self.decoder(), self.manifest.generation
        length = len(layout.token_ids)
        limit = min(max_new_tokens, settings.max_context - length)
        decoder.reserve(length + min(limit, DEFAULT_NEW_TOKENS))
        logits = decoder.run(layout.inputs(embeds, 0))[-1]
        clock.lap("prefill")
        seen: list[int] = layout.token_ids.tolist()

        def step(token: int) -> NDArray[np.float32]:
            row = self.embed(np.array([token]))[None]
            return decoder.run(layout.step(token, row, decoder.length))[-1]

        def choose(logits: NDArray[np.float32]) -> int:
            seen.append(token := self.choose(logits, seen))
            clock.timings.total = clock.since_start()
            clock.timings.ttft = clock.timings.ttft or clock.timings.total
            return token

        return (
            yield from greedy(
                logits,
                step,
                stop_ids=settings.stop_ids,
                max_new_tokens=limit,
                choose=choose,
                cancelled=cancelled.is_set,
            )
        )
