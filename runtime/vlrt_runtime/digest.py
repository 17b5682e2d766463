"""SHA-256 of files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vlrt_runtime.cores import usable_cores

__all__ = ["sha256_files"]

CHUNK = 1 << 20  # bytes read at a time


def sha256_files(files: Iterable[Path]) -> dict[Path, str]:
    """Hexadecimal digests; as many files at a time as there are cores, the largest first."""
    ordered = sorted(files, key=lambda path: path.stat().st_size, reverse=True)
    with ThreadPoolExecutor(usable_cores()) as pool:
        return dict(zip(ordered, pool.map(_sha256, ordered), strict=True))


def _sha256(path: Path) -> str:
    digest, buffer = hashlib.sha256(), bytearray(CHUNK)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()
