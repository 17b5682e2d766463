"""onnxruntime has this for a report on the machine, which looks for torch and tensorflow."""

from __future__ import annotations

excludedimports = ["torch", "tensorflow"]
