"""Finding and downloading checkpoints, with the real client of huggingface_hub and a local hub."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
import pytest

from support.hub_server import HubServer, serve, sha256
from vlrt_export import hub as hub_module
from vlrt_export.catalog import CATALOG, find
from vlrt_export.sources import Source, resolve
from vlrt_runtime.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    DownloadError,
    InputError,
    MissingDependencyError,
    StorageError,
    VlrtError,
)

REPO = "acme/eyes"
TOKEN = "hf_tokenThatMustNotBeSeen"
SHARDS = {
    "model-00001-of-00002.safetensors": bytes(range(256)) * 800,
    "model-00002-of-00002.safetensors": b"second" * 2000,
}
FIRST, SECOND = SHARDS
INDEX = json.dumps({"weight_map": {"a": FIRST, "b": SECOND, "c": FIRST}}).encode()
SHARDED = {
    "config.json": b'{"model_type": "qwen2_vl"}',
    "tokenizer.json": b"{}" * 4000,
    "merges.txt": b"a b\n",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors.index.json": INDEX,
    **SHARDS,
}
UNNEEDED = {
    "README.md": b"# eyes",
    ".gitattributes": b"*.bin",
    "modeling_eyes.py": b"raise SystemExit",
    "pytorch_model.bin": b"pickle",
    "consolidated.00.pth": b"pickle",
    "consolidated.safetensors": b"other layout",
    "model.fp16.safetensors": b"half",
    "model-00003-of-00002.safetensors": b"left over",
    "onnx/model.onnx": b"onnx",
}

Resolve = Callable[..., Source]


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


def storage(cache: Path) -> Path:
    return cache / "models--acme--eyes"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- local folders, names and ids


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


# --- downloads


@pytest.mark.parametrize("lfs", [(), ("tokenizer.json",)])
def test_only_the_needed_files(hub: HubServer, get: Resolve, lfs: tuple[str, ...]) -> None:
    commit = hub.add(REPO, UNNEEDED | SHARDED, lfs=lfs)
    source = get()
    assert contents(source.folder) == SHARDED
    assert sorted(hub.downloaded) == sorted(SHARDED)
    assert (source.repo, source.revision) == (REPO, commit)
    assert source.digests == {name: sha256(SHARDED[name]) for name in (*SHARDS, *lfs)}


def test_a_single_weight_file(hub: HubServer, get: Resolve) -> None:
    files = {"config.json": b"{}", "model.safetensors": b"weights"}
    hub.add(REPO, UNNEEDED | files)
    assert contents(get().folder) == files


def test_the_cache_is_that_of_huggingface_hub(hub: HubServer, get: Resolve, cache: Path) -> None:
    hub.add(REPO, SHARDED)
    folder = get().folder
    for name in SHARDED:
        found = huggingface_hub.try_to_load_from_cache(REPO, name, cache_dir=cache)
        assert Path(str(found)) == folder / name
    info = huggingface_hub.scan_cache_dir(cache)
    assert not info.warnings
    assert info.size_on_disk == sum(len(content) for content in SHARDED.values())
    asked = len(hub.downloaded)
    huggingface_hub.hf_hub_download(REPO, FIRST, cache_dir=cache, endpoint=hub.endpoint)
    assert len(hub.downloaded) == asked


def test_files_of_other_programs_are_used_and_checked_once(
    hub: HubServer, get: Resolve, cache: Path
) -> None:
    hub.add(REPO, SHARDED)
    for name in (FIRST, "config.json"):
        huggingface_hub.hf_hub_download(REPO, name, cache_dir=cache, endpoint=hub.endpoint)
    hub.requests.clear()
    seen: list[str] = []
    get(progress=lambda label, done, total: seen.append(label))
    assert FIRST not in hub.downloaded
    assert "config.json" not in hub.downloaded
    assert f"checking {FIRST}" in seen
    seen.clear()
    get(progress=lambda label, done, total: seen.append(label))
    assert not seen


def test_a_second_run_downloads_nothing(hub: HubServer, get: Resolve) -> None:
    hub.add(REPO, SHARDED)
    first = get()
    hub.requests.clear()
    assert get() == first
    assert [request.path for request in hub.requests] == [f"/api/models/{REPO}/revision/main"]


@pytest.mark.parametrize("how", ["argument", "suffix", "commit"])
def test_a_revision(hub: HubServer, get: Resolve, how: str) -> None:
    commit = hub.add(REPO, SHARDED)
    match how:
        case "argument":
            source = get(revision="v1.0")
        case "suffix":
            source = get(f"{REPO}@v1.0")
        case _:
            source = get(f"{REPO}@{commit}")
    assert source.revision == commit


def test_progress_ends_at_the_total(hub: HubServer, get: Resolve) -> None:
    hub.add(REPO, SHARDED)
    seen: list[tuple[str, int, int]] = []
    get(progress=lambda *step: seen.append(step))
    total = sum(len(content) for content in SHARDED.values())
    assert seen[-1] == (f"downloading {REPO}", total, total)
    assert all(done <= whole for _, done, whole in seen)


def test_a_cut_is_resumed_in_the_same_run(hub: HubServer, get: Resolve) -> None:
    hub.add(REPO, SHARDED)
    hub.cuts[FIRST] = [70_000, 30_000]
    assert contents(get().folder) == SHARDED
    assert hub.ranges(FIRST) == [None, "bytes=70000-", "bytes=100000-"]


def test_a_cut_is_resumed_by_the_next_run(hub: HubServer, get: Resolve, cache: Path) -> None:
    hub.add(REPO, SHARDED)
    hub.cuts[FIRST] = [70_000] + [0] * (hub_module.TRIES - 1)
    with pytest.raises(DownloadError, match="same command again: the download resumes"):
        get()
    assert len(hub.ranges(FIRST)) == hub_module.TRIES
    partial = storage(cache) / "blobs" / f"{sha256(SHARDS[FIRST])}.incomplete"
    assert partial.stat().st_size == 70_000
    hub.requests.clear()
    assert contents(get().folder) == SHARDED
    assert hub.ranges(FIRST) == ["bytes=70000-"]
    assert not partial.exists()


def test_an_interrupted_run_is_resumed(hub: HubServer, get: Resolve) -> None:
    def interrupt(label: str, done: int, total: int) -> None:
        if done > 50_000:
            raise KeyboardInterrupt

    hub.add(REPO, SHARDED)
    with pytest.raises(KeyboardInterrupt):
        get(progress=interrupt)
    hub.requests.clear()
    assert contents(get().folder) == SHARDED
    assert hub.downloaded == list(SHARDS)
    assert str(hub.ranges(FIRST)[0]).startswith("bytes=")


def test_two_at_a_time_download_once(hub: HubServer, get: Resolve) -> None:
    hub.add(REPO, SHARDED)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: get(), range(2))
    assert first == second
    assert sorted(hub.downloaded) == sorted(SHARDED)


def test_long_steps_between_cuts_are_no_failures(
    hub: HubServer, get: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "ADVANCE", 20_000)
    hub.add(REPO, SHARDED)
    hub.cuts[FIRST] = [20_000] * 8
    assert contents(get().folder) == SHARDED


def test_a_server_that_ignores_ranges(hub: HubServer, get: Resolve) -> None:
    hub.add(REPO, SHARDED)
    hub.ignores_range = True
    hub.cuts[FIRST] = [70_000]
    assert contents(get().folder) == SHARDED


@pytest.mark.parametrize("name", [FIRST, "tokenizer.json"])
def test_wrong_bytes(hub: HubServer, get: Resolve, cache: Path, name: str) -> None:
    hub.add(REPO, SHARDED)
    hub.wrong[name] = 1
    with pytest.raises(DownloadError) as caught:
        get()
    expected = hub.repos[REPO].digest(name)
    assert f"{name} arrived damaged: expected digest {expected}, got " in str(caught.value)
    blobs = {path.name for path in (storage(cache) / "blobs").iterdir()}
    assert not blobs & {expected, f"{expected}.incomplete"}
    assert contents(get().folder) == SHARDED


def test_wrong_bytes_before_a_cut(hub: HubServer, get: Resolve) -> None:
    hub.add(REPO, SHARDED)
    hub.wrong[FIRST], hub.cuts[FIRST] = 1, [70_000]
    with pytest.raises(DownloadError, match="arrived damaged"):
        get()
    assert contents(get().folder) == SHARDED


@pytest.mark.parametrize("how", ["bytes", "length", "link"])
def test_damage_in_the_cache_is_repaired(hub: HubServer, get: Resolve, how: str) -> None:
    hub.add(REPO, SHARDED)
    file = get().folder / FIRST
    blob = file.resolve()
    match how:
        case "bytes":
            blob.write_bytes(b"\0" * len(SHARDS[FIRST]))
            os.utime(blob, ns=(1, 1))
        case "length":
            blob.write_bytes(b"short")
        case _:
            blob.unlink()
    hub.requests.clear()
    assert contents(get().folder) == SHARDED
    assert hub.downloaded == [FIRST]


def test_without_links(
    hub: HubServer, get: Resolve, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: str) -> None:
        raise OSError(errno.EPERM, "a required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    hub.add(REPO, SHARDED)
    source = get()
    assert contents(source.folder) == SHARDED
    assert not (source.folder / FIRST).is_symlink()
    assert not list((storage(cache) / "blobs").iterdir())
    hub.requests.clear()
    assert get() == source
    assert not hub.downloaded
    (source.folder / FIRST).write_bytes(b"damaged")
    assert contents(get().folder) == SHARDED


def test_the_hub_was_busy_once(hub: HubServer, get: Resolve) -> None:
    hub.add(REPO, SHARDED)
    hub.refusals = {"listing": ["busy"], FIRST: ["busy"], "config.json": ["limited"]}
    assert contents(get().folder) == SHARDED


# --- refusals


def failure(get: Resolve, kind: type[VlrtError]) -> str:
    with pytest.raises(kind) as caught:
        get()
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
