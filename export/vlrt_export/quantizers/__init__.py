"""The quantisers by name. All give `Blocks`; they differ in what they make small, and in time.

rtn: nothing, it rounds.  mse: the squared error of the weights.  hqq: a norm of it that forgives
outliers.  gptq: the squared error of the outputs, on inputs that were seen in calibration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vlrt_export.quantize import PORTION, Blocks, quantize, round_plainly
from vlrt_export.quantizers import gptq, hqq

__all__ = ["DEFAULT", "QUANTIZERS", "Quantizer"]


@dataclass(frozen=True)
class Quantizer:
    """A way to make integers of rows.

    Attributes:
        make: (rows [n, k], bits=, block=) -> Blocks; calibrated ones take a `factor=` as well, see
            `vlrt_export.quantizers.gptq`.
        elements: weights to give it at a time.
        calibrated: whether it looks at what the matrix is multiplied with.
    """

    make: Callable[..., Blocks]
    elements: int = PORTION
    calibrated: bool = False


DEFAULT = "mse"
QUANTIZERS = {
    "rtn": Quantizer(round_plainly),
    "mse": Quantizer(quantize),
    "hqq": Quantizer(hqq.quantize),
    # It goes column by column, so that only many rows at a time keep numpy busy.
    "gptq": Quantizer(gptq.quantize, elements=1 << 22, calibrated=True),
}
