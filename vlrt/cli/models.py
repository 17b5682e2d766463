"""`vlrt models`."""

from __future__ import annotations

import argparse
import dataclasses
import json

from vlrt_export.catalog import CATALOG
from vlrt_runtime.manifest import MANIFEST
from vlrt_runtime.package import packages_folder

__all__ = ["run"]


def run(args: argparse.Namespace) -> int:
    """Lists the catalog, and the packages that were exported before."""
    exported = sorted(path.parent.name for path in packages_folder().glob(f"*/{MANIFEST}"))
    if args.json:
        models = [dataclasses.asdict(card) for card in CATALOG]
        print(json.dumps({"models": models, "exported": exported}))
        return 0
    rows = [("name", "repository", "parameters", "download", "at int4", "licence", "consent")]
    rows += [
        (
            card.name,
            card.repo,
            f"{card.parameters / 1e9:.2f} B",
            f"{card.download_bytes / 1e9:.1f} GB",
            f"{card.package_bytes / 1e9:.1f} GB",
            card.licence,
            "asked" if card.gated else "",
        )
        for card in CATALOG
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    print("\nexported here: " + (", ".join(exported) or "none yet"))
    return 0
