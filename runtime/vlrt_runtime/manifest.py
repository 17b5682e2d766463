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
    "CoreMLSpec",
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
PROGRAM = ".mlpackage"  # a folder, which has files of its own
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


class CoreMLSpec(Record, frozen=True, kw_only=True):
    """How a package's Core ML programs are called.

    Every program of the decoder has the functions `prefill`, for `prefill_rows` positions at a
    time, and `decode`, for one.

    Attributes:
        profile: that the programs were made for: gpu or ane.
        decoder: its programs in order: each hands `hidden` on to the next.
        prefill_rows: positions of a call of `prefill`.
        max_length: positions of the cache.
        mask_value: added to scores that must not count; float16 has no room for more.
        padding: what an input is filled up with, by name, where there is less than it holds.
    """

    profile: str
    decoder: tuple[str, ...]
    prefill_rows: int
    max_length: int
    mask_value: float = -1e4
    padding: dict[str, float] = {}


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
        target: kind of the graphs: onnx or coreml.
        coreml: how Core ML programs are called.
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
    target: str = "onnx"
    coreml: CoreMLSpec | None = None

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
    programs = manifest.coreml.decoder if manifest.coreml else ()
    graphs = [*programs, *(graph.file for graph in manifest.graphs.values())]
    folders = {name.partition("/")[0] for name in manifest.files if "/" in name}
    for name in [*manifest.files, *graphs, manifest.embedding.file]:
        # A package may come from anywhere: no name in it leads out of its folder.
        parts = name.split("/")
        plain = all(part not in ("", ".", "..") for part in parts)
        inside = len(parts) == 1 or parts[0].endswith(PROGRAM)
        if not plain or not inside or any(letter in name for letter in "\\:\0"):
            raise PackageError(f"{path}: {name!r} is no plain file name; do not use this package")
        if name not in manifest.files and not (name.endswith(PROGRAM) and name in folders):
            raise PackageError(f"{path}: {name!r} has no entry under 'files'; export again")
