"""What 8-bit activations cost where some are much larger than the rest.

    python benchmarks/activations.py

Block-wise int8 (MatMulNBits, accuracy level 4: activations rounded in blocks) against per-token
int8 (DynamicQuantizeMatMul on rows first divided by their own absolute maximum, and multiplied
back), and against the same on rows that were turned before (what vlrt exports: see
`vlrt_export.layers.turned`), at the sizes of Qwen2-VL's vision encoder: error of the outputs
against float32, and milliseconds, taken in turn, medians; they hold what a graph of one matrix
spends on its output, which an encoder does not. Prints a table, and one JSON line last.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from vlrt_export.layers.turned import hadamard, turning_block
from vlrt_export.quantize import quantize, whole_rows
from vlrt_runtime.cores import usable_cores
from vlrt_runtime.session import ort, session_options

TOKENS, BLOCK, ROUNDS = 864, 128, 7
SHAPES = {"qkv": (1280, 3840), "fc1": (1280, 5120), "fc2": (5120, 1280)}
Run = Callable[[np.ndarray], np.ndarray]


def graph(nodes: list, weights: dict[str, np.ndarray], k: int, n: int) -> Run:
    """A graph from x [1, s, k] to y [1, s, n], as a function."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "s", k])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "s", n])
    parts = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], parts), opset_imports=opsets, ir_version=11
    )
    options = session_options(usable_cores())
    session = ort.InferenceSession(model.SerializeToString(), options)
    return lambda rows: session.run(None, {"x": rows})[0]


def blockwise(w: np.ndarray) -> Run:
    codes, scales, zeros = quantize(w, bits=8, block=BLOCK)
    sizes = {"K": w.shape[1], "N": w.shape[0], "bits": 8, "block_size": BLOCK}
    node = helper.make_node(
        "MatMulNBits",
        ["x", "b", "s", "z"],
        ["y"],
        domain="com.microsoft",
        accuracy_level=4,
        **sizes,
    )
    return graph([node], {"b": codes, "s": scales, "z": zeros}, *w.shape[::-1])


def per_token(w: np.ndarray, *, turned: bool = False) -> Run:
    n, k = w.shape
    weights = {"last": np.array([-1]), "tiny": np.float32(1e-20)}
    nodes = []
    if turned:
        weights["turn"] = hadamard(turning_block(k))
        weights["apart"], weights["whole"] = (
            np.array([1, -1, *s]) for s in ([k // len(weights["turn"]), len(weights["turn"])], [k])
        )
        w = (w.reshape(-1, len(weights["turn"])) @ weights["turn"]).reshape(n, k)
        nodes = [
            helper.make_node("Reshape", ["x", "apart"], ["blocks"]),
            helper.make_node("MatMul", ["blocks", "turn"], ["turned"]),
            helper.make_node("Reshape", ["turned", "whole"], ["rows"]),
        ]
    codes, weights["s"] = whole_rows(w)
    weights["b"] = np.ascontiguousarray(codes.T)
    rows = "rows" if turned else "x"
    nodes += [
        helper.make_node("Abs", [rows], ["size"]),
        helper.make_node("ReduceMax", ["size", "last"], ["largest"], keepdims=1),
        helper.make_node("Max", ["largest", "tiny"], ["norm"]),
        helper.make_node("Div", [rows, "norm"], ["unit"]),
        helper.make_node(
            "DynamicQuantizeMatMul", ["unit", "b", "s"], ["product"], domain="com.microsoft"
        ),
        helper.make_node("Mul", ["product", "norm"], ["y"]),
    ]
    return graph(nodes, {name: np.asarray(v) for name, v in weights.items()}, k, n)


def plain(w: np.ndarray) -> Run:
    node = helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft", transB=1)
    return graph([node], {"w": w}, *w.shape[::-1])


def activations(k: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Normal rows; a few channels, or a few tokens, twenty times as large."""
    rows = rng.standard_normal((1, TOKENS, k), np.float32)
    channels, tokens = rows.copy(), rows.copy()
    channels[..., :: k // 13] *= 20
    tokens[:, :: TOKENS // 13] *= 20
    return {"even": rows, "outlier channels": channels, "outlier tokens": tokens}


def main() -> None:
    rng = np.random.default_rng(0)
    made = []
    print(f"{'matrix':8}{'activations':18}{'form':12}{'error':>9}{'ms':>9}")
    for name, (k, n) in SHAPES.items():
        w = rng.standard_normal((n, k), np.float32) * np.float32(0.02)
        forms = {
            "float32": plain(w),
            "block-wise": blockwise(w),
            "per token": per_token(w),
            "turned": per_token(w, turned=True),
        }
        for kind, x in activations(k, rng).items():
            times: dict[str, list[float]] = {form: [] for form in forms}
            for _ in range(ROUNDS):
                for form, run in forms.items():
                    started = time.perf_counter()
                    run(x)
                    times[form].append((time.perf_counter() - started) * 1e3)
            exact = forms["float32"](x)
            for form, run in forms.items():
                # By token: a few large ones would hide the rest.
                wrong = np.square(run(x) - exact).sum(-1) / np.square(exact).sum(-1)
                error, ms = float(np.sqrt(wrong.mean())), statistics.median(times[form])
                print(f"{name:8}{kind:18}{form:12}{error:9.4f}{ms:9.1f}")
                made.append(
                    {"matrix": name, "activations": kind, "form": form, "error": error, "ms": ms}
                )
    print(json.dumps(made))


if __name__ == "__main__":
    main()
