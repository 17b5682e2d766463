"""Files that torch itself writes, read without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from support.tiny.llama3_vision_alpha import make_alpha_parts
from vlrt_export.checkpoint import Checkpoint
from vlrt_export.torch_file import read_torch_file
from vlrt_runtime.errors import CheckpointError

torch = pytest.importorskip("torch", reason="torch writes the files")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    parts = make_alpha_parts(tmp_path_factory.mktemp("torch") / "parts", vocabulary="small")
    return Checkpoint(parts.language_model)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shared", [False, True])
def test_every_value_comes_back(tmp_path: Path, reader: Checkpoint, dtype: str, shared: bool):
    """`shared`: all tensors are views of one storage, at offsets."""
    torch.manual_seed(0)
    shapes = {"a.weight": (5, 7), "a.bias": (5,), "b.weight": (3, 2, 4)}
    named = {name: torch.randn(shape).to(getattr(torch, dtype)) for name, shape in shapes.items()}
    if shared:
        whole = torch.cat([tensor.flatten() for tensor in named.values()])
        pieces = whole.split([tensor.numel() for tensor in named.values()])
        named = {n: p.view(t.shape) for (n, t), p in zip(named.items(), pieces, strict=True)}
    torch.save(named, tmp_path / "p.bin")
    found = {tensor.name: tensor for tensor in read_torch_file(tmp_path / "p.bin")}
    assert set(found) == set(named)
    for name, tensor in named.items():
        rows = reader.read_float(found[name], 0, found[name].rows).reshape(found[name].shape)
        assert np.array_equal(rows, tensor.float().numpy())


def test_a_state_dict_of_modules(tmp_path: Path):
    """An ordered dictionary with attributes, of parameters."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.GELU(), torch.nn.Linear(2, 2))
    torch.save(module.state_dict(keep_vars=True), tmp_path / "p.bin")
    names = {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert {tensor.name for tensor in read_torch_file(tmp_path / "p.bin")} == names


@pytest.mark.parametrize("kind", ["module", "transposed", "integers", "old format"])
def test_what_is_refused(tmp_path: Path, kind: str):
    path = tmp_path / "p.bin"
    things = {
        "module": torch.nn.Linear(2, 2),
        "transposed": {"w": torch.zeros(3, 2).T},
        "integers": {"w": torch.zeros(3, dtype=torch.int64)},
        "old format": {"w": torch.zeros(3)},
    }
    torch.save(things[kind], path, _use_new_zipfile_serialization=kind != "old format")
    with pytest.raises(CheckpointError, match=r"p\.bin: not a file of tensors.*weights_only=True"):
        read_torch_file(path)
