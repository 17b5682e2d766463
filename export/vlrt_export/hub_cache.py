"""The place of one repository in huggingface_hub's cache: what is there, and whether it is whole.

The layout is the documented one, so that other programs find these files and we find theirs:
https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlrt_runtime.errors import StorageError, VlrtError

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = ["COMMIT", "Progress", "RemoteFile", "RepositoryCache"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, bytes done and bytes in all."""

BLOCK = 1 << 20
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class RemoteFile:
    """A file as the hub lists it: `digest` is its sha256 if it is kept in LFS, else git's sha1."""

    name: str
    size: int
    digest: str

    @property
    def in_lfs(self) -> bool:
        """Whether `digest` is a sha256."""
        return len(self.digest) == 64

    def hash(self, path: Path, progress: Progress) -> tuple[_Hash, int]:
        """The hash of what is in `path` so far, and its size."""
        header = b"blob %d\0" % self.size
        so_far = hashlib.sha256() if self.in_lfs else hashlib.sha1(header, usedforsecurity=False)
        done = 0
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                so_far.update(block)
                done += len(block)
                progress(f"checking {self.name}", done, self.size)
        return so_far, done


class RepositoryCache:
    """The folder of one repository.

    Args:
        cache: the folder of all repositories.
        name: of the folder of this one.
        progress: called when files are hashed.
    """

    def __init__(self, cache: Path, name: str, progress: Progress) -> None:
        self.cache, self.progress = cache, progress
        self.storage = cache / name
        self.locks = cache / ".locks" / name
        self.record = self.storage / "vlrt-verified.json"

    def blob(self, file: RemoteFile) -> Path:
        """Where the content of a file lies."""
        return self.storage / "blobs" / file.digest

    def partial(self, file: RemoteFile) -> Path:
        """Where the content of a file lies until all of it has come."""
        return self.storage / "blobs" / f"{file.digest}.incomplete"

    def snapshot(self, commit: str) -> Path:
        """The folder that has the files of a commit under their names."""
        return self.storage / "snapshots" / commit

    def seen(self, revision: str) -> Path | None:
        """The snapshot that the revision stood for when last asked, complete or not."""
        commit = revision
        if not COMMIT.fullmatch(commit):
            try:
                commit = (self.storage / "refs" / revision).read_text(encoding="utf-8").strip()
            except OSError:
                return None
        folder = self.snapshot(commit)
        return folder if COMMIT.fullmatch(commit) and folder.is_dir() else None

    def note(self, revision: str, commit: str) -> None:
        """Remember what the revision stands for, for later use offline."""
        if revision != commit:
            with contextlib.suppress(OSError):  # as huggingface_hub: a cache may be read-only
                _write(self.storage / "refs" / revision, commit)

    def has(self, file: RemoteFile, commit: str) -> bool:
        """Whether the file is there and whole; a damaged one is deleted."""
        blob, pointer = self.blob(file), self.snapshot(commit) / file.name
        for path in (pointer, blob):
            if path.is_file() and self._intact(path, file):
                _link(blob, pointer)
                return True
            path.unlink(missing_ok=True)  # damaged, or a link to nothing
        return False

    def adopt(self, file: RemoteFile, commit: str) -> None:
        """Take in a partial file that is now complete and verified."""
        blob = self.blob(file)
        self.partial(file).replace(blob)
        self._remember(file, blob)
        _link(blob, self.snapshot(commit) / file.name)

    def prepare(self, missing: list[RemoteFile]) -> None:
        """Make the folders for files that are to come.

        Raises:
            StorageError: the disk has no room for them.
        """
        for folder in (self.storage / "blobs", self.locks):
            folder.mkdir(parents=True, exist_ok=True)
        need, free = 0, shutil.disk_usage(self.storage).free
        for file in missing:
            partial = self.partial(file)
            need += file.size - (partial.stat().st_size if partial.is_file() else 0)
        if need > free:
            raise StorageError(
                f"{self.cache}: expected {need / 1e9:.2f} GB free for the download, got "
                f"{free / 1e9:.2f} GB; free some, or set HF_HOME to a folder on a larger disk"
            )

    def verified_digests(self, snapshot: Path) -> dict[str, str]:
        """sha256 by name, of the files of a snapshot that were verified when they came."""
        verified = self._verified()
        digests = {path.name: path.resolve().name for path in snapshot.iterdir()}
        return {name: it for name, it in digests.items() if len(it) == 64 and it in verified}

    @contextlib.contextmanager
    def storage_errors(self) -> Iterator[None]:
        """Turns what the system says about the disk into StorageError."""
        try:
            yield
        except VlrtError:
            raise
        except OSError as error:
            raise StorageError(
                f"{self.cache}: cannot be written: {error.strerror or error}; make room or allow "
                "it, or set HF_HOME to another folder, and run the same command again: the "
                "download resumes where it stopped"
            ) from error

    def _intact(self, path: Path, file: RemoteFile) -> bool:
        if path.stat().st_size != file.size:
            return False
        if self._verified().get(file.digest) == _stamp(path):
            return True
        if file.hash(path, self.progress)[0].hexdigest() != file.digest:
            return False
        self._remember(file, path)
        return True

    def _verified(self) -> dict[str, list[int]]:
        """Size and time of the verified files, by digest: no file is hashed twice."""
        try:
            record = json.loads(self.record.read_bytes())
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def _remember(self, file: RemoteFile, path: Path) -> None:
        with contextlib.suppress(OSError):  # then it is hashed again next time
            _write(self.record, json.dumps(self._verified() | {file.digest: _stamp(path)}))


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _link(blob: Path, pointer: Path) -> None:
    if pointer.is_file():
        return
    pointer.parent.mkdir(parents=True, exist_ok=True)
    try:
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:  # Windows, without the right to make links
        blob.replace(pointer)


def _write(path: Path, text: str) -> None:
    """A small file, never seen half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
