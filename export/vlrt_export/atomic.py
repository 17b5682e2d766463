"""A folder that appears whole or not at all.

It is written under a hidden name beside the place it is meant for, and renamed at the end. Each
such folder holds a lock that the system gives back when its process dies, however it dies; so the
next run can tell litter from another process's work, and clear it.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from vlrt_runtime.errors import PackageExistsError, StorageError
from vlrt_runtime.manifest import MANIFEST

__all__ = ["atomic_folder", "check_target", "sync"]

LOCK = ".lock"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_target(target: Path, *, force: bool) -> None:
    """Makes sure that `target` may be written.

    Raises:
        PackageExistsError: something is there, and either `force` is off or it is no package.
    """
    _restore(target)
    if not target.exists() and not target.is_symlink():
        return
    if target.is_dir() and not target.is_symlink():
        if not any(target.iterdir()):
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
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_litter(target)
        partial = Path(tempfile.mkdtemp(prefix=_partial(target), dir=target.parent))
    except OSError as error:
        raise StorageError(f"{target}: cannot be written: {error.strerror}") from error
    lock = FileLock(partial / LOCK)
    lock.acquire()
    try:
        yield partial
        check_target(target, force=force)  # again: another process may have been faster
        lock.release()
        (partial / LOCK).unlink(missing_ok=True)
        partial.chmod(0o755)  # mkdtemp makes it private
        _swap(partial, target)
    except OSError as error:
        if error.errno in NO_SPACE:
            free = shutil.disk_usage(target.parent).free
            raise StorageError(
                f"{target}: the disk is full ({free / 1e9:.1f} GB left); nothing was written there"
            ) from error
        raise
    finally:
        lock.release()
        shutil.rmtree(partial, ignore_errors=True)


def sync(path: Path) -> None:
    """Has the system put a file's bytes on the disk, so that a rename never outruns them."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _partial(target: Path) -> str:
    return f".{target.name}.partial-"


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
    if old.is_dir():
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(target)


def _clear_litter(target: Path) -> None:
    for litter in target.parent.glob(f"{_partial(target)}*"):
        try:
            with FileLock(litter / LOCK, timeout=0):
                pass
        except Timeout:
            continue  # alive: another process is writing
        except OSError:
            continue  # not ours to touch
        shutil.rmtree(litter, ignore_errors=True)
