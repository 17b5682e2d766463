"""Damaged packages, and such as were made to do harm: refused by name, at once."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.mil import function, mb, save, types
from vlrt_runtime.errors import PackageError, PackageNotFoundError
from vlrt_runtime.mil.program import MilProgram
from vlrt_runtime.mil.schema import SCHEMA
from vlrt_runtime.mil.wire import decode

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
FIRST = 64  # where the first weight's record is


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One linear layer and a gelu."""
    weight = np.arange(64 * 32, dtype=np.float16).reshape(64, 32)

    def body(x: Any) -> Any:
        return mb.gelu(x=mb.linear(x=x, weight=weight, name="fc"), mode="EXACT", name="y")

    made = function({"x": mb.TensorSpec((1, 32), types.fp16)}, body)
    return save({"main": made}, tmp_path_factory.mktemp("mil") / "whole.mlpackage")


@pytest.fixture
def package(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "damaged.mlpackage"))


def rewrite(package: Path, change: Callable[[Any], None]) -> None:
    """Changes the program through coremltools' own messages."""
    from coremltools.proto import Model_pb2

    path = package / MODEL
    model = Model_pb2.Model()
    model.ParseFromString(path.read_bytes())
    block = next(iter(model.mlProgram.functions["main"].block_specializations.values()))
    change(block)
    path.write_bytes(model.SerializeToString())


def operation(block: Any, kind: str) -> Any:
    return next(op for op in block.operations if op.type == kind)


def weight(block: Any) -> Any:
    constants = [op.attributes["val"] for op in block.operations if op.type == "const"]
    return next(value for value in constants if value.HasField("blobFileValue"))


def test_the_whole_package_runs(whole: Path):
    assert MilProgram.open(whole).predict({"x": np.zeros((1, 32))})["y"].shape == (1, 64)


def test_no_folder(tmp_path: Path):
    with pytest.raises(PackageNotFoundError, match=r"no such \.mlpackage folder"):
        MilProgram.open(tmp_path / "none.mlpackage")


@pytest.mark.parametrize("name", ["Manifest.json", MODEL, WEIGHTS])
def test_a_missing_file_is_named(package: Path, name: str):
    (package / name).unlink()
    with pytest.raises(PackageError, match=Path(name).name + " is missing"):
        MilProgram.open(package)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"itemInfoEntries": {}}', b"\xff"])
def test_a_damaged_manifest(package: Path, content: bytes):
    (package / "Manifest.json").write_bytes(content)
    with pytest.raises(PackageError, match=r"Manifest\.json: names no root model"):
        MilProgram.open(package)


@pytest.mark.parametrize("path", ["../../outside", "/etc/hostname", "a\\..\\b", "com.apple\0"])
def test_paths_that_lead_out_are_refused(package: Path, path: str):
    manifest = package / "Manifest.json"
    content = json.loads(manifest.read_text())
    content["itemInfoEntries"][content["rootModelIdentifier"]]["path"] = path
    manifest.write_text(json.dumps(content))
    (package.parent / "outside").write_bytes((package / MODEL).read_bytes())
    with pytest.raises(PackageError, match="leads out of it"):
        MilProgram.open(package)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_that_lead_out_are_refused(package: Path, tmp_path: Path):
    outside = tmp_path / "weight.bin"
    shutil.move(package / WEIGHTS, outside)
    (package / WEIGHTS).symlink_to(outside)
    with pytest.raises(PackageError, match="leads out of it"):
        MilProgram.open(package)


@pytest.mark.parametrize("file", ["weight.bin", "@model_path/../../../weight.bin", "/etc/hostname"])
def test_weights_outside_are_refused(package: Path, file: str):
    def change(block: Any) -> None:
        weight(block).blobFileValue.fileName = file

    rewrite(package, change)
    with pytest.raises(PackageError, match=r"expected @model_path/|leads out of it"):
        MilProgram.open(package)


def test_every_shorter_program_is_refused(package: Path):
    """Wherever the file ends early: an error of ours, or a program that lacks its end."""
    data = (package / MODEL).read_bytes()
    for end in range(0, len(data), 7):
        (package / MODEL).write_bytes(data[:end])
        with pytest.raises(PackageError):
            MilProgram.open(package)


def test_no_flipped_byte_does_more_than_be_refused(package: Path):
    data = (package / MODEL).read_bytes()
    random = np.random.default_rng(5)
    refused = 0
    for at in random.integers(0, len(data), 600):
        changed = bytearray(data)
        changed[at] ^= 1 << random.integers(8)
        (package / MODEL).write_bytes(changed)
        try:
            program = MilProgram.open(package)
            inputs = program.functions[program.default].inputs
            program.predict({spec.name: np.zeros((1, 32)) for spec in inputs})
        except (PackageError, ValueError):  # InputError, where an input's name or shape changed
            refused += 1
    assert refused > 200  # the others changed metadata, names, or a number that may be another


