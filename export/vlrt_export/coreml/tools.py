"""coremltools, imported once and quietly: it warns of libraries that exist on macOS alone."""

from __future__ import annotations

import logging

from vlrt_runtime.errors import MissingDependencyError

__all__ = ["Function", "Program", "Var", "ct", "mb", "types", "uint4"]

_before = logging.root.manager.disable
logging.disable(logging.WARNING)
try:
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder, Function, Program, Var, types
    from coremltools.converters.mil.mil.types.type_int import np_uint4_dtype as uint4
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        f"--target coreml needs {error.name}, which is not installed: pip install 'vlrt[coreml]'"
    ) from error
finally:
    logging.disable(_before)
mb = Builder
