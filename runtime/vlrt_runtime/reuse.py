"""What was computed once and may be asked for again: pictures' features, and keys and values.

Both are least-recently-used stores with a budget of bytes. Nothing is guessed: a picture is found
by the digest of what the encoder would see, keys and values by every id and picture before them.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrt_runtime.backends import Decoder
from vlrt_runtime.families import Layout, Picture
from vlrt_runtime.files import whole_file
from vlrt_runtime.manifest import Manifest

__all__ = [
    "Beginning",
    "EncodedImage",
    "FeatureStore",
    "PrefixStore",
    "encoder_digest",
    "pictures_from",
    "position_keys",
]

Outputs = Mapping[str, NDArray[Any]]
Keys = Sequence[Hashable]


@dataclass(frozen=True)
class EncodedImage:
    """A picture that has been through encoder and projector; goes wherever a picture goes.

    Attributes:
        picture: the preprocessed picture, with the projector's outputs in the place of its pixels.
        encoder: digest of the graphs that made them; another model refuses it.
    """

    picture: Picture
    encoder: str


class FeatureStore:
    """The projector's outputs by the picture's digest. Safe to use from any thread.

    Args:
        limit: bytes to keep in memory; 0 keeps nothing.
        encoder: digest of the graphs that make them.
        folder: where they are kept on disk as well, one file a picture, if anywhere. Whoever can
            write there decides what pictures look like, as with the package itself.
    """

    def __init__(self, limit: int, encoder: str, folder: Path | None = None) -> None:
        self.limit, self.folder = limit, folder
        self._encoder = encoder
        self._kept: OrderedDict[str, Outputs] = OrderedDict()
        self._lock = threading.RLock()  # a stream that is collected may empty it anywhere

    def get(self, digest: str) -> Outputs | None:
        """What is kept of a picture."""
        with self._lock:
            if digest in self._kept:
                self._kept.move_to_end(digest)
                return self._kept[digest]
        found = self._read(digest)
        if found is not None:
            self._keep(digest, found)
        return found

    def put(self, digest: str, projected: Outputs) -> None:
        """Keeps the outputs, and drops those not asked for the longest; they must not change."""
        self._keep(digest, projected)
        if self.folder is not None:
            self._write(self.folder, digest, projected)

    def clear(self) -> None:
        """Drops what is kept in memory."""
        with self._lock:
            self._kept.clear()

    @property
    def nbytes(self) -> int:
        """Bytes kept in memory."""
        with self._lock:
            return sum(map(_size, self._kept.values()))

    def _keep(self, digest: str, projected: Outputs) -> None:
        with self._lock:
            self._kept[digest] = projected
            while self._kept and sum(map(_size, self._kept.values())) > self.limit:
                self._kept.popitem(last=False)

    def _path(self, folder: Path, digest: str) -> Path:
        return folder / f"{self._encoder[:16]}-{digest}.npz"

    def _read(self, digest: str) -> Outputs | None:
        if self.folder is None:
            return None
        path = self._path(self.folder, digest)
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except Exception:  # noqa: BLE001  missing, damaged, or no longer readable: made again
            return None

    def _write(self, folder: Path, digest: str, projected: Outputs) -> None:
        # A full or read-only disk costs the next encoding, not this answer.
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            with whole_file(self._path(folder, digest), durable=False) as file:
                np.savez(file, **projected)  # pyright: ignore[reportArgumentType]


@dataclass(eq=False)
class _Kept:
    keys: list[Hashable]
    decoder: Decoder
    scope: Hashable


@dataclass(frozen=True)
class Beginning:
    """The first `length` positions of a sequence that is kept.

    Somebody else may go on with it meanwhile: positions in front never change, so that they may
    be copied all the same.
    """

    store: PrefixStore
    kept: _Kept
    length: int

    def decoder(self, static: Mapping[str, NDArray[Any]]) -> Decoder:
        """A decoder that holds them; `static` are its inputs that belong to the whole sequence."""
        whole = self.length == len(self.kept.keys) and not static
        if whole and self.store.remove(self.kept):
            return self.kept.decoder
        return self.kept.decoder.fork(self.length, static)


class PrefixStore:
    """Sequences whose answer is over, to begin others with. Safe to use from any thread.

    What two sequences have in common is copied, so that the older one stays whole for its own next
    turn; a sequence that is gone on with as a whole is handed over.

    Args:
        limit: bytes of keys and values to keep; 0 keeps nothing.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: list[_Kept] = []  # the last one was used last
        self._lock = threading.RLock()  # a stream that is collected may empty it anywhere

    def find(self, keys: Keys, scope: Hashable = None) -> Beginning | None:
        """The longest common beginning, short of the last position; None where there is none.

        `scope` is what every position looks at: sequences of another have nothing in common.
        """
        with self._lock:
            alike = [kept for kept in self._kept if kept.scope == scope]
            best = max(alike, key=lambda kept: _common(kept.keys, keys), default=None)
            length = 0 if best is None else _common(best.keys, keys)
            if best is None or length == 0:
                return None
            self._kept.remove(best)
            self._kept.append(best)
            return Beginning(self, best, length)

    def remove(self, kept: _Kept) -> bool:
        """Takes a sequence out, to be gone on with; False where somebody else was quicker."""
        with self._lock:
            there = kept in self._kept
            if there:
                self._kept.remove(kept)
            return there

    def put(self, keys: Keys, decoder: Decoder, scope: Hashable = None) -> None:
        """Keeps a sequence that nobody uses any more; `keys` are of the positions it holds."""
        held = _Kept(list(keys)[: decoder.length], decoder, scope)
        with self._lock:
            n, alike = len(held.keys), [k for k in self._kept if k.scope == scope]
            shorter = [k for k in alike if k.keys == held.keys[: len(k.keys)]]
            self._kept = [k for k in self._kept if k not in shorter]
            if not any(k.keys[:n] == held.keys for k in alike if k not in shorter):
                self._kept.append(held)
            while self._kept and sum(kept.decoder.nbytes for kept in self._kept) > self.limit:
                self._kept.pop(0)

    def clear(self) -> None:
        """Drops everything."""
        with self._lock:
            self._kept.clear()

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        with self._lock:
            return sum(kept.decoder.nbytes for kept in self._kept)


