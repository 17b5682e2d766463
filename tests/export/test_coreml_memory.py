"""An export for Core ML maps its weights from disk and copies a matrix at a time; no torch."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.large import measured_export

pytest.importorskip("coremltools", reason="needs vlrt[coreml]")

MAPS = Path("/proc/self/smaps_rollup")
BEFORE = """
import dataclasses
sys.modules["torch"] = sys.modules["transformers"] = None  # coremltools takes what is there
from vlrt_export.coreml import profiles, writer
small = dataclasses.replace(profiles.PROFILES["gpu"], largest=1 << 22)  # 8 MB a piece
profiles.PROFILES["gpu"] = small
def memory():  # anonymous: weights are in files that are mapped
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))
"""


@pytest.mark.skipif(not MAPS.exists(), reason="this system does not say what memory is anonymous")
def test_weights_are_mapped_and_torch_is_not_needed(tmp_path: Path):
    options = {"target": "coreml", "precision": "fp16", "image_sizes": [(56, 56)], "context": 64}
    found = measured_export(tmp_path, BEFORE, **options)
    assert found["grown"] < found["size"] / 4  # the decoder's weights are twice that
