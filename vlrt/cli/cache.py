"""`vlrt cache`."""

from __future__ import annotations

import argparse
import json
import shutil
import time

from vlrt_runtime.prepacked import entries, prepacked_folder

__all__ = ["run"]


def run(args: argparse.Namespace) -> int:
    """Lists the prepacked weights that are kept, or removes them."""
    kept = entries()
    total = sum(entry.nbytes for entry in kept)
    if args.clear:
        shutil.rmtree(prepacked_folder(), ignore_errors=True)
    if args.json:
        rows = [
            {"graph": entry.source, "bytes": entry.nbytes, "used": entry.used} for entry in kept
        ]
        said = {"folder": str(prepacked_folder()), "bytes": total, "entries": rows}
        print(json.dumps(said | {"cleared": args.clear}))
        return 0
    for entry in kept:
        hours = (time.time() - entry.used) / 3600
        print(f"{entry.nbytes / 1e6:8.0f} MB  used {hours:.1f} h ago  {entry.source}")
    what = "removed" if args.clear else "kept"
    print(f"{len(kept)} graphs, {total / 1e6:.0f} MB {what} in {prepacked_folder()}")
    return 0
