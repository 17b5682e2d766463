"""Computes what a node gives where all that it reads is known: onnx itself does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from vlrt_export.coreml.values import Const, Item
from vlrt_export.graph import OPSET

__all__ = ["fold"]

LARGEST = 1 << 24  # elements: larger constants are not computed with here


def fold(node: ir.Node, items: Sequence[Item | None]) -> list[Item] | None:
    """What a node gives, where all that it reads is known and small."""
    if node.domain or node.op_type in ("DequantizeLinear", "If"):
        return None
    known = [(place, item) for place, item in enumerate(items) if isinstance(item, Const)]
    if len(known) < sum(item is not None for item in items):
        return None
    if node.op_type == "Cast" and node.attributes["to"].value == ir.DataType.UINT4:
        return [known[0][1]]  # a code takes a byte all the same
    if any(item.array.size > LARGEST for _, item in known):
        return None
    names = ["" if item is None else f"i{place}" for place, item in enumerate(items)]
    outputs = [f"o{place}" for place in range(len(node.outputs))]
    attributes = [ir.serde.serialize_attribute(each) for each in node.attributes.values()]
    proto = onnx.NodeProto(op_type=node.op_type, input=names, output=outputs, attribute=attributes)
    given = {names[place]: item.array for place, item in known}
    infos = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in given.items()
    ]
    graph = onnx.helper.make_graph(
        [proto], "fold", infos, [onnx.ValueInfoProto(name=name) for name in outputs]
    )
    opset = [onnx.helper.make_opsetid("", OPSET)]
    found = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=opset)).run(None, given)
    return [
        Const(np.asarray(array), str(value.name))
        for array, value in zip(found, node.outputs, strict=True)
    ]
