"""Packages of ONNX graphs, run by onnxruntime."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from vlrt_runtime.backends.device_decoder import DeviceDecoder
from vlrt_runtime.backends.onnx_coreml import VISION, open_vision
from vlrt_runtime.backends.onnx_decoder import OnnxDecoder
from vlrt_runtime.backends.options import BackendOptions
from vlrt_runtime.package import Package
from vlrt_runtime.prepacked import Prepacked
from vlrt_runtime.session import Graph, Session, open_session, pick_device

__all__ = ["OnnxBackend", "backend"]

GRAPHS = ("vision_encoder", "projector", "decoder")


def backend(package: Package, device: str, threads: int, options: BackendOptions) -> OnnxBackend:
    """See `vlrt_runtime.backends`; auto is the device that the package was exported for.

    coreml is the CPU, with the vision encoder on Core ML where it can be.
    """
    vision = partial(open_vision, package, options, threads) if device == "coreml" else None
    picked = pick_device("cpu" if vision else device, package.manifest.device)
    openers = {} if vision is None else {VISION: vision}
    return OnnxBackend(package, picked, threads, openers, keeps=options.cache)


class OnnxBackend:
    """See `vlrt_runtime.backends.Backend`.

    `openers` open graphs that are opened otherwise; with `keeps`, prepacked weights are kept.
    """

    def __init__(
        self,
        package: Package,
        device: str,
        threads: int,
        openers: Mapping[str, Callable[[], Session]],
        *,
        keeps: bool,
    ) -> None:
        self.device = device
        # Weights on a device are copied there whatever they look like.
        self._prepacked = Prepacked(self._load, device) if keeps and device == "cpu" else None
        self._openers = openers
        self._package, self._threads = package, threads
        self._sessions: dict[str, Session] = {}
        self._locks = {name: threading.Lock() for name in GRAPHS}

    @property
    def loaded(self) -> bool:
        """A graph is open."""
        return bool(self._sessions)

    def load(self) -> None:
        """Opens every graph now: onnxruntime repacks weights on one core, so side by side."""
        with ThreadPoolExecutor(len(GRAPHS)) as pool:
            list(pool.map(self._session, GRAPHS))

    def graph(self, name: str) -> Graph:
        """A stateless graph of the package."""
        return Graph(self._session(name))

    def decoder(self, static: Mapping[str, NDArray[Any]]) -> OnnxDecoder | DeviceDecoder:
        """An empty sequence."""
        session = self._session("decoder")
        if any(value.name == "next_ids" for value in session.get_outputs()):
            return DeviceDecoder(session, self.device, static)
        return OnnxDecoder(session, static)

    def release(self, name: str) -> None:
        """Lets a graph go; calls that are under way keep it until they end."""
        self._sessions.pop(name, None)

    def _session(self, name: str) -> Session:
        with self._locks[name]:
            session = self._sessions.get(name)
            if session is None:
                session = self._sessions[name] = self._openers.get(
                    name, partial(self._open, name)
                )()
            return session

    def _open(self, name: str) -> Session:
        path = self._package.graph(name)
        return self._load(path) if self._prepacked is None else self._prepacked.session(path)

    def _load(
        self, path: Path, entries: Mapping[str, str] | None = None, save: Path | None = None
    ) -> Session:
        return open_session(
            path, device=self.device, threads=self._threads, entries=entries, save=save
        )
