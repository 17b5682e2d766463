"""Kernels of onnxruntime's CUDA provider, and whether a graph asks for others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx_ir as ir

__all__ = ["unsupported"]

FLOATS = {"FLOAT", "FLOAT16"}
HALF, INTS, BITS = {"FLOAT16"}, {"INT32", "INT64"}, {"UINT8"}
NUMBERS = FLOATS | INTS
ANY = NUMBERS | {"BFLOAT16", "BOOL", "INT8"}
SIZES = {"INT64"}  # read on the host, whatever device the operator runs on

# Operator -> dtypes of its inputs (the last stands for all that follow) and of its outputs: what
# https://github.com/microsoft/onnxruntime/blob/main/docs/OperatorKernels.md lists for the
# CUDAExecutionProvider, read in 2026 for versions 1.31 and 1.32; only what the layers emit.
KERNELS: dict[str, tuple[list[set[str]], list[set[str]]]] = {
    "Add": ([NUMBERS], [NUMBERS]),
    "ArgMax": ([FLOATS], [SIZES]),
    "Cast": ([ANY], [ANY]),
    "Concat": ([ANY], [ANY]),
    "Constant": ([], [ANY]),
    "Div": ([NUMBERS], [NUMBERS]),
    "Expand": ([ANY, SIZES], [ANY]),
    "Flatten": ([ANY], [ANY]),
    "Gather": ([ANY, INTS], [ANY]),
    "Gelu": ([FLOATS], [FLOATS]),
    "Greater": ([NUMBERS], [{"BOOL"}]),
    "Identity": ([ANY], [ANY]),
    "If": ([{"BOOL"}], [ANY]),
    "LayerNormalization": ([FLOATS], [FLOATS]),
    "Max": ([NUMBERS], [NUMBERS]),
    "Mul": ([NUMBERS], [NUMBERS]),
    "Neg": ([NUMBERS], [NUMBERS]),
    "Pad": ([FLOATS | {"BOOL"}, SIZES], [FLOATS | {"BOOL"}]),
    "RMSNormalization": ([FLOATS], [FLOATS]),
    "ReduceSum": ([NUMBERS, SIZES], [NUMBERS]),
    "Reshape": ([ANY, SIZES], [ANY]),
    "RotaryEmbedding": ([FLOATS], [FLOATS]),
    "Shape": ([ANY], [SIZES]),
    "Size": ([ANY], [SIZES]),
    "Slice": ([ANY, INTS], [ANY]),
    "Split": ([ANY, SIZES], [ANY]),
    "Sqrt": ([FLOATS], [FLOATS]),
    "Squeeze": ([ANY, SIZES], [ANY]),
    "Sub": ([NUMBERS], [NUMBERS]),
    "Tanh": ([FLOATS], [FLOATS]),
    "Transpose": ([ANY], [ANY]),
    "Unsqueeze": ([ANY, SIZES], [ANY]),
    "com.microsoft.FusedMatMul": ([FLOATS], [FLOATS]),
    "com.microsoft.GroupQueryAttention": ([HALF] * 5 + [{"INT32"}], [HALF]),
    "com.microsoft.MatMulNBits": ([FLOATS, BITS, FLOATS, BITS], [FLOATS]),
    "com.microsoft.MultiHeadAttention": ([FLOATS], [FLOATS]),
    "com.microsoft.QuickGelu": ([FLOATS], [FLOATS]),
    "com.microsoft.SkipSimplifiedLayerNormalization": ([FLOATS], [FLOATS]),
}


def unsupported(path: Path) -> list[str]:
    """Nodes of a graph, branches included, that have no kernel: operator and dtypes."""
    nodes = list(ir.load(path).graph.all_nodes())
    assert nodes, path
    return [f"{path.name}: {found}" for node in nodes if (found := _missing(node))]


def _missing(node: ir.Node) -> str | None:
    name = ".".join(filter(None, [node.domain, node.op_type]))
    if name not in KERNELS:
        return name
    inputs, outputs = KERNELS[name]
    sides = [(node.inputs, inputs), (node.outputs, outputs)]
    bad = [dtype for values, allowed in sides for dtype in _refused(values, allowed)]
    return f"{name} of {', '.join(bad)}" if bad else None


def _refused(values: Sequence[ir.Value | None], allowed: list[set[str]]) -> Iterator[str]:
    for place, value in enumerate(values):
        if value is None or not value.name:
            continue
        assert value.dtype is not None, f"{value.name} has no dtype"
        if value.dtype.name not in allowed[min(place, len(allowed) - 1)]:
            yield value.dtype.name
