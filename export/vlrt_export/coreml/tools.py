"""coremltools, imported once and quietly: it warns of libraries that exist on macOS alone.

Its builder makes its methods as it is imported, so that nothing can check calls of them.
"""

from __future__ import annotations

import logging
from typing import Any, TypeAlias

from vlrt_runtime.errors import MissingDependencyError

__all__ = ["Function", "Program", "Var", "ct", "mb", "types", "uint4"]

_before = logging.root.manager.disable
logging.disable(logging.WARNING)
try:
    import coremltools
    from coremltools.converters.mil import mil
    from coremltools.converters.mil.mil import Function, Program
    from coremltools.converters.mil.mil import types as mil_types
    from coremltools.converters.mil.mil.types.type_int import np_uint4_dtype
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        f"--target coreml needs {error.name}, which is not installed: pip install 'vlrt[coreml]'"
    ) from error
finally:
    logging.disable(_before)

ct: Any = coremltools
mb: Any = mil.Builder
types: Any = mil_types
uint4: Any = np_uint4_dtype
Var: TypeAlias = Any  # of a function: it has a shape and a dtype
