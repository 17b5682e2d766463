"""Calibration: what every matrix of a package is multiplied with, on pictures and a prompt.

Graphs are run in pieces, each on all prompts before the next: in memory are the weights of one
piece, its Gram matrices, and what one prompt needs; values between pieces wait on disk. Who makes
prompts and runs graphs is the runtime, which this half does not know: see `Prompts`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from vlrt_export.quantizers.gptq import Gram
from vlrt_export.weights import Factors
from vlrt_runtime.errors import CheckpointError

__all__ = ["Piece", "Prompts", "collect", "pieces"]

MATRICES = ("MatMulNBits", "FusedMatMul")  # weight behind the input
ROWS = 512  # inputs that are taken of a prompt: patches of a picture are much alike
PIECE_BYTES = 32 << 20  # of weights and Gram matrices, but for the last matrix of a piece

Arrays = dict[str, NDArray[Any]]
Progress = Callable[[str, int, int], None]
Run = Callable[[Mapping[str, NDArray[Any]]], Arrays]


class Prompts(Protocol):
    """Pictures with a question, made and run as the runtime does."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def picture(self, i: int) -> Arrays:
        """Inputs of the vision encoder."""
        ...

    def prompt(self, i: int, projected: Arrays) -> Arrays:
        """Inputs of the decoder for prompt and answer, given the projector's outputs."""
        ...

    def open(self, path: Path) -> Run:
        """A graph, to be called with its inputs."""
        ...


