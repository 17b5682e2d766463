"""What a model holds in memory: given back when it is told to, when it is idle, or to a budget."""

from __future__ import annotations

import sys
import threading
import time
import weakref
from dataclasses import dataclass

from vlrt_runtime.errors import InputError
from vlrt_runtime.manifest import Manifest
from vlrt_runtime.memory import give_back, private
from vlrt_runtime.prompts import Prompts
from vlrt_runtime.reuse import PrefixStore
from vlrt_runtime.turns import Turns

__all__ = ["Budget", "Upkeep"]


@dataclass(frozen=True)
class Budget:
    """What may be held beside the weights.

    Attributes:
        total: bytes in all; None where there is no limit.
        images: bytes for features of pictures.
        prefixes: bytes for keys and values.
    """

    total: int | None
    images: int
    prefixes: int

    @classmethod
    def of(
        cls, manifest: Manifest, memory_mb: int | None, images_mb: int, prefixes_mb: int
    ) -> Budget:
        """Of `Model`'s options; what is left beside the weights is shared, pictures get a quarter.

        Raises:
            InputError: the weights alone take more.
        """
        images, prefixes = images_mb << 20, prefixes_mb << 20
        if memory_mb is None:
            return cls(None, images, prefixes)
        encoder = manifest.graphs["vision_encoder"].file
        others = ("tokenizer.json", "chat_template.jinja", manifest.embedding.file)
        sizes = {name: entry.size for name, entry in manifest.files.items() if name not in others}
        needed = sum(sizes.values()) >> 20
        if memory_mb <= needed:
            kept = sum(size for name, size in sizes.items() if not name.startswith(encoder))
            raise InputError(
                f"memory_mb {memory_mb}: the weights take {needed} while a picture is encoded, "
                f"{kept >> 20} afterwards; give more, or export the package at a lower precision"
            )
        room = (memory_mb << 20) - sum(sizes.values())
        return cls(memory_mb << 20, min(images, room // 4), min(prefixes, room - room // 4))


class Upkeep(Prompts):
    """The part of `Model` that opens graphs, and gives them back.

    Attributes:
        prefixes: keys and values of earlier prompts.
        turns: of its answers.
        budget: of its memory.
        keep_encoder: the vision encoder stays when pictures are encoded.
        epoch: how often everything was given back: what an earlier one made is not kept.
    """

    prefixes: PrefixStore
    turns: Turns
    budget: Budget
    keep_encoder: bool
    load_ms: float
    epoch: int = 0

    def __init__(self, *, eager: bool, idle_unload_s: float | None) -> None:
        super().__init__()
        if idle_unload_s is not None and not idle_unload_s > 0:
            raise InputError(f"idle_unload_s {idle_unload_s}: expected seconds above 0")
        self._eager, self._idle_s = eager, idle_unload_s
        self._opening = threading.Lock()
        self._watched = False  # a timer waits for the model to be idle

    @property
    def loaded(self) -> bool:
        """Graphs are open. An answer opens them where they are not."""
        return self.backend.loaded

    def open(self) -> None:
        """Opens the graphs, where they are to be opened all at once and are not."""
        with self._opening:
            if self._eager and not self.backend.loaded:
                started = time.perf_counter()
                self.backend.load()
                self.load_ms = (time.perf_counter() - started) * 1e3
            if self._idle_s is not None and not self._watched:
                self._watched = True
                _watch(weakref.ref(self), self._idle_s)

    def unload(self) -> None:
        """Gives back what can be opened again: graphs, caches, the tokenizer.

        From any thread, and at once back: where answers are being computed it takes effect after
        them. The next answer opens the model again, and takes as long as the first.
        """
        self.turns.when_free(self._unload)

    def release_encoder(self) -> None:
        """Gives the vision encoder back, where it is not to stay."""
        if not self.keep_encoder:
            self.backend.release("vision_encoder")
            give_back()

    def trim(self) -> None:
        """Empties the caches where this process holds more than the budget."""
        if self.budget.total is None or (private() or 0) <= self.budget.total:
            return
        self.features.clear()
        self.prefixes.clear()
        give_back()

    def __del__(self) -> None:
        # A model that is dropped gives all back as well; one that failed to open has nothing.
        if hasattr(self, "turns") and not sys.is_finalizing():
            self._unload()

    def _unload(self) -> None:
        self.epoch += 1
        for name in self.manifest.graphs:
            self.backend.release(name)
        self.features.clear()
        self.prefixes.clear()
        self.forget()
        give_back()

    def _idle(self) -> float | None:
        """Unloads where nobody asked for long enough; else seconds until it may be so."""
        left = (self._idle_s or 0.0) - self.turns.idle_for()
        if left > 0:
            return left
        with self._opening:
            self._watched = False
        self.unload()
        return None


def _watch(model: weakref.ref[Upkeep], seconds: float) -> None:
    """Looks again after so many seconds; a model that is gone needs nothing any more."""
    timer = threading.Timer(seconds, _look, (model,))
    timer.daemon = True
    timer.start()


def _look(reference: weakref.ref[Upkeep]) -> None:
    model = reference()
    left = None if model is None else model._idle()  # pyright: ignore[reportPrivateUsage]
    del model
    if left is not None:
        _watch(reference, left)
