"""What PyInstaller has to know of vlrt; it finds this by itself (entry point `pyinstaller40`)."""

from __future__ import annotations

from pathlib import Path

__all__ = ["get_hook_dirs"]


def get_hook_dirs() -> list[str]:
    """The folder of the hooks."""
    return [str(Path(__file__).parent)]
