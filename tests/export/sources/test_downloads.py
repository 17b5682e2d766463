"""Downloads of checkpoints, by the real client of huggingface_hub from a local hub."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
import pytest

from support.hub import FIRST, REPO, SHARDED, SHARDS, UNNEEDED, Resolve, contents, storage
from support.hub_server import HubServer, sha256
from vlrt_export import hub as hub_module
from vlrt_runtime.errors import DownloadError


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
