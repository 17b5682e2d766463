"""Where a decoder's graph is cut into programs, and what goes through each of them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import onnx_ir as ir

from vlrt_export.coreml.lowering import CACHED, captured, needed

__all__ = ["Chunk", "cut"]


@dataclass(frozen=True)
class Chunk:
    """A stretch of a decoder between two values; None where the graph itself begins or ends."""

    start: ir.Value | None
    stop: ir.Value | None
    cached: tuple[ir.Node, ...]


def cut(graph: ir.Graph, logits: ir.Value, limit: int) -> list[Chunk]:
    """As few stretches of at most `limit` bytes as there can be, of about equal weight.

    A cut goes where one value alone passes from what comes before to what comes behind; what has no
    such place inside, a large language head for one, may be above the limit. What does not depend
    on `inputs_embeds`, masks for example, is made anew in every stretch.
    """
    nodes, _ = needed(graph, [logits])
    weights, places = [_bytes(node) for node in nodes], _places(graph, nodes)
    count = len(_filled(places, weights, limit))
    # The least limit that needs as many cuts makes them about equal.
    least = bisect_left(range(limit), -count, key=lambda n: -len(_filled(places, weights, n)))
    values = _filled(places, weights, least)
    return [
        Chunk(start, stop, _cached(graph, start, stop or logits))
        for start, stop in pairwise([None, *values, None])
    ]


def _cached(graph: ir.Graph, start: ir.Value | None, stop: ir.Value) -> tuple[ir.Node, ...]:
    nodes, _ = needed(graph, [stop], start)
    return tuple(node for node in nodes if node.op_type == CACHED)


def _bytes(node: ir.Node) -> int:
    values = [value for value in captured(node) if value.const_value is not None]
    return sum(value.const_value.nbytes for value in values if value.const_value is not None)


def _places(graph: ir.Graph, nodes: Sequence[ir.Node]) -> list[tuple[int, ir.Value]]:
    """After which nodes one sum alone lives on, and the sum."""
    streaming = {id(value) for value in graph.inputs if value.name == "inputs_embeds"}
    last: dict[int, int] = {}
    made: dict[int, tuple[int, ir.Value]] = {}
    for at, node in enumerate(nodes):
        reads = [value for value in captured(node) if id(value) in streaming]
        last.update((id(value), at) for value in reads)
        if reads:
            streaming.update(id(value) for value in node.outputs)
            made.update((id(value), (at, value)) for value in node.outputs)
    live: dict[int, ir.Value] = {}
    places: list[tuple[int, ir.Value]] = []
    for at, node in enumerate(nodes):
        live.update((id(v), v) for v in node.outputs if last.get(id(v), -1) > at and id(v) in made)
        live = {key: value for key, value in live.items() if last[key] > at}
        inputs = any(last.get(id(value), -1) > at for value in graph.inputs)
        if len(live) == 1 and not inputs and node.op_type == "Add":
            (value,) = live.values()
            if made[id(value)][0] == at:
                places.append((at, value))
    return places


def _filled(
    places: Sequence[tuple[int, ir.Value]], weights: Sequence[int], limit: int
) -> list[ir.Value]:
    """Places to cut at, each as far behind the one before as the limit allows."""
    sums = [0, *accumulate(weights)]
    ends = [*(sums[at + 1] for at, _ in places[1:]), sums[-1]]
    start, found = 0, list[ir.Value]()
    for (at, value), end in zip(places, ends, strict=False):
        if end - start > limit and sums[at + 1] > start:
            start = sums[at + 1]
            found.append(value)
    return found
