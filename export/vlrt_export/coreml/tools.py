"""coremltools, imported once and quietly: it warns of libraries that exist on macOS alone.

To a type checker it has no types: its own are wrong in places, and its operators are attached at
run time.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from vlrt_runtime.errors import MissingDependencyError

__all__ = ["Function", "Program", "Var", "ct", "mb", "types", "uint4"]

if TYPE_CHECKING:
    Var = Any

    class _Untyped:
        def __init__(self, *args: Any, **options: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...
        def __enter__(self) -> Any: ...
        def __exit__(self, *what: object) -> None: ...

    class Function(_Untyped): ...  # noqa: D101

    class Program(_Untyped): ...  # noqa: D101

    ct: Any
    mb: Any
    types: Any
    uint4: Any
else:
    _before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        import coremltools as ct
        from coremltools.converters.mil.mil import Builder, Function, Program, Var, types
        from coremltools.converters.mil.mil.types.type_int import np_uint4_dtype as uint4
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"--target coreml needs {error.name}, which is not installed: "
            "pip install 'vlrt[coreml]'"
        ) from error
    finally:
        logging.disable(_before)
    mb = Builder
