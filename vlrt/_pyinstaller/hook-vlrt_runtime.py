"""Families and backends are imported by the names that a package's manifest has."""

from __future__ import annotations

from PyInstaller.utils.hooks import collect_submodules

hiddenimports = collect_submodules("vlrt_runtime")
# Large, and brings torch along; on a Mac pyobjc's CoreML does the same.
excludedimports = ["coremltools"]
