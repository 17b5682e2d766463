"""The decoder at work on one sequence: a KV cache updated in place, and one step at a time.

All names, dtypes and shapes come from the graph. Past and present are one buffer through I/O
binding, and logits are written into an array of ours: nothing is ever fetched, since copying the
cache back would cost as much as the step itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrt_runtime.session import DTYPES, Session, ort, run_options

__all__ = ["OnnxDecoder"]

Array = NDArray[Any]

PAST, PRESENT = "past_key_values.", "present."
LENGTH_AXIS = 2  # of [1, kv_heads, max_length, head_dim]
SMALLEST = 256  # positions in a new cache


class OnnxDecoder:
    """One sequence. Make one per answer: the session is shared, the cache is not.

    Args:
        session: of decoder.onnx.
        static: inputs that stay the same over the whole sequence.

    Attributes:
        length: positions in the cache.
    """

    looks_up = False

    def __init__(self, session: Session, static: Mapping[str, Array] | None = None) -> None:
        self.length = 0
        self._session = session
        self._binding: Any = session.io_binding()
        self._inputs: dict[str, tuple[Array, Any]] = {}
        specs: dict[str, Any] = {value.name: value for value in session.get_inputs()}
        self._cache: dict[str, Array] = {}
        self._cache_specs = {
            name: (DTYPES[spec.type], spec.shape)
            for name, spec in specs.items()
            if name.startswith(PAST)
        }
        self._capacity = 0
        logits: Any = next(v for v in session.get_outputs() if v.name == "logits")
        self._vocab_size = int(logits.shape[-1])
        self._logits: Array | None = None
        for name, array in (static or {}).items():
            # Not copied: these may be large, and nothing is ever written into them.
            held = np.ascontiguousarray(array)
            value = ort.OrtValue.ortvalue_from_numpy(held)
            self._inputs[name] = (held, value)
            self._binding.bind_ortvalue_input(name, value)

    def run(self, inputs: Mapping[str, Array], *, num_logits: int = 1) -> NDArray[np.float32]:
        """Adds positions to the sequence.

        Args:
            inputs: inputs_embeds [1, s, hidden] and whatever else the graph takes per position.
            num_logits: how many of the last positions to score, 1 to s.

        Returns:
            Logits float32 [num_logits, vocab]. The array is used again by the next call.
        """
        count = inputs["inputs_embeds"].shape[1]
        if not 1 <= num_logits <= count:
            raise ValueError(f"num_logits {num_logits}: expected 1 to {count}")
        total = self.length + count
        self.reserve(total)
        for name, array in inputs.items():
            self._bind_input(name, array)
        self._bind_input("num_logits", np.array([num_logits], np.int64))
        self._bind_input("total_sequence_length", np.array([total], np.int32))
        logits = self._bind_logits(num_logits)
        with run_options() as options:
            self._session.run_with_iobinding(self._binding, options)
        self.length = total
        return logits

    def next_ids(self, inputs: Mapping[str, Array], *, count: int = 1) -> NDArray[np.int64]:
        """As `run`, but the ids int64 [count] of the largest logits; the first maximum wins."""
        return np.argmax(self.run(inputs, num_logits=count), axis=-1)

    def reserve(self, positions: int) -> None:
        """Makes room for so many positions; grows by doubling, so that copies stay rare."""
        if positions <= self._capacity:
            return
        self._capacity = max(positions, 2 * self._capacity, SMALLEST)
        for name, (dtype, shape) in self._cache_specs.items():
            # The tail may hold anything: it is never read.
            grown = np.empty((*shape[:LENGTH_AXIS], self._capacity, shape[-1]), dtype)
            if self.length:
                grown[:, :, : self.length] = self._cache[name][:, :, : self.length]
            self._cache[name] = grown
            value = ort.OrtValue.ortvalue_from_numpy(grown)
            self._binding.bind_ortvalue_input(name, value)
            self._binding.bind_ortvalue_output(PRESENT + name.removeprefix(PAST), value)

    @property
    def nbytes(self) -> int:
        """Memory of the cache."""
        return sum(array.nbytes for array in self._cache.values())

    def rewind(self, length: int) -> None:
        """Forgets all positions behind the first `length`: they are written over."""
        if not 0 <= length <= self.length:
            raise ValueError(f"length {length}: expected 0 to {self.length}")
        self.length = length

    def fork(self, length: int, static: Mapping[str, Array] | None = None) -> OnnxDecoder:
        """Another sequence that begins with the first `length` positions of this one."""
        if not 0 <= length <= self.length:
            raise ValueError(f"length {length}: expected 0 to {self.length}")
        other = OnnxDecoder(self._session, static)
        other.reserve(length)
        for name, array in self._cache.items():
            other._cache[name][:, :, :length] = array[:, :, :length]
        other.length = length
        return other

    def _bind_input(self, name: str, array: Array) -> None:
        """Hands an input over: into the buffer of the last call where it fits, else a new one."""
        bound = self._inputs.get(name)
        if bound is not None and bound[0].shape == array.shape:
            np.copyto(bound[0], array)
            return
        buffer = np.array(array, order="C")  # ours: a bound value does not keep its memory alive
        value = ort.OrtValue.ortvalue_from_numpy(buffer)
        self._inputs[name] = (buffer, value)
        self._binding.bind_ortvalue_input(name, value)

    def _bind_logits(self, count: int) -> NDArray[np.float32]:
        if self._logits is None or len(self._logits) != count:
            self._logits = np.empty((count, self._vocab_size), np.float32)
            self._binding.bind_output(
                "logits", "cpu", 0, np.float32, (1, *self._logits.shape), self._logits.ctypes.data
            )
        return self._logits
