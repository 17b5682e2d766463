"""From a module to an ONNX model whose initialisers are still to be written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import onnx_ir as ir
from onnxscript import GraphBuilder

from vlrt_export.layers.base import Layer
from vlrt_export.weights import Fill
from vlrt_runtime.manifest import TensorSpec

__all__ = ["GraphModule", "build", "fills", "specs"]

OPSET = 23  # the first with RMSNormalization and RotaryEmbedding
IR_VERSION = 11


class GraphModule(Protocol):
    """A layer that is a whole graph: it declares the inputs and names the outputs."""

    def trace(self, builder: Any) -> Iterable[tuple[str, ir.Value]]:
        """Declares inputs with `builder.input`, emits nodes with `builder.op`, yields outputs."""
        ...


def build(module: GraphModule, name: str) -> ir.Model:
    """The model of a module. Its parameters are initialisers without a value."""
    opsets = {"": OPSET, "com.microsoft": 1}
    graph = ir.Graph([], [], nodes=[], opset_imports=opsets, name=name)
    builder = GraphBuilder(graph)
    for output_name, value in module.trace(builder):
        builder.add_output(value, output_name)
    for node in graph.all_nodes():
        node.metadata_props.clear()  # the builder's notes on modules: half of the file's size
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="vlrt")


def fills(module: Layer) -> list[Fill]:
    """How all parameters of a module and of what it is made of are made."""
    return [fill for layer in module.modules() for fill in getattr(layer, "fills", [])]


def specs(values: Iterable[ir.Value]) -> tuple[TensorSpec, ...]:
    """Names, dtypes and shapes of a graph's inputs or outputs, for the manifest."""
    found: list[TensorSpec] = []
    for value in values:
        assert value.name, value
        assert value.dtype is not None, value
        assert value.shape is not None, value
        shape = tuple(n if isinstance(n, int) else str(n) for n in value.shape)
        found.append(TensorSpec(value.name, value.dtype.numpy().name, shape))
    return tuple(found)
