"""`vlrt bench`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from vlrt.bench.record import SCHEMA_VERSION, Record, Row, read_record
from vlrt_runtime.errors import InputError, StorageError

__all__ = ["run"]

Item = TypeVar("Item", int, str)
FAILED_SLOWER = 3  # exit status


def run(args: argparse.Namespace) -> int:
    """Measures, or compares two files measured before."""
    if args.compare:
        return _compare(args)
    if args.fail_slower:
        raise InputError("--fail-slower: it judges two files; add --compare A.json B.json")
    if not args.packages:
        raise InputError("PACKAGE: none given; name one or more, or --compare A.json B.json")
    if args.sweep and args.caches:
        raise InputError("--caches: a sweep shows whole answers; measure them one after the other")
    for target in (args.output, args.report):
        if target and not Path(target).absolute().parent.is_dir():
            raise InputError(f"{target}: its folder does not exist; make it first")
    record, interrupted = _measure(args)
    _write(args, record)
    if interrupted:
        print("vlrt: interrupted; what was measured is kept", file=sys.stderr)
        return 130
    return 1 if any(row.ended.startswith("failed") for row in record.rows) else 0


def _measure(args: argparse.Namespace) -> tuple[Record, bool]:
    from vlrt.bench.machine import environment, probe
    from vlrt.bench.measure import measure
    from vlrt.bench.plan import cases, checked
    from vlrt.bench.sweep import sweep_lists
    from vlrt.bench.worker import Task
    from vlrt_runtime.cores import usable_cores

    images = args.image + _list(args.image_size, str) or ["500x336"]
    prompts: list[int] | list[None] = _list(args.prompt_tokens, int, "--prompt-tokens") or [None]
    lists: dict[str, Any] = {
        "images": images,
        "prompt_tokens": prompts,
        "new_tokens": _list(args.new_tokens, int, "--new-tokens"),
        "threads": _list(args.threads, int, "--threads") or [usable_cores()],
        "devices": _list(args.device, str),
    }
    packages = [_package(name) for name in args.packages]
    if args.sweep:
        wanted = sweep_lists(packages, lists)
    else:
        wanted = cases(packages, **lists, caches=args.caches)
    wanted = [checked(case) for case in wanted]
    record = Record(SCHEMA_VERSION, environment(), {}, [])
    try:
        record.machine = probe() if not args.no_probe else {}
        for case in wanted:
            row = Row(case)
            record.rows.append(row)
            seconds = args.max_seconds
            task = Task(case, args.bound, args.min_runs, args.max_runs, seconds, args.loads)
            place = f"{len(record.rows)}/{len(wanted)}"
            measure(task, row, record.machine, lambda row, place=place: _progress(place, row))
            if args.format == "jsonl":
                print(json.dumps(msgspec.to_builtins(row)), flush=True)
    except KeyboardInterrupt:
        return record, True
    finally:
        _clear()
    return record, False


def _package(name: str) -> str:
    if name == "demo":
        from vlrt.demo import demo_package

        return str(demo_package())
    from vlrt_runtime.package import find_package

    return str(find_package(name))


def _list(text: str | None, kind: type[Item], option: str = "") -> list[Item]:
    """Items of a list separated by commas; numbers also as a range, 1-4."""
    items: list[Item] = []
    for part in (text or "").split(","):
        if not (part := part.strip()):
            continue
        if kind is str:
            items.append(kind(part))
            continue
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(first) < 1:
            raise InputError(f"{option} {text!r}: expected numbers such as 1,2,4 or 1-4")
        items += [kind(n) for n in range(int(first), int(last or first) + 1)]
    return items


def _progress(place: str, row: Row) -> None:
    if sys.stderr.isatty():
        loads = sum(map(len, row.loads.values()))
        text = f"{place} {row.case.label}: {loads} loads, {len(row.runs)} runs"
        print(f"\r\x1b[K{text[:100]}", end="", file=sys.stderr, flush=True)


def _clear() -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _write(args: argparse.Namespace, record: Record) -> None:
    from rich.console import Console

    from vlrt.bench.sweep import print_sweep
    from vlrt.bench.table import as_csv, as_markdown, print_record

    if args.output:
        _save(Path(args.output), record.to_json())
    if args.report:
        from vlrt.bench.report import as_html

        _save(Path(args.report), as_html(record).encode())
    if args.format == "json":
        sys.stdout.write(record.to_json().decode())
    elif args.format == "table":
        console = Console(width=None if sys.stdout.isatty() else 120)
        print_record(record, console)
        if args.sweep:
            print_sweep(record, console)
    elif args.format in ("md", "csv"):
        sys.stdout.write((as_markdown if args.format == "md" else as_csv)(record))


def _save(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)  # noqa: PTH105  as atomic as the system can
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


def _compare(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from vlrt.bench.compare import compare, fraction, remarks
    from vlrt.bench.table import milliseconds

    if args.packages:
        raise InputError("--compare: it takes two files and no PACKAGE")
    limit = fraction(args.fail_slower) if args.fail_slower else None
    a, b = (read_record(path) for path in args.compare)
    found = compare(a, b)
    table = Table(title="B / A", title_justify="left")
    for name in ("row", "figure", "A", "B", "ratio", "95 % interval", "B is"):
        table.add_column(name, justify="right" if name in ("A", "B", "ratio") else "left")
    last = ""
    for d in found:
        few = d.ratio.low == 0
        interval = "too few runs" if few else f"{d.ratio.low:.3f} to {d.ratio.high:.3f}"
        cells = (milliseconds(d.a), milliseconds(d.b), f"{d.ratio.estimate:.3f}", interval)
        table.add_row("" if d.row == last else d.row, d.figure, *cells, d.ratio.verdict)
        last = d.row
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    for line in remarks(a, b):
        print(f"vlrt: note: {line}", file=sys.stderr)
    failed = [d for d in found if limit is not None and d.fails(limit)]
    for d in failed:
        more = f"{d.ratio.estimate - 1:.1%} slower, over {args.fail_slower}"
        print(f"vlrt: {d.row}: {d.figure} is {more}", file=sys.stderr)
    return FAILED_SLOWER if failed else 0
