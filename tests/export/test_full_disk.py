"""A disk without room: said before an export where it can be seen, and nothing is left behind."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vlrt_export import job, writer
from vlrt_export.exporter import export
from vlrt_runtime.errors import StorageError

posix = pytest.mark.skipif(sys.platform == "win32", reason="limits and mounts of POSIX")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("module", "function"),
    [
        (writer, "_write_all"),
        (job.assets, "copy_assets"),
        (job.ir, "save"),
        (job, "sync"),
    ],
)
def test_a_disk_that_fills_up(small_qwen2_vl, tmp_path, monkeypatch, module, function):
    monkeypatch.setattr(module, function, no_space)
    with pytest.raises(StorageError, match=r"out: the disk is full \(.* GB left\); nothing was"):
        export(small_qwen2_vl, tmp_path / "out")
    assert names(tmp_path) == []


def test_too_little_room_is_said_before_anything_is_written(small_qwen2_vl, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 1000))
    told: list[str] = []
    with pytest.raises(StorageError, match=r"needs .* GB and .* GB are free; make room, or choose"):
        export(small_qwen2_vl, tmp_path / "out", progress=lambda what, *_: told.append(what))
    assert not told
    assert names(tmp_path) == []


@posix
def test_a_file_that_may_not_grow(small_qwen2_vl, tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StorageError, match="the disk is full"):
            export(small_qwen2_vl, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == []


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount")
def test_a_disk_that_is_really_full(small_qwen2_vl, tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(StorageError, match="GB are free"):
            export(small_qwen2_vl, disk / "out")
        with pytest.raises(StorageError, match=r"a disk is mounted there.*; choose .*disk/package"):
            export(small_qwen2_vl, disk)
        room = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: room)  # it fills up on the way
        with pytest.raises(StorageError, match="the disk is full"):
            export(small_qwen2_vl, disk / "out")
        assert names(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
