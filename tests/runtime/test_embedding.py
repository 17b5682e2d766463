"""The embedding table: rows by id, and headers that say anything at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlrt_runtime.embedding import EmbeddingTable
from vlrt_runtime.errors import InputError, PackageError

NAME = "embed_tokens.safetensors"


def header(content: Any) -> bytes:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return len(data).to_bytes(8, "little") + data


def entry(shape: Any, offsets: Any, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 8,
        header([]),
        header({}),
        header({"weight": 3}),
        header({"weight": entry([64], [0, 256])}),
        header({"weight": entry([-2, -4], [0, 32])}),
        header({"weight": entry([2, 4], [0, 31])}),
        header({"weight": entry([2, 4], [-32, 0])}),
        header({"weight": entry([2, 4], [10**9, 10**9 + 32])}),
        header({"weight": entry([2, 4], [0, 32, 3])}),
        header({"weight": entry([2, 4], [0, 64], "F64")}),
        header({"weight": entry([2, 4], [0, 8], "I8"), "scales": entry([3], [8, 20])}),
        header(b'{"weight": {"dtype": "F32", "shape": [1e999, 2], "data_offsets": [0, 0]}}'),
        header(b"[" * 90_000),
    ],
)
def test_a_damaged_embedding_is_told(small_package: Path, tmp_path: Path, data: bytes):
    path = Path(shutil.copyfile(small_package / NAME, tmp_path / NAME))
    with path.open("r+b") as file:
        file.write(data)
    with pytest.raises(PackageError, match=rf"{NAME}: damaged: .*; export the package again"):
        EmbeddingTable(path)


def test_embedding_rows_are_read_by_id(small_package: Path):
    table = EmbeddingTable(small_package / NAME)
    ids = np.array([5, 0, 511, 5])
    rows = table(ids)
    assert rows.shape == (4, table.width)
    assert rows.dtype == np.float32
    assert np.array_equal(rows[0], rows[3])
    rows[:] = 0  # a copy: the file is never written to
    assert table(ids).any()
    for wrong in (-1, 512):
        with pytest.raises(InputError, match=f"token id {wrong}: expected 0 to 511"):
            table(np.array([1, wrong]))


@pytest.mark.parametrize(
    ("dtype", "stored", "expected"),
    [
        ("F32", np.array([[1.5, -2], [0, 3]], "<f4"), [[1.5, -2], [0, 3]]),
        ("F16", np.array([[1.5, -2], [0, 3]], "<f2"), [[1.5, -2], [0, 3]]),
        ("BF16", np.array([[0x3FC0, 0xC000], [0, 0x4040]], "<u2"), [[1.5, -2], [0, 3]]),
        ("I8", np.array([[3, -4], [0, 127]], "i1"), [[1.5, -2], [0, 12.7]]),
    ],
)
def test_every_way_of_storing_is_float32_when_read(tmp_path: Path, dtype, stored, expected):
    parts = {"weight": entry([2, 2], [0, stored.nbytes], dtype)}
    data = stored.tobytes()
    if dtype == "I8":
        parts["scales"] = entry([2], [len(data), len(data) + 8])
        data += np.array([0.5, 0.1], "<f4").tobytes()
    (tmp_path / NAME).write_bytes(header(parts) + data)
    table = EmbeddingTable(tmp_path / NAME)
    rows = table(np.array([0, 1, 0]))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, [*expected, expected[0]], rtol=1e-6)
    assert (table.rows, table.width) == (2, 2)
