"""The decoder at work on one sequence, with everything it looks at on the device.

For graphs that look up rows of ids and pick the next id themselves (`--device cuda`): keys, values
and logits never leave the device, and a step brings back one id. It runs on any device that
onnxruntime has values for, the CPU among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrt_runtime.backends.onnx_decoder import LENGTH_AXIS, PAST, PRESENT, SMALLEST
from vlrt_runtime.session import DTYPES, Session, as_dtype, ort, run_options

__all__ = ["DeviceDecoder"]

Array = NDArray[Any]

ON_HOST = ("num_logits", "total_sequence_length")  # sizes: kernels read them before they start


class DeviceDecoder:
    """See `vlrt_runtime.backends.Decoder`.

    Args:
        session: of decoder.onnx.
        device: where its values are to lie, as onnxruntime names it.
        static: inputs that stay the same over the whole sequence.
    """

    looks_up = True

    def __init__(self, session: Session, device: str, static: Mapping[str, Array]) -> None:
        self.length = 0
        self._session, self._device = session, device
        self._binding: Any = session.io_binding()
        specs = [*session.get_inputs(), *session.get_outputs()]
        self._shapes: dict[str, Any] = {spec.name: spec.shape for spec in specs}
        self._dtypes: dict[str, Any] = {spec.name: DTYPES[spec.type] for spec in specs}
        self._cache: dict[str, Any] = {name: None for name in self._shapes if name.startswith(PAST)}
        self._capacity = 0
        self._inputs: dict[str, Any] = {}
        self._outputs: dict[str, Any] = {}
        self._last: int | None = None  # the id in the output `next_ids`, where there is one
        for name, array in static.items():
            self._bind(name, array)

    def run(self, inputs: Mapping[str, Array], *, num_logits: int = 1) -> NDArray[np.float32]:
        """Adds positions; logits float32 [num_logits, vocab] of the last ones, 1 to all.

        Args:
            inputs: inputs_embeds [1, s, hidden], token_ids int64 [1, t] behind them (either may be
                empty), and whatever else the graph takes per position.
            num_logits: how many of the last positions to score.
        """
        self._advance(inputs, num_logits)
        return np.array(self._outputs["logits"].numpy()[0], np.float32)

    def next_ids(self, inputs: Mapping[str, Array], *, count: int = 1) -> NDArray[np.int64]:
        """As `run`, but the ids int64 [count] of the largest logits: all that is copied."""
        self._advance(inputs, count)
        ids = np.array(self._outputs["next_ids"].numpy()[0])
        self._last = int(ids[0]) if count == 1 else None
        return ids

    def reserve(self, positions: int) -> None:
        """Makes room for so many positions; grows by doubling, so that copies stay rare."""
        if positions <= self._capacity:
            return
        self._capacity = max(positions, 2 * self._capacity, SMALLEST)
        held = {name: value.numpy() for name, value in self._cache.items() if self.length}
        self._fill(held, self.length)

    @property
    def nbytes(self) -> int:
        """Memory of the cache."""
        sizes = (np.dtype(self._dtypes[name]).itemsize for name in self._cache)
        shapes = (value.shape() if value else (0,) for value in self._cache.values())
        return sum(size * int(np.prod(shape)) for size, shape in zip(sizes, shapes, strict=True))

    def rewind(self, length: int) -> None:
        """Forgets all positions behind the first `length`: they are written over."""
        if not 0 <= length <= self.length:
            raise ValueError(f"length {length}: expected 0 to {self.length}")
        self.length = length

    def fork(self, length: int, static: Mapping[str, Array]) -> DeviceDecoder:
        """Another sequence that begins with the first `length` positions of this one."""
        if not 0 <= length <= self.length:
            raise ValueError(f"length {length}: expected 0 to {self.length}")
        other = DeviceDecoder(self._session, self._device, static)
        other._capacity, other.length = max(length, SMALLEST), length
        held = {name: value.numpy() for name, value in self._cache.items() if length}
        other._fill(held, length)
        return other

    def _fill(self, held: Mapping[str, Array], length: int) -> None:
        """New buffers that begin with `length` positions of `held`.

        They go by way of the host, since onnxruntime copies no part of a value on the device; and
        they begin as zeros, since some kernels multiply what lies behind the last position by zero.
        """
        for name in self._cache:
            shape = self._shapes[name]
            array = np.zeros((*shape[:LENGTH_AXIS], self._capacity, shape[-1]), self._dtypes[name])
            if length:
                array[:, :, :length] = held[name][:, :, :length]
            self._cache[name] = value = ort.OrtValue.ortvalue_from_numpy(array, self._device, 0)
            self._binding.bind_ortvalue_input(name, value)
            self._binding.bind_ortvalue_output(PRESENT + name.removeprefix(PAST), value)

    def _advance(self, inputs: Mapping[str, Array], num_logits: int) -> None:
        embeds = inputs["inputs_embeds"]
        token_ids = inputs.get("token_ids", np.empty((1, 0), np.int64))
        count = embeds.shape[1] + token_ids.shape[1]
        if not 1 <= num_logits <= count:
            raise ValueError(f"num_logits {num_logits}: expected 1 to {count}")
        total = self.length + count
        self.reserve(total)
        for name, array in inputs.items():
            if name != "token_ids":
                self._bind(name, array)
        if token_ids.size == 1 and int(token_ids[0, 0]) == self._last:
            self._binding.bind_ortvalue_input("token_ids", self._outputs["next_ids"])
        else:
            self._bind("token_ids", token_ids)
        self._bind("num_logits", np.array([num_logits]))
        self._bind("total_sequence_length", np.array([total]))
        self._bind_outputs(num_logits)
        with run_options() as options:
            self._session.run_with_iobinding(self._binding, options)
        self._last, self.length = None, total

    def _bind(self, name: str, array: Array) -> None:
        """Hands an input over: into the buffer of the last call where it fits, else a new one.

        Bound anew each time: a binding copies what does not lie where the graph wants it.
        """
        array = np.ascontiguousarray(as_dtype(array, self._dtypes[name]))
        buffer, value = self._inputs.get(name, (None, None))
        if buffer is not None and buffer.shape == array.shape:
            np.copyto(buffer, array)
            if value.device_name() != "cpu":
                value.update_inplace(buffer)
        else:
            buffer = array.copy()
            device = "cpu" if name in ON_HOST else self._device
            value = ort.OrtValue.ortvalue_from_numpy(buffer, device, 0)
            self._inputs[name] = (buffer, value)
        self._binding.bind_ortvalue_input(name, value)

    def _bind_outputs(self, num_logits: int) -> None:
        held = self._outputs.get("next_ids")
        if held is not None and held.shape()[1] == num_logits:
            return
        shapes = {
            "next_ids": (1, num_logits),
            "logits": (1, num_logits, self._shapes["logits"][-1]),
        }
        for name, shape in shapes.items():
            value = ort.OrtValue.ortvalue_from_shape_and_type(
                shape, self._dtypes[name], self._device, 0
            )
            self._outputs[name] = value
            self._binding.bind_ortvalue_output(name, value)