@dataclass
class Piece:
    """Successive nodes of a graph; `taps` maps a value to the parameters it is multiplied with."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    taps: dict[str, list[str]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    nbytes: int = 0
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


def collect(
    package: Path, prompts: Prompts, wanted: Iterable[str], folder: Path, progress: Progress
) -> dict[str, Factors]:
    """Runs all prompts; the factors of the matrices of each graph of `wanted`, kept in `folder`.

    Args:
        package: holds the graphs, with matrices of the names that they will have.
        prompts: pictures and questions.
        wanted: names of graphs.
        folder: to write into; factors are mapped from there.
        progress: called with (what, bytes done, bytes in all).

    Raises:
        CheckpointError: a matrix meets infinite values; it is named.
    """
    wanted, found = set(wanted), {name: _Stored(folder, name) for name in wanted}
    folder.mkdir()
    values = _Values(folder)
    everything = range(len(prompts))
    for i in everything:
        values.put(i, prompts.picture(i))
    names: list[str] = []
    for graph in ("vision_encoder", "projector", "decoder"):
        if graph == "decoder":
            for i in everything:
                values.put(i, prompts.prompt(i, values.take(i, names)))
        path = package / f"{graph}.onnx"
        model = onnx.load(path, load_external_data=False)
        names = [] if graph == "decoder" else [value.name for value in model.graph.output]
        cut = pieces(model, names, tapped=graph in wanted)
        total, done = sum(piece.nbytes for piece in cut) * len(prompts), 0
        for at, piece in enumerate(cut):
            grams = {tap: Gram(piece.sizes[tap]) for tap in piece.taps}
            run = _nothing
            if piece.nodes:
                part = path.with_name("piece.onnx")
                _save(piece, model, values.take(0, piece.inputs), part)
                run = prompts.open(part)
            for i in everything:
                _run(run, piece, values, i, grams)
                progress("calibration", done := done + piece.nbytes, total)
            del run
            for tap, parameters in piece.taps.items():
                found[graph].keep(parameters, grams.pop(tap))
            values.keep(set(names).union(*(later.inputs for later in cut[at + 1 :])))
    return dict(found)


def _nothing(inputs: Mapping[str, NDArray[Any]]) -> Arrays:
    return {}


def _run(run: Run, piece: Piece, values: _Values, i: int, grams: Mapping[str, Gram]) -> None:
    inputs = values.take(i, piece.inputs)
    outputs = run(inputs)
    for tap, gram in grams.items():
        x = (outputs if tap in outputs else inputs)[tap].reshape(-1, gram.k)
        gram.add(x[:: -(-len(x) // ROWS)])
    values.put(i, {name: outputs[name] for name in piece.outputs})


def pieces(model: onnx.ModelProto, wanted: Iterable[str], *, tapped: bool) -> list[Piece]:
    """Cuts a graph; nodes that neither `wanted` outputs nor taps depend on are left out."""
    _take_branches(model.graph)
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    taps: dict[int, tuple[str, str, int]] = {}
    for at, node in enumerate(model.graph.node if tapped else ()):
        if node.op_type in MATRICES and node.input[1] in initializers:
            given = {a.name: a.i for a in node.attribute}
            k = given.get("K") or initializers[node.input[1]].dims[-1]
            taps[at] = (node.input[0], node.input[1], k)
    needed = set(wanted) | {value for value, _, _ in taps.values()}
    kept: set[int] = set()
    for at in reversed(range(len(model.graph.node))):
        node = model.graph.node[at]
        if needed.intersection(name for name in node.output if name):
            kept.add(at)
            needed.update(name for name in node.input if name)
    cut = [Piece()]
    for at, node in enumerate(model.graph.node):
        piece = cut[-1]
        if at in taps:
            value, parameter, k = taps[at]
            if value not in piece.taps:
                piece.nbytes += 4 * k * min(k, 2048)
            piece.taps.setdefault(value, []).append(parameter)
            piece.sizes[value] = k
        if at in kept:
            piece.nodes.append(node)
            piece.nbytes += sum(_nbytes(initializers.get(name)) for name in node.input)
        if piece.nbytes > PIECE_BYTES:
            cut.append(Piece())
    cut = [piece for piece in cut if piece.nodes or piece.taps]
    later = set(wanted)
    for piece in reversed(cut):
        made = {name for node in piece.nodes for name in node.output if name}
        read = {name for node in piece.nodes for name in node.input if name} | set(piece.taps)
        piece.inputs = sorted(read - made - set(initializers))
        piece.outputs = sorted(made & later)
        later |= set(piece.inputs)
    return cut


def _take_branches(graph: onnx.GraphProto) -> None:
    """Puts what is optional in its place: with pictures, all conditions hold."""
    flat: list[onnx.NodeProto] = []
    for node in graph.node:
        then = next((a.g for a in node.attribute if a.name == "then_branch"), None)
        if then is None:
            flat.append(node)
            continue
        graph.initializer.extend(then.initializer)
        flat.extend(then.node)
        flat.extend(
            onnx.helper.make_node("Identity", [inner.name], [outer])
            for inner, outer in zip(then.output, node.output, strict=True)
        )
    del graph.node[:]
    graph.node.extend(flat)


def _nbytes(tensor: onnx.TensorProto | None) -> int:
    if tensor is None:
        return 0
    length = next((int(e.value) for e in tensor.external_data if e.key == "length"), 0)
    return length or 4 * math.prod(tensor.dims)


def _save(piece: Piece, model: onnx.ModelProto, first: Arrays, path: Path) -> None:
    """The piece as a graph of its own, over the same file of weights."""
    read = {name for node in piece.nodes for name in node.input}
    made = {name for node in piece.nodes for name in node.output}
    inputs = [
        onnx.helper.make_tensor_value_info(
            name,
            onnx.helper.np_dtype_to_tensor_dtype(array.dtype),
            [f"{name}.{axis}" for axis in range(array.ndim)],
        )
        for name, array in first.items()
        if name in read
    ]
    outputs = dict.fromkeys([*piece.outputs, *(tap for tap in piece.taps if tap in made)])
    graph = onnx.helper.make_graph(
        piece.nodes,
        "piece",
        inputs,
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [tensor for tensor in model.graph.initializer if tensor.name in read],
    )
    whole = onnx.helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )
    path.write_bytes(whole.SerializeToString())


class _Values:
    """Arrays by prompt and name, on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[tuple[int, str], Path] = {}
        self._serial = 0

    def put(self, i: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        for name, array in arrays.items():
            self._serial += 1
            path = self._folder / f"value-{self._serial}.npy"
            np.save(path, array)
            self._files[i, name] = path

    def take(self, i: int, names: Iterable[str]) -> Arrays:
        return {name: np.load(self._files[i, name]) for name in names}

    def keep(self, names: Iterable[str]) -> None:
        kept = set(names)
        for key in [key for key in self._files if key[1] not in kept]:
            self._files.pop(key).unlink()


class _Stored:
    """The factors of a graph's matrices, by parameter."""

    def __init__(self, folder: Path, graph: str) -> None:
        self._folder, self._graph = folder, graph
        self._files: dict[str, Path] = {}

    def keep(self, parameters: Iterable[str], gram: Gram) -> None:
        names = list(parameters)
        path = self._folder / f"{self._graph}-{len(self._files)}.npy"
        try:
            np.save(path, gram.factor())
        except (ValueError, np.linalg.LinAlgError) as error:
            raise CheckpointError(f"{self._graph}, {', '.join(names)}: {error}") from error
        self._files.update(dict.fromkeys(names, path))

    def __call__(self, name: str) -> NDArray[np.float32]:
        # Mapped: pages of the file are nobody's private memory.
        return np.asarray(np.load(self._files[name], mmap_mode="r"))
