"""Weights as onnxruntime's kernels want them, kept in the user's cache folder.

Opening a graph, onnxruntime lays its matrices out anew for this processor, which is most of the
time it takes. It can save the result; the next time the file is mapped as it is, by as many
processes as there are. An entry is a folder: the graph, its data, and the sizes of both. It belongs
to one file at one place: digests that a manifest claims are not enough to find another's weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vlrt_runtime.errors import InputError, PackageError
from vlrt_runtime.package import packages_folder
from vlrt_runtime.session import Session, ort

__all__ = ["Entry", "Prepacked", "entries", "prepacked_folder"]

GRAPH, DATA, NOTE = "graph.onnx", "graph.onnx.data", "entry.json"
SMALLEST = 64 << 20  # bytes of weights; smaller graphs open at once anyway
LIMIT = 20 << 30  # bytes in all; VLRT_CACHE_GB sets another
PARTIAL = ".partial-"
STALE = 3600  # seconds after which a partial entry was left behind by a crash

Open = Callable[[Path, dict[str, str], Path | None], Session]


def prepacked_folder() -> Path:
    """Where entries are; VLRT_HOME moves it."""
    return packages_folder().parent / "prepacked"


@dataclass(frozen=True)
class Entry:
    """A graph's entry: where it is, whose it is, its bytes, and when it was last used."""

    folder: Path
    source: str
    nbytes: int
    used: float


def entries() -> list[Entry]:
    """All whole entries, the one used last in front."""
    found = [_entry(note) for note in prepacked_folder().glob(f"*/{NOTE}")]
    return sorted((entry for entry in found if entry), key=lambda entry: -entry.used)


def _entry(note: Path) -> Entry | None:
    try:
        source = str(json.loads(note.read_bytes())["source"])
        nbytes = sum(path.stat().st_size for path in note.parent.iterdir())
        return Entry(note.parent, source, nbytes, note.stat().st_mtime)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # somebody is removing it, or it is damaged and will be made again


class Prepacked:
    """Opens graphs by way of the cache.

    Whatever goes wrong with it, the graph itself is opened: a cache costs no answer.
    """

    def __init__(self, opener: Open, device: str) -> None:
        self._open, self._device = opener, device

    def session(self, graph: Path) -> Session:
        """A graph of a package.

        Raises:
            PackageError: onnxruntime cannot load it.
        InputError: VLRT_CACHE_GB is no size.
        """
        data = graph.with_name(graph.name + ".data")
        most = _limit()
        if most == 0 or not data.is_file() or data.stat().st_size < SMALLEST:
            return self._open(graph, {}, None)
        folder = prepacked_folder() / self._key(graph, data)
        try:
            if (folder / NOTE).is_file():
                return self._kept(folder)
        except (PackageError, OSError, ValueError, KeyError, TypeError):
            pass  # damaged, or another user's
        shutil.rmtree(folder, ignore_errors=True)  # half removed, too
        return self._made(graph, folder, most)

    def _kept(self, folder: Path) -> Session:
        sizes = json.loads((folder / NOTE).read_bytes())["sizes"]
        if sizes != _sizes(folder):
            raise ValueError(f"{folder}: {_sizes(folder)}, not {sizes}")
        session = self._open(folder / GRAPH, {}, None)
        with suppress(OSError):  # read-only: used all the same
            os.utime(folder / NOTE)
        return session

    def _made(self, graph: Path, folder: Path, most: int) -> Session:
        partial: Path | None = None
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            needed = 3 * graph.with_name(graph.name + ".data").stat().st_size
            if shutil.disk_usage(folder.parent).free < needed:
                raise OSError("no room")
            partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=PARTIAL))
            save = {
                "session.optimized_model_external_initializers_file_name": DATA,
                "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
                "session.save_external_prepacked_constant_initializers": "1",
            }
            session = self._open(graph, save, partial / GRAPH)
            note = {"source": str(graph.resolve()), "sizes": _sizes(partial)}
            (partial / NOTE).write_text(json.dumps(note))
            os.replace(partial, folder)  # noqa: PTH105
            _make_room(folder, most)
        except (PackageError, OSError):  # read-only, full, or made by another process meanwhile
            if partial is not None:
                shutil.rmtree(partial, ignore_errors=True)
            return self._open(graph, {}, None)
        return session

    def _key(self, graph: Path, data: Path) -> str:
        files = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in (graph, data)]
        what = (files, self._device, ort.__version__, platform.machine(), _processor())
        return hashlib.sha256(repr(what).encode()).hexdigest()[:32]


def _sizes(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_size for name in (GRAPH, DATA)}


def _processor() -> str:
    """What kernels are chosen by."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _limit() -> int:
    """Bytes to keep; 0 for none."""
    said = os.environ.get("VLRT_CACHE_GB")
    if not said:
        return LIMIT
    try:
        size = float(said)
    except ValueError:
        size = -1.0
    if not 0 <= size < 1e6:  # nor is it NaN
        raise InputError(f"VLRT_CACHE_GB {said!r}: expected gigabytes, 0 for none, such as 20")
    return int(size * (1 << 30))


def _make_room(kept: Path, limit: int) -> None:
    """Drops what was not used for the longest, and what a crash left behind."""
    total = 0
    for entry in entries():
        total += entry.nbytes
        if total > limit and entry.folder != kept:
            shutil.rmtree(entry.folder, ignore_errors=True)
    for partial in kept.parent.glob(f"{PARTIAL}*"):
        if time.time() - partial.stat().st_mtime > STALE:
            shutil.rmtree(partial, ignore_errors=True)