def test_deep_nesting_is_no_stack_overflow():
    def wrapped(inner: bytes, field: int) -> bytes:
        size, head = len(inner), b""
        while size > 127:
            head, size = head + bytes([size & 127 | 128]), size >> 7
        return bytes([field << 3 | 2]) + head + bytes([size]) + inner

    data = b""
    for _ in range(3000):  # Value.immediate.list.values, again and again
        data = wrapped(wrapped(wrapped(data, 1), 3), 3)
    with pytest.raises(PackageError, match="nested deeper than 64"):
        decode(data, "Value", SCHEMA)


@pytest.mark.parametrize(
    ("offset", "record", "message"),
    [
        (FIRST, struct.pack("<I", 1), "no weight starts there"),
        (FIRST + 4, struct.pack("<I", 2), "expected fp16, got fp32"),
        (FIRST + 4, struct.pack("<I", 99), "expected fp16, got type 99"),
        (FIRST + 8, struct.pack("<Q", 1 << 40), "takes 4096 bytes, the file has 1099511627776"),
        (FIRST + 16, struct.pack("<Q", 1 << 63), "lead out of the file"),
        (FIRST + 16, struct.pack("<Q", 129), "not aligned"),
    ],
)
def test_a_damaged_weight_is_named(package: Path, offset: int, record: bytes, message: str):
    with (package / WEIGHTS).open("r+b") as file:
        file.seek(offset)
        file.write(record)
    with pytest.raises(PackageError, match=rf"weights/weight\.bin at 64: .*{message}"):
        MilProgram.open(package)


def test_a_weight_beyond_the_end(package: Path):
    data = (package / WEIGHTS).read_bytes()
    (package / WEIGHTS).write_bytes(data[:1000])
    with pytest.raises(PackageError, match="lead out of the file"):
        MilProgram.open(package)
    (package / WEIGHTS).write_bytes(b"")
    with pytest.raises(PackageError, match="it is empty"):
        MilProgram.open(package)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda b: setattr(operation(b, "gelu"), "type", "geluu"),
            "geluu 'y': an operation that is",
        ),
        (
            lambda b: setattr(operation(b, "gelu").inputs["x"].arguments[0], "name", "nothing"),
            "gelu 'y': x: no value 'nothing'",
        ),
        (
            lambda b: setattr(operation(b, "gelu").outputs[0].type.tensorType, "dataType", 11),
            r"gelu 'y': 'y': expected fp16, got fp32 \[1, 64\]",
        ),
        (
            lambda b: setattr(operation(b, "gelu").outputs[0].type.tensorType, "dataType", 77),
            "element type 77 is unknown",
        ),
        (
            lambda b: setattr(operation(b, "gelu").outputs[0].type.tensorType, "dataType", 23),
            r"'y': expected int32 \[1, 64\], got float32",
        ),
        (
            lambda b: setattr(
                operation(b, "gelu").outputs[0].type.tensorType.dimensions[1].constant, "size", 65
            ),
            r"'y': expected fp16 \[1, 65\], got shape \[1, 64\]",
        ),
        (
            lambda b: setattr(
                operation(b, "gelu").outputs[0].type.tensorType.dimensions[1].constant,
                "size",
                1 << 40,
            ),
            r"expected at most 2\^30 elements",
        ),
        (
            lambda b: operation(b, "gelu").inputs["y"].CopyFrom(operation(b, "gelu").inputs["x"]),
            "gelu 'y': .*unexpected keyword argument 'y'",
        ),
        (lambda b: b.outputs.__setitem__(0, "z"), "its outputs: no value 'z'"),
        (
            lambda b: setattr(weight(b).blobFileValue, "offset", 1 << 50),
            "weight.bin at 1125899906842624: outside of the file",
        ),
    ],
)
def test_a_program_that_contradicts_itself(
    package: Path, change: Callable[[Any], None], message: str
):
    rewrite(package, change)
    with pytest.raises(PackageError, match=message):
        MilProgram.open(package).predict({"x": np.zeros((1, 32))})


@pytest.mark.parametrize("reps", [1 << 20, 1 << 30])
def test_a_result_is_measured_before_it_is_made(tmp_path: Path, reps: int):
    made = function(
        {"x": mb.TensorSpec((1, 4), types.fp32)},
        lambda x: mb.tile(x=x, reps=[1, 3], name="y"),
    )
    path = save({"main": made}, tmp_path / "tile.mlpackage")

    def change(block: Any) -> None:
        for op in (op for op in block.operations if op.type == "const"):
            values = op.attributes["val"].immediateValue.tensor.ints.values
            if list(values) == [1, 3]:
                values[0] = values[1] = reps

    rewrite(path, change)
    with pytest.raises(PackageError, match=r"tile 'y': a result of shape .*2\^30 elements"):
        MilProgram.open(path).predict({"x": np.zeros((1, 4))})
