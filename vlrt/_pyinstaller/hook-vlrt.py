"""A frozen app runs packages; what exports them, and the weights it would need, stays out."""

from __future__ import annotations

from PyInstaller.utils.hooks import collect_data_files

datas = collect_data_files("vlrt", excludes=["demo/checkpoint/*"])
excludedimports = ["vlrt_export"]
