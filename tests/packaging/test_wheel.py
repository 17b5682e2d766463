"""The wheel holds the three import packages, all of them, and nothing besides."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sysconfig
import tarfile
from configparser import ConfigParser
from email.message import Message
from email.parser import Parser
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

import vlrt

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "vlrt": ROOT / "vlrt",
    "vlrt_export": ROOT / "export" / "vlrt_export",
    "vlrt_runtime": ROOT / "runtime" / "vlrt_runtime",
}
DEMO = ("vlrt/demo/checkpoint/", "vlrt/demo/picture.png")  # the one place for anything but code
DEMO_BYTES = 16_000_000
CODE_BYTES = 1_500_000
DIST_INFO = f"vlrt-{vlrt.__version__}.dist-info"


def content(wheel: Path) -> dict[str, bytes]:
    with ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def files(built) -> dict[str, bytes]:
    return content(built.wheel)


@pytest.fixture(scope="module")
def metadata(files: dict[str, bytes]) -> Message:
    return Parser().parsestr(files[f"{DIST_INFO}/METADATA"].decode())


def test_top_level_names_are_the_three_packages(files: dict[str, bytes]):
    assert {PurePosixPath(name).parts[0] for name in files} == {*FOLDERS, DIST_INFO}


def test_every_module_is_in_and_nothing_else(files: dict[str, bytes]):
    expected = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in FOLDERS.items()
        for pattern in ("*.py", "py.typed", "static/*")
        for path in folder.rglob(pattern)
    }
    assert {f"{package}/py.typed" for package in FOLDERS} <= expected
    packed = {name for name in files if not name.startswith((DIST_INFO, *DEMO))}
    assert packed == expected


def test_the_wheel_is_small(files: dict[str, bytes]):
    demo = {name: len(data) for name, data in files.items() if name.startswith(DEMO)}
    assert sum(demo.values()) <= DEMO_BYTES
    assert sum(map(len, files.values())) - sum(demo.values()) <= CODE_BYTES
    assert [name for name in files if name.endswith((".onnx", ".data", ".pyc"))] == []


def test_the_wheel_of_the_sdist_is_the_same(built, files: dict[str, bytes]):
    def digests(of: dict[str, bytes]) -> dict[str, str]:
        return {
            name: hashlib.sha256(data).hexdigest()
            for name, data in of.items()
            if name != f"{DIST_INFO}/RECORD"
        }

    assert digests(content(built.wheel_of_sdist)) == digests(files)


def test_the_sdist_holds_sources_and_tests_only(built):
    with tarfile.open(built.sdist) as archive:
        paths = [PurePosixPath(name).parts[1:] for name in archive.getnames()]
    assert {parts[0] for parts in paths} - {"benchmarks"} == {
        *(".gitignore", "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml"),
        *("docs", "examples", "export", "runtime", "scripts", "tests", "vlrt"),
    }
    assert built.sdist.stat().st_size <= DEMO_BYTES + CODE_BYTES


def test_metadata(metadata: Message):
    assert metadata["Name"] == "vlrt"
    assert metadata["Version"] == vlrt.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert metadata["Summary"]
    assert {"export", "test", "lint"} <= set(metadata.get_all("Provides-Extra", []))


def test_what_the_extras_bring(metadata: Message):
    wanted = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    base = {each.name for each in wanted if each.marker is None}
    assert {"numpy", "onnxruntime"} <= base
    assert base.isdisjoint(
        {"huggingface_hub", "ml_dtypes", "onnx", "onnx-ir", "onnxscript", "safetensors"}
    )
    only_tests = {each.name: each for each in wanted if each.name in ("torch", "transformers")}
    assert str(only_tests["torch"].specifier) == "==2.13.0"  # CI has its CPU build
    for each in only_tests.values():
        assert each.marker is not None
        assert not each.marker.evaluate({"extra": "export"})
        assert each.marker.evaluate({"extra": "test"})


def test_the_command(files: dict[str, bytes]):
    entries = ConfigParser()
    entries.read_string(files[f"{DIST_INFO}/entry_points.txt"].decode())
    assert dict(entries["console_scripts"]) == {"vlrt": "vlrt.cli:main"}
    assert dict(entries["pyinstaller40"]) == {"hook-dirs": "vlrt._pyinstaller:get_hook_dirs"}


@pytest.mark.skipif("VLRT_WHEEL" not in os.environ, reason="VLRT_WHEEL is set by .ci/run")
def test_the_tests_ran_on_the_wheel():
    site = Path(sysconfig.get_path("purelib"))
    for package in FOLDERS:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin == str(site / package / "__init__.py")
    for name, data in content(Path(os.environ["VLRT_WHEEL"])).items():
        if not name.startswith(DIST_INFO):
            assert (site / name).read_bytes() == data, name
