"""Programs run by Apple's Core ML: on a Mac, from Python.

Written to Apple's documentation and to the metadata of pyobjc 12, and tested against a recorded
contract of both; NOT YET RUN ON APPLE HARDWARE. scripts/macos_smoke.py is how to find out.

pyobjc's CoreML is preferred: it is light. coremltools serves where it is there and pyobjc is not.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from vlrt_runtime.errors import MissingDependencyError

if TYPE_CHECKING:
    from vlrt_runtime.backends.coreml import Program

__all__ = ["open_program"]


def open_program(path: Path, *, units: str) -> Program:
    """Opens an `.mlpackage` for compute units: cpu-and-gpu, cpu-and-ne, all or cpu.

    Raises:
        MissingDependencyError: neither pyobjc's CoreML nor coremltools is installed.
        PackageError: the package is damaged, or Core ML does not accept it.
    """
    if find_spec("CoreML"):
        from vlrt_runtime.coreml.objc import ObjCProgram

        return ObjCProgram(path, units)
    if find_spec("coremltools"):
        from vlrt_runtime.coreml.tools import ToolsProgram

        return ToolsProgram(path, units)
    raise MissingDependencyError(
        "device 'coreml' needs pyobjc's CoreML: pip install pyobjc-framework-CoreML"
    )
