"""Files of `torch.save`: what is read of them, and that nothing in them is run."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest

from vlrt_export.torch_file import read_torch_file
from vlrt_runtime.errors import CheckpointError


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def archive(path: Path, data: bytes, **more: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.writestr("archive/data.pkl", data)
        for name, content in more.items():
            file.writestr(f"archive/{name}", content)
    return path


def tensor(
    shape: str, *, storage: str = "FloatStorage", count: str = "K\x04", strides: str
) -> bytes:
    """The pickle of one tensor `w`, in instructions that people can read."""
    parts = [
        "\x80\x02}X\x01\x00\x00\x00w",
        "ctorch._utils\n_rebuild_tensor_v2\n(",
        f"(X\x07\x00\x00\x00storagectorch\n{storage}\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu{count}tQ",
        f"K\x00({shape}t({strides}t\x89ccollections\nOrderedDict\n)RtRs.",
    ]
    return "".join(parts).encode("latin-1")


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_trap_is_refused_and_not_sprung(tmp_path: Path, protocol: int):
    sprung = tmp_path / "sprung"
    data = pickle.dumps({"w": Trap(sprung)}, protocol=protocol)
    with pytest.raises(CheckpointError, match="read safely"):
        read_torch_file(archive(tmp_path / "p.bin", data))
    assert not sprung.exists()


def test_a_called_name_is_named(tmp_path: Path):
    data = b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R."
    with pytest.raises(CheckpointError, match="it asks to call 'os system'; convert it where"):
        read_torch_file(archive(tmp_path / "p.bin", data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02.",
        b"\x80\x02K\x01.",
        b"\x80\x02]q\x00.",
        b"\x80\x02}",
        b"\x80\x02}(K\x01u.",
        b"\x80\x02}K\x01K\x02s.",
        b"\x80\x02h\x07.",
        b"\x80\x02t.",
        b"\x80\x02\x87.",
        b"\x80\x02Nb.",
        b"\x80\x02NNR.",
        b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"\x80\x02cbuiltins\neval\n)\x81.",
        b"\xff\xff\xff",
    ],
)
def test_damaged_pickles(tmp_path: Path, data: bytes):
    with pytest.raises(CheckpointError, match=r"p\.bin: not a file of tensors.*weights_only=True"):
        read_torch_file(archive(tmp_path / "p.bin", data))


def test_a_tensor_lies_where_it_should(tmp_path: Path):
    data = tensor("K\x02K\x02", strides="K\x02K\x01")
    path = archive(tmp_path / "p.bin", data, **{"data/0": b"0123456789abcdef"})
    (found,) = read_torch_file(path)
    assert (found.name, found.shape, found.dtype.name) == ("w", (2, 2), "float32")
    assert path.read_bytes()[found.offset : found.offset + found.nbytes] == b"0123456789abcdef"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tensor("K\x02K\x02", strides="K\x01K\x02"), "not contiguous"),
        (tensor("K\x02K\x03", strides="K\x03K\x01"), "does not lie within"),
        (tensor("K\x02K\x02", strides="K\x02K\x01", count="K\x03"), "does not lie"),
        (tensor("K\x02K\x02", strides="K\x02K\x01", storage="LongStorage"), "torch LongStorage"),
    ],
)
def test_tensors_that_are_refused(tmp_path: Path, data: bytes, message: str):
    path = archive(tmp_path / "p.bin", data, **{"data/0": b"0123456789abcdef"})
    with pytest.raises(CheckpointError, match=message):
        read_torch_file(path)


def test_a_compressed_or_foreign_file(tmp_path: Path):
    data = tensor("K\x02K\x02", strides="K\x02K\x01")
    path = tmp_path / "p.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/data/0", b"0123456789abcdef")
    with pytest.raises(CheckpointError, match="does not lie within archive/data/0"):
        read_torch_file(path)
    big = archive(tmp_path / "b.bin", data, **{"data/0": bytes(16), "byteorder": b"big"})
    with pytest.raises(CheckpointError, match="big-endian"):
        read_torch_file(big)
    path.write_bytes(pickle.dumps({}))
    with pytest.raises(CheckpointError, match="not a file of tensors"):
        read_torch_file(path)
    with pytest.raises(CheckpointError, match="not a file of tensors"):
        read_torch_file(tmp_path / "none.bin")
