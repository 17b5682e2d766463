"""Packages with something else in their manifest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

__all__ = ["with_generation"]


def with_generation(package: Path, folder: Path, **settings: Any) -> Path:
    """A copy of a package in `folder`, which is made, with other values under `generation`."""
    shutil.copytree(package, folder)
    manifest = folder / "manifest.json"
    content = json.loads(manifest.read_text("utf-8"))
    content["generation"] |= settings
    manifest.write_text(json.dumps(content), "utf-8")
    return folder
