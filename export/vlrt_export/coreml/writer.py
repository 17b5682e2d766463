"""Writes a package's graphs as ML programs: see `vlrt_export.graphs.GraphWriter`."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import onnx_ir as ir

from vlrt_export import graph
from vlrt_export.coreml.lint import lint
from vlrt_export.coreml.profiles import PROFILES
from vlrt_export.coreml.programs import decoder, stateless
from vlrt_export.coreml.save import save
from vlrt_export.coreml.store import Store
from vlrt_export.graphs import Planned
from vlrt_runtime.manifest import CoreMLSpec, GraphSpec, Manifest, PrecisionSpec, TensorSpec

__all__ = ["CoreMLOptions", "CoreMLWriter"]

MASK_VALUE = -1e4
# Inputs of graphs that a state and fixed sizes stand for, by how their names begin.
REPLACED = ("num_logits", "total_sequence_length", "past_key_values", "present")


@dataclass(frozen=True, kw_only=True)
class CoreMLOptions:
    """What is fixed when programs are made.

    Attributes:
        profile: gpu or ane.
        sizes: free axes of the vision encoder's graph, once for each size of pictures.
        decoder_sizes: free axes of the decoder's.
        padding: what inputs of the decoder are filled up with, by name.
        image: for the manifest's `image`.
        context: positions of the cache.
    """

    profile: str
    sizes: Sequence[Mapping[str, int]]
    decoder_sizes: Mapping[str, int]
    padding: Mapping[str, float]
    image: Mapping[str, Any]
    context: int


class CoreMLWriter:
    """ML programs in a package's folder; parameters go through a folder that is removed."""

    copies = 3  # as they are made, as coremltools writes them, and where it copies that to

    def __init__(self, folder: Path, options: CoreMLOptions) -> None:
        self.folder, self.options = folder, options
        self.profile = PROFILES[options.profile]
        self.weights = folder / "weights"
        self.weights.mkdir()
        self.rows = min(self.profile.prefill_rows, options.context)
        self._decoder: list[str] = []

    def write(self, graphs: Mapping[str, Planned]) -> None:
        """Lowers, lints and saves them.

        Raises:
            LoweringError: the table has no rule for an operator.
            LintError: a program is known to fail on the device it is made for.
        """
        options = self.options
        encoders, projectors, made = {}, {}, {}
        vision, projector = (graphs[name].model.graph for name in ("vision_encoder", "projector"))
        stores = [Store(self.weights) for _ in range(3)]
        for sizes in options.sizes:
            label = "_".join(f"{name}_{size}" for name, size in sizes.items()) or "main"
            if label not in encoders:
                found = stateless(vision, self.profile, stores[0], sizes, {})
                encoders[label] = found.function
                features = stateless(projector, self.profile, stores[1], {}, found.outputs)
                projectors[label], made = features.function, features.outputs
        self._save(encoders, "vision_encoder")
        self._save(projectors, "projector")
        del encoders, projectors
        programs = decoder(
            graphs["decoder"].model.graph,
            self.profile,
            stores[2],
            length=options.context,
            rows=self.rows,
            sizes=options.decoder_sizes,
            given=made,
        )
        while programs:
            name = "decoder" if len(programs) == 1 and not self._decoder else None
            name = name or f"decoder_{len(self._decoder)}"
            self._save(programs.pop(0), name)
            self._decoder.append(f"{name}.mlpackage")
        for store in stores:
            store.close()
        shutil.rmtree(self.weights)

    def _save(self, functions: Mapping[str, Any], name: str) -> None:
        path = self.folder / f"{name}.mlpackage"
        for warning in lint(functions, name, self.options.profile):
            warnings.warn(warning, stacklevel=2)
        save(functions, path)

    def describe(self, manifest: Manifest, graphs: Mapping[str, Planned]) -> Manifest:
        """See `GraphWriter`: graphs are described as they are used, not as they are made."""
        options = self.options
        first = {name: f"{name}.mlpackage" for name in graphs} | {"decoder": self._decoder[0]}
        specs = {
            name: GraphSpec(
                file=first[name],
                inputs=_logical(planned.model.graph.inputs),
                outputs=_logical(planned.model.graph.outputs),
                precision=self._stored(planned.precision),
                parameters=planned.parameters,
            )
            for name, planned in graphs.items()
        }
        limit = min(manifest.generation.max_context, options.context)
        return msgspec.structs.replace(
            manifest,
            target="coreml",
            graphs=specs,
            image={**manifest.image, **options.image},
            generation=msgspec.structs.replace(manifest.generation, max_context=limit),
            coreml=CoreMLSpec(
                profile=options.profile,
                decoder=tuple(self._decoder),
                prefill_rows=self.rows,
                max_length=options.context,
                mask_value=MASK_VALUE,
                padding=dict(options.padding),
            ),
        )

    def _stored(self, precision: PrecisionSpec) -> PrecisionSpec:
        """As it is stored: the Neural Engine's integers have a scale a row, and are rounded."""
        if self.options.profile != "ane" or not precision.kind.startswith("int"):
            return precision
        return msgspec.structs.replace(precision, block_size=0, quantizer="rtn")


def _logical(values: Iterable[ir.Value]) -> tuple[TensorSpec, ...]:
    """Inputs or outputs as the runtime gives and takes them: floats are float32 there."""
    return tuple(
        TensorSpec(spec.name, spec.dtype.replace("float16", "float32"), spec.shape)
        for spec in graph.specs(values)
        if not spec.name.startswith(REPLACED)
    )
