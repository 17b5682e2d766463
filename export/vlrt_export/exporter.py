"""`export`: a checkpoint in, a package out, in bounded memory and without torch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from vlrt_export import assets, graph
from vlrt_export.atomic import atomic_folder, check_target, sync
from vlrt_export.calibrate import Prompts, collect
from vlrt_export.checkpoint import Checkpoint, Tensor
from vlrt_export.embedding import EmbeddingFile
from vlrt_export.families import Family, family_of
from vlrt_export.parts import open_checkpoint
from vlrt_export.plan import CALIBRATED, EMBEDDINGS, check_calibration, precision_plan
from vlrt_export.quantizers import DEFAULT, QUANTIZERS
from vlrt_export.sources import Source
from vlrt_export.weights import Factors, Faults, Precision, Weights
from vlrt_export.writer import DataFile, Unit, run_units
from vlrt_runtime.digest import sha256_files
from vlrt_runtime.errors import (
    CheckpointError,
    InputError,
    PackageError,
    StorageError,
    shortlist,
)
from vlrt_runtime.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    EmbeddingSpec,
    FileEntry,
    GraphSpec,
    Manifest,
    PrecisionSpec,
    SourceSpec,
    read_manifest,
)
from vlrt_runtime.version import __version__

__all__ = ["export"]

EMBEDDING = "embed_tokens.safetensors"
Progress = Callable[[str, int, int], None]


def export(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    precision: str = "int4",
    vision: str | None = None,
    projector: str | None = None,
    decoder: str | None = None,
    embedding: str = "source",
    block_size: int = 128,
    accuracy_level: int = 4,
    quantizer: str | None = None,
    calibrate: Callable[[Path], Prompts] | None = None,
    revision: str | None = None,
    vision_tower: str | os.PathLike[str] | None = None,
    projector_file: str | os.PathLike[str] | None = None,
    name: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Turns a checkpoint into a package.

    Args:
        source: a folder, a hub id (`owner/name`) or a short name; see `vlrt models`.
        output: the package's folder; it appears only when the package is whole.
        precision: fp32, fp16, int8, or int4 (int4 decoder, int8 for the rest).
        vision: precision of the vision encoder, where it is to differ.
        projector: precision of the projector, where it is to differ.
        decoder: precision of the decoder, where it is to differ.
        embedding: of the embedding table: fp32, fp16, int8, or source (as the checkpoint has it).
        block_size: weights that share a scale in int8 and int4: 16, 32, 64, 128 or 256.
        accuracy_level: of int8 and int4: 4 multiplies with int8 activations, 0 with float32.
        quantizer: of int8 and int4, see `vlrt_export.quantizers`: rtn, mse, hqq or gptq; mse where
            not given, and gptq with `calibrate`, which is for int4 alone.
        calibrate: prompts for gptq, given a package of the same graphs that it may read.
        revision: branch, tag or commit on the hub.
        vision_tower: a folder or hub id, where `source` is a language model alone.
        projector_file: the projector's weights, where `source` is a language model alone.
        name: the model's name, for people; the folder's where not given.
        force: replace a package that is already there.
        progress: called with (what, bytes done, bytes in all).

    Returns:
        The package's folder.

    Raises:
        VlrtError: see `vlrt_runtime.errors`; nothing is left at `output` then.
    """
    # Of `.` the name is wanted, and pathlib keeps `..` and fails on `~nobody`.
    target = Path(os.path.abspath(os.path.expanduser(output)))  # noqa: PTH100, PTH111
    report = progress or (lambda what, done, total: None)
    if embedding not in EMBEDDINGS:
        raise InputError(f"embedding {embedding!r}: expected one of {', '.join(EMBEDDINGS)}")
    overrides = {"vision_encoder": vision, "projector": projector, "decoder": decoder}
    kinds: dict[str, Any] = {"block_size": block_size, "accuracy_level": accuracy_level}
    kinds["quantizer"] = quantizer or (CALIBRATED if calibrate else DEFAULT)
    words = precision_plan(overrides, precision=precision, overrides=overrides, **kinds)
    check_calibration(kinds["quantizer"], words.values(), calibrated=calibrate is not None)
    check_target(target, force=force)
    checkpoint, found = open_checkpoint(
        source,
        vision_tower=vision_tower,
        projector_file=projector_file,
        revision=revision,
        progress=report,
    )
    family = family_of(checkpoint)
    plan = precision_plan(family.graphs, precision=precision, overrides=overrides, **kinds)
    with atomic_folder(target, force=force) as folder:
        factors: dict[str, Factors] = {}
        scratch = folder / "calibration"
        if calibrate is not None:
            # Of 8 bits: a quarter of the disk, and hardly another activation.
            rough = precision_plan(family.graphs, precision="int8")
            scratch.mkdir()
            job = _Job(checkpoint, family, rough, embedding, scratch, {})
            found = replace(found, digests=job.package(target.name, found, report).source.files)
            seen = [key for key, part in plan.items() if QUANTIZERS[part.quantizer].calibrated]
            factors = collect(scratch, calibrate(scratch), seen, scratch / "factors", report)
        job = _Job(checkpoint, family, plan, embedding, folder, factors)
        job.package(name or target.name, found, report, without=scratch)
        for path in folder.iterdir():
            sync(path)
    return target


