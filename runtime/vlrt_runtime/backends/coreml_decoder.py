"""The decoder of a Core ML package on one sequence: static programs that share a cache each.

Prompts go through `prefill` block by block, the last one padded, and what is to be scored goes
through `decode` position by position: a padded block's last row is no position of the prompt, so
`prefill` has no language head. What padding wrote into the cache is hidden by the mask until the
next positions take its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlrt_runtime.errors import ContextLengthError, InputError, PackageError
from vlrt_runtime.manifest import CoreMLSpec, TensorSpec
from vlrt_runtime.mil.types import NUMPY, Array

if TYPE_CHECKING:
    from vlrt_runtime.backends.coreml import Program

__all__ = ["CoreMLDecoder", "program_name"]

DECODE, PREFILL = "decode", "prefill"
EMBEDS, LOGITS = "inputs_embeds", "logits"
HIDDEN, HIDDEN_OUT = "hidden", "hidden_out"  # between programs: a name is unique within one
SEQUENCE = "sequence"  # the free size of what has a row a position


class CoreMLDecoder:
    """See `vlrt_runtime.backends.Decoder`.

    Args:
        programs: of the decoder, in order.
        spec: how they are called.
        inputs: the decoder's inputs as graphs have them, with free sizes.
        static: inputs that stay the same over the whole sequence.
    """

    looks_up = False

    def __init__(
        self,
        programs: Sequence[Program],
        spec: CoreMLSpec,
        inputs: Sequence[TensorSpec],
        static: Mapping[str, Array],
    ) -> None:
        self.length = 0
        self._programs, self._spec, self._static = programs, spec, static
        self._axes = {
            tensor.name: tensor.shape.index(SEQUENCE)
            for tensor in inputs
            if SEQUENCE in tensor.shape
        }
        self._inputs = tuple(inputs)
        self._padding = {program_name(name): value for name, value in spec.padding.items()}
        self._states = [program.make_state(DECODE) for program in programs]
        self._fixed = [self._static_feed(program) for program in programs]

    def run(self, inputs: Mapping[str, Array], *, num_logits: int = 1) -> NDArray[np.float32]:
        """Adds positions to the sequence.

        Args:
            inputs: inputs_embeds [1, s, hidden] and whatever else the graph takes per position.
            num_logits: how many of the last positions to score, 1 to s.

        Returns:
            Logits float32 [num_logits, vocab].

        Raises:
            ContextLengthError: the cache has no room for them.
        """
        count = inputs[EMBEDS].shape[1]
        if not 1 <= num_logits <= count:
            raise ValueError(f"num_logits {num_logits}: expected 1 to {count}")
        self.reserve(self.length + count)
        rows, scored, start = self._spec.prefill_rows, count - num_logits, 0
        while start < scored:
            # A whole block would reach over the end of the cache: position by position, then.
            block = rows if self.length + rows <= self._spec.max_length else 1
            taken = min(block, scored - start)
            self._call(PREFILL if block > 1 else DECODE, inputs, start, taken, block)
            start += taken
        logits = [self._call(DECODE, inputs, at, 1, 1) for at in range(scored, count)]
        return np.stack([_joined(outputs) for outputs in logits])

    def next_ids(self, inputs: Mapping[str, Array], *, count: int = 1) -> NDArray[np.int64]:
        """As `run`, but the ids int64 [count] of the largest logits; the first maximum wins."""
        return np.argmax(self.run(inputs, num_logits=count), axis=-1)

    @property
    def nbytes(self) -> int:
        """Memory of the caches as the programs declare them."""
        states = [s for program in self._programs for s in program.functions[DECODE].states]
        sizes = [np.prod([n or 0 for n in s.shape]) * NUMPY[s.dtype].itemsize for s in states]
        return int(sum(sizes))

    def reserve(self, positions: int) -> None:
        """Refuses what the cache, whose size is fixed, has no room for."""
        if positions > self._spec.max_length:
            raise ContextLengthError(
                f"{positions} positions: the package holds {self._spec.max_length}; "
                "shorten the prompt, or export it with a larger context"
            )

    def rewind(self, length: int) -> None:
        """Forgets all positions behind the first `length`: they are written over."""
        if not 0 <= length <= self.length:
            raise ValueError(f"length {length}: expected 0 to {self.length}")
        self.length = length

    def fork(self, length: int, static: Mapping[str, Array]) -> CoreMLDecoder:
        """Another sequence that begins with the first `length` positions of this one."""
        if not 0 <= length <= self.length:
            raise ValueError(f"length {length}: expected 0 to {self.length}")
        other = CoreMLDecoder(self._programs, self._spec, self._inputs, static)
        pairs = zip(self._programs, self._states, strict=True)
        other._states = [program.copy_state(state) for program, state in pairs]
        other.length = length
        return other

    def _call(
        self, function: str, inputs: Mapping[str, Array], start: int, count: int, rows: int
    ) -> dict[str, Array]:
        """Runs `count` positions, padded to `rows`, through all programs; outputs of the last."""
        seen = np.arange(self._spec.max_length) <= self.length + np.arange(rows)[:, None]
        mask = np.where(seen, np.float32(0), np.float32(self._spec.mask_value))
        given: dict[str, Array] = {
            program_name(name): array.take(range(start, start + count), self._axes[name])
            for name, array in inputs.items()
        }
        given |= {"mask": mask[None, None], "position": np.array([self.length], np.int32)}
        outputs: dict[str, Array] = {}
        each = zip(self._programs, self._states, self._fixed, strict=True)
        for program, state, fixed in each:
            if HIDDEN_OUT in outputs:
                given[HIDDEN] = outputs[HIDDEN_OUT]
            feed = {
                spec.name: self._fitted(given, spec)
                for spec in program.functions[function].inputs
                if spec.name not in fixed
            }
            outputs = program.predict({**fixed, **feed}, function=function, state=state)
        self.length += count
        return outputs

    def _static_feed(self, program: Program) -> dict[str, Array]:
        """Static inputs of a program, padded once for all of its calls."""
        there = any(array.size for array in self._static.values())
        given = {program_name(name): array for name, array in self._static.items()}
        given["has_pictures"] = np.array([there], np.float32)
        declared = program.functions[DECODE].inputs
        return {spec.name: self._fitted(given, spec) for spec in declared if spec.name in given}

    def _fitted(self, given: Mapping[str, Array], spec: Any) -> Array:
        """An input in its declared shape: filled up behind, along any axis that is too short."""
        if spec.name not in given:
            raise PackageError(
                f"input {spec.name!r} of the decoder: expected one of {', '.join(given)}; "
                "export the package again"
            )
        array, filling = given[spec.name], self._padding.get(spec.name)
        if filling is not None:
            array = np.maximum(array, np.float32(self._spec.mask_value))
        more = len(spec.shape) - array.ndim  # axes of size 1 in front
        array = array.reshape([*[1] * more, *array.shape[max(-more, 0) :]])
        short = [size - have for size, have in zip(spec.shape, array.shape, strict=True)]
        if min(short, default=0) < 0:
            raise InputError(
                f"{spec.name}: the package was exported for {list(spec.shape)}, "
                f"got {list(array.shape)}; give fewer pictures"
            )
        if any(short):
            array = np.pad(array, [(0, n) for n in short], constant_values=filling or 0)
        return array


def program_name(name: str) -> str:
    """A name of a graph's input or output as programs have it: theirs have no dots."""
    return name.replace(".", "_")


def _joined(outputs: Mapping[str, Array]) -> NDArray[np.float32]:
    """One row of logits, whose head may be split into parts."""
    parts = {name: array for name, array in outputs.items() if name.startswith(LOGITS)}
    order = sorted(parts, key=lambda name: int(name.rpartition("_")[2] if "_" in name else 0))
    return np.concatenate([parts[name].reshape(-1) for name in order]).astype(np.float32)
