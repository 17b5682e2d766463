"""`Model`: a package that answers. Pictures and a question in, text out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from vlrt_runtime.answer import Answer, Stream, Timings
from vlrt_runtime.backends import BackendOptions, open_backend
from vlrt_runtime.chat import Message, as_messages, compile_template
from vlrt_runtime.embedding import EmbeddingTable
from vlrt_runtime.errors import ContextLengthError, InputError, PackageError
from vlrt_runtime.families import Layout, Picture, family_of
from vlrt_runtime.generation import Generation
from vlrt_runtime.image import ImageSource, load_image
from vlrt_runtime.package import Package
from vlrt_runtime.reuse import EncodedImage, FeatureStore, PrefixStore, encoder_digest
from vlrt_runtime.session import default_threads
from vlrt_runtime.stages import Stages
from vlrt_runtime.text import TextCodec
from vlrt_runtime.video import Video, VideoSource, as_video

__all__ = ["Answer", "Model", "Stream", "Timings"]

DEFAULT_NEW_TOKENS = 256
CACHE_MB = 512
ONE_VIDEO = (str, os.PathLike, Video)
ONE_PICTURE = (
    str,
    bytes,
    bytearray,
    memoryview,
    os.PathLike,
    Image.Image,
    np.ndarray,
    EncodedImage,
)
Prompt = str | Sequence[Message]


class Model(Stages):
    """An opened package.

    Safe to use from several threads: sessions are shared, every answer has a cache of its own.

    Args:
        package: a folder, or a name that was exported before.
        device: cpu, cuda, or auto for what the package was exported for.
        threads: cores to use, of those there are; all that this process may use where not given.
        min_pixels: pictures are scaled up to this area; the package's limit where not given.
        max_pixels: pictures are scaled down to this area; the package's limit where not given.
        image_cache_mb: memory for features of pictures that were encoded; 0 for none.
        image_cache_folder: keeps them on disk as well, for other processes and later.
        prefix_cache_mb: memory for keys and values of earlier prompts and answers, which others
            that begin alike go on from: the same picture, the turns so far. 0 for none.
        keep_encoder: False gives the vision encoder's memory back once pictures are encoded; the
            next picture that is not known opens it again.
        lazy: graphs are opened when they are first used, not now.
        cache: keep weights as this machine's kernels want them (`vlrt cache`): the next opening is
            quicker, and processes share them.
        compute_units: that Core ML may use: cpu-and-gpu, cpu-and-ne, all or cpu.
        mil_precision: of a Core ML package that is interpreted: fp32, or declared, which rounds
            every result to the type that the package declares.

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
        image_cache_mb: int = CACHE_MB,
        image_cache_folder: str | os.PathLike[str] | None = None,
        prefix_cache_mb: int = CACHE_MB,
        keep_encoder: bool = True,
        lazy: bool = False,
        compute_units: str | None = None,
        mil_precision: str = "fp32",
        cache: bool = True,
    ) -> None:
        started = time.perf_counter()
        if threads is not None and threads < 1:
            raise InputError(f"threads {threads}: expected at least 1")
        self.package = Package.open(package)
        self.manifest = manifest = self.package.manifest
        # Threads without a core of their own only wait for one another.
        self.threads = min(threads or default_threads(), os.cpu_count() or 1)
        self.backend = open_backend(
            self.package, device, self.threads, BackendOptions(compute_units, mil_precision, cache)
        )
        self.device = self.backend.device
        self.family = family_of(manifest, min_pixels=min_pixels, max_pixels=max_pixels)
        self.codec = TextCodec(
            self.package.path("tokenizer.json"), manifest.special_tokens.get("bos_token")
        )
        self._render = self._template()
        self.embed = EmbeddingTable(self.package.path(manifest.embedding.file))
        self.encoder_digest = encoder_digest(manifest)
        folder = None if image_cache_folder is None else Path(image_cache_folder)
        self.keep_encoder = keep_encoder
        self.features = FeatureStore(image_cache_mb << 20, self.encoder_digest, folder)
        self.prefixes = PrefixStore(prefix_cache_mb << 20)
        if not lazy:
            self.backend.load()
        self.load_ms = (time.perf_counter() - started) * 1e3

    def generate(
        self,
        prompt: Prompt,
        *,
        images: Sequence[ImageSource | EncodedImage] = (),
        videos: Sequence[VideoSource | Video] = (),
        max_new_tokens: int = DEFAULT_NEW_TOKENS,
        raw: bool = False,
        speculate: bool = False,
    ) -> Answer:
        """Answers a prompt, greedily.

        Args:
            prompt: a question, or messages (see `vlrt_runtime.chat`) for several turns.
            images: pictures: paths, bytes, PIL images, numpy arrays, or what `encode_image` gave.
            videos: paths, lists of frames, or `Video`s, which say what to look at in them.
            max_new_tokens: ids to add at most.
            raw: the prompt is the whole text, placeholders included; no chat template.
            speculate: text that repeats is guessed and checked several ids at a time: the same
                answer, sooner where it repeats (see `vlrt_runtime.lookup`).

        Raises:
            ImageError: a picture cannot be used.
            VideoError: a video cannot be used.
            ContextLengthError: the prompt is longer than the model's context.
            InputError: prompt and pictures do not match, or an option cannot be used.
        """
        return self.stream(
            prompt,
            images=images,
            videos=videos,
            max_new_tokens=max_new_tokens,
            raw=raw,
            speculate=speculate,
        ).result()

    def stream(
        self,
        prompt: Prompt,
        *,
        images: Sequence[ImageSource | EncodedImage] = (),
        videos: Sequence[VideoSource | Video] = (),
        max_new_tokens: int = DEFAULT_NEW_TOKENS,
        raw: bool = False,
        speculate: bool = False,
    ) -> Stream:
        """As `generate`, piece by piece: nothing is computed before the first is asked for."""
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens {max_new_tokens}: expected at least 1")
        if isinstance(images, ONE_PICTURE):
            raise InputError("images: expected a list of pictures, got one; put it in brackets")
        if isinstance(videos, ONE_VIDEO):
            raise InputError("videos: expected a list of videos, got one; put it in brackets")
        sources = list(images), list(videos)
        prepare = partial(self.prepare, prompt, *sources, raw=raw)
        making = Generation(self, prepare, max_new_tokens, speculate)
        return Stream(making.pieces(), making.cancelled)

    def prepare(
        self,
        prompt: Prompt,
        images: Sequence[ImageSource | EncodedImage] = (),
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
        pictures = [self._picture(source) for source in sources]
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

    def encode_image(self, image: ImageSource | Video) -> EncodedImage:
        """Encodes a picture now, to be given in its place to as many prompts as there are.

        It is kept as long as the caller keeps it, whatever the caches hold.

        Raises:
            ImageError: the picture cannot be used.
        """
        picture = self._picture(image)
        projected = self.features.get(picture.digest) or self.projector(self.encode(picture))
        picture = replace(picture, inputs={}, projected=projected, known_digest=picture.digest)
        return EncodedImage(picture, self.encoder_digest)

    def chat_text(self, messages: Sequence[Message]) -> str:
        """The prompt text of messages, by the package's chat template."""
        if self._render is None:
            raise InputError(f"{self.manifest.name}: it has no chat template; use a raw prompt")
        return self._render(messages)

    def _picture(self, source: ImageSource | Video | EncodedImage) -> Picture:
        if isinstance(source, Video):
            return self.family.video(source)
        if not isinstance(source, EncodedImage):
            return self.family.picture(load_image(source))
        if source.encoder != self.encoder_digest:
            raise InputError("images: a picture encoded by another model; encode it with this one")
        return source.picture

    def _template(self) -> Callable[[Sequence[Message]], str] | None:
        path = self.package.path("chat_template.jinja")
        if path.name not in self.manifest.files:
            return None
        try:
            source = path.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise PackageError(f"{path}: not UTF-8 text; export the package again") from error
        return compile_template(source, self.manifest.special_tokens)
