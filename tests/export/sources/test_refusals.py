"""A hub that refuses or is not there, and repositories and machines that cannot do."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.hub import FIRST, REPO, SECOND, SHARDED, TOKEN, Resolve, contents, failure
from support.hub_server import HubServer
from vlrt_export import hub as hub_module
from vlrt_export.sources import resolve
from vlrt_runtime.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    DownloadError,
    InputError,
    MissingDependencyError,
    StorageError,
)

# --- refusals


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize("what", ["listing", FIRST])
def test_gated(
    hub: HubServer, get: Resolve, what: str, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    hub.add(REPO, SHARDED)
    hub.refusals[what] = ["!gated"]
    message = failure(get, DownloadError)
    assert f"accept its licence at {hub.endpoint}/{REPO}" in message
    assert ("hf auth whoami" if token else "hf auth login") in message


def test_a_refused_token(hub: HubServer, get: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.add(REPO, SHARDED)
    hub.refusals["listing"] = ["!unauthorized"]
    message = failure(get, DownloadError)
    assert "refuses access (401)" in message
    assert "check that your token may read it" in message
    assert len(hub.requests) == 1


@pytest.mark.parametrize("status", [404, 401])
def test_an_unknown_repository(hub: HubServer, get: Resolve, status: int) -> None:
    if status == 401:  # what the hub answers to strangers
        hub.refusals["listing"] = ["!unknown"]
    message = failure(get, CheckpointNotFoundError)
    assert message.startswith(f"{REPO}: no such repository on 127.0.0.1")
    assert "private" in message
    assert "HF_TOKEN" in message


def test_a_misspelt_repository(hub: HubServer, cache: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="did you mean 'Qwen/Qwen2-VL-2B-Instruct'"):
        resolve("Qwen/Qwen2-VL-2B-Instuct", cache_dir=cache)


def test_an_unknown_revision(hub: HubServer, cache: Path) -> None:
    hub.add(REPO, SHARDED)
    with pytest.raises(CheckpointNotFoundError, match="no revision 'v9'"):
        resolve(REPO, revision="v9", cache_dir=cache)


@pytest.mark.parametrize(("key", "text"), [("busy", "status 503"), ("limited", "429")])
def test_the_hub_stays_busy(hub: HubServer, get: Resolve, key: str, text: str) -> None:
    hub.add(REPO, SHARDED)
    hub.refusals[FIRST] = [f"!{key}"]
    assert text in failure(get, DownloadError)
    assert len(hub.ranges(FIRST)) == hub_module.TRIES


def test_a_token_goes_to_the_hub_and_no_further(
    hub: HubServer, get: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.add(REPO, SHARDED)
    get()
    for request in hub.requests:
        sent = request.headers.get("authorization")
        assert sent == (None if request.path.startswith("/storage/") else f"Bearer {TOKEN}")


@pytest.mark.parametrize("stray", ["\x01", "é", " and more"])
def test_a_token_copied_badly(
    hub: HubServer, get: Resolve, stray: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN + stray)
    assert "HF_TOKEN" in failure(get, InputError)
    assert not hub.requests


# --- offline


@pytest.fixture(params=["offline mode", "no connection"])
def disconnect(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    def disconnect() -> None:
        if request.param == "offline mode":
            monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        else:
            monkeypatch.setenv("HF_ENDPOINT", "http://user:s3cret@127.0.0.1:9")

    return disconnect


def test_offline_with_the_cache(
    hub: HubServer, get: Resolve, disconnect: Callable[[], None]
) -> None:
    hub.add(REPO, SHARDED)
    online = get()
    disconnect()
    assert get() == online
    assert get(revision=online.revision) == online


def test_offline_without_the_cache(
    hub: HubServer, get: Resolve, disconnect: Callable[[], None]
) -> None:
    hub.add(REPO, SHARDED)
    disconnect()
    message = failure(get, DownloadError)
    assert "local folder" in message
    assert "HF_HUB_OFFLINE is set" in message or "no connection to 127.0.0.1:9" in message


def test_offline_with_half_a_checkpoint(
    hub: HubServer, get: Resolve, disconnect: Callable[[], None]
) -> None:
    hub.add(REPO, SHARDED)
    folder = get().folder
    (folder / SECOND).unlink()
    disconnect()
    failure(get, DownloadError)


def test_a_refusal_does_not_take_the_cache_away(hub: HubServer, get: Resolve) -> None:
    hub.add(REPO, SHARDED)
    online = get()
    hub.refusals["listing"] = ["!gated"]
    assert get() == online


# --- repositories and machines that cannot do


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"README.md": b"", "model.safetensors": b"x"}, "it has no config.json"),
        ({}, "no files"),
        ({"config.json": b"{}", "pytorch_model.bin": b"x"}, "got pytorch_model.bin"),
        ({"config.json": b"{}", "model.fp16.safetensors": b"x"}, "got model.fp16.safetensors"),
        ({"config.json": b"{}"}, "got no weights"),
    ],
)
def test_no_checkpoint(hub: HubServer, get: Resolve, files: dict[str, bytes], text: str) -> None:
    hub.add(REPO, files)
    assert text in failure(get, CheckpointError)


@pytest.mark.parametrize(
    ("index", "text"),
    [
        ({"weight_map": {"a": "../../x.safetensors"}}, "got ../../x.safetensors"),
        ({"weight_map": {"a": "sub/x.safetensors"}}, "got sub/x.safetensors"),
        ({"weight_map": {"a": "model.bin"}}, "got model.bin"),
        ({"weight_map": {"a": "absent.safetensors"}}, "names files it has not: absent.safetensors"),
        ({"weight_map": {}}, "got none"),
        ({"weight_map": {"a": 1}}, "got 1"),
        ({"weight_map": {"a": ["x"]}}, "no 'weight_map'"),
        ({"weight_map": {"a": 1, "b": "x"}}, "no 'weight_map'"),
        ({}, "no 'weight_map'"),
        ([], "no 'weight_map'"),
    ],
)
def test_a_bad_index(hub: HubServer, get: Resolve, index: object, text: str) -> None:
    content = json.dumps(index).encode()
    hub.add(REPO, {"config.json": b"{}", "model.safetensors.index.json": content})
    assert text in failure(get, CheckpointError)


def test_no_room(hub: HubServer, get: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPO, SHARDED)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 0))
    assert "HF_HOME" in failure(get, StorageError)
    assert FIRST not in hub.downloaded


def test_the_disk_fills_up(hub: HubServer, get: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, block: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    hub.add(REPO, SHARDED)
    with monkeypatch.context() as patch:
        patch.setattr(hub_module._Incoming, "write", fail)
        assert "No space left on device" in failure(get, StorageError)
    assert contents(get().folder) == SHARDED


def test_a_cache_that_cannot_be_written(hub: HubServer, get: Resolve, cache: Path) -> None:
    hub.add(REPO, SHARDED)
    cache.write_text("a file where the folder should be")
    assert str(cache) in failure(get, StorageError)


@pytest.mark.parametrize("listing", ["<html>", "[]", '{"id": "x"}', '{"id": "x", "sha": "../x"}'])
def test_an_address_that_is_no_hub(
    hub: HubServer, get: Resolve, listing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, SHARDED)
    monkeypatch.setattr("support.hub_server.json.dumps", lambda value: listing)
    assert "HF_ENDPOINT" in failure(get, DownloadError)


def test_a_hub_that_gives_no_digests(
    hub: HubServer, get: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, SHARDED)
    monkeypatch.setattr("support.hub_server.git_sha1", lambda content: "../../x")
    assert "no size and digest of config.json" in failure(get, DownloadError)


def test_an_endpoint_that_is_no_address(get: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "localhost:8000")
    assert "HF_ENDPOINT" in failure(get, InputError)


def test_huggingface_hub_is_not_installed(get: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'vlrt[export]'" in failure(get, MissingDependencyError)
