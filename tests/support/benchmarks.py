"""`benchmarks` as a package, without the checkout on the path: import this before it.

With the checkout on the path, `import vlrt` would be the checkout's and not what is installed.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

if "benchmarks" not in sys.modules:
    package = types.ModuleType("benchmarks")
    package.__path__ = [str(Path(__file__).parents[2] / "benchmarks")]
    sys.modules["benchmarks"] = package
