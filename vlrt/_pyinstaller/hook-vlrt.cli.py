"""Commands are imported by name: those that need no checkpoint, for apps that run `vlrt serve`."""

from __future__ import annotations

from PyInstaller.utils.hooks import collect_submodules

EXPORTER = ("vlrt.cli.export", "vlrt.cli.models", "vlrt.cli.verify")

hiddenimports = collect_submodules("vlrt.cli", filter=lambda name: name not in EXPORTER)
