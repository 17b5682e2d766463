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
from vlrt_runtime.package import user_folder
from vlrt_runtime.session import Session, ort

__all__ = [
    "OLDEST",
    "Entry",
    "Prepacked",
    "entries",
    "kept_files",
    "prepacked_folder",
    "remove",
    "supported",
]

# Up to 1.27 onnxruntime saves matrices of MatMulNBits and the like unpacked, a mere copy; from 1.28
# to 1.31 it packs them and computes something else with them (NaN, where tests looked).
OLDEST = (1, 32)
GRAPH, DATA, NOTE = "graph.onnx", "graph.onnx.data", "entry.json"
SMALLEST = 64 << 20  # bytes of weights; smaller graphs open at once anyway
LIMIT = 20 << 30  # bytes in all; VLRT_CACHE_GB sets another
PARTIAL = ".partial-"
STALE = 3600  # seconds after which what is no whole entry was left behind by a crash

Open = Callable[[Path, dict[str, str], Path | None], Session]
Stamp = list[list[int]]


def prepacked_folder() -> Path:
    """Where entries are; VLRT_HOME moves it."""
    return user_folder() / "prepacked"


def supported() -> bool:
    """Whether this onnxruntime saves prepacked weights as they should be."""
    return tuple(map(int, ort.__version__.split(".")[:2])) >= OLDEST


@dataclass(frozen=True)
class Entry:
    """A graph's entry: where it is, whose it is, its bytes, and when it was last used.

    `stamp` tells the graph from others that were or will be at the same place.
    """

    folder: Path
    source: str
    stamp: Stamp
    nbytes: int
    used: float


def entries() -> list[Entry]:
    """All whole entries, the one used last in front."""
    found = [_entry(note) for note in prepacked_folder().glob(f"*/{NOTE}")]
    return sorted((entry for entry in found if entry), key=lambda entry: -entry.used)


def kept_files(package: Path) -> list[Path]:
    """The files of a package's entries; `package` is its folder."""
    place = package.resolve()
    mine = [entry.folder for entry in entries() if Path(entry.source).parent == place]
    return [path for folder in mine for path in folder.iterdir()]


def _entry(note: Path) -> Entry | None:
    try:
        said = json.loads(note.read_bytes())
        nbytes = sum(path.stat().st_size for path in note.parent.iterdir())
        return Entry(note.parent, str(said["source"]), said["stamp"], nbytes, note.stat().st_mtime)
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
        if most == 0 or not supported() or not data.is_file() or data.stat().st_size < SMALLEST:
            return self._open(graph, {}, None)
        stamp = _stamp(graph)
        folder = prepacked_folder() / self._key(graph, stamp)
        try:
            if (folder / NOTE).is_file():
                return self._kept(folder)
        except (PackageError, OSError, ValueError, KeyError, TypeError):
            pass  # damaged, or another user's
        try:
            if folder.exists():
                remove(folder)  # half removed, too
            _drop_replaced(graph, stamp)
            partial = _partial(folder.parent, 3 * data.stat().st_size)
        except OSError:  # read-only, full, or another user's
            return self._open(graph, {}, None)
        try:
            return self._made(graph, stamp, partial, folder, most)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _kept(self, folder: Path) -> Session:
        sizes = json.loads((folder / NOTE).read_bytes())["sizes"]
        if sizes != _sizes(folder):
            raise ValueError(f"{folder}: {_sizes(folder)}, not {sizes}")
        session = self._open(folder / GRAPH, {}, None)
        with suppress(OSError):  # read-only: used all the same
            os.utime(folder / NOTE)
        return session

    def _made(self, graph: Path, stamp: Stamp, partial: Path, folder: Path, most: int) -> Session:
        save = {
            "session.optimized_model_external_initializers_file_name": DATA,
            "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
            "session.save_external_prepacked_constant_initializers": "1",
        }
        try:
            session = self._open(graph, save, partial / GRAPH)
        except PackageError:  # it cannot be saved; or not be opened, which is told then
            return self._open(graph, {}, None)
        # Full meanwhile, or made by another process: the session is as good.
        with suppress(OSError):
            note = {"source": str(graph.resolve()), "stamp": stamp, "sizes": _sizes(partial)}
            (partial / NOTE).write_text(json.dumps(note))
            for name in (GRAPH, DATA, NOTE):
                _sync(partial / name)
            os.replace(partial, folder)  # noqa: PTH105
            _sync(folder.parent)
            _make_room(folder, most)
        return session

    def _key(self, graph: Path, stamp: Stamp) -> str:
        of = (str(graph.resolve()), stamp)
        what = (of, self._device, ort.__version__, platform.machine(), _processor())
        return hashlib.sha256(repr(what).encode()).hexdigest()[:32]


def remove(folder: Path) -> None:
    """Removes an entry, or what is left of one.

    Raises:
        OSError: not all of it could be removed.
    """
    (folder / NOTE).unlink(missing_ok=True)  # first: nobody opens it any more
    shutil.rmtree(folder)


def _drop_replaced(graph: Path, stamp: Stamp) -> None:
    """Drops entries of files that were at this place before."""
    for entry in entries():
        if entry.source == str(graph.resolve()) and entry.stamp != stamp:
            with suppress(OSError):
                remove(entry.folder)


def _partial(parent: Path, needed: int) -> Path:
    """A folder to write an entry into.

    Raises:
        OSError: it cannot be made, or there is no room.
    """
    parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(parent).free < needed:
        raise OSError("no room")
    return Path(tempfile.mkdtemp(dir=parent, prefix=PARTIAL))


def _sync(path: Path) -> None:
    """Has the system put it on the disk, so that a rename never outruns it."""
    folder = path.is_dir()
    if folder and os.name == "nt":
        return  # which opens no folders
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stamp(graph: Path) -> Stamp:
    """Of a graph and its data: size in bytes and time of change in ns."""
    stats = [path.stat() for path in (graph, graph.with_name(graph.name + ".data"))]
    return [[stat.st_size, stat.st_mtime_ns] for stat in stats]


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
            with suppress(OSError):
                remove(entry.folder)
    for folder in kept.parent.iterdir():
        with suppress(OSError):
            left = not (folder / NOTE).exists() or folder.name.startswith(PARTIAL)
            if left and time.time() - folder.stat().st_mtime > STALE:
                shutil.rmtree(folder)
