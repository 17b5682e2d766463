"""`Model`: a package that answers. Pictures and a question in, text out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vlrt_runtime.answer import Answer, Timings
from vlrt_runtime.backends import BackendOptions, open_backend
from vlrt_runtime.conversation import Chat
from vlrt_runtime.cores import usable_cores
from vlrt_runtime.embedding import EmbeddingTable
from vlrt_runtime.errors import InputError
from vlrt_runtime.families import family_of
from vlrt_runtime.generation import Generation
from vlrt_runtime.options import Keywords, Options, takes_options
from vlrt_runtime.package import Package
from vlrt_runtime.prompts import Prompt, chat_template
from vlrt_runtime.reuse import FeatureStore, PrefixStore, encoder_digest
from vlrt_runtime.stream import AsyncStream, Stream
from vlrt_runtime.turns import Turns
from vlrt_runtime.upkeep import Budget, Upkeep

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Answer", "AsyncStream", "Model", "Stream", "Timings"]

CACHE_MB = 512


class Model(Upkeep):
    """An opened package.

    Safe to use from several threads: graphs are shared, every answer has a cache of its own, and
    answers take turns (`parallel`).

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
        parallel: answers that are computed at once; others wait, first come first served. Several
            at once share the cores: each takes longer, and all of them together about as long.
        memory_mb: of this process that the model should keep to: the vision encoder is given back
            after use, and the caches get what is left beside the weights, and are emptied when
            the process holds more. An answer's own keys and values, and what is computed on the
            way, come on top.
        idle_unload_s: seconds without a question after which the model is unloaded.

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
        parallel: int = 1,
        memory_mb: int | None = None,
        idle_unload_s: float | None = None,
    ) -> None:
        started = time.perf_counter()
        self.keep_encoder = keep_encoder and memory_mb is None
        super().__init__(eager=self.keep_encoder and not lazy, idle_unload_s=idle_unload_s)
        if threads is not None and threads < 1:
            raise InputError(f"threads {threads}: expected at least 1")
        self.package = Package.open(package)
        self.manifest = manifest = self.package.manifest
        # Threads without a core of their own only wait for one another.
        self.threads = min(threads or usable_cores(), os.cpu_count() or 1)
        self.backend = open_backend(
            self.package, device, self.threads, BackendOptions(compute_units, mil_precision, cache)
        )
        self.device = self.backend.device
        self.family = family_of(manifest, min_pixels=min_pixels, max_pixels=max_pixels)
        self._render = chat_template(self.package)
        self.embed = EmbeddingTable(self.package.path(manifest.embedding.file))
        self.encoder_digest = encoder_digest(manifest)
        folder = None if image_cache_folder is None else Path(image_cache_folder)
        self.budget = Budget.of(manifest, memory_mb, image_cache_mb, prefix_cache_mb)
        self.features = FeatureStore(self.budget.images, self.encoder_digest, folder)
        self.prefixes = PrefixStore(self.budget.prefixes)
        self.turns = Turns(parallel)
        _ = self.codec  # a damaged one is told now
        if not lazy:
            self.backend.load()
        self.open()
        self.load_ms = (time.perf_counter() - started) * 1e3

    @takes_options
    def generate(self, prompt: Prompt, **options: Unpack[Keywords]) -> Answer:
        """Answers a prompt.

        Args:
            prompt: a question, or messages (see `vlrt_runtime.chat`) for several turns.
            **options: see `vlrt_runtime.options.Options`: images, videos, max_new_tokens, raw,
                speculate, sampling, stop, schema, on_progress.

        Raises:
            ImageError: a picture cannot be used.
            VideoError: a video cannot be used.
            ContextLengthError: the prompt is longer than the model's context.
            InputError: prompt and pictures do not match, or an option cannot be used.
        """
        return self.stream(prompt, **options).result()

    @takes_options
    def stream(self, prompt: Prompt, **options: Unpack[Keywords]) -> Stream:
        """As `generate`, piece by piece: nothing is computed before the first is asked for."""
        return self.start(prompt, Options.of(**options))

    def start(
        self,
        prompt: Prompt,
        options: Options,
        on_answer: Callable[[Answer], None] | None = None,
    ) -> Stream:
        """As `stream`, with options that are made already; `on_answer` gets the whole answer."""
        prepare = partial(self.prepare, prompt, options.images, options.videos, raw=options.raw)
        making = Generation(self, prepare, options)
        return Stream(making.pieces(), making.cancel, on_answer)

    def chat(self, system: str | None = None, **defaults: Unpack[Keywords]) -> Chat:
        """A conversation (see `vlrt_runtime.conversation`); `defaults` are options of its answers.

        Raises:
            InputError: the model has no chat template, or an option cannot be used.
        """
        return Chat(self, system, defaults)

    def load_chat(self, path: str | os.PathLike[str], **defaults: Unpack[Keywords]) -> Chat:
        """A conversation that `Chat.save` wrote, with this or another model.

        Raises:
            InputError: the file cannot be read, or is none.
        """
        return Chat.load(self, path, defaults)

    @takes_options
    async def agenerate(self, prompt: Prompt, **options: Unpack[Keywords]) -> Answer:
        """As `generate`, for an event loop: in a thread. A cancelled task cancels the answer."""
        return await self.astream(prompt, **options).result()

    @takes_options
    def astream(self, prompt: Prompt, **options: Unpack[Keywords]) -> AsyncStream:
        """As `stream`, for an event loop: `async for piece in model.astream(...)`."""
        return AsyncStream(self.stream(prompt, **options))
