"""What a backend may be told besides its device."""

from __future__ import annotations

from dataclasses import dataclass

from vlrt_runtime.errors import InputError

__all__ = ["COMPUTE_UNITS", "PRECISIONS", "BackendOptions"]

COMPUTE_UNITS = ("cpu-and-gpu", "cpu-and-ne", "all", "cpu")
PRECISIONS = ("fp32", "declared")


@dataclass(frozen=True)
class BackendOptions:
    """What each backend looks at where it means something to it.

    Attributes:
        compute_units: that Core ML may use; None for what the package was made for.
        mil_precision: of the interpreter: fp32 arithmetic, or every result rounded to the type that
            the program declares.
        cache: of onnxruntime on the CPU: keep weights as its kernels want them, for the next time.

    Raises:
        InputError: an option has no such value.
    """

    compute_units: str | None = None
    mil_precision: str = "fp32"
    cache: bool = True

    def __post_init__(self) -> None:
        """Refuses unknown values."""
        if self.compute_units not in (None, *COMPUTE_UNITS):
            known = ", ".join(COMPUTE_UNITS)
            raise InputError(f"compute_units {self.compute_units!r}: expected one of {known}")
        if self.mil_precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise InputError(f"mil_precision {self.mil_precision!r}: expected one of {known}")
