"""Writers: what becomes of planned graphs once their weights are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import onnx
import onnx_ir as ir

from vlrt_export import graph
from vlrt_runtime.manifest import GraphSpec, Manifest, PrecisionSpec

__all__ = ["GraphWriter", "OnnxWriter", "Planned"]


@dataclass(frozen=True)
class Planned:
    """A graph whose parameters have their places in a file of the writer's `weights` folder."""

    model: ir.Model
    precision: PrecisionSpec
    parameters: int


class GraphWriter(Protocol):
    """Makes files of graphs.

    Attributes:
        weights: the folder that parameters are written to.
        copies: how often weights are on the disk at a time, the package's own included.
    """

    weights: Path
    copies: int

    def write(self, graphs: Mapping[str, Planned]) -> None:
        """Writes all graphs; their parameters are in place."""
        ...

    def describe(self, manifest: Manifest, graphs: Mapping[str, Planned]) -> Manifest:
        """The manifest with the graphs in it."""
        ...


class OnnxWriter:
    """ONNX files in a package's folder, their weights beside them."""

    copies = 1

    def __init__(self, folder: Path) -> None:
        self.weights = folder

    def write(self, graphs: Mapping[str, Planned]) -> None:
        """Saves and checks them."""
        for name, planned in graphs.items():
            ir.save(planned.model, self.weights / f"{name}.onnx")
            onnx.checker.check_model(self.weights / f"{name}.onnx")

    def describe(self, manifest: Manifest, graphs: Mapping[str, Planned]) -> Manifest:
        """See `GraphWriter`."""
        specs = {
            name: GraphSpec(
                file=f"{name}.onnx",
                inputs=graph.specs(planned.model.graph.inputs),
                outputs=graph.specs(planned.model.graph.outputs),
                precision=planned.precision,
                parameters=planned.parameters,
            )
            for name, planned in graphs.items()
        }
        return msgspec.structs.replace(manifest, graphs=specs)
