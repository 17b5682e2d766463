"""Checkpoints that many tests share, made once a session; versions in the report's header.

Makers are imported where they are used: without the export extra their libraries are absent.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest


def pytest_report_header() -> str:
    names = ("numpy", "onnxruntime", "transformers")
    return ", ".join(f"{name} {_version(name)}" for name in names)


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "absent"


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
