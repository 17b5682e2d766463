"""The embedding table: a safetensors file that others can read, and the runtime's reading of it."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from vlrt_export import embedding as module
from vlrt_export.checkpoint import SINGLE, Checkpoint
from vlrt_export.embedding import EmbeddingFile
from vlrt_export.writer import run_units
from vlrt_runtime.embedding import EmbeddingTable
from vlrt_runtime.errors import CheckpointError

NUMPY = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16, "int8": np.int8}
KIND = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "int8": "I8"}


def table(stored: str, rows: int = 37, width: int = 24) -> np.ndarray:
    values = np.random.default_rng(0).normal(0, 0.05, (rows, width)).astype(NUMPY[stored])
    values[3] = 0
    values[4, 0] = 1000
    return values


def write(folder: Path, values: np.ndarray, precision: str) -> Path:
    """The table as a checkpoint, and then as a package holds it."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    save_file({"t": values}, folder / SINGLE)
    checkpoint = Checkpoint(folder)
    file = EmbeddingFile(checkpoint.stored["t"], precision)
    path = folder / "embed_tokens.safetensors"
    run_units(checkpoint, path, file.size, file.units(), lambda count: None)
    with path.open("r+b") as out:
        out.write(file.head)
    assert path.stat().st_size == file.size
    return path


@pytest.fixture(autouse=True)
def _several_blocks(monkeypatch):
    monkeypatch.setattr(module, "PORTION", 24 * 5)


@pytest.mark.parametrize("precision", ["source", "fp32", "fp16", "int8"])
@pytest.mark.parametrize("stored", ["fp32", "fp16", "bf16"])
def test_the_safetensors_library_reads_the_file(tmp_path, stored, precision):
    values = table(stored)
    path = write(tmp_path, values, precision)
    kind = stored if precision == "source" else precision
    with safe_open(path, "np") as file:
        assert set(file.keys()) == ({"weight", "scales"} if kind == "int8" else {"weight"})
        assert file.get_slice("weight").get_dtype() == KIND[kind]
        weight = file.get_tensor("weight")
        assert weight.shape == values.shape
        if kind == "int8":
            scales = file.get_tensor("scales")
            assert scales.dtype == np.float32
            assert scales.shape == (37,)
            weight = weight * scales[:, None]
            step = np.abs(values.astype(np.float32)).max(1, keepdims=True) / 127
            assert (np.abs(weight - values.astype(np.float32)) <= 0.5001 * step).all()
        else:
            assert weight.tobytes() == values.astype(np.float32).astype(NUMPY[kind]).tobytes()


@pytest.mark.parametrize("precision", ["source", "fp32"])
@pytest.mark.parametrize("stored", ["fp32", "fp16", "bf16"])
def test_the_runtime_reads_the_same_bits(tmp_path, stored, precision):
    values = table(stored)
    read = EmbeddingTable(write(tmp_path, values, precision))
    ids = np.array([36, 0, 3, 4, 4, 17])
    assert (read.rows, read.width) == values.shape
    assert read(ids).dtype == np.float32
    assert read(ids).tobytes() == values[ids].astype(np.float32).tobytes()


@pytest.mark.parametrize("stored", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(("precision", "share"), [("fp16", 2**-11), ("int8", 0.501 / 127)])
def test_the_runtime_reads_nearly_the_same_where_it_is_rounded(tmp_path, stored, precision, share):
    values = table(stored)
    read = EmbeddingTable(write(tmp_path, values, precision))(np.arange(37))
    wide = values.astype(np.float32)
    assert (np.abs(read - wide) <= share * np.abs(wide).max(1, keepdims=True)).all()
    assert (read[3] == 0).all()


@pytest.mark.parametrize("stored", ["fp16", "bf16"])
def test_every_finite_value_of_16_bits_survives(tmp_path, stored):
    every = np.arange(1 << 16, dtype=np.uint16).view(NUMPY[stored])
    values = every[np.isfinite(every.astype(np.float32))].reshape(-1, 16)
    read = EmbeddingTable(write(tmp_path, values, "source"))(np.arange(len(values)))
    assert read.tobytes() == values.astype(np.float32).tobytes()


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (1, 300), (61, 5)])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_any_shape(tmp_path, shape, precision):
    values = np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)
    path = write(tmp_path, values, precision)
    read = EmbeddingTable(path)(np.arange(shape[0]))
    np.testing.assert_allclose(read, values, atol=0.03)
    with safe_open(path, "np") as file:
        assert file.get_tensor("weight").shape == shape


@pytest.mark.parametrize("value", [1e-45, 1e-40, -1e-38, 1e38])
def test_int8_rows_of_extreme_size(tmp_path, value):
    values = np.full((2, 24), value, np.float32)
    values[1] = 1
    read = EmbeddingTable(write(tmp_path, values, "int8"))(np.arange(2))
    assert (read[1] == 1).all()
    np.testing.assert_allclose(read[0], values[0], rtol=0.01, atol=1e-28)


def test_fp16_refuses_what_it_cannot_hold(tmp_path):
    values = table("fp32")
    values[30, 2] = 70000
    with pytest.raises(CheckpointError, match=r"^t, rows 30 to 35: .*fp16 cannot; choose another"):
        write(tmp_path, values, "fp16")


@pytest.mark.parametrize("precision", ["source", "fp32", "fp16", "int8"])
def test_not_a_number_is_refused_at_every_precision(tmp_path, precision):
    values = table("bf16")
    values[7, 2] = np.nan
    with pytest.raises(CheckpointError, match=r"^t, rows 5 to 10: .*not a number"):
        write(tmp_path, values, precision)
