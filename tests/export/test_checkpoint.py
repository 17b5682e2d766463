"""Reading checkpoints: equal to the safetensors library, and damage is found and named."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from support.tiny.qwen2_vl import make_qwen2_vl
from vlrt_export.checkpoint import INDEX, SINGLE, Checkpoint, read_header
from vlrt_runtime.errors import CheckpointError, CheckpointNotFoundError

DTYPES = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}


def folder_with(folder: Path, tensors: dict[str, Any], name: str = SINGLE) -> Path:
    (folder / "config.json").write_text("{}")
    save_file(tensors, folder / name)
    return folder


def write_raw(path: Path, header: object, data: bytes, length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


def entry(first: Any, last: Any, shape: Any = (4,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}


# --- What is read -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("shape", [(7, 5), (13, 2, 3, 4), (9,), ()])
def test_rows_are_those_of_the_safetensors_library(tmp_path, kind, shape):
    values = np.random.default_rng(0).standard_normal(shape).astype(DTYPES[kind])
    values = np.asarray(values)
    folder_with(tmp_path, {"before": np.zeros(3, np.float16), "x": values})
    checkpoint = Checkpoint(tmp_path)
    tensor = checkpoint.stored["x"]
    expected = load_file(tmp_path / SINGLE)["x"]
    assert tensor.shape == shape
    assert tensor.nbytes == expected.nbytes
    rows = expected.reshape(tensor.rows, -1)
    assert checkpoint.read(tensor).tobytes() == rows.tobytes()
    for start, stop in [(0, tensor.rows), (tensor.rows // 2, tensor.rows), (0, 1)]:
        block = checkpoint.read_float(tensor, start, stop)
        assert block.dtype == np.float32
        np.testing.assert_array_equal(block, rows[start:stop].astype(np.float32))
    checkpoint.close()


def test_every_bfloat16_is_widened_exactly(tmp_path):
    bits = np.arange(1 << 16, dtype=np.uint16)
    folder_with(tmp_path, {"x": bits.view(ml_dtypes.bfloat16)})
    checkpoint = Checkpoint(tmp_path)
    read = checkpoint.read_float(checkpoint.stored["x"], 0, 1 << 16)
    assert (read.view(np.uint32).ravel() == bits.astype(np.uint32) << 16).all()


def test_threads_read_at_once(tmp_path):
    values = np.arange(4096 * 16, dtype=np.float32).reshape(4096, 16)
    folder_with(tmp_path, {"x": values})
    checkpoint = Checkpoint(tmp_path)
    tensor = checkpoint.stored["x"]

    def read(start: int) -> bool:
        block = checkpoint.read_float(tensor, start, start + 8)
        return bool((block == values[start : start + 8]).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(0, 4096, 8)))


@pytest.mark.parametrize("shards", [1, 3])
def test_shards_are_one_checkpoint(tmp_path, shards):
    folder = make_qwen2_vl(tmp_path / "it", vocabulary="small", dtype="bfloat16", shards=shards)
    checkpoint = Checkpoint(folder)
    expected = {k: v for path in checkpoint.shards for k, v in load_file(path).items()}
    assert len(checkpoint.shards) == shards
    assert set(checkpoint.stored) == set(expected)
    for name, tensor in checkpoint.stored.items():
        assert checkpoint.read(tensor).tobytes() == expected[name].tobytes(), name
        assert tensor.shape == expected[name].shape


# --- Damaged files ------------------------------------------------------------------------------

GOOD = {"a": entry(0, 16)}
DAMAGE: dict[str, tuple[object, bytes, int | None]] = {
    "header longer than the file": (GOOD, bytes(16), 1 << 40),
    "header of 2^64 bytes": (GOOD, bytes(16), 2**64 - 1),
    "header of no bytes": (GOOD, bytes(16), 0),
    "header is no JSON": (b"{]" + b" " * 20, bytes(16), None),
    "header is no UTF-8": (b'{"\xff\xfe": 1}', bytes(16), None),
    "header is a list": ([1, 2], bytes(16), None),
    "header with an endless number": (b'{"a": ' + b"1" * 5000 + b"}", bytes(16), None),
    "header nested without end": (b"[" * 100_000, bytes(16), None),
    "entry is no object": ({"a": 3}, bytes(16), None),
    "entry without offsets": ({"a": {"dtype": "F32", "shape": [4]}}, bytes(16), None),
    "data cut off": (GOOD, bytes(15), None),
    "no data": (GOOD, b"", None),
    "negative offset": ({"a": entry(-16, 0)}, bytes(16), None),
    "offsets backwards": ({"a": entry(16, 0)}, bytes(16), None),
    "offsets beyond the file": ({"a": entry(1 << 50, (1 << 50) + 16)}, bytes(16), None),
    "three offsets": ({"a": {**GOOD["a"], "data_offsets": [0, 8, 16]}}, bytes(16), None),
    "offsets are words": ({"a": entry("x", "y")}, bytes(16), None),
    "overlap": ({"a": entry(0, 16), "b": entry(8, 24)}, bytes(24), None),
    "the same bytes twice": ({"a": entry(0, 16), "b": entry(0, 16)}, bytes(16), None),
    "shape of another size": ({"a": entry(0, 16, (5,))}, bytes(16), None),
    "negative shape": ({"a": entry(0, 16, (-2, -2))}, bytes(16), None),
    "endless shape": ({"a": entry(0, 16, (float("inf"),))}, bytes(16), None),
    "unknown dtype": ({"a": entry(0, 16, dtype="F2")}, bytes(16), None),
    "dtype is a list": ({"a": entry(0, 16, dtype=["F32"])}, bytes(16), None),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_by_name(tmp_path, damage):
    folder_with(tmp_path, {"a": np.zeros(4, np.float32)})
    header, data, length = DAMAGE[damage]
    write_raw(tmp_path / SINGLE, header, data, length)
    with pytest.raises(CheckpointError, match=SINGLE):
        _ = Checkpoint(tmp_path).stored


def test_offsets_written_as_floats_are_read(tmp_path):
    folder_with(tmp_path, {"a": np.zeros(4, np.float32)})
    write_raw(tmp_path / SINGLE, {"a": entry(0.0, 16.0)}, bytes(range(16)))
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.read(checkpoint.stored["a"]).tobytes() == bytes(range(16))


@pytest.mark.parametrize("size", [0, 7, 8, 40])
def test_a_file_cut_in_its_header_is_refused(tmp_path, size):
    folder_with(tmp_path, {"a": np.zeros(4, np.float32)})
    data = (tmp_path / SINGLE).read_bytes()
    (tmp_path / SINGLE).write_bytes(data[:size])
    with pytest.raises(CheckpointError, match="cut short"):
        read_header(tmp_path / SINGLE)


def test_a_file_that_shrinks_after_its_header_was_read(tmp_path):
    folder_with(tmp_path, {"a": np.zeros(4, np.float32)})
    checkpoint = Checkpoint(tmp_path)
    tensor = checkpoint.stored["a"]
    with (tmp_path / SINGLE).open("r+b") as file:
        file.truncate(tensor.offset + 8)
    with pytest.raises(CheckpointError, match=f"{SINGLE}: ends inside a"):
        checkpoint.read(tensor)


@pytest.mark.parametrize("dtype", ["I32", "U8", "I64", "F64", "F8_E4M3"])
def test_other_dtypes_are_refused_as_weights_and_let_pass_as_buffers(tmp_path, dtype):
    folder_with(tmp_path, {"a": np.zeros(4, np.float32)})
    size = {"I32": 4, "U8": 1, "I64": 8, "F64": 8, "F8_E4M3": 1}[dtype]
    write_raw(tmp_path / SINGLE, {"m.position_ids": entry(0, 4 * size, dtype=dtype)}, bytes(32))
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.rename(lambda name: None) == {}
    with pytest.raises(CheckpointError, match=r"m\.position_ids .*give the unquantised checkpoint"):
        checkpoint.rename(lambda name: name)


# --- Folders ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[1]", "expected a JSON object, got list"),
        (b"{", "cannot be read as JSON"),
        (b"\xff\xfe{}", "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b'{"hidden_size": ' + b"1" * 5000 + b"}", "cannot be read as JSON"),
    ],
)
def test_config_that_is_no_json_object(tmp_path, content, said):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"config\.json: {said}"):
        Checkpoint(tmp_path)


def test_folders_that_are_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match="no such folder"):
        Checkpoint(tmp_path / "absent")
    with pytest.raises(CheckpointNotFoundError, match=r"no config\.json; give the folder"):
        Checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(CheckpointNotFoundError, match="only safetensors are read"):
        _ = Checkpoint(tmp_path).stored


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        ({"a": "one.safetensors", "b": "two.safetensors"}, r"1 of 2 .* missing: two\.safetensors"),
        ({"a": "one.safetensors", "b": "one.safetensors"}, "names tensors no shard holds: b"),
        ({"a": "../one.safetensors"}, r"outside the folder: \.\./one\.safetensors"),
        ({"a": "/etc/passwd"}, "outside the folder: /etc/passwd"),
        ({"a": 3}, "1 of 1 .* missing: 3"),
        ({}, "no 'weight_map'"),
        (["one.safetensors"], "no 'weight_map'"),
    ],
)
def test_an_index_that_does_not_fit(tmp_path, weight_map, said):
    folder = tmp_path / "it"
    folder.mkdir()
    folder_with(folder, {"a": np.zeros(4, np.float32)}, "one.safetensors")
    shutil.copy(folder / "one.safetensors", tmp_path)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises((CheckpointError, CheckpointNotFoundError), match=said):
        _ = Checkpoint(folder).stored


def test_a_tensor_in_two_shards(tmp_path):
    for name in ("one.safetensors", "two.safetensors"):
        folder_with(tmp_path, {"a": np.zeros(4, np.float32)}, name)
    weight_map = {"a": "one.safetensors", "b": "two.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=r"a: stored in one\.safetensors and in two"):
        _ = Checkpoint(tmp_path).stored
