"""Compiled programs, kept in the user's cache: compiling a decoder can take minutes."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from vlrt_runtime.digest import sha256_files
from vlrt_runtime.mil.program import MilProgram
from vlrt_runtime.mil.steps import Function
from vlrt_runtime.package import user_folder

__all__ = ["compiled", "interfaces"]


def compiled(path: Path, compile_program: Callable[[Path, Path], Path]) -> Path:
    """The `.mlmodelc` of an `.mlpackage`: compiled once for its content and this macOS.

    Args:
        path: the `.mlpackage`.
        compile_program: compiles it, into the folder given if it can choose; what it made is moved
            away from wherever that is.
    """
    digests = sha256_files(file for file in path.rglob("*") if file.is_file())
    files = sorted((file.relative_to(path).as_posix(), digests[file]) for file in digests)
    identity = "\n".join([platform.mac_ver()[0], *(f"{name} {it}" for name, it in files)])
    store = user_folder() / "coreml"
    kept = store / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.mlmodelc"
    if kept.is_dir():
        return kept
    store.mkdir(parents=True, exist_ok=True)
    # Beside its place first, then renamed: another process may be doing the same.
    with tempfile.TemporaryDirectory(dir=store, prefix=".compiling-") as beside:
        moved = Path(beside) / kept.name
        shutil.move(compile_program(path, Path(beside)), moved)
        try:
            os.rename(moved, kept)  # noqa: PTH104  to fail where it is there: never to replace it
        except OSError:
            if not kept.is_dir():
                raise
    return kept


def interfaces(path: Path) -> Mapping[str, Function]:
    """The functions of an `.mlpackage` by our own reader, without what they do."""
    functions = MilProgram.open(path).functions
    return {name: replace(f, steps=(), results={}) for name, f in functions.items()}
