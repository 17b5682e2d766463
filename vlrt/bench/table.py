"""Rows as text: a table for people, Markdown, and comma-separated values."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path
from typing import Any

from vlrt.bench.record import FIGURES, Record, Row

__all__ = ["as_csv", "as_markdown", "headline", "limits_text", "machine_text", "print_record"]

CASE = ["package", "image", "threads", "tokens"]
HEADERS = [*CASE, "encode", "prefill", "TTFT", "TPOT", "tokens/s", "peak"]


def milliseconds(value: float) -> str:
    """Three digits, in ms or s."""
    if value >= 1e4:
        return f"{value / 1e3:.1f} s"
    if value >= 1e3:
        return f"{value / 1e3:.2f} s"
    return f"{value:.3g} ms" if value < 100 else f"{value:.0f} ms"


def headline(row: Row) -> list[str]:
    """The cells under HEADERS: medians."""
    found = row.summaries()

    def cell(figure: str) -> str:
        return milliseconds(found[figure].median) if figure in found else "-"

    counts, tpot = row.counts, found.get("tpot")
    prompt, image, new, kept = (
        counts.get(f"{name}_tokens", 0) for name in ("prompt", "image", "new", "cached")
    )
    tokens = f"{prompt - image} + {image}, {f'{kept} kept, ' if kept else ''}{new} new"
    peak = row.memory.get("peak_rss")
    return [
        Path(row.case.package).name,
        row.case.image if len(row.case.image) < 20 else Path(row.case.image).name,
        str(row.case.threads),
        tokens,
        cell("encode"),
        cell("prefill"),
        cell("ttft"),
        cell("tpot"),
        f"{1e3 / tpot.median:.1f}" if tpot else "-",
        f"{peak / 1e9:.2f} GB" if peak else "-",
    ]


def limits_text(row: Row) -> str:
    """Shares of the machine's limits, in words."""
    names = {
        "decode_of_bandwidth": "decode {:.0%} of memory bandwidth",
        "prefill_of_throughput": "prefill {:.0%} of matmul throughput at its precision",
        "encode_of_throughput": "encode {:.0%} of it",
    }
    return ", ".join(names[name].format(row.limits[name]) for name in names if name in row.limits)


def machine_text(machine: dict[str, float]) -> str:
    """What the probes have found."""
    kinds = {
        "flops": "fp32",
        "flops_int8": "int8",
        "flops_int8_rows": "int8 by rows",
        "flops_int4": "int4",
    }
    rates = (f"{kind} {machine[name] / 1e9:.0f}" for name, kind in kinds.items() if name in machine)
    read = machine["read_bytes_per_s"] / 1e9
    return f"reads {read:.1f} GB/s, multiplies at {', '.join(rates)} GFLOP/s"


def print_record(record: Record, console: Any) -> None:
    """A headline for every row, then every row's stages."""
    from rich.table import Table

    machine = record.machine
    console.print(
        f"{record.environment['cpu']}, {record.environment['cores']} cores"
        + (f", {machine_text(machine)}" if machine else ""),
        highlight=False,
    )
    table = Table(caption="medians; tokens: text + picture, new", caption_justify="left")
    for name in HEADERS:
        left = name in ("package", "image")
        table.add_column(name, justify="left" if left else "right", no_wrap=not left)
    for row in record.rows:
        table.add_row(*headline(row))
    console.print(table)
    for row in record.rows:
        stages = Table(title=row.case.label, title_justify="left", box=None, pad_edge=False)
        stages.add_column("stage")
        for name in ("median", "p90", "p99", "sd", "n"):
            stages.add_column(name, justify="right")
        for figure, s in row.summaries().items():
            cells = (milliseconds(v) for v in (s.median, s.p90, s.p99, s.sd))
            stages.add_row(figure.replace("_", " "), *cells, str(s.count))
        console.print(stages)
        for line in remarks(row):
            console.print("  " + line, highlight=False, markup=False)
        console.print()


def remarks(row: Row) -> list[str]:
    """What is to be said of a row beside its figures."""
    ended = {
        "steady": "stopped: medians are steady",
        "time": "stopped at the limit in time, medians not yet steady",
        "runs": "stopped at the limit of runs, medians not yet steady",
        "interrupted": "interrupted: what was measured until then",
    }
    lines = [ended.get(row.ended, row.ended)]
    if row.limits:
        lines.append(limits_text(row))
    if parts := row.components:
        lines.append(
            ", ".join(f"{n} {p['bytes'] / 1e6:.4g} MB {p['precision']}" for n, p in parts.items())
        )
    if row.memory:
        lines.append(", ".join(f"{n} {size / 1e6:.0f} MB" for n, size in row.memory.items()))
    joules = [run.joules for run in row.runs if run.joules is not None]
    if joules and row.counts.get("new_tokens"):
        each = sum(joules) / len(joules) / row.counts["new_tokens"]
        lines.append(f"{each:.2f} J an id, prompt and picture included")
    if speeds := [run.mhz for run in row.runs if run.mhz]:
        lines.append(f"CPU at {min(speeds):.0f} to {max(speeds):.0f} MHz")
    return lines + [f"note: {note}" for note in row.notes]


def as_markdown(record: Record) -> str:
    """The headline table."""
    lines = [HEADERS, ["---"] * len(HEADERS), *(headline(row) for row in record.rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def as_csv(record: Record) -> str:
    """A line for each row and figure."""
    file = StringIO()
    out = csv.writer(file, lineterminator="\n")
    case = ("package", "device", "threads", "image", "prompt_tokens", "new_tokens", "caches")
    out.writerow([*case, "figure", "median_ms", "p90_ms", "p99_ms", "sd_ms", "count", "ended"])
    for row in record.rows:
        asked = [getattr(row.case, name) for name in case]
        for figure in FIGURES:
            if s := row.summaries().get(figure):
                numbers = (f"{v:.6g}" for v in (s.median, s.p90, s.p99, s.sd))
                out.writerow([*asked, figure, *numbers, s.count, row.ended])
    return file.getvalue()
