"""The quantisers: what each is to make small is smallest there; odd weights; GPTQ by the book."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from vlrt_export.quantize import dequantize, quantize
from vlrt_export.quantizers import QUANTIZERS, gptq
from vlrt_export.quantizers.gptq import Gram
from vlrt_export.quantizers.hqq import NORM

BLOCK_SIZES = (32, 64, 128)
ROWS, COLUMNS = 64, 768


def drawn(kind: str) -> np.ndarray:
    rng = np.random.default_rng(7)
    if kind == "student-t":
        return (rng.standard_t(4, (ROWS, COLUMNS)) * 0.02).astype(np.float32)
    made = rng.normal(0, 0.02, (ROWS, COLUMNS))
    if kind == "outlier columns":
        made[:, rng.choice(COLUMNS, 6, replace=False)] *= 8
    return made.astype(np.float32)


def correlated(count: int, seed: int) -> np.ndarray:
    """Inputs of a quarter as many sources as columns, of log-normal sizes, and noise."""
    fixed, rng = np.random.default_rng(3), np.random.default_rng(seed)
    sources = COLUMNS // 4
    mix = fixed.normal(0, 1, (COLUMNS, sources)) * np.exp(fixed.normal(0, 1, sources))
    noise = rng.normal(0, 3, (count, COLUMNS))
    return (rng.normal(0, 1, (count, sources)) @ mix.T + noise).astype(np.float32)


def factor_of(inputs: np.ndarray, **options: int) -> np.ndarray:
    gram = Gram(inputs.shape[1], **options)
    gram.add(inputs)
    return gram.factor()


def error(name: str, weight: np.ndarray, bits: int, block: int, **seen: np.ndarray) -> np.ndarray:
    made = QUANTIZERS[name].make(weight, bits=bits, block=block, **seen)
    return weight.astype(np.float64) - dequantize(made, bits=bits, k=weight.shape[1])


# --- Order --------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", BLOCK_SIZES)
@pytest.mark.parametrize("kind", ["student-t", "outlier columns", "normal"])
def test_each_is_best_at_what_it_makes_small(kind, block):
    weight, unseen = drawn(kind), correlated(512, 2)
    factor = factor_of(correlated(4096, 1))
    errors = {name: error(name, weight, 4, block) for name in ("rtn", "mse", "hqq")}
    errors["gptq"] = error("gptq", weight, 4, block, factor=factor)
    squares = {name: float((e**2).sum()) for name, e in errors.items()}
    norms = {name: float((np.abs(e) ** NORM).sum()) for name, e in errors.items()}
    outputs = {name: float(((unseen @ e.T) ** 2).sum()) for name, e in errors.items()}
    assert squares["mse"] < 0.98 * squares["rtn"]
    assert min(squares, key=squares.__getitem__) == "mse"
    assert norms["hqq"] < norms["mse"] < norms["rtn"]
    assert min(norms, key=norms.__getitem__) == "hqq"
    assert outputs["gptq"] < 0.25 * min(outputs[name] for name in ("rtn", "mse", "hqq"))


@pytest.mark.parametrize("name", ["rtn", "mse", "hqq", "gptq"])
def test_smaller_blocks_and_more_bits_lose_less(name):
    weight = drawn("student-t")
    seen = {"factor": factor_of(correlated(2048, 1))} if name == "gptq" else {}
    inputs = correlated(256, 2) if name == "gptq" else np.eye(COLUMNS)
    lost = {
        (bits, block): float(((inputs @ error(name, weight, bits, block, **seen).T) ** 2).sum())
        for bits in (4, 8)
        for block in BLOCK_SIZES
    }
    for bits in (4, 8):
        assert lost[bits, 32] < lost[bits, 64] < lost[bits, 128]
    assert lost[8, 128] < 0.05 * lost[4, 32]


def test_larger_groups_make_up_for_more():
    weight, inputs, unseen = drawn("normal"), correlated(4096, 1), correlated(512, 2)
    lost = [
        float(((unseen @ error("gptq", weight, 4, 64, factor=factor).T) ** 2).sum())
        for factor in (factor_of(inputs, largest_group=size) for size in (768, 256))
    ]
    assert lost[0] < 0.8 * lost[1]


# --- GPTQ ---------------------------------------------------------------------------------------


def by_the_book(weight: np.ndarray, inputs: np.ndarray, bits: int, block: int) -> np.ndarray:
    """The paper's loop in float64, one column at a time over the whole matrix: what it stands for.

    Instead of a Cholesky factor it takes the inverse itself, and removes each column from it.
    """
    h = inputs.T.astype(np.float64) @ inputs / len(inputs)
    h += gptq.DAMPING * np.diag(h).mean() * np.eye(len(h))
    inverse, w, made = np.linalg.inv(h), weight.astype(np.float64), np.zeros(weight.shape)
    for j in range(weight.shape[1]):
        if j % block == 0:
            part = quantize(w[:, j : j + block].astype(np.float32), bits=bits, block=block)
            scale, zero = part.scales[:, 0], part.zeros[:, 0]
        made[:, j] = (np.clip(np.rint(w[:, j] / scale) + zero, 0, 2**bits - 1) - zero) * scale
        w[:, j:] -= np.outer((w[:, j] - made[:, j]) / inverse[j, j], inverse[j, j:])
        inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return made


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [16, 64])
def test_gptq_equals_a_slow_loop(bits, block):
    rng = np.random.default_rng(0)
    k = 256
    weight = rng.normal(0, 0.02, (12, k)).astype(np.float32)
    inputs = (rng.normal(0, 1, (2000, 64)) @ rng.normal(0, 1, (64, k))).astype(np.float32)
    inputs += rng.normal(0, 1, inputs.shape).astype(np.float32)
    made = dequantize(
        gptq.quantize(weight, bits=bits, block=block, factor=factor_of(inputs)), bits=bits, k=k
    )
    expected = by_the_book(weight, inputs, bits, block)
    # Where a code is tied, the two part ways, and all columns behind follow.
    same = np.isclose(made, expected, rtol=1e-4, atol=1e-6)
    assert same[:, : k // 2].mean() > 0.97
    lost, least = (float(((inputs @ (weight - m).T) ** 2).sum()) for m in (made, expected))
    assert lost == pytest.approx(least, rel=0.05)


@pytest.mark.parametrize("k", [80, 256, 300, 4000])
@pytest.mark.parametrize("bits", [4, 8])
def test_gptq_without_correlations_is_mse(bits, k):
    weight = np.random.default_rng(k).normal(0, 0.02, (6, k)).astype(np.float32)
    made = gptq.quantize(weight, bits=bits, block=32, factor=factor_of(np.eye(k, dtype=np.float32)))
    for one, other in zip(made, quantize(weight, bits=bits, block=32), strict=True):
        np.testing.assert_array_equal(one, other)


def test_gram_adds_up_and_pads():
    rng = np.random.default_rng(0)
    inputs = rng.normal(0, 1, (100, 700)).astype(np.float32)
    gram = Gram(700, 512)
    for part in np.split(inputs, 4):
        gram.add(part[None])
    assert gram.sums.shape == (2, 512, 512)
    expected = inputs.T @ inputs
    np.testing.assert_allclose(gram.sums[0], expected[:512, :512], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(gram.sums[1, :188, :188], expected[512:, 512:], rtol=1e-4, atol=1e-3)
    assert not gram.sums[1, 188:].any()
    assert gram.count == 100
    factor = gram.factor()
    assert (np.einsum("gii->gi", factor) > 0).all()
    assert not np.tril(factor, -1).any()


def test_inputs_that_are_always_zero_or_never_seen_are_no_harm():
    inputs = correlated(64, 1)  # fewer than columns
    inputs[:, 5:200] = 0
    weight = drawn("normal")
    for factor in (factor_of(inputs), Gram(COLUMNS).factor()):
        made = error("gptq", weight, 4, 32, factor=factor)
        assert np.isfinite(made).all()
        assert np.abs(made).max() < 0.1


def test_inputs_that_are_no_numbers_are_refused():
    gram = Gram(32)
    gram.add(np.full((2, 32), np.inf, np.float32))
    with pytest.raises(ValueError, match="infinite or not a number"):
        gram.factor()


# --- Odd weights --------------------------------------------------------------------------------

ODD = {
    "zeros": np.zeros(32),
    "one outlier": np.eye(1, 32, 5)[0],
    "one negative outlier": -np.eye(1, 32, 5)[0] * 1e4,
    "an outlier among weights": np.where(np.arange(32) == 9, 50, np.linspace(-1, 1, 32)),
    "denormals": np.linspace(-1e-40, 1e-40, 32),
    "near the smallest scale": np.linspace(-8e-30, 8e-30, 32),
    "huge": np.linspace(-9e14, 9e14, 32),
    "all positive": np.linspace(0.5, 1, 32),
    "all alike, negative": np.full(32, -0.3),
    "minus zero": np.full(32, -0.0),
}
SEEN = {
    "rtn": {},
    "mse": {},
    "hqq": {},
    "gptq": {"factor": factor_of(np.eye(32, dtype=np.float32))},
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", SEEN)
def test_odd_blocks_come_out_within_a_step(odd, bits, name):
    weight = np.stack([ODD[odd], np.linspace(-1, 1, 32)]).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = QUANTIZERS[name].make(weight, bits=bits, block=32, **SEEN[name])
    assert np.isfinite(made.scales).all()
    assert (made.scales > 0).all()
    back = dequantize(made, bits=bits, k=32).astype(np.float64)
    spread = float(max(weight[0].max(), 0)) - float(min(weight[0].min(), 0))
    step = spread / (2**bits - 1)
    # The norm of HQQ gives an outlier up where the others gain by it.
    most = spread if name == "hqq" else max(step, 1e-29)
    assert np.abs(back[0] - weight[0]).max() <= max(most, 1e-29)
    assert np.abs(back[1] - weight[1]).max() <= 2 / (2**bits - 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2e15, 3e38])
@pytest.mark.parametrize("name", SEEN)
def test_what_cannot_be_stored_is_refused(bad, name):
    weight = np.ones((2, 32), np.float32)
    weight[1, 20] = bad
    with pytest.raises(ValueError, match="not a number"):
        QUANTIZERS[name].make(weight, bits=4, block=32, **SEEN[name])


@pytest.mark.parametrize("name", ["rtn", "hqq"])
@pytest.mark.parametrize("k", [64, 80])
def test_the_same_by_any_rows(name, k):
    weight = np.random.default_rng(0).normal(0, 0.02, (16, k)).astype(np.float32)
    make = QUANTIZERS[name].make
    parts = [make(weight[i : i + 4], bits=4, block=32) for i in range(0, 16, 4)]
    for one, many in zip(make(weight, bits=4, block=32), zip(*parts, strict=True), strict=True):
        assert one.tobytes() == np.concatenate(many).tobytes()
