"""What a source is: a local folder, a short name, a hub id, or a mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.hub import REPO, SHARDED, Resolve
from support.hub_server import HubServer
from vlrt_export.catalog import CATALOG, find
from vlrt_export.sources import Source, resolve
from vlrt_runtime.errors import CheckpointNotFoundError, InputError


def test_a_local_folder_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    folder = tmp_path / "a b@c"
    folder.mkdir()
    assert resolve(folder) == resolve(str(folder)) == Source(folder.resolve(), None, None, {})


def test_importing_stays_light() -> None:
    code = (
        "import sys, vlrt_export.sources, vlrt_export.catalog\n"
        "print([m for m in ('huggingface_hub', 'numpy', 'onnx', 'tqdm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("source", ["./qwen2", "/no/such/folder", "~nobody/x", "a/b/c", "qwen2"])
def test_a_mistyped_path_says_what_was_tried(source: str, hub: HubServer) -> None:
    with pytest.raises(CheckpointNotFoundError) as caught:
        resolve(source)
    message = str(caught.value)
    assert message.startswith(f"{source}: no such folder")
    assert "nor a short name or hub id" in message
    assert "qwen2-vl-2b" in message
    assert not hub.requests


def test_a_path_object_is_never_a_hub_id(hub: HubServer) -> None:
    with pytest.raises(CheckpointNotFoundError, match="no such folder"):
        resolve(Path("Qwen/Qwen2-VL-2B-Instruct"))
    assert not hub.requests


def test_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(CheckpointNotFoundError, match="a file, not a folder"):
        resolve(file)


@pytest.mark.parametrize(
    "source",
    ["../x", "x/../y", "a/..", "../../etc/x", "a--b/c", ".a/b", "a/b.git", "a\\b", "a/b\n"],
)
def test_path_tricks_are_no_ids(source: str, hub: HubServer) -> None:
    with pytest.raises(CheckpointNotFoundError, match="no such folder"):
        resolve(source)
    assert not hub.requests


@pytest.mark.parametrize("revision", ["../x", "a/../../b", "", "/etc", "a b", "x/", "-x"])
def test_path_tricks_are_no_revisions(revision: str, hub: HubServer, cache: Path) -> None:
    with pytest.raises(InputError, match="is no revision"):
        resolve(REPO, revision=revision, cache_dir=cache)
    with pytest.raises(InputError, match="is no revision"):
        resolve(f"{REPO}@{revision}", cache_dir=cache)
    assert not hub.requests


def test_nothing_named() -> None:
    with pytest.raises(InputError, match="expected a folder"):
        resolve("")


def test_a_local_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no revision 'main'"):
        resolve(tmp_path, revision="main")


def test_two_revisions(get: Resolve) -> None:
    with pytest.raises(InputError, match="two revisions"):
        get(f"{REPO}@v1.0", revision="main")


def test_short_names_and_suggestions() -> None:
    assert find("Qwen2-VL-2B").repo == "Qwen/Qwen2-VL-2B-Instruct"
    assert find("qwen/qwen2-vl-7b-instruct").parameters == 8_291_375_616
    with pytest.raises(CheckpointNotFoundError, match="did you mean 'qwen2-vl-2b'"):
        find("qwen2vl-2b")
    with pytest.raises(CheckpointNotFoundError, match="did you mean 'qwen2-vl-7b'"):
        resolve("qwen2-vl-7")
    with pytest.raises(CheckpointNotFoundError) as caught:
        find("gpt")
    assert "did you mean" not in str(caught.value)


def test_the_catalog_is_consistent() -> None:
    assert len({card.name for card in CATALOG}) == len({card.repo for card in CATALOG})
    for card in CATALOG:
        assert card.name == card.name.lower()
        assert card.repo.count("/") == 1
        assert 0.3 * card.parameters < card.download_bytes < 4.1 * card.parameters


def test_a_short_name_is_downloaded(hub: HubServer, get: Resolve) -> None:
    hub.add("Qwen/Qwen2-VL-2B-Instruct", SHARDED)
    source = get("qwen2-vl-2b")
    assert source.repo == "Qwen/Qwen2-VL-2B-Instruct"


def test_a_package_of_the_same_name_does_not_hide_the_model(hub: HubServer, get: Resolve) -> None:
    hub.add("Qwen/Qwen2-VL-2B-Instruct", SHARDED)
    Path("qwen2-vl-2b").mkdir()
    assert get("qwen2-vl-2b").repo == "Qwen/Qwen2-VL-2B-Instruct"
    Path("qwen2-vl-2b/config.json").write_text("{}")
    assert get("qwen2-vl-2b").repo is None
