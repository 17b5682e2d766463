"""A local hub, and the real client of huggingface_hub asking it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from support.hub import REPO, Resolve
from support.hub_server import HubServer, serve
from vlrt_export import hub as hub_module
from vlrt_export.sources import Source, resolve


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    """One client for all tests: making it costs more than a test."""
    huggingface_hub.close_session()
    yield
    huggingface_hub.close_session()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(hub_module, "WAIT", 0.0)
    monkeypatch.chdir(tmp_path)
    with serve() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def get(hub: HubServer, cache: Path) -> Resolve:
    def get(source: str = REPO, **options: object) -> Source:
        return resolve(source, cache_dir=cache, **options)  # type: ignore[arg-type]

    return get
