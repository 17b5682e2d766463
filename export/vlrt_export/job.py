"""One package in the making: graphs planned, weights made, files described."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnx_ir as ir

from vlrt_export import assets, graph
from vlrt_export.atomic import sync
from vlrt_export.checkpoint import Checkpoint
from vlrt_export.embedding import EmbeddingFile
from vlrt_export.families import Family
from vlrt_export.graphs import GraphWriter, OnnxWriter, Planned
from vlrt_export.sources import Source
from vlrt_export.target import CPU, Target
from vlrt_export.tensors import check_tensors
from vlrt_export.weights import Factors, Faults, Precision, Weights
from vlrt_export.writer import DataFile, Unit, run_units
from vlrt_runtime.digest import sha256_files
from vlrt_runtime.errors import CheckpointError, StorageError, shortlist
from vlrt_runtime.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    EmbeddingSpec,
    FileEntry,
    Manifest,
    PrecisionSpec,
    SourceSpec,
    read_manifest,
)
from vlrt_runtime.version import __version__

__all__ = ["Job", "Progress"]

EMBEDDING = "embed_tokens.safetensors"
Progress = Callable[[str, int, int], None]


class Job:
    """One export into a folder: plans everything first, so that most errors come at once."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        family: Family,
        plan: Mapping[str, Precision],
        embedding: str,
        folder: Path,
        factors: Mapping[str, Factors],
        target: Target = CPU,
        writer: Callable[[Path], GraphWriter] = OnnxWriter,
    ) -> None:
        self.checkpoint, self.family, self.plan, self.folder = checkpoint, family, plan, folder
        self.target, self.writer = target, writer(folder)
        self.config = family.config(checkpoint.config)
        self.runtime = family.runtime(checkpoint, self.config)
        self.generation = assets.generation(
            checkpoint, self.runtime.max_context, self.runtime.stop_ids
        )
        self.special_tokens = assets.special_tokens(checkpoint)
        tensors = checkpoint.rename(family.canonical)
        table = tensors.get(family.embedding)
        if table is None or len(table.shape) != 2:
            raise CheckpointError(f"{family.embedding}: the checkpoint has no such matrix")
        checkpoint.used.add(table.name)
        self.embedding = EmbeddingFile(table, embedding)
        self.models: dict[str, ir.Model] = {}
        self.files: dict[str, DataFile] = {}
        self.parameters: dict[str, int] = {}
        faults = Faults()
        for graph_name, make in family.graphs.items():
            weights = Weights(
                checkpoint,
                tensors,
                plan[graph_name],
                faults=faults,
                factors=factors.get(graph_name),
                target=target,
                table=self.embedding.table(folder / EMBEDDING),
            )
            self._plan_graph(graph_name, make(weights, self.config))
        inputs = {value.name: value for value in self.models["decoder"].graph.inputs}
        width = graph.specs([inputs["inputs_embeds"]])[0].shape[-1]
        if table.shape[1] != width:
            faults.misshapen.append(f"{table.name} {list(table.shape)}, expected {width} columns")
        check_tensors(checkpoint, family, tensors, table, faults)
        checkpoint.close()

    def _plan_graph(self, name: str, module: Any) -> None:
        self.models[name] = graph.build(module, name)
        self.files[name] = file = DataFile(self.writer.weights / f"{name}.onnx.data")
        parts = graph.fills(module)
        for fill in parts:
            file.plan(fill)
        self.parameters[name] = sum(t.rows * t.row_size for fill in parts for t in fill.tensors)
        empty = [
            key for key, v in self.models[name].graph.initializers.items() if v.const_value is None
        ]
        assert not empty, f"{name}: parameters that nothing fills: {shortlist(empty)}"

    def package(
        self,
        name: str,
        source: Source,
        report: Progress,
        *,
        without: Path | None = None,
        lasting: bool = True,
    ) -> Manifest:
        """Makes every file, on the disk itself where it is `lasting`.

        `without` is removed on the way, when weights have been made.
        """
        assets.copy_assets(self.checkpoint, self.folder, template=self.family.chat_template)
        self.write(report)
        if without is not None:
            shutil.rmtree(without, ignore_errors=True)
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        with ThreadPoolExecutor() as pool:
            # The disk is busy while digests are computed.
            synced = pool.map(sync, files if lasting else ())
            manifest = self.manifest(name, source, files)
            list(synced)
        place = self.folder / MANIFEST
        place.write_bytes(manifest.to_json())
        if lasting:
            sync(place)
        return read_manifest(self.folder)  # as the runtime will

    def write(self, report: Progress) -> None:
        """Makes all weights and saves the graphs."""
        jobs: list[tuple[str, Path, int, list[Unit]]] = [
            (name, file.path, file.size, list(file.units())) for name, file in self.files.items()
        ]
        path = self.folder / EMBEDDING
        jobs.append(("embedding", path, self.embedding.size, list(self.embedding.units())))
        needed = sum(size for _, _, size, _ in jobs) * self.writer.copies
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise StorageError(
                f"{self.folder.parent}: the package needs {needed / 1e9:.1f} GB and "
                f"{free / 1e9:.1f} GB are free; make room, or choose another disk with -o"
            )
        for label, path, size, units in jobs:
            total = sum(_source_bytes(unit) for unit in units)
            done = 0

            def advance(count: int, label: str = label, total: int = total) -> None:
                nonlocal done
                done += count
                report(label, done, total)

            run_units(self.checkpoint, path, size, units, advance)
        with (self.folder / EMBEDDING).open("r+b") as file:
            file.write(self.embedding.head)
        self.writer.write(self.planned())

    def manifest(self, name: str, source: Source, made: Iterable[Path]) -> Manifest:
        """What the package says of itself and of the files that were made."""
        rows, width = self.embedding.tensor.shape
        files = self.checkpoint.files
        unknown = {key: path for key, path in files.items() if key not in source.digests}
        entries = {path.relative_to(self.folder).as_posix(): path for path in made}
        hashes = sha256_files([*unknown.values(), *entries.values()])
        digests = source.digests | {key: hashes[path] for key, path in unknown.items()}
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            vlrt_version=__version__,
            family=self.family.name,
            name=name,
            device=self.target.device,
            source=SourceSpec(source.repo, source.revision, digests),
            graphs={},
            embedding=EmbeddingSpec(EMBEDDING, rows, width, self.embedding.precision),
            tokens=dict(self.runtime.tokens),
            special_tokens=self.special_tokens,
            image=dict(self.runtime.image),
            rope=dict(self.runtime.rope),
            text=dict(self.runtime.text),
            generation=self.generation,
            files={
                key: FileEntry(path.stat().st_size, hashes[path])
                for key, path in sorted(entries.items())
            },
        )
        return self.writer.describe(manifest, self.planned())

    def planned(self) -> dict[str, Planned]:
        """The graphs, and what the manifest says of their weights."""
        return {
            name: Planned(
                model,
                PrecisionSpec(
                    kind=self.plan[name].kind,
                    block_size=self.plan[name].block_size,
                    accuracy_level=self.plan[name].accuracy_level,
                    quantizer=self.plan[name].quantizer,
                ),
                self.parameters[name],
            )
            for name, model in self.models.items()
        }


def _source_bytes(unit: Unit) -> int:
    return (unit.stop - unit.start) * unit.tensor.row_size * unit.tensor.dtype.itemsize
