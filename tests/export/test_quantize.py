"""Block-wise integers against a slow and obviously right loop, and against onnxruntime itself."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

from support.tiny.qwen2_vl import make_qwen2_vl
from vlrt_export.checkpoint import SINGLE
from vlrt_export.exporter import export
from vlrt_export.quantize import CLIP_RATIOS, Blocks, dequantize, quantize
from vlrt_runtime.errors import CheckpointError

BLOCK_SIZES = (16, 32, 64, 128, 256)
FORMS = [(bits, block) for bits in (4, 8) for block in BLOCK_SIZES]


def normal(rows: int, k: int, seed: int = 0, spread: float = 0.02) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, (rows, k)).astype(np.float32)


def unpacked(quantized: Blocks, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes [rows, blocks, block], scales and zero points [rows, blocks], by the book."""
    codes, scales, zeros = quantized
    rows, blocks = scales.shape
    if bits == 8:
        return codes, scales, zeros
    wide = np.zeros((rows, blocks, codes.shape[2] * 2), np.uint8)
    points = np.zeros((rows, blocks), np.uint8)
    for row in range(rows):
        for b in range(blocks):
            points[row, b] = zeros[row, b // 2] >> 4 if b % 2 else zeros[row, b // 2] & 15
            for i in range(wide.shape[2]):
                byte = codes[row, b, i // 2]
                wide[row, b, i] = byte >> 4 if i % 2 else byte & 15
    return wide, scales, points


def slow_block(w: np.ndarray, bits: int) -> tuple[np.ndarray, float, int]:
    """One block in float64: codes, scale, zero point."""
    top = 2**bits - 1
    low, high = min(float(w.min()), 0.0), max(float(w.max()), 0.0)
    if high == low:
        return np.zeros(len(w)), 1.0, 0
    zero = round(-low / (high - low) * top)

    def codes(scale: float) -> np.ndarray:
        return np.clip(np.rint(w / scale) + zero, 0, top)

    best = (-1.0, 0.0)
    for ratio in CLIP_RATIOS[bits]:
        t = codes((high - low) * ratio / top) - zero
        if (t != 0).any():
            scale = float(w @ t) / float(t @ t)
            best = max(best, (float(w @ t) * scale, scale))
    return codes(best[1]), best[1], zero


def min_max(weight: np.ndarray, bits: int, block: int) -> np.ndarray:
    """Plain rounding: the scale is the block's range, with zero in it, over the codes."""
    rows, k = weight.shape
    blocks = -(-k // block)
    w = np.pad(weight, ((0, 0), (0, blocks * block - k))).reshape(rows, blocks, block)
    top = 2**bits - 1
    low, high = np.minimum(w.min(2), 0), np.maximum(w.max(2), 0)
    scale = np.where(high > low, (high - low) / top, 1)[..., None]
    zero = np.rint(-low[..., None] / scale)
    codes = np.clip(np.rint(w / scale) + zero, 0, top)
    return ((codes - zero) * scale).reshape(rows, -1)[:, :k]


def squared_error(weight: np.ndarray, made: np.ndarray, block: int) -> np.ndarray:
    """Of each block."""
    rows, k = weight.shape
    error = (weight.astype(np.float64) - made) ** 2
    return np.pad(error, ((0, 0), (0, -k % block))).reshape(rows, -1, block).sum(2)


# --- Right --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "block"), FORMS)
@pytest.mark.parametrize("k", [16, 80, 300])
def test_codes_scales_and_zero_points_equal_a_slow_loop(bits, block, k):
    weight = normal(3, k, seed=k)
    weight[1] += 0.05
    codes, scales, zeros = unpacked(quantize(weight, bits=bits, block=block), bits)
    blocks = -(-k // block)
    assert scales.shape == (3, blocks)
    padded = np.pad(weight, ((0, 0), (0, blocks * block - k))).astype(np.float64)
    for row in range(3):
        for b in range(blocks):
            w = padded[row, b * block : (b + 1) * block]
            expected, scale, zero = slow_block(w, bits)
            assert zeros[row, b] == zero
            assert scales[row, b] == pytest.approx(scale, rel=1e-5)
            off = np.abs(codes[row, b] - expected)
            near_half = np.abs(np.abs(w / scale) % 1 - 0.5) < 1e-3
            assert (off[~near_half] == 0).all()
            assert off.max() <= 1


@pytest.mark.parametrize(("bits", "block"), FORMS)
@pytest.mark.parametrize("k", [48, 272, 512])
def test_onnxruntime_reads_the_same_weights(bits, block, k):
    """The operator on the unit matrix gives the weights that it sees."""
    rows = 5
    weight = normal(rows, k, seed=block)
    quantized = quantize(weight, bits=bits, block=block)
    node = helper.make_node(
        "MatMulNBits",
        ["x", "w", "s", "z"],
        ["y"],
        domain="com.microsoft",
        **{"K": k, "N": rows, "bits": bits, "block_size": block, "accuracy_level": 0},
    )
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [k, k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [k, rows])],
        [numpy_helper.from_array(a, n) for a, n in zip(quantized, "wsz", strict=True)],
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=11)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (seen,) = session.run(None, {"x": np.eye(k, dtype=np.float32)})
    np.testing.assert_allclose(seen.T, dequantize(quantized, bits=bits, k=k), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("blocks", [1, 2, 3, 7])
def test_zero_points_of_an_odd_number_of_blocks(blocks):
    """Blocks whose zero points are all different lie in the order of the low half first."""
    block = 16
    weight = np.zeros((2, blocks * block), np.float32)
    for b in range(blocks):
        weight[:, b * block] = -b
        weight[:, b * block + 1] = 15 - b
    zeros = quantize(weight, bits=4, block=block).zeros
    assert zeros.shape == (2, (blocks + 1) // 2)
    order = [*range(blocks), 0] if blocks % 2 else [*range(blocks)]
    expected = [low | high << 4 for low, high in zip(order[::2], order[1::2], strict=True)]
    assert zeros.tolist() == [expected, expected]


@pytest.mark.parametrize("bits", [4, 8])
def test_exact_where_weights_are_codes(bits):
    codes = np.random.default_rng(1).integers(0, 2**bits, (4, 64)).astype(np.float32)
    codes[:, ::32], codes[:, 1::32] = 0, 2**bits - 1
    weight = (codes - 3) * np.float32(0.125)
    made = dequantize(quantize(weight, bits=bits, block=32), bits=bits, k=64)
    np.testing.assert_allclose(made, weight, atol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_same_every_time_and_by_any_rows(bits):
    weight = normal(16, 160)
    whole = quantize(weight, bits=bits, block=32)
    for _ in range(2):
        parts = [quantize(weight[i : i + 4], bits=bits, block=32) for i in range(0, 16, 4)]
        for one, many in zip(whole, zip(*parts, strict=True), strict=True):
            assert one.tobytes() == np.concatenate(many).tobytes()


# --- Good ---------------------------------------------------------------------------------------

DRAWN = {
    "normal": lambda rng, shape: rng.normal(0, 0.02, shape),
    "laplace": lambda rng, shape: rng.laplace(0, 0.02, shape),
    "uniform": lambda rng, shape: rng.uniform(-1, 1, shape),
    "positive": lambda rng, shape: rng.uniform(0.5, 1, shape),
    "negative": lambda rng, shape: -rng.exponential(1, shape),
    "outliers": lambda rng, shape: rng.normal(0, 0.02, shape) + (rng.random(shape) < 0.01),
    "sparse": lambda rng, shape: rng.normal(0, 0.02, shape) * (rng.random(shape) < 0.1),
    "tiny": lambda rng, shape: rng.normal(0, 1e-20, shape),
}


@pytest.mark.parametrize("drawn", DRAWN)
@pytest.mark.parametrize(("bits", "block"), FORMS)
def test_no_block_is_worse_than_plain_rounding(drawn, bits, block):
    weight = DRAWN[drawn](np.random.default_rng(2), (8, 600)).astype(np.float32)
    made = dequantize(quantize(weight, bits=bits, block=block), bits=bits, k=600)
    ours = squared_error(weight, made, block)
    plain = squared_error(weight, min_max(weight, bits, block), block)
    assert (ours <= plain * (1 + 1e-4) + 1e-12 * (weight.max() - weight.min()) ** 2).all()


@pytest.mark.parametrize("block", BLOCK_SIZES)
def test_four_bits_lose_less_than_plain_rounding(block):
    weight = normal(64, 1024)
    made = dequantize(quantize(weight, bits=4, block=block), bits=4, k=1024)
    plain = squared_error(weight, min_max(weight, 4, block), block).sum()
    assert squared_error(weight, made, block).sum() < 0.95 * plain


# --- Odd weights --------------------------------------------------------------------------------

SMALLEST = np.float32(1e-45)
ODD = {
    "zeros": np.zeros(32),
    "one outlier": np.eye(1, 32, 5)[0],
    "one negative outlier": -np.eye(1, 32, 5)[0] * 1e4,
    "denormals": np.linspace(-1e-40, 1e-40, 32),
    "the smallest": np.full(32, SMALLEST),
    "near the smallest scale": np.linspace(-8e-30, 8e-30, 32),
    "huge": np.linspace(-9e14, 9e14, 32),
    "all positive": np.linspace(0.5, 1, 32),
    "all negative": np.linspace(-1, -0.5, 32),
    "all alike": np.full(32, 0.3),
    "all alike, negative": np.full(32, -0.3),
    "minus zero": np.full(32, -0.0),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("bits", [4, 8])
def test_odd_blocks_come_out_within_half_a_step(odd, bits):
    weight = np.stack([ODD[odd], np.linspace(-1, 1, 32)]).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantized = quantize(weight, bits=bits, block=32)
    made = dequantize(quantized, bits=bits, k=32)
    assert np.isfinite(quantized.scales).all()
    assert (quantized.scales > 0).all()
    spread = max(weight[0].max(), 0) - min(weight[0].min(), 0)
    step = spread / (2**bits - 1)
    assert np.abs(made[0].astype(np.float64) - weight[0]).max() <= max(step, 1e-29)
    alone = quantize(weight[1:], bits=bits, block=32)
    assert all((a[1:] == b).all() for a, b in zip(quantized, alone, strict=True))


def test_one_sided_blocks_have_their_zero_point_at_an_end():
    weight = np.stack([np.linspace(0.5, 1, 32), np.linspace(-1, -0.5, 32)]).astype(np.float32)
    for bits in (4, 8):
        zeros = unpacked(quantize(weight, bits=bits, block=32), bits)[2]
        assert zeros.tolist() == [[0], [2**bits - 1]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2e15, 3e38])
def test_what_cannot_be_stored_is_refused(bad):
    weight = normal(2, 64)
    weight[1, 40] = bad
    with pytest.raises(ValueError, match="not a number"):
        quantize(weight, bits=4, block=32)


@pytest.fixture(scope="module")
def one_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantize") / "it"
    return make_qwen2_vl(folder, vocabulary="small", shards=1)


@pytest.mark.parametrize("precision", ["int4", "int8", "fp16", "fp32"])
@pytest.mark.parametrize(
    "name",
    [
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.1.self_attn.q_proj.bias",
        "model.norm.weight",
        "model.embed_tokens.weight",
        "visual.merger.mlp.0.weight",
    ],
)
def test_export_names_the_tensor_that_is_no_number(one_file, tmp_path, name, precision):
    folder = tmp_path / "it"
    shutil.copytree(one_file, folder)
    tensors = {key: value.copy() for key, value in load_file(folder / SINGLE).items()}
    tensors[name].ravel()[-1] = np.inf if precision == "int8" else np.nan
    save_file(tensors, folder / SINGLE)
    with pytest.raises(CheckpointError, match=rf"^{name}, rows \d+ to \d+: .*not a number"):
        export(folder, tmp_path / "out", precision=precision)
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_export_names_the_tensor_that_fp16_cannot_hold(one_file, tmp_path):
    folder, name = tmp_path / "it", "model.layers.1.mlp.down_proj.weight"
    shutil.copytree(one_file, folder)
    tensors = {key: value.copy() for key, value in load_file(folder / SINGLE).items()}
    tensors[name][0, 0] = 65520
    save_file(tensors, folder / SINGLE)
    with pytest.raises(CheckpointError, match=rf"^{name}, rows .*beyond 65504; choose another"):
        export(folder, tmp_path / "out", precision="fp16")
    assert onnx.load(export(folder, tmp_path / "out", precision="fp32") / "decoder.onnx").graph.node
