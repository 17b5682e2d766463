"""What a race has found, as a table, as JSON and as a page to keep."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import psutil

from benchmarks.peers.race import Results, Sample, Settings
from benchmarks.peers.targets import verdicts

# name in the table -> of one round; None where the peer does not tell
FIGURES: dict[str, Callable[[Sample], float | None]] = {
    "load s": lambda s: s.load,
    "image encode s": lambda s: s.first.encode,
    "prefill and rest s": lambda s: (
        None if s.first.encode is None else s.first.ttft - s.first.encode
    ),
    "first token s": lambda s: s.first.ttft,
    "fresh first token s": lambda s: s.fresh.ttft,
    "decode tokens/s": lambda s: (s.first.tokens - 1) / s.first.decode,
    "second question s": lambda s: s.second.ttft,
    "peak RSS MB": lambda s: s.rss_mb,
    "private MB": lambda s: s.private_mb,
    "prompt tokens": lambda s: s.first.prompt_tokens,
}
EXPORT = ("export s", "export peak RSS MB", "export private MB", "package MB")
Table = dict[tuple[str, str], dict[str, float]]


def medians(results: Results) -> Table:
    """(peer, size) -> figure -> median of the rounds; size is empty for what exports took."""
    table: Table = {}
    for key in {(s.peer, s.size): None for s in results.samples}:
        samples = [s for s in results.samples if (s.peer, s.size) == key]
        row = table.setdefault(key, {})
        for name, of in FIGURES.items():
            values = [value for sample in samples if (value := of(sample)) is not None]
            if values:
                row[name] = statistics.median(values)
    for peer, made in results.exports.items():
        if made and made.cost:
            cost = made.cost
            values = (cost.seconds, cost.rss_mb, cost.private_mb, made.package_mb)
            table[peer, ""] = dict(zip(EXPORT, values, strict=True))
    return table


def tables(results: Results, peers: Sequence[str]) -> list[str]:
    """Markdown: a table a size and one of exports, a column a peer, failures named."""
    table, lines = medians(results), list[str]()
    sizes = list(dict.fromkeys(sample.size for sample in results.samples))
    blocks = [(size, tuple(FIGURES)) for size in sizes] + [("", EXPORT)]
    for size, names in blocks:
        rounds = max((_rounds(results, peer, size) for peer in peers), default=0)
        title = f"{size}, {rounds} round{'s' * (rounds != 1)}" if size else "export"
        lines += [f"| {title} | {' | '.join(_head(results, peer) for peer in peers)} |"]
        lines += ["| --- |" + " ---: |" * len(peers)]
        for name in names:
            cells = [_cell(table.get((peer, size), {}).get(name)) for peer in peers]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    for peer, extra in results.extras.items():
        told = ", ".join(f"{name} {value:.1f} tokens/s" for name, value in extra.items())
        lines += [f"{peer} by its own benchmark: {told}", ""]
    lines += [f"**{peer} failed:** {reason}\n" for peer, reason in results.failures.items()]
    return lines


def targets(results: Results) -> list[str]:
    """A line a target: ratio of medians, bound, met or not."""
    return [str(verdict) for verdict in verdicts(medians(results))]


def as_json(results: Results, settings: Settings) -> dict[str, Any]:
    """Everything, for scripts."""
    return {
        "date": date.today().isoformat(),
        "machine": machine(),
        "settings": {**asdict(settings), "checkpoint": settings.checkpoint.name},
        "versions": results.versions,
        "medians": {
            f"{peer} {size}".strip(): row for (peer, size), row in medians(results).items()
        },
        "extras": results.extras,
        "failures": results.failures,
        "targets": [
            {**asdict(v.target), "reached": v.reached, "met": v.met}
            for v in verdicts(medians(results))
        ],
        "rounds": [asdict(sample) for sample in results.samples],
    }


def page(results: Results, settings: Settings, peers: Sequence[str]) -> str:
    """The page that is kept."""
    versions = [
        f"{peer} ({results.precision[peer]}): "
        + ", ".join(f"{name} {number}" for name, number in found.items())
        for peer, found in results.versions.items()
    ]
    about = [
        f"Date: {date.today().isoformat()}",
        f"Machine: {machine()}",
        f"Checkpoint: {settings.checkpoint.name}, random weights; {settings.threads} threads, "
        f"{settings.new_tokens} new tokens",
        *versions,
    ]
    return "\n".join(
        [
            "# The last race",
            "",
            "Written by `python -m benchmarks.peers`; how it measures: [peers](peers/README.md).",
            "",
            *(f"- {line}" for line in about),
            "",
            *tables(results, peers),
            "Targets, of vlrt's figures or of their ratios to others':",
            "",
            *(f"- {line}" for line in targets(results)),
            "",
        ]
    )


def machine() -> str:
    """Processor, cores and memory."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = told.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in told:
        name += f" (family {told['cpu family']}, model {told['model']})"
    memory = psutil.virtual_memory().total / 2**30
    return f"{name}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}"


def _rounds(results: Results, peer: str, size: str) -> int:
    return sum((s.peer, s.size) == (peer, size) for s in results.samples)


def _head(results: Results, peer: str) -> str:
    return f"{peer} (failed)" if peer in results.failures else peer


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"
