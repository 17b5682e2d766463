"""Rows out of cases: a worker for each, and what its figures mean on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from vlrt.bench.record import Row, Run
from vlrt.bench.worker import Task
from vlrt_runtime.digest import sha256_files
from vlrt_runtime.errors import VlrtError
from vlrt_runtime.manifest import MANIFEST, PrecisionSpec
from vlrt_runtime.package import Package

__all__ = ["drift", "finish", "measure"]

KILLED = -9  # Popen's status after SIGKILL, which is how Linux ends what takes too much memory
SLOWER = 0.05  # from the first to the last runs, that is worth a warning


def measure(task: Task, row: Row, machine: dict[str, float], told: Callable[[Row], None]) -> None:
    """Fills in a row, as it comes: what was measured is there, however it ends.

    Args:
        task: the case, and when to stop.
        row: of the case, still empty.
        machine: limits, as `machine.probe` gives them.
        told: called with the row whenever something was added.
    """
    try:
        if task.loads:
            _drive(task, row, told)
        _drive(msgspec.structs.replace(task, loads=0), row, told)
    finally:
        try:
            finish(row, machine)
        except VlrtError as error:  # the package is gone or damaged: other rows are kept
            row.ended = f"failed: {error}"


def _drive(task: Task, row: Row, told: Callable[[Row], None]) -> None:
    command = [sys.executable, "-m", "vlrt.bench.worker"]
    pipe = subprocess.PIPE
    # A session of its own: Ctrl-C is for the parent, which ends the worker without a traceback.
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(msgspec.json.encode(task))
            process.stdin.close()
            for line in process.stdout:
                _add(row, json.loads(line))
                told(row)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        row.ended = f"failed: its process ended with status {process.returncode}" + (
            ": killed, memory may have run out" * (process.returncode == KILLED)
        )


def _add(row: Row, told: dict[str, Any]) -> None:
    for key, value in told.items():
        if key == "run":
            row.runs.append(msgspec.convert(value, Run))
        elif key == "load":
            row.loads.setdefault(value[0], []).append(value[1])
        elif key == "note":
            row.notes += [value] if value not in row.notes else []
        else:
            setattr(row, key, value)


def finish(row: Row, machine: dict[str, float]) -> None:
    """Adds what follows from the package and the samples: components, limits, warnings."""
    package = Package.open(row.case.package)
    manifest = package.manifest
    (row.package_sha256,) = sha256_files([package.path(MANIFEST)]).values()
    for name, graph in manifest.graphs.items():
        files = (e.size for n, e in manifest.files.items() if n.startswith(graph.file))
        row.components[name] = {
            "bytes": sum(files),
            "parameters": graph.parameters,
            "precision": graph.precision.kind,
            "block_size": graph.precision.block_size,
            "accuracy_level": graph.precision.accuracy_level,
        }
    row.components["embedding"] = {
        "bytes": manifest.files[manifest.embedding.file].size,
        "parameters": manifest.embedding.rows * manifest.embedding.width,
        "precision": manifest.embedding.precision,
    }
    if row.case.device != "cpu":
        machine = {}  # probes are of the processor
    medians = {name: s.median for name, s in row.summaries().items()}
    part, counts = row.components, row.counts
    if (tpot := medians.get("tpot")) and machine:
        # Every weight of the decoder is read once for every id; the cache comes on top.
        rate = part["decoder"]["bytes"] / (tpot / 1e3)
        row.limits["decode_of_bandwidth"] = rate / machine["read_bytes_per_s"]
    work = {"prefill": ("decoder", "prompt_tokens"), "encode": ("vision_encoder", "encoder_rows")}
    for stage, (component, rows) in work.items():
        if (ms := medians.get(stage)) and machine and component in part:
            parameters = part[component]["parameters"]
            head = part["embedding"]["parameters"] if stage == "prefill" else 0  # one position's
            kept = counts.get("cached_tokens", 0) if stage == "prefill" else 0
            flops = 2 * ((parameters - head) * (counts[rows] - kept) + head) / (ms / 1e3)
            limit = machine.get(flops_of(manifest.graphs[component].precision), machine["flops"])
            row.limits[f"{stage}_of_throughput"] = flops / limit
    if row.limits.get("decode_of_bandwidth", 0) > 1:
        row.notes.append("decode reads more than memory gives: its weights fit in a cache")
    for figure in ("tpot", "ttft"):
        if (slower := drift(row.samples(figure))) > SLOWER:
            row.notes.append(
                f"{figure} was {slower:.0%} slower in the last runs than in the first: "
                "the machine is throttling or busy"
            )


def flops_of(precision: PrecisionSpec) -> str:
    """Which of the machine's figures such matrices are limited by."""
    integer = precision.kind in ("int8", "int4") and precision.accuracy_level == 4
    rows = "_rows" if integer and not precision.block_size else ""
    return f"flops_{precision.kind}{rows}" if integer else "flops"


def drift(samples: list[float]) -> float:
    """How much slower the last quarter of the runs was than the first; 0 of fewer than eight.

    Runs are compared, not ids within one: later ids are slower by nature, their context is longer.
    """
    quarter = len(samples) // 4
    if quarter < 2:
        return 0.0
    return float(np.median(samples[-quarter:]) / np.median(samples[:quarter]) - 1)
