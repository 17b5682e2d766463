"""One answer in the making: the stages in order, timed, and cancelled at any moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlrt_runtime.answer import Answer, Clock, Timings
from vlrt_runtime.backends import Decoder
from vlrt_runtime.entities import placed
from vlrt_runtime.families import Layout, Picture
from vlrt_runtime.greedy import FinishReason, greedy, likeliest
from vlrt_runtime.halt import Halt, Halted
from vlrt_runtime.lookup import BARRIER, Lookahead
from vlrt_runtime.options import Options, Progress, Stage
from vlrt_runtime.reuse import pictures_from, position_keys
from vlrt_runtime.sampling import Sampler
from vlrt_runtime.schema import Constraint, FastForward, compile_schema
from vlrt_runtime.stages import Pick, Run, Watch
from vlrt_runtime.text import stream_until

if TYPE_CHECKING:
    from vlrt_runtime.model import Model

__all__ = ["Generation"]

Outputs = Mapping[str, NDArray[Any]]
AHEAD = 256  # positions of an answer that the cache has room for from the start


class Generation:
    """What an answer needs while it is made.

    Args:
        model: that answers.
        prepare: gives the prompt's layout and its pictures; takes a `watch`.
        options: what was asked for.
    """

    def __init__(
        self,
        model: Model,
        prepare: Callable[..., tuple[Layout, list[Picture]]],
        options: Options,
    ) -> None:
        self.model, self.options = model, options
        self._prepare = prepare
        self._halt = Halt()
        self._turn = model.turns.turn()
        self._clock = Clock(Timings(load=model.load_ms))
        self._pictures: list[Picture] = []
        self._prompt_ids: list[int] = []
        self._token_ids: list[int] = []
        self._said: list[str] = []  # the text so far, where it may end before the ids do
        self._start = 0  # positions of the prompt that were kept
        self._ahead: Lookahead | None = None
        # Looked at now: who asks is to know at once.
        self._grammar = None if options.schema is None else compile_schema(options.schema)
        self._constraint: Constraint | None = None

    def cancel(self) -> None:
        """Ends the answer; from any thread."""
        self._halt.set()
        self.model.turns.wake()

    def pieces(self) -> Generator[str, None, Answer]:
        """Yields the text as it comes, when it is the answer's turn; returns the answer."""
        asked, making = time.perf_counter(), self._pieces()
        try:
            while True:
                self._turn.take(self._halt.is_set, partial(self._tell, "queued"))
                if asked:
                    queued, asked = (time.perf_counter() - asked) * 1e3, 0.0
                    self._clock = Clock(Timings(load=self.model.load_ms, queued=queued))
                try:
                    piece = next(making)
                except StopIteration as end:
                    return end.value
                self._turn.rest()
                yield piece
        finally:
            making.close()
            self._turn.end()

    def _pieces(self) -> Generator[str, None, Answer]:
        """The stages one after the other."""
        model, said = self.model, self._said
        reason: FinishReason = "cancelled"
        with suppress(Halted):
            self._halt.check()  # while it waited
            model.open()
            epoch = model.epoch
            self._clock = Clock(replace(self._clock.timings, load=model.load_ms))
            layout, self._pictures = self._prepare(watch=self._watch("preprocess"))
            self._prompt_ids = layout.token_ids.tolist()
            if self._grammar is not None:
                stop_ids = model.manifest.generation.stop_ids
                self._constraint = Constraint(model.guide, self._grammar, stop_ids)
            keys = position_keys(layout, self._pictures)
            self._clock.lap("preprocess")
            # Llama 3.2's positions look at all pictures, those that come later too: where the
            # decoder takes more of them than rows, a beginning is alike only with the same ones.
            scope = tuple(p.digest for p in self._pictures) if model.static_specs else None
            with self._halt.over():
                decoder, embeds = self._begun(layout, keys, scope)
            ids = self._ids(decoder, layout, embeds)
            text = model.family.stream(model.codec, self._prompt_ids, ids, self._token_ids)
            if self.options.stop:
                given = len(model.family.read(model.codec, self._prompt_ids, [])[0])
                text = stream_until(text, self.options.stop, said, given)
            with suppress(Halted):
                reason = yield from text
            if model.epoch == epoch:  # it would keep graphs that were given back
                model.prefixes.put([*keys, *self._token_ids], decoder, scope)
            model.trim()
        return self._answer(reason)

    def _answer(self, reason: FinishReason) -> Answer:
        model, timings = self.model, self._clock.timings
        timings.total = timings.total or self._clock.since_start()
        text, found = "", ()
        if self._prompt_ids:
            text, found = model.family.read(model.codec, self._prompt_ids, self._token_ids)
        if self.options.stop:  # it may end before its ids do
            text = "".join(self._said)
            found = [entity for entity in found if entity.span[1] <= len(text)]
        return Answer(
            text,
            self._token_ids,
            reason,
            len(self._prompt_ids),
            sum(picture.tokens for picture in self._pictures),
            timings,
            placed(found, [picture.size for picture in self._pictures]),
            cached_tokens=self._start,
            drafted_tokens=self._ahead.drafted if self._ahead else 0,
            accepted_tokens=self._ahead.accepted if self._ahead else 0,
            constraint_ms=self._constraint_ms(),
        )

    def _constraint_ms(self) -> float | None:
        if self._constraint is None:
            return None
        return 1e3 * self._constraint.seconds / max(len(self._token_ids), 1)

    def _begun(
        self, layout: Layout, keys: Sequence[Hashable], scope: Hashable
    ) -> tuple[Decoder, NDArray[np.float32]]:
        """A decoder with what of the prompt is kept, and the embeddings of the rest."""
        model = self.model
        begun = model.prefixes.find(keys, scope)
        self._start = start = 0 if begun is None else begun.length
        # What the decoder takes of a picture beside its rows, it takes of all pictures.
        pictures = self._pictures
        needed = pictures if model.static_specs else pictures_from(layout, pictures, start)
        projected = self._projected(needed)
        embeds = model.splice(layout, projected, start)
        static = model.static_inputs(projected)
        self._clock.lap("project")
        return model.backend.decoder(static) if begun is None else begun.decoder(static), embeds

    def _projected(self, pictures: Sequence[Picture]) -> list[Outputs]:
        """The projector's outputs for each picture, computed where they are not known."""
        model, store = self.model, self.model.features
        known = {p.digest: p.projected or store.get(p.digest) for p in pictures}
        unknown = {p.digest: p for p in pictures if known[p.digest] is None}
        total, done = sum(picture.runs for picture in unknown.values()), 0
        watch, encoded = self._watch("encode"), dict[str, Outputs]()
        for digest, picture in unknown.items():
            encoded[digest] = model.encode(picture, partial(_shifted, watch, done, total))
            done += picture.runs
        model.release_encoder()
        if total:
            watch(total, total)
        self._clock.lap("encode")
        watch = self._watch("project")
        for number, (digest, features) in enumerate(encoded.items()):
            watch(number, len(encoded))
            known[digest] = projected = model.projector(features)
            store.put(digest, projected)
        if encoded:
            watch(len(encoded), len(encoded))
        return [known[picture.digest] or {} for picture in pictures]

    def _ids(
        self, decoder: Decoder, layout: Layout, embeds: NDArray[np.float32]
    ) -> Generator[int, None, FinishReason]:
        """Prefill, then the greedy loop."""
        model, settings, options = self.model, self.model.manifest.generation, self.options
        length = len(layout.token_ids)
        limit = min(options.max_new_tokens, settings.max_context - length)
        decoder.reserve(length + min(limit, AHEAD))
        # Whatever looks at logits wants them all; else ids are enough, and may be all that is
        # copied.
        looks = not options.greedy or options.speculate or self._constraint is not None
        whole = looks or settings.repetition_penalty != 1.0
        run = decoder.run if whole else decoder.next_ids
        with self._halt.over():
            scores = model.prefill(decoder, layout, embeds, run, self._watch("prefill"))[-1]
        self._clock.lap("prefill")
        seen: list[int] = layout.token_ids.tolist()
        pick = self._pick()

        def choose(scores: Any) -> int:
            seen.append(token := model.choose(scores, seen, pick))
            self._clock.token()
            self._tell("decode", len(seen) - length, limit)
            return token

        try:
            return (
                yield from greedy(
                    scores,
                    self._step(decoder, layout, run, limit, seen),
                    stop_ids=settings.stop_ids,
                    max_new_tokens=limit,
                    choose=choose,
                    cancelled=self._halt.is_set,
                )
            )
        finally:
            if self._ahead:
                self._ahead.forget()  # what was guessed is no part of the answer
            # Nor are ids that were run at once, where the answer was cut among them.
            decoder.rewind(min(decoder.length, length + len(self._token_ids)))

    def _pick(self) -> Pick:
        """What takes the next id of logits."""
        sampling, constraint = self.options.sampling, self._constraint
        pick = likeliest if sampling is None or sampling.greedy else Sampler(sampling)
        return pick if constraint is None else partial(constraint.pick, pick=pick)

    def _step(
        self, decoder: Decoder, layout: Layout, run: Run, limit: int, seen: list[int]
    ) -> Callable[[int], Any]:
        """What runs an id, or several at once where the next ones are known or guessed."""
        model = self.model
        step = partial(model.step, decoder, layout, run=run)
        several = partial(model.steps, decoder, layout)
        if self._constraint is not None:
            return FastForward(self._constraint, step=step, run=several, limit=limit).step
        if not self.options.speculate:
            return step
        nowhere = layout.slots | np.isin(layout.token_ids, model.manifest.generation.stop_ids)
        self._ahead = Lookahead(
            decoder,
            np.where(nowhere, BARRIER, layout.token_ids).tolist(),
            step=step,
            run=several,
            end=len(seen) + limit - 1,  # the last id is chosen and not run
            adjust=lambda logits: model.adjusted(logits, seen),
        )
        return self._ahead.step

    def _tell(self, stage: Stage, done: int, total: int) -> None:
        if self.options.on_progress is not None:
            self.options.on_progress(Progress(stage, done, total))

    def _watch(self, stage: Stage) -> Watch:
        """Tells of a stage, and ends it where the answer was cancelled."""

        def watch(done: int, total: int) -> None:
            self._tell(stage, done, total)
            self._halt.check()

        return watch


def _shifted(watch: Watch, first: int, total: int, done: int, _: int) -> None:
    watch(first + done, total)