class _Job:
    """One export into a folder: plans everything first, so that most errors come at once."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        family: Family,
        plan: Mapping[str, Precision],
        embedding: str,
        folder: Path,
        factors: Mapping[str, Factors],
    ) -> None:
        self.checkpoint, self.family, self.plan, self.folder = checkpoint, family, plan, folder
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
            )
            self._plan_graph(graph_name, make(weights, self.config))
        inputs = {value.name: value for value in self.models["decoder"].graph.inputs}
        width = graph.specs([inputs["inputs_embeds"]])[0].shape[-1]
        if table.shape[1] != width:
            faults.misshapen.append(f"{table.name} {list(table.shape)}, expected {width} columns")
        self._check_tensors(tensors, table, faults)

    def _plan_graph(self, name: str, module: Any) -> None:
        self.models[name] = graph.build(module, name)
        self.files[name] = file = DataFile(self.folder / f"{name}.onnx.data")
        parts = graph.fills(module)
        for fill in parts:
            file.plan(fill)
        self.parameters[name] = sum(t.rows * t.row_size for fill in parts for t in fill.tensors)
        empty = [
            key for key, v in self.models[name].graph.initializers.items() if v.const_value is None
        ]
        assert not empty, f"{name}: parameters that nothing fills: {shortlist(empty)}"

    def _check_tensors(self, tensors: Mapping[str, Tensor], table: Tensor, faults: Faults) -> None:
        """All are there; each is used, dropped by name, or a second copy of the embedding table."""
        unused = {
            name: tensor
            for name, tensor in tensors.items()
            if tensor.name not in self.checkpoint.used and not name.startswith(self.family.dropped)
        }
        head = unused.pop("lm_head.weight", None)
        found = {
            "the checkpoint lacks": list(dict.fromkeys(faults.missing)),
            "other shapes than config.json calls for have": faults.misshapen,
            f"no part of {self.family.name} has a place for": sorted(
                tensor.name for tensor in unused.values()
            ),
        }
        said = [
            f"{what} {len(names)} tensor{'s' * (len(names) > 1)}: {shortlist(names)}"
            for what, names in found.items()
            if names
        ]
        if said:
            raise CheckpointError(
                f"{'; '.join(said)}; do config.json and the weights belong together?"
            )
        if head is not None and not _equal(self.checkpoint, head, table):
            raise CheckpointError(
                f"{head.name}: differs from {table.name}, but config.json ties them "
                "(tie_word_embeddings); correct the one that is wrong"
            )
        self.checkpoint.close()

    def package(
        self, name: str, source: Source, report: Progress, without: Path | None = None
    ) -> Manifest:
        """Makes every file; `without` is removed on the way, when weights have been made."""
        assets.copy_assets(self.checkpoint, self.folder, template=self.family.chat_template)
        self.write(report)
        if without is not None:
            shutil.rmtree(without, ignore_errors=True)
        manifest = self.manifest(name, source)
        (self.folder / MANIFEST).write_bytes(manifest.to_json())
        try:
            return read_manifest(self.folder)
        except PackageError as error:  # nothing has checked the types of what JSON files said
            raise CheckpointError(
                f"{self.checkpoint.folder}: a value in its JSON files cannot be used: "
                f"{error.__cause__}"
            ) from error

    def write(self, report: Progress) -> None:
        """Makes all weights and saves the graphs."""
        jobs: list[tuple[str, Path, int, list[Unit]]] = [
            (name, file.path, file.size, list(file.units())) for name, file in self.files.items()
        ]
        path = self.folder / EMBEDDING
        jobs.append(("embedding", path, self.embedding.size, list(self.embedding.units())))
        needed, free = sum(size for _, _, size, _ in jobs), shutil.disk_usage(self.folder).free
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
        for name, model in self.models.items():
            ir.save(model, self.folder / f"{name}.onnx")
            onnx.checker.check_model(self.folder / f"{name}.onnx")

    def manifest(self, name: str, source: Source) -> Manifest:
        """What the package says of itself."""
        rows, width = self.embedding.tensor.shape
        files = self.checkpoint.files
        unknown = {key: path for key, path in files.items() if key not in source.digests}
        digests = dict(source.digests) | sha256_files(unknown)
        entries = {path.name: path for path in self.folder.iterdir()}
        hashes = sha256_files(entries)
        return Manifest(
            schema_version=SCHEMA_VERSION,
            vlrt_version=__version__,
            family=self.family.name,
            name=name,
            device="cpu",
            source=SourceSpec(source.repo, source.revision, digests),
            graphs={key: self._graph_spec(key, model) for key, model in self.models.items()},
            embedding=EmbeddingSpec(EMBEDDING, rows, width, self.embedding.precision),
            tokens=dict(self.runtime.tokens),
            special_tokens=self.special_tokens,
            image=dict(self.runtime.image),
            rope=dict(self.runtime.rope),
            text=dict(self.runtime.text),
            generation=self.generation,
            files={
                key: FileEntry(path.stat().st_size, hashes[key])
                for key, path in sorted(entries.items())
            },
        )

    def _graph_spec(self, name: str, model: ir.Model) -> GraphSpec:
        precision = self.plan[name]
        return GraphSpec(
            file=f"{name}.onnx",
            inputs=graph.specs(model.graph.inputs),
            outputs=graph.specs(model.graph.outputs),
            precision=PrecisionSpec(
                precision.kind,
                precision.block_size,
                precision.accuracy_level,
                precision.quantizer,
            ),
            parameters=self.parameters[name],
        )


def _source_bytes(unit: Unit) -> int:
    return (unit.stop - unit.start) * unit.tensor.row_size * unit.tensor.dtype.itemsize


def _equal(checkpoint: Checkpoint, one: Tensor, other: Tensor, rows: int = 256) -> bool:
    if one.shape != other.shape:
        return False
    starts = range(0, one.rows, rows)
    blocks = ((start, min(one.rows, start + rows)) for start in starts)
    return all(
        (checkpoint.read_float(one, a, b) == checkpoint.read_float(other, a, b)).all()
        for a, b in blocks
    )