def position_keys(layout: Layout, pictures: Sequence[Picture]) -> list[Hashable]:
    """What each position of a prompt says: its id, or which row of which picture.

    Positions count up from what lies before them, and attention looks back only: so equal keys in
    front mean equal keys and values.
    """
    keys: list[Hashable] = layout.token_ids.tolist()
    places = iter(np.flatnonzero(layout.places).tolist())
    for picture in pictures:
        for row in range(picture.tokens):
            at = next(places)
            keys[at] = (keys[at], picture.digest, row)
    return keys


def pictures_from(layout: Layout, pictures: Sequence[Picture], start: int) -> list[Picture]:
    """Those of a prompt's pictures that have a position at `start` or behind it."""
    places, ends = np.flatnonzero(layout.places), np.cumsum([p.tokens for p in pictures], dtype=int)
    return [p for p, end in zip(pictures, ends, strict=True) if places[end - 1] >= start]


def encoder_digest(manifest: Manifest) -> str:
    """Of the graphs that make features, with their weights: the package's own digests of them."""
    graphs = tuple(spec.file for name, spec in manifest.graphs.items() if name != "decoder")
    files = {n: e.sha256 for n, e in manifest.files.items() if n.startswith(graphs)}
    return hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()


def _common(kept: Keys, keys: Keys) -> int:
    most = min(len(kept), len(keys) - 1)  # the last position is computed, for its logits
    return next((i for i in range(most) if kept[i] != keys[i]), max(most, 0))


def _size(outputs: Outputs) -> int:
    return sum(array.nbytes for array in outputs.values())
