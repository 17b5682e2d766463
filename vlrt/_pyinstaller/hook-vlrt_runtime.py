"""Families and backends are imported by the names that a package's manifest has."""

from __future__ import annotations

from importlib.util import find_spec

from PyInstaller.utils.hooks import collect_submodules

hiddenimports = collect_submodules("vlrt_runtime")
# Core ML, where pyobjc brings it. Videos and JSON schemas are left to apps that have them: those
# import av (80 MB) and llguidance themselves.
hiddenimports += [name for name in ("CoreML", "Foundation") if find_spec(name)]
