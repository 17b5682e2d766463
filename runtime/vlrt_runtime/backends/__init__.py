"""What runs a package's graphs. `Model` knows no more of it than is said here.

A backend opens graphs when they are first asked for, and gives their memory back when told to. The
vision encoder and the projector are functions of arrays; the decoder is a sequence that grows.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol

from numpy.typing import NDArray

from vlrt_runtime.backends.options import BackendOptions
from vlrt_runtime.errors import PackageError
from vlrt_runtime.package import Package

__all__ = ["Backend", "BackendOptions", "Decoder", "Graph", "open_backend"]

Array = NDArray[Any]

# the manifest's `target` -> the module with its `backend` function
BACKENDS = {
    "onnx": "vlrt_runtime.backends.onnx",
    "coreml": "vlrt_runtime.backends.coreml",
}


class Graph(Protocol):
    """A stateless graph: arrays by name in, arrays by name out. Safe to call from any thread."""

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs the graph on the inputs it has; what else is in `inputs` is left alone."""
        ...


class Decoder(Protocol):
    """The decoder on one sequence, whose keys and values it keeps. For one thread at a time.

    Attributes:
        length: positions that it holds.
        looks_up: it takes token_ids int64 [1, s] as well, behind what inputs_embeds has (both may
            be empty), and finds their rows itself.
        nbytes: memory that its cache takes.
    """

    length: int
    looks_up: bool

    @property
    def nbytes(self) -> int:
        """See above."""
        ...

    def run(self, inputs: Mapping[str, Array], *, num_logits: int = 1) -> NDArray[Any]:
        """Adds positions; logits float32 [num_logits, vocab] of the last ones, 1 to all.

        The array is used again by the next call.
        """
        ...

    def next_ids(self, inputs: Mapping[str, Array], *, count: int = 1) -> NDArray[Any]:
        """As `run`, but the ids int64 [count] of the largest logits."""
        ...

    def reserve(self, positions: int) -> None:
        """Makes room for so many positions at once."""
        ...

    def rewind(self, length: int) -> None:
        """Forgets all positions behind the first `length`."""
        ...

    def fork(self, length: int, static: Mapping[str, Array]) -> Decoder:
        """Another sequence that begins with the first `length` positions of this one."""
        ...


class Backend(Protocol):
    """The graphs of one package on one device."""

    device: str

    @property
    def loaded(self) -> bool:
        """A graph is open."""
        ...

    def load(self) -> None:
        """Opens every graph now rather than when it is first used."""
        ...

    def graph(self, name: str) -> Graph:
        """A stateless graph of the package."""
        ...

    def decoder(self, static: Mapping[str, Array]) -> Decoder:
        """An empty sequence; `static` are inputs that stay the same over the whole of it."""
        ...

    def release(self, name: str) -> None:
        """Gives back what a graph holds; it is opened again when it is next asked for."""
        ...


def open_backend(
    package: Package, device: str, threads: int, options: BackendOptions | None = None
) -> Backend:
    """The backend for a package's kind of graphs; auto means the best device for it here.

    Raises:
        InputError: no device has that name, or none that runs such graphs.
        PackageError: this version does not know the one that the package was exported for.
        DeviceError: the device is not to be had here.
    """
    target = package.manifest.target
    if target not in BACKENDS:
        known = " or ".join(BACKENDS)
        raise PackageError(f"manifest.json: target {target!r}, expected {known}; update vlrt")
    module = import_module(BACKENDS[target])
    return module.backend(package, device, threads, options or BackendOptions())
