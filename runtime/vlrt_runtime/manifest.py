"""manifest.json: what a package says of itself. Written by the exporter, read by the runtime.

A package is a folder; every file in it is named here with its size and SHA-256. Readers refuse a
`schema_version` they do not know, unknown keys and wrong types.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from vlrt_runtime.errors import PackageError, PackageNotFoundError

__all__ = [
    "MANIFEST",
    "SCHEMA_VERSION",
    "FileEntry",
    "Generation",
    "GraphSpec",
    "Manifest",
    "PrecisionSpec",
    "SourceSpec",
    "TensorSpec",
    "read_manifest",
]

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
MAX_BYTES = 16 << 20  # no manifest is near it; a larger file is not one


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A frozen dataclass whose types are checked when it is read from JSON."""


class TensorSpec(Record, frozen=True):
    """A graph's input or output; `shape` holds sizes, and names where a size is free."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class PrecisionSpec(Record, frozen=True):
    """How the matrices of a graph are stored; see `vlrt export --help`."""

    kind: str
    block_size: int
    accuracy_level: int
    quantizer: str = "mse"


class GraphSpec(Record, frozen=True):
    """A graph: its file, its interface, and its parameters' count and precision."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: PrecisionSpec
    parameters: int


class EmbeddingSpec(Record, frozen=True):
    """The embedding table: [rows, width], in a safetensors file."""

    file: str
    rows: int
    width: int
    precision: str


class SourceSpec(Record, frozen=True):
    """Where the weights came from; `files` maps names to SHA-256."""

    repo: str | None
    revision: str | None
    files: dict[str, str]


class Generation(Record, frozen=True):
    """How answers end, and what the checkpoint asks of greedy decoding."""

    stop_ids: tuple[int, ...]
    max_context: int
    repetition_penalty: float = 1.0


class FileEntry(Record, frozen=True):
    """Size in bytes and SHA-256 in hexadecimal."""

    size: int
    sha256: str


class Manifest(Record, frozen=True, kw_only=True):
    """The whole manifest.

    Attributes:
        schema_version: of this format.
        vlrt_version: that wrote it.
        family: names the runtime's half of the family.
        name: the model's name, for people.
        device: that the graphs were made for.
        source: where the weights came from.
        graphs: by name: vision_encoder, projector, decoder.
        embedding: the token embedding table.
        tokens: ids of the special tokens the family looks for.
        special_tokens: bos_token and the like, as chat templates want them.
        image: parameters of the picture processor, read by the family.
        rope: parameters of positions, read by the family.
        text: parameters of the answer's text, read by the family.
        generation: stop ids and limits.
        files: every file of the package but this one.
        verification: what `vlrt verify` found, if it was run.
    """

    schema_version: int
    vlrt_version: str
    family: str
    name: str
    device: str
    source: SourceSpec
    graphs: dict[str, GraphSpec]
    embedding: EmbeddingSpec
    tokens: dict[str, int]
    special_tokens: dict[str, str]
    image: dict[str, Any]
    rope: dict[str, Any]
    generation: Generation
    files: dict[str, FileEntry]
    verification: dict[str, Any] | None = None
    text: dict[str, Any] = {}

    def to_json(self) -> bytes:
        """Indented JSON, ending in a line break."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def read_manifest(folder: Path) -> Manifest:
    """Reads and checks the manifest of a package.

    Raises:
        PackageNotFoundError: there is no package in the folder.
        PackageError: it is damaged, or from another version of vlrt.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise PackageNotFoundError(
            f"{folder}: not a package, it has no {MANIFEST}; make one with `vlrt export`"
        )
    if path.stat().st_size > MAX_BYTES:
        raise PackageError(f"{path}: larger than {MAX_BYTES} bytes; export the package again")
    data = path.read_bytes()
    try:
        version = msgspec.json.decode(data, type=_Version).schema_version
        if version != SCHEMA_VERSION:
            newer = version > SCHEMA_VERSION
            raise PackageError(
                f"{path}: schema_version {version}, expected {SCHEMA_VERSION}; "
                + ("update vlrt" if newer else "export the package again with this vlrt")
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PackageError(f"{path}: {error}; export the package again") from error
    _check_paths(path, manifest)
    return manifest


class _Version(msgspec.Struct):
    schema_version: int


def _check_paths(path: Path, manifest: Manifest) -> None:
    named = [*manifest.files, *(g.file for g in manifest.graphs.values()), manifest.embedding.file]
    for name in named:
        # A package may come from anywhere: no name in it leads out of its folder.
        if name in ("", ".", "..") or "/" in name or "\\" in name or ":" in name:
            raise PackageError(f"{path}: {name!r} is no plain file name; do not use this package")
        if name not in manifest.files:
            raise PackageError(f"{path}: {name!r} has no entry under 'files'; export again")
