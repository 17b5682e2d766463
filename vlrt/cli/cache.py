"""`vlrt cache`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import suppress
from pathlib import Path

from vlrt_runtime.prepacked import OLDEST, entries, prepacked_folder, remove, supported
from vlrt_runtime.session import ort

__all__ = ["run"]


def run(args: argparse.Namespace) -> int:
    """Lists the prepacked weights that are kept, or removes them; 1 where some cannot be."""
    kept = entries()
    failed = _clear() if args.clear else []
    if args.clear:
        left = {entry.folder for entry in entries()}
        kept = [entry for entry in kept if entry.folder not in left]
    total = sum(entry.nbytes for entry in kept)
    if args.json:
        rows = [
            {"graph": entry.source, "bytes": entry.nbytes, "used": entry.used} for entry in kept
        ]
        said = {"folder": str(prepacked_folder()), "bytes": total, "entries": rows}
        print(json.dumps(said | {"cleared": args.clear, "failed": failed}))
    else:
        for entry in kept:
            hours = (time.time() - entry.used) / 3600
            print(f"{entry.nbytes / 1e6:8.0f} MB  used {hours:.1f} h ago  {entry.source}")
        what = "removed from" if args.clear else "kept in"
        if not supported():
            oldest = ".".join(map(str, OLDEST))
            print(f"onnxruntime {ort.__version__} makes none; {oldest} and newer do")
        print(f"{len(kept)} graphs, {total / 1e6:.0f} MB {what} {prepacked_folder()}")
    for reason in failed:
        print(f"vlrt: cannot be removed: {reason}", file=sys.stderr)
    return 1 if failed else 0


def _clear() -> list[str]:
    """Removes every entry; tells of those that stay."""
    folder, failed = prepacked_folder(), list[str]()
    try:
        found = sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        return [str(error)]
    for entry in found:
        if (reason := _removal(entry)) is not None:
            failed.append(reason)
    with suppress(OSError):  # another process may be writing
        folder.rmdir()
    return failed


def _removal(entry: Path) -> str | None:
    """Removes an entry; why it could not be."""
    try:
        remove(entry)
    except OSError as error:
        return f"{entry}: {error.strerror}"
    return None
