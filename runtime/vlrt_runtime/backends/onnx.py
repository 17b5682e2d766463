"""Packages of ONNX graphs, run by onnxruntime."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from numpy.typing import NDArray

from vlrt_runtime.backends.device_decoder import DeviceDecoder
from vlrt_runtime.backends.onnx_decoder import OnnxDecoder
from vlrt_runtime.backends.options import BackendOptions
from vlrt_runtime.package import Package
from vlrt_runtime.session import Graph, Session, open_session, pick_device

__all__ = ["OnnxBackend", "backend"]

GRAPHS = ("vision_encoder", "projector", "decoder")


def backend(package: Package, device: str, threads: int, options: BackendOptions) -> OnnxBackend:
    """See `vlrt_runtime.backends`; auto is the device that the package was exported for."""
    return OnnxBackend(package, pick_device(device, package.manifest.device), threads)


class OnnxBackend:
    """See `vlrt_runtime.backends.Backend`."""

    def __init__(self, package: Package, device: str, threads: int) -> None:
        self.device = device
        self._package, self._threads = package, threads
        self._sessions: dict[str, Session] = {}
        self._locks = {name: threading.Lock() for name in GRAPHS}

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
                path = self._package.graph(name)
                session = open_session(path, device=self.device, threads=self._threads)
                self._sessions[name] = session
            return session
