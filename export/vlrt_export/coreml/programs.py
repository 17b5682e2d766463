"""The functions of a package's programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from vlrt_export.coreml.chunks import Chunk, cut
from vlrt_export.coreml.lowering import Cache, Piece, lower
from vlrt_export.coreml.profiles import Profile
from vlrt_export.coreml.store import Store
from vlrt_export.coreml.tools import Function

__all__ = ["HIDDEN", "HIDDEN_OUT", "Sizes", "decoder", "stateless"]

HIDDEN, HIDDEN_OUT = "hidden", "hidden_out"  # between programs of a decoder
Sizes = Mapping[str, int]  # of a graph's free axes, by name


@dataclass(frozen=True)
class Sized:
    """A graph's function for some sizes, and the shapes of its outputs."""

    function: Function
    outputs: dict[str, tuple[int, ...]]


def stateless(
    graph: ir.Graph, profile: Profile, store: Store, sizes: Sizes, given: Mapping[str, Any]
) -> Sized:
    """The function of a graph without a cache; `given` are the shapes of inputs that are known."""
    dims = dict(sizes)
    for value in graph.inputs:
        dims |= _matched(value, given.get(str(value.name)))
    piece = Piece(
        graph=graph,
        outputs={str(value.name): value for value in graph.outputs},
        shapes={str(value.name): _shape(value, dims) for value in graph.inputs},
    )
    function = lower(piece, profile, store)
    shapes = {
        str(value.name): tuple(var.shape)
        for value, var in zip(graph.outputs, function.outputs, strict=True)
    }
    return Sized(function, shapes)


def decoder(
    graph: ir.Graph,
    profile: Profile,
    store: Store,
    *,
    length: int,
    rows: int,
    sizes: Sizes,
    given: Mapping[str, Any],
) -> list[dict[str, Function]]:
    """For each program of a decoder its functions: `prefill`, for `rows` positions, and `decode`.

    Args:
        graph: of the decoder.
        profile: to lower it by.
        store: for its constants.
        length: positions of the cache.
        rows: of a call of `prefill`.
        sizes: of free axes.
        given: shapes of inputs that the projector makes.
    """
    logits = next(value for value in graph.outputs if value.name == "logits")
    chunks = cut(graph, logits, profile.program_bytes)
    programs: list[dict[str, Function]] = []
    for chunk in chunks:
        functions: dict[str, Function] = {}
        for name, count in (("decode", 1), ("prefill", rows)):
            dims = {**sizes, "sequence": count}
            for value in graph.inputs:
                dims |= _matched(value, given.get(str(value.name)))
            functions[name] = _function(graph, chunk, profile, store, logits, length, dims, name)
        programs.append(functions)
    return programs


def _function(
    graph: ir.Graph,
    chunk: Chunk,
    profile: Profile,
    store: Store,
    logits: ir.Value,
    length: int,
    dims: Sizes,
    name: str,
) -> Function:
    written = None
    if chunk.stop is not None:
        outputs = {HIDDEN_OUT: chunk.stop}
    elif name == "decode":
        outputs = {"logits": logits}
    elif chunk.cached:
        # The last layer's keys and values are all that a prompt has to leave behind: the rest of
        # that layer and the language head are computed for positions that are scored.
        written = chunk.cached[-1]
        value = written.inputs[2]
        assert value is not None
        outputs = {"written": value}
    else:
        assert chunk.start is not None
        outputs = {"passed": chunk.start}
    piece = Piece(
        graph=graph,
        outputs=outputs,
        shapes={str(v.name): _shape(v, dims) for v in graph.inputs if _known(v, dims)},
        known={"num_logits": np.array([1])},
        entry=None if chunk.start is None else (HIDDEN, chunk.start),
        written=written,
        cache=_cache(chunk, length),
        rows=dims["sequence"],
    )
    return lower(piece, profile, store)


def _cache(chunk: Chunk, length: int) -> Cache | None:
    if not chunk.cached:
        return None
    past = chunk.cached[0].inputs[3]
    assert past is not None
    assert past.shape is not None
    _, heads, _, size = past.shape
    assert isinstance(heads, int)
    assert isinstance(size, int)
    return Cache(len(chunk.cached), heads, length, size)


def _matched(value: ir.Value, shape: Sequence[int] | None) -> dict[str, int]:
    """Free axes of a value whose shape is known."""
    if shape is None or value.shape is None:
        return {}
    pairs = zip(value.shape, shape, strict=True)
    return {str(axis.value): size for axis, size in pairs if isinstance(axis, ir.SymbolicDim)}


def _known(value: ir.Value, dims: Sizes) -> bool:
    return value.shape is not None and all(
        isinstance(axis, int) or str(axis.value) in dims for axis in value.shape
    )


def _shape(value: ir.Value, dims: Sizes) -> tuple[int, ...]:
    assert value.shape is not None
    return tuple(axis if isinstance(axis, int) else dims[str(axis.value)] for axis in value.shape)
