"""A folder that appears whole or not at all.

It is written under a hidden name beside the place it is meant for, and renamed at the end. Beside
each such folder is a lock that the system gives back when its process dies, however it dies; so the
next run can tell litter from another process's work, and clear it.
"""

from __future__ import annotations

import errno
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from vlrt_runtime.errors import PackageExistsError, StorageError
from vlrt_runtime.manifest import MANIFEST

__all__ = ["atomic_folder", "check_target", "sync"]

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_target(target: Path, *, force: bool) -> None:
    """Makes sure that `target` may be written.

    Raises:
        PackageExistsError: something is there, and either `force` is off or it is no package.
        StorageError: the place cannot be looked at, or is a mounted disk.
    """
    try:
        if target.name:  # only a disk's root has none
            _restore(target)
        free = not target.exists() and not target.is_symlink()
    except OSError as error:
        raise _unwritable(target, error) from error
    if free:
        return
    if target.is_dir() and not target.is_symlink():
        if not any(target.iterdir()):
            if target.is_mount():
                raise StorageError(
                    f"{target}: a disk is mounted there, which a package cannot replace; "
                    f"choose a folder in it, like {target / 'package'}"
                )
            return
        if (target / MANIFEST).is_file():
            if force:
                return
            raise PackageExistsError(
                f"{target}: a package is already there; use --force to replace it, "
                "or choose another folder with -o"
            )
    raise PackageExistsError(
        f"{target}: exists and is no vlrt package, so it is not replaced; choose another folder"
    )


@contextmanager
def atomic_folder(target: Path, *, force: bool = False) -> Iterator[Path]:
    """A folder to write into that becomes `target` if the block ends well.

    Raises:
        PackageExistsError: see `check_target`.
        StorageError: the disk is full or cannot be written.
    """
    check_target(target, force=force)
    partial = target.with_name(f"{_partial(target)}{secrets.token_hex(4)}")
    lock = FileLock(_lock(partial))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_litter(target)
        lock.acquire()  # before the folder is there, so that nobody takes it for litter
        partial.mkdir()
    except OSError as error:
        _let_go(lock)
        raise _unwritable(target, error) from error
    try:
        yield partial
        check_target(target, force=force)  # again: another process may have been faster
        _swap(partial, target)
    except OSError as error:
        if error.errno in NO_SPACE:
            free = shutil.disk_usage(target.parent).free
            raise StorageError(
                f"{target}: the disk is full ({free / 1e9:.1f} GB left); nothing was written there"
            ) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        _let_go(lock)


def sync(path: Path) -> None:
    """Has the system put a file's bytes on the disk, so that a rename never outruns them."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(target: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{target}: cannot be written: {error.strerror}; choose another folder with -o"
    )


def _partial(target: Path) -> str:
    return f".{target.name}.partial-"


def _lock(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.lock")


def _let_go(lock: BaseFileLock) -> None:
    lock.release()
    with suppress(OSError):  # it was never made
        Path(lock.lock_file).unlink()


def _replaced(target: Path) -> Path:
    return target.with_name(f".{target.name}.replaced")


def _swap(partial: Path, target: Path) -> None:
    # No system replaces a folder that has content in one step. If this process dies between the
    # two renames, `_restore` of the next run undoes the first.
    old = _replaced(target)
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _restore(target: Path) -> None:
    old = _replaced(target)
    if old.is_dir() and not any(_alive(partial) for partial in _partials(target)):
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(target)


def _partials(target: Path) -> list[Path]:
    found = target.parent.glob(f"{glob.escape(_partial(target))}*")
    return [path for path in found if path.is_dir()]


def _alive(partial: Path) -> bool:
    """Whether a process is writing there, or it cannot be told."""
    try:
        with FileLock(_lock(partial), timeout=0):
            return False
    except (Timeout, OSError):
        return True


def _clear_litter(target: Path) -> None:
    for partial in _partials(target):
        if not _alive(partial):
            shutil.rmtree(partial, ignore_errors=True)
            _lock(partial).unlink(missing_ok=True)
