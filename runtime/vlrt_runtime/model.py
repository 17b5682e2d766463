"""`Model`: a package that answers. Pictures and a question in, text out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlrt_runtime.answer import Answer, Stream, Timings
from vlrt_runtime.backends import Decoder, open_backend
from vlrt_runtime.chat import Message, as_messages, compile_template
from vlrt_runtime.embedding import EmbeddingTable
from vlrt_runtime.errors import ContextLengthError, InputError, PackageError
from vlrt_runtime.families import Layout, Picture, family_of
from vlrt_runtime.generation import Generation
from vlrt_runtime.greedy import penalize
from vlrt_runtime.image import ImageSource, load_image
from vlrt_runtime.package import Package
from vlrt_runtime.session import default_threads
from vlrt_runtime.text import TextCodec
from vlrt_runtime.video import Video, VideoSource, as_video

__all__ = ["Answer", "Model", "Stream", "Timings"]

DEFAULT_NEW_TOKENS = 256
EMBEDS = "image_embeds"  # the projector's output that takes the place of placeholders
ONE_VIDEO = (str, os.PathLike, Video)
ONE_PICTURE = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image, np.ndarray)
Run = Callable[[dict[str, NDArray[Any]]], NDArray[Any]]  # a decoder's `run` or `next_ids`
Prompt = str | Sequence[Message]


class Model:
    """An opened package.

    Safe to use from several threads: sessions are shared, every answer has a cache of its own.

    Args:
        package: a folder, or a name that was exported before.
        device: cpu, cuda, or auto for what the package was exported for.
        threads: cores to use, of those there are; all that this process may use where not given.
        min_pixels: pictures are scaled up to this area; the package's limit where not given.
        max_pixels: pictures are scaled down to this area; the package's limit where not given.
        lazy: graphs are opened when they are first used, not now.

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
        lazy: bool = False,
    ) -> None:
        started = time.perf_counter()
        if threads is not None and threads < 1:
            raise InputError(f"threads {threads}: expected at least 1")
        self.package = Package.open(package)
        self.manifest = manifest = self.package.manifest
        # Threads without a core of their own only wait for one another.
        self.threads = min(threads or default_threads(), os.cpu_count() or 1)
        self.backend = open_backend(self.package, device, self.threads)
        self.device = self.backend.device
        self.family = family_of(manifest, min_pixels=min_pixels, max_pixels=max_pixels)
        self.codec = TextCodec(
            self.package.path("tokenizer.json"), manifest.special_tokens.get("bos_token")
        )
        self._render = self._template()
        self.embed = EmbeddingTable(self.package.path(manifest.embedding.file))
        if not lazy:
            self.backend.load()
        self.load_ms = (time.perf_counter() - started) * 1e3

    def generate(
        self,
        prompt: Prompt,
        *,
        images: Sequence[ImageSource] = (),
        videos: Sequence[VideoSource | Video] = (),
        max_new_tokens: int = DEFAULT_NEW_TOKENS,
        raw: bool = False,
    ) -> Answer:
        """Answers a prompt, greedily.

        Args:
            prompt: a question, or messages (see `vlrt_runtime.chat`) for several turns.
            images: pictures: paths, bytes, PIL images or numpy arrays.
            videos: paths, lists of frames, or `Video`s, which say what to look at in them.
            max_new_tokens: ids to add at most.
            raw: the prompt is the whole text, placeholders included; no chat template.

        Raises:
            ImageError: a picture cannot be used.
            VideoError: a video cannot be used.
            ContextLengthError: the prompt is longer than the model's context.
            InputError: prompt and pictures do not match, or an option cannot be used.
        """
        return self.stream(
            prompt, images=images, videos=videos, max_new_tokens=max_new_tokens, raw=raw
        ).result()

    def stream(
        self,
        prompt: Prompt,
        *,
        images: Sequence[ImageSource] = (),
        videos: Sequence[VideoSource | Video] = (),
        max_new_tokens: int = DEFAULT_NEW_TOKENS,
        raw: bool = False,
    ) -> Stream:
        """As `generate`, piece by piece: nothing is computed before the first is asked for."""
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens {max_new_tokens}: expected at least 1")
        if isinstance(images, ONE_PICTURE):
            raise InputError("images: expected a list of pictures, got one; put it in brackets")
        if isinstance(videos, ONE_VIDEO):
            raise InputError("videos: expected a list of videos, got one; put it in brackets")
        sources = list(images), list(videos)
        making = Generation(self, lambda: self.prepare(prompt, *sources, raw=raw), max_new_tokens)
        return Stream(making.pieces(), making.cancelled)

    def prepare(
        self,
        prompt: Prompt,
        images: Sequence[ImageSource] = (),
        videos: Sequence[VideoSource | Video] = (),
        *,
        raw: bool = False,
    ) -> tuple[Layout, list[Picture]]:
        """Pictures and prompt as they will enter the graphs; raises what `generate` raises."""
        if raw:
            if not isinstance(prompt, str):
                raise InputError("prompt: a raw prompt is text, not messages")
            if len(images) and len(videos):
                raise InputError("prompt: pictures and videos together need messages, not raw text")
            text, sources = prompt, [*images, *map(as_video, videos)]
        else:
            messages, sources = as_messages(prompt, images, videos)
            text = self.chat_text(messages)
        token_ids = self.family.token_ids(text, len(sources), self.codec)
        pictures = [
            self.family.video(source)
            if isinstance(source, Video)
            else self.family.picture(load_image(source))
            for source in sources
        ]
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

    def vision_encoder(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Pixels or patches to features."""
        return self.backend.graph("vision_encoder")(inputs)

    def projector(self, features: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Features to what the decoder takes."""
        return self.backend.graph("projector")(features)

    def encode(self, picture: Picture) -> dict[str, NDArray[Any]]:
        """The vision encoder's outputs for a picture."""
        if picture.runs == 1:
            return self.vision_encoder(picture.inputs)
        cut = {name: np.split(a, picture.runs, axis=1) for name, a in picture.inputs.items()}
        outputs = [
            self.vision_encoder({name: pieces[run] for name, pieces in cut.items()})
            for run in range(picture.runs)
        ]
        return {name: np.concatenate([o[name] for o in outputs], axis=1) for name in outputs[0]}

    def splice(
        self, layout: Layout, projected: Sequence[dict[str, NDArray[Any]]]
    ) -> NDArray[np.float32]:
        """The prompt's embeddings with rows of pictures in their slots, [1, s, hidden]."""
        # A slot's own id may have no row: some placeholders are no tokens of the model.
        embeds = self.embed(np.where(layout.slots, 0, layout.token_ids))
        rows = [outputs[EMBEDS][0] for outputs in projected if EMBEDS in outputs]
        if rows:
            stacked = np.concatenate(rows)
            if len(stacked) != (slots := int(layout.slots.sum())):
                raise InputError(f"pictures: {len(stacked)} rows for {slots} slots of the prompt")
            embeds[layout.slots] = stacked
        return embeds[None]

    def decoder(self, projected: Sequence[dict[str, NDArray[Any]]] = ()) -> Decoder:
        """A decoder with an empty cache."""
        return self.backend.decoder(self.static_inputs(projected))

    def static_inputs(
        self, projected: Sequence[dict[str, NDArray[Any]]]
    ) -> dict[str, NDArray[Any]]:
        """What else of the projector's outputs the decoder takes: the same for all positions.

        All pictures end to end along the axis whose size is free, which is empty without pictures.
        """
        graphs = self.manifest.graphs
        made = {spec.name for spec in graphs["projector"].outputs}
        static: dict[str, NDArray[Any]] = {}
        for spec in graphs["decoder"].inputs:
            if spec.name not in made:
                continue
            axis = next(i for i, size in enumerate(spec.shape) if isinstance(size, str))
            parts = [outputs[spec.name] for outputs in projected]
            empty = np.zeros([0 if isinstance(n, str) else n for n in spec.shape], spec.dtype)
            static[spec.name] = (
                parts[0] if len(parts) == 1 else np.concatenate([empty, *parts], axis)
            )
        return static

    def prefill(
        self, decoder: Decoder, layout: Layout, embeds: NDArray[np.float32], run: Run | None = None
    ) -> NDArray[Any]:
        """Runs the prompt through the decoder.

        Returns:
            Logits [1, vocab] of the last position, or what else `run` gives for it.
        """
        run = run or decoder.run
        length = len(layout.token_ids)
        rows = layout.prefill_rows or length
        for start in range(0, length - rows, rows):
            run(layout.inputs(embeds[:, start : start + rows], start))
        start = (length - 1) // rows * rows
        return run(layout.inputs(embeds[:, start:], start))

    def step(
        self, decoder: Decoder, layout: Layout, token: int, run: Run | None = None
    ) -> NDArray[Any]:
        """Runs one token of the answer through the decoder; the next one's logits [vocab].

        Or what else `run` gives for its position.
        """
        ids = np.array([token])
        row = self.embed(ids)[None]
        inputs = layout.step(token, row, decoder.length)
        if decoder.looks_up and inputs["inputs_embeds"] is row:  # as the table has it
            inputs = inputs | {"inputs_embeds": row[:, :0], "token_ids": ids[None]}
        return (run or decoder.run)(inputs)[-1]

    def choose(self, scores: Any, seen: Sequence[int]) -> int:
        """The next token by greedy decoding.

        Args:
            scores: logits [vocab], to which the checkpoint's penalty is applied, or an id that a
                decoder picked itself.
            seen: ids so far.
        """
        if np.ndim(scores) == 0:
            return int(scores)
        penalty = self.manifest.generation.repetition_penalty
        if penalty != 1.0:
            penalize(scores, seen, penalty)
        return int(np.argmax(scores))

    def _template(self) -> Callable[[Sequence[Message]], str] | None:
        path = self.package.path("chat_template.jinja")
        if path.name not in self.manifest.files:
            return None
        try:
            source = path.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise PackageError(f"{path}: not UTF-8 text; export the package again") from error
        return compile_template(source, self.manifest.special_tokens)
