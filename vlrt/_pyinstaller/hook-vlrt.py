"""A frozen app runs packages; it exports none, and compares none with its checkpoint."""

from __future__ import annotations

from PyInstaller.utils.hooks import collect_data_files

# Training weights are of use to the exporter alone.
datas = collect_data_files("vlrt", excludes=["demo/checkpoint/*"])
excludedimports = ["vlrt_export", "torch", "transformers"]
