"""An export holds a block of rows per core in memory, whatever the checkpoint's size; no torch."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.large import measured_export
from vlrt_runtime.memory import private


@pytest.mark.skipif(private() is None, reason="this system does not say what memory is private")
def test_export_holds_no_checkpoint_in_memory_and_imports_no_torch(tmp_path: Path):
    found = measured_export(tmp_path, "from vlrt_runtime.memory import private as memory")
    assert found["size"] > 320e6
    assert found["heavy"] == []
    assert found["peak"] < 150e6
