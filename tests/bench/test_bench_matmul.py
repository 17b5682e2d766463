"""The product that int8 and int4 are measured against, by onnx's checker and numpy."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from vlrt.bench.matmul import BLOCK, SIDE, blocks, whole_rows
from vlrt_runtime.operator_model import operator_model
from vlrt_runtime.session import ort, session_options


@pytest.mark.parametrize("bits", [8, 4])
def test_the_model_written_by_hand_is_onnxs_and_multiplies(bits: int):
    rng = np.random.default_rng(bits)
    count = SIDE // BLOCK
    levels = rng.integers(0, 1 << bits, (SIDE, count, BLOCK), np.uint8)
    scales = rng.uniform(0.001, 0.01, (SIDE, count)).astype(np.float32)
    packed = levels if bits == 8 else levels[..., ::2] | levels[..., 1::2] << 4
    operator, _, attributes = blocks(bits)
    content = operator_model(operator, SIDE, {"w": packed, "s": scales}, attributes)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    session = ort.InferenceSession(content, session_options(2), providers=["CPUExecutionProvider"])
    x = rng.standard_normal((8, SIDE), np.float32)
    (y,) = session.run(None, {"x": x})
    matrix = (levels.astype(np.float32) - (1 << bits - 1)) * scales[..., None]
    expected = x @ matrix.reshape(SIDE, SIDE).T
    # Activations are rounded to int8 in blocks: 1 part in 254 of the largest, random in sign.
    assert np.linalg.norm(y - expected) < 0.02 * np.linalg.norm(expected)


def test_and_of_whole_rows():
    operator, tensors, attributes = whole_rows()
    content = operator_model(operator, SIDE, tensors, attributes)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    session = ort.InferenceSession(content, session_options(2), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((8, SIDE), np.float32)
    (y,) = session.run(None, {"x": x})
    expected = x @ (tensors["w"] * tensors["s"])
    # Activations are rounded to 255 steps of the whole range, some 8 deviations.
    assert np.linalg.norm(y - expected) < 0.02 * np.linalg.norm(expected)
