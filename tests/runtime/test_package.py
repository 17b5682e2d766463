"""Packages on disk: whole, damaged, from another version, and made to do harm."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlrt_runtime.errors import PackageError, PackageNotFoundError
from vlrt_runtime.manifest import MANIFEST, Manifest, read_manifest
from vlrt_runtime.model import Model
from vlrt_runtime.package import Package, default_output, find_package, packages_folder


@pytest.fixture
def package(small_package: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(small_package, tmp_path / "package"))


def edit(package: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((package / MANIFEST).read_text("utf-8"))
    change(content)
    (package / MANIFEST).write_text(json.dumps(content), "utf-8")


def overwrite(path: Path, data: bytes) -> None:
    """Writes over the start; the size stays."""
    with path.open("r+b") as file:
        file.write(data)


def set_at(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


# ------------------------------------------------------------------ the manifest


def test_a_manifest_comes_back_as_it_was(small_package: Path, tmp_path: Path):
    manifest = read_manifest(small_package)
    (tmp_path / MANIFEST).write_bytes(manifest.to_json())
    assert read_manifest(tmp_path) == manifest
    assert isinstance(manifest, Manifest)
    assert set(manifest.files) == {path.name for path in small_package.iterdir()} - {MANIFEST}
    with pytest.raises(AttributeError):
        manifest.name = "another"  # pyright: ignore


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_at("schema_version", value=2), "schema_version 2, expected 1; update vlrt"),
        (set_at("schema_version", value=0), "expected 1; export the package again with this vlrt"),
        (set_at("schema_version", value="1"), "Expected `int`, got `str` - at `$.schema_version`"),
        (dict.clear, "missing required field `schema_version`"),
        (set_at("colour", value=1), "unknown field `colour`"),
        (set_at("generation", "top_k", value=1), "unknown field `top_k` - at `$.generation`"),
        (set_at("name", value=5), "Expected `str`, got `int` - at `$.name`"),
        (set_at("files", "decoder.onnx", "size", value="5"), "Expected `int`, got `str`"),
        (lambda content: content.pop("graphs"), "missing required field `graphs`"),
    ],
)
def test_another_version_or_shape_is_refused(package: Path, change, said: str):
    edit(package, change)
    with pytest.raises(PackageError) as caught:
        Package.open(package)
    assert said in str(caught.value)
    assert str(package / MANIFEST) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"[1]", b"{", b'{"schema_version": 1, "name": "\xff"}', b'{"a":' * 10**5],
)
def test_what_is_no_json_is_refused(package: Path, content: bytes):
    (package / MANIFEST).write_bytes(content)
    with pytest.raises(PackageError, match=r"manifest\.json: .*; export the package again"):
        Package.open(package)


def test_json_nested_too_deeply_is_refused(package: Path):
    deep = b'{"schema_version": 1, "image": ' + b"[" * 10**5 + b"]" * 10**5 + b"}"
    (package / MANIFEST).write_bytes(deep)
    with pytest.raises(PackageError, match="recursion"):
        Package.open(package)


def test_a_huge_manifest_is_not_read(package: Path):
    with (package / MANIFEST).open("ab") as file:
        file.truncate(1 << 30)  # no bytes on disk
    with pytest.raises(PackageError, match="larger than 16777216 bytes"):
        Package.open(package)


@pytest.mark.parametrize(
    "name",
    ["../x", "..", "", ".", "/etc/passwd", "a\\b", "C:x", "C:\\x", "x/", "sub/x", "\\\\h\\x"],
)
@pytest.mark.parametrize("place", ["files", "graph", "embedding"])
def test_names_that_lead_elsewhere_are_refused(package: Path, name: str, place: str):
    changes = {
        "files": set_at("files", name, value={"size": 1, "sha256": ""}),
        "graph": set_at("graphs", "decoder", "file", value=name),
        "embedding": set_at("embedding", "file", value=name),
    }
    edit(package, changes[place])
    with pytest.raises(PackageError, match="is no plain file name; do not use this package"):
        Package.open(package)


def test_files_without_a_digest_are_refused(package: Path):
    edit(package, lambda content: content["files"].pop("decoder.onnx"))
    with pytest.raises(PackageError, match=r"'decoder\.onnx' has no entry under 'files'"):
        Package.open(package)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_at("family", value="vicuna"), "family 'vicuna': expected one of .*qwen2_vl"),
        (set_at("device", value="tpu"), "device 'tpu', expected cpu or cuda; update vlrt"),
        (set_at("graphs", value={}), "no graph 'vision_encoder'"),
        (set_at("rope", "head_dim", value="x"), r"at `\$\.head_dim`; export the package again"),
        (set_at("image", value={}), "missing required field"),
        (set_at("tokens", value={}), "'image'; export the package again"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(package: Path, change, said: str):
    edit(package, change)
    with pytest.raises(PackageError, match=said):
        Model(package, threads=1)


# ------------------------------------------------------------------ the files


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (Path.unlink, r"decoder\.onnx\.data \(missing or a link, not \d+\); export it again"),
        (lambda path: path.write_bytes(b"x"), r"decoder\.onnx\.data \(1 bytes, not \d+\)"),
        (lambda path: (path.unlink(), path.mkdir()), "missing or a link"),
    ],
)
def test_files_missing_or_of_another_size_are_named(package: Path, damage, said: str):
    damage(package / "decoder.onnx.data")
    with pytest.raises(PackageError, match=said):
        Package.open(package)


def test_links_are_refused(package: Path, tmp_path: Path):
    file = package / "tokenizer.json"
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PackageError, match=r"tokenizer\.json \(missing or a link"):
        Package.open(package)


def test_a_changed_byte_is_found(package: Path):
    opened = Package.open(package)
    assert opened.damaged_files() == []
    for name in ("projector.onnx.data", "tokenizer.json"):
        data = bytearray((package / name).read_bytes())
        data[len(data) // 2] ^= 1
        (package / name).write_bytes(data)
    assert sorted(Package.open(package).damaged_files()) == [
        "projector.onnx.data",
        "tokenizer.json",
    ]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("decoder.onnx", b"\xff" * 64, r"decoder\.onnx: onnxruntime .* cannot load it: .*--check"),
        ("tokenizer.json", b"\xff{{{", r"tokenizer\.json: not a tokenizer"),
        ("chat_template.jinja", b"\xff", r"chat_template\.jinja: not UTF-8 text"),
        ("chat_template.jinja", b"{% nonsense", "chat template: it is damaged"),
    ],
)
def test_damaged_content_is_told(package: Path, name: str, data: bytes, said: str):
    overwrite(package / name, data)
    with pytest.raises(PackageError, match=said):
        Model(package, threads=1)


@pytest.mark.parametrize("place", ["..", "absolute", "link"])
def test_weights_outside_the_package_are_refused(package: Path, tmp_path: Path, place: str):
    """It is onnxruntime that looks; this tells us if a version ever stops doing so."""
    onnx = pytest.importorskip("onnx", reason="the package is changed with it")
    outside = tmp_path / "outside.data"
    shutil.copyfile(package / "decoder.onnx.data", outside)
    location = {"..": "../outside.data", "absolute": str(outside), "link": "other.data"}[place]
    if place == "link":
        (package / "other.data").symlink_to(outside)
    graph = onnx.load(package / "decoder.onnx", load_external_data=False)
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    onnx.save(graph, package / "decoder.onnx")
    size = (package / "decoder.onnx").stat().st_size
    edit(package, set_at("files", "decoder.onnx", "size", value=size))
    with pytest.raises(PackageError, match=r"cannot load it: .*([Ee]xternal|escapes)"):
        Model(package, threads=1)


# ------------------------------------------------------------------ names


@pytest.fixture
def store(small_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A VLRT_HOME with two packages, and another folder to work in."""
    monkeypatch.setenv("VLRT_HOME", str(tmp_path / "home"))
    for name in ("qwen2-vl-2b", "llava-1.5-7b-hf"):
        shutil.copytree(small_package, tmp_path / "home" / "packages" / name)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return packages_folder()


