"""Checkpoints that many tests share, made once a session; versions in the report's header.

Makers are imported where they are used: without the export extra their libraries are absent.
"""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """Processes that tests start hear Ctrl-C: a shell in the background has theirs ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What is imported by now stays: coremltools, which collects at each save, need not look."""
    gc.freeze()


def pytest_report_header() -> str:
    names = ("numpy", "onnxruntime", "transformers")
    return ", ".join(f"{name} {_version(name)}" for name in names)


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "absent"


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is written into the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLRT_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def tiny_qwen2_vl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen2-VL as published: float32, two shards, the full vocabulary. Not to be written to."""
    from support.tiny.qwen2_vl import make_qwen2_vl

    return make_qwen2_vl(tmp_path_factory.mktemp("tiny") / "qwen2_vl")


@pytest.fixture(scope="session")
def small_qwen2_vl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with 512 rows of vocabulary, where no real ids are needed. Not to be written to."""
    from support.tiny.qwen2_vl import make_qwen2_vl

    return make_qwen2_vl(tmp_path_factory.mktemp("tiny") / "qwen2_vl", vocabulary="small")


@pytest.fixture(scope="session")
def small_package(small_qwen2_vl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of `small_qwen2_vl` at fp32. Not to be written to."""
    from vlrt_export.exporter import export

    folder = tmp_path_factory.mktemp("package") / "small"
    return export(small_qwen2_vl, folder, precision="fp32")


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LLaVA-1.5 as published: float32, two shards, the full vocabulary. Not to be written to."""
    from support.tiny.llava import make_llava

    return make_llava(tmp_path_factory.mktemp("tiny") / "llava")


@pytest.fixture(scope="session")
def tiny_mllama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Llama 3.2 Vision as published, the full vocabulary. Not to be written to."""
    from support.tiny.mllama import make_mllama

    return make_mllama(tmp_path_factory.mktemp("tiny") / "mllama")


@pytest.fixture(scope="session")
def small_mllama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with 512 rows of vocabulary. Not to be written to."""
    from support.tiny.mllama import make_mllama

    return make_mllama(tmp_path_factory.mktemp("tiny") / "mllama", vocabulary="small")


@pytest.fixture(scope="session")
def tiny_kosmos2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kosmos-2 as published: float32, two shards, the full vocabulary. Not to be written to."""
    from support.tiny.kosmos2 import make_kosmos2

    return make_kosmos2(tmp_path_factory.mktemp("tiny") / "kosmos2")
