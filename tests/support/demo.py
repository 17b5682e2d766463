"""The demo model's world."""

from __future__ import annotations

import support.benchmarks  # noqa: F401  before what it makes importable
from benchmarks.demo_model.questions import QA
from benchmarks.demo_model.scenes import Scene, scene

__all__ = ["QA", "Scene", "scene"]