@pytest.mark.parametrize("name", ["qwen2-vl-2b", "Qwen2-VL-2B", "LLaVA-1.5-7b-hf"])
def test_packages_are_found_by_name(store: Path, name: str):
    assert find_package(name) == store / name.lower()
    assert Package.open(name).manifest.family == "qwen2_vl"


def test_a_folder_here_goes_before_a_name(store: Path):
    shutil.copytree(store / "qwen2-vl-2b", "qwen2-vl-2b")
    assert find_package("qwen2-vl-2b") == Path("qwen2-vl-2b")
    assert find_package(Path("qwen2-vl-2b").absolute()) == Path.cwd() / "qwen2-vl-2b"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("qwen2-vl-2", "did you mean qwen2-vl-2b[?]?"),
        ("Qwen/Qwen2-VL-2B", "did you mean qwen2-vl-2b[?]?"),
        ("zebra", "make one with `vlrt export zebra`"),
        (os.path.join("out", "zebra"), "no package there or under that name"),  # noqa: PTH118
        ("", "no package there"),
    ],
)
def test_names_that_are_not_there_get_a_hint(store: Path, name: str, hint: str):
    with pytest.raises(PackageNotFoundError, match=hint):
        find_package(name)


def test_a_folder_that_is_no_package_is_told(store: Path, tmp_path: Path):
    with pytest.raises(PackageNotFoundError, match=r"it has no manifest\.json; make one with"):
        Package.open(tmp_path)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("qwen2-vl-2b", "qwen2-vl-2b"),
        ("Qwen/Qwen2-VL-2B-Instruct", "qwen2-vl-2b-instruct"),
        ("Qwen/Qwen2-VL-2B-Instruct@main", "qwen2-vl-2b-instruct"),
        ("/models/Qwen2-VL/", "qwen2-vl"),
        ("C:\\models\\Qwen2-VL\\", "qwen2-vl"),
    ],
)
def test_a_source_names_its_package(store: Path, source: str, name: str):
    assert default_output(source) == store / name
