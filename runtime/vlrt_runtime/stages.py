"""The stages of an answer one by one: a package's graphs, and what goes between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrt_runtime.backends import Backend, Decoder
from vlrt_runtime.embedding import EmbeddingTable
from vlrt_runtime.errors import InputError
from vlrt_runtime.families import Layout, Picture
from vlrt_runtime.greedy import likeliest, penalize
from vlrt_runtime.manifest import Manifest, TensorSpec

__all__ = ["Outputs", "Pick", "Run", "Stages", "Watch", "unwatched"]

# What a run holds grows with rows times positions. Measured with 2 B parameters and 1276 positions,
# 256 at a time take 0.8 of the time of all at once, and 0.3 GB less.
PREFILL_ROWS = 256
EMBEDS = "image_embeds"  # the projector's output that takes the place of placeholders
Outputs = Mapping[str, NDArray[Any]]
Run = Callable[[dict[str, NDArray[Any]]], NDArray[Any]]  # a decoder's `run` or `next_ids`
Pick = Callable[[NDArray[np.float32]], int]  # an id of logits [vocab]
Watch = Callable[[int, int], None]  # hears what is done, of how much; may raise, to end it


def unwatched(done: int, total: int) -> None:
    """Nobody wants to know."""


class Stages:
    """What `Model` is made of, and `Generation` goes through.

    Attributes:
        manifest: of the package.
        backend: runs its graphs.
        embed: its token embedding table.
    """

    manifest: Manifest
    backend: Backend
    embed: EmbeddingTable

    def vision_encoder(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Pixels or patches to features."""
        return self.backend.graph("vision_encoder")(inputs)

    def projector(self, features: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Features to what the decoder takes."""
        return self.backend.graph("projector")(features)

    def encode(self, picture: Picture, watch: Watch = unwatched) -> dict[str, NDArray[Any]]:
        """The vision encoder's outputs for a picture; `watch` hears of runs before each."""
        if picture.runs == 1:
            watch(0, 1)
            return self.vision_encoder(picture.inputs)
        cut = {name: np.split(a, picture.runs, axis=1) for name, a in picture.inputs.items()}
        outputs: list[dict[str, NDArray[Any]]] = []
        for run in range(picture.runs):
            watch(run, picture.runs)
            outputs.append(self.vision_encoder({name: pieces[run] for name, pieces in cut.items()}))
        return {name: np.concatenate([o[name] for o in outputs], axis=1) for name in outputs[0]}

    def splice(
        self, layout: Layout, projected: Sequence[Outputs], start: int = 0
    ) -> NDArray[np.float32]:
        """The prompt's embeddings with rows of pictures in their slots, [1, s - start, hidden].

        From position `start` on; `projected` are of the pictures that have a place there.
        """
        slots = layout.slots[start:]
        # A slot's own id may have no row: some placeholders are no tokens of the model.
        embeds = self.embed(np.where(slots, 0, layout.token_ids[start:]))
        rows = [outputs[EMBEDS][0] for outputs in projected if EMBEDS in outputs]
        if rows:
            stacked, wanted = np.concatenate(rows), int(slots.sum())
            cut = len(stacked) - wanted  # of a picture that began before `start`
            if cut < 0 or (cut and not start):
                raise InputError(f"pictures: {len(stacked)} rows for {wanted} slots of the prompt")
            embeds[slots] = stacked[cut:]
        return embeds[None]

    def decoder(self, projected: Sequence[Outputs] = ()) -> Decoder:
        """A decoder with an empty cache."""
        return self.backend.decoder(self.static_inputs(projected))

    def static_inputs(self, projected: Sequence[Outputs]) -> dict[str, NDArray[Any]]:
        """What else of the projector's outputs the decoder takes: the same for all positions.

        All pictures end to end along the axis whose size is free, which is empty without pictures.
        """
        static: dict[str, NDArray[Any]] = {}
        for spec in self.static_specs:
            axis = next(i for i, size in enumerate(spec.shape) if isinstance(size, str))
            parts = [outputs[spec.name] for outputs in projected]
            empty = np.zeros([0 if isinstance(n, str) else n for n in spec.shape], spec.dtype)
            static[spec.name] = (
                parts[0] if len(parts) == 1 else np.concatenate([empty, *parts], axis)
            )
        return static

    @property
    def static_specs(self) -> list[TensorSpec]:
        """The decoder's inputs that the projector makes, but for rows that are spliced in."""
        graphs = self.manifest.graphs
        made = {spec.name for spec in graphs["projector"].outputs}
        return [spec for spec in graphs["decoder"].inputs if spec.name in made]

    def prefill(
        self,
        decoder: Decoder,
        layout: Layout,
        embeds: NDArray[np.float32],
        run: Run | None = None,
        watch: Watch = unwatched,
    ) -> NDArray[Any]:
        """Runs the prompt through the decoder, as many positions at a time as memory should bear.

        `embeds` are of the positions that the decoder does not hold yet. `watch` hears of positions
        before each run and at the end.

        Returns:
            Logits [1, vocab] of the last position, or what else `run` gives for it.
        """
        run = run or decoder.run
        rows, first = layout.prefill_rows or PREFILL_ROWS, decoder.length
        made = np.empty(0)
        for start in range(0, embeds.shape[1], rows):
            watch(first + start, first + embeds.shape[1])
            made = run(layout.inputs(embeds[:, start : start + rows], first + start))
        watch(decoder.length, decoder.length)
        return made

    def step(
        self, decoder: Decoder, layout: Layout, token: int, run: Run | None = None
    ) -> NDArray[Any]:
        """Runs one token of the answer through the decoder; the next one's logits [vocab].

        Or what else `run` gives for its position.
        """
        return (run or decoder.run)(self._answered(decoder, layout, [token]))[-1]

    def steps(self, decoder: Decoder, layout: Layout, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Runs several tokens of the answer at once; logits [n, vocab] behind each."""
        inputs = self._answered(decoder, layout, tokens)
        return decoder.run(inputs, num_logits=len(tokens))

    def _answered(
        self, decoder: Decoder, layout: Layout, tokens: Sequence[int]
    ) -> dict[str, NDArray[Any]]:
        ids = np.array(tokens, np.int64)
        rows = self.embed(ids)[None]
        inputs = layout.step(ids, rows, decoder.length)
        if decoder.looks_up and inputs["inputs_embeds"] is rows:  # as the table has them
            inputs = inputs | {"inputs_embeds": rows[:, :0], "token_ids": ids[None]}
        return inputs

    def choose(self, scores: Any, seen: Sequence[int], pick: Pick = likeliest) -> int:
        """The next token.

        Args:
            scores: logits [vocab], to which the checkpoint's penalty is applied, or an id that a
                decoder picked itself.
            seen: ids so far.
            pick: of those logits.
        """
        if np.ndim(scores) == 0:
            return int(scores)
        return pick(self.adjusted(scores, seen))

    def adjusted(self, logits: NDArray[np.float32], seen: Sequence[int]) -> NDArray[np.float32]:
        """Logits [vocab] under the checkpoint's penalty; the argument stays as it is."""
        penalty = self.manifest.generation.repetition_penalty
        if penalty != 1.0:
            penalize(logits := logits.copy(), seen, penalty)
        return logits
