"""One answer in the making: the stages in order, timed, and cancelled between any two."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlrt_runtime.answer import Answer, Clock, Timings
from vlrt_runtime.backends import Decoder
from vlrt_runtime.entities import placed
from vlrt_runtime.families import Layout, Picture
from vlrt_runtime.greedy import FinishReason, greedy
from vlrt_runtime.lookup import BARRIER, Lookahead
from vlrt_runtime.reuse import pictures_from, position_keys

if TYPE_CHECKING:
    from vlrt_runtime.model import Model

__all__ = ["Generation"]

Outputs = Mapping[str, NDArray[Any]]
AHEAD = 256  # positions of an answer that the cache has room for from the start


@dataclass
class Generation:
    """What an answer needs while it is made.

    Attributes:
        model: that answers.
        prepare: gives the prompt's layout and its pictures.
        max_new_tokens: ids to add at most.
        speculate: text that repeats is guessed and checked several ids at a time.
        cancelled: set from any thread to end the answer.
    """

    model: Model
    prepare: Callable[[], tuple[Layout, list[Picture]]]
    max_new_tokens: int
    speculate: bool = False
    cancelled: threading.Event = field(default_factory=threading.Event)
    _ahead: Lookahead | None = field(default=None, init=False)

    def pieces(self) -> Generator[str, None, Answer]:
        """Yields the text as it comes; returns the answer."""
        model, clock = self.model, Clock(Timings(load=self.model.load_ms))
        layout, pictures = self.prepare()
        keys = position_keys(layout, pictures)
        prompt_ids: list[int] = layout.token_ids.tolist()
        clock.lap("preprocess")
        token_ids: list[int] = []
        reason: FinishReason = "cancelled"
        # Llama 3.2's positions look at all pictures, those that come later too: where the decoder
        # takes more of them than rows, a beginning is alike only with the same pictures.
        scope = tuple(picture.digest for picture in pictures) if model.static_specs else None
        begun = model.prefixes.find(keys, scope)
        start = 0 if begun is None else begun.length
        # What the decoder takes of a picture beside its rows, it takes of all pictures.
        needed = pictures if model.static_specs else pictures_from(layout, pictures, start)
        projected = self._projected(needed, clock)
        if projected is not None:
            embeds = model.splice(layout, projected, start)
            static = model.static_inputs(projected)
            clock.lap("project")
            decoder = model.backend.decoder(static) if begun is None else begun.decoder(static)
            del projected, static  # hundreds of megabytes, and no step looks at them again
            ids = self._ids(decoder, layout, embeds, clock)
            reason = yield from model.family.stream(model.codec, prompt_ids, ids, token_ids)
            model.prefixes.put([*keys, *token_ids], decoder, scope)
        clock.timings.total = clock.timings.total or clock.since_start()
        text, found = model.family.read(model.codec, prompt_ids, token_ids)
        return Answer(
            text,
            token_ids,
            reason,
            len(prompt_ids),
            sum(picture.tokens for picture in pictures),
            clock.timings,
            placed(found, [picture.size for picture in pictures]),
            cached_tokens=start,
            drafted_tokens=self._ahead.drafted if self._ahead else 0,
            accepted_tokens=self._ahead.accepted if self._ahead else 0,
        )

    def _projected(self, pictures: Sequence[Picture], clock: Clock) -> list[Outputs] | None:
        """The projector's outputs for each picture, computed where they are not known.

        None where the answer was cancelled meanwhile.
        """
        model, store = self.model, self.model.features
        known = {p.digest: p.projected or store.get(p.digest) for p in pictures}
        encoded: dict[str, Outputs] = {}
        for picture in pictures:
            if self.cancelled.is_set():
                return None
            if known[picture.digest] is None and picture.digest not in encoded:
                encoded[picture.digest] = model.encode(picture)
        if not model.keep_encoder:
            model.backend.release("vision_encoder")
        clock.lap("encode")
        for digest, features in encoded.items():
            if self.cancelled.is_set():
                return None
            known[digest] = projected = model.projector(features)
            store.put(digest, projected)
        return None if self.cancelled.is_set() else [known[p.digest] or {} for p in pictures]

    def _ids(
        self, decoder: Decoder, layout: Layout, embeds: NDArray[np.float32], clock: Clock
    ) -> Generator[int, None, FinishReason]:
        """Prefill, then the greedy loop."""
        model, settings = self.model, self.model.manifest.generation
        length = len(layout.token_ids)
        limit = min(self.max_new_tokens, settings.max_context - length)
        decoder.reserve(length + min(limit, AHEAD))
        # Penalty and speculation look at all logits; else ids are enough, and may be all that is
        # copied.
        whole = self.speculate or settings.repetition_penalty != 1.0
        run = decoder.run if whole else decoder.next_ids
        scores = model.prefill(decoder, layout, embeds, run)[-1]
        clock.lap("prefill")
        seen: list[int] = layout.token_ids.tolist()

        def choose(scores: Any) -> int:
            seen.append(token := model.choose(scores, seen))
            clock.token()
            return token

        step = partial(model.step, decoder, layout, run=run)
        if self.speculate:
            nowhere = layout.slots | np.isin(layout.token_ids, settings.stop_ids)
            self._ahead = Lookahead(
                decoder,
                np.where(nowhere, BARRIER, layout.token_ids).tolist(),
                step=step,
                run=partial(model.steps, decoder, layout),
                end=length + limit - 1,  # the last id is chosen and not run
                adjust=lambda logits: model.adjusted(logits, seen),
            )
            step = self._ahead.step
        reason = yield from greedy(
            scores,
            step,
            stop_ids=settings.stop_ids,
            max_new_tokens=limit,
            choose=choose,
            cancelled=self.cancelled.is_set,
        )
        if self._ahead:
            self._ahead.forget()  # what was guessed is no part of the answer
        return reason
