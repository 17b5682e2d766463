"""Where a decoder's graph is cut into programs, and what goes through each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    """Stretches of about equal weight, none above `limit` bytes where the graph allows it.

    A cut goes where one value alone passes from what comes before to what comes behind. What does
    not depend on `inputs_embeds`, masks for example, is made anew in every stretch.
    """
    nodes, _ = needed(graph, [logits])
    weights = [_bytes(node) for node in nodes]
    total = sum(weights)
    places = _places(graph, nodes)
    wanted = max(1, -(-total // limit))
    while True:
        values = _spread(places, weights, wanted)
        ends = [*values, None]
        chunks = [
            Chunk(start, stop, _cached(graph, start, stop or logits))
            for start, stop in zip([None, *values], ends, strict=True)
        ]
        largest = max(_weight(graph, chunk, logits) for chunk in chunks)
        if largest <= limit or wanted > len(places):
            return chunks
        wanted += 1


def _cached(graph: ir.Graph, start: ir.Value | None, stop: ir.Value) -> tuple[ir.Node, ...]:
    nodes, _ = needed(graph, [stop], start)
    return tuple(node for node in nodes if node.op_type == CACHED)


def _weight(graph: ir.Graph, chunk: Chunk, logits: ir.Value) -> int:
    nodes, _ = needed(graph, [chunk.stop or logits], chunk.start)
    return sum(_bytes(node) for node in nodes)


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


def _spread(
    places: Sequence[tuple[int, ir.Value]], weights: Sequence[int], count: int
) -> list[ir.Value]:
    """The `count` - 1 places that come nearest to equal shares."""
    total, sums = sum(weights), [0]
    for weight in weights:
        sums.append(sums[-1] + weight)
    found: dict[int, ir.Value] = {}
    for i in range(1, count):
        if places:
            at, value = min(places, key=lambda place: abs(sums[place[0] + 1] - total * i / count))
            found[at] = value
    return [found[at] for at in sorted(found)]
