"""SHA-256 of files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = ["sha256_files"]

CHUNK = 1 << 20  # bytes read at a time


def sha256_files(paths: Iterable[Path]) -> dict[str, str]:
    """Hexadecimal digests by file name; as many files at a time as there are cores."""
    files = list(paths)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return dict(zip((path.name for path in files), pool.map(_sha256, files), strict=True))


def _sha256(path: Path) -> str:
    digest, buffer = hashlib.sha256(), bytearray(CHUNK)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()
