"""What graphs are made for: the choices that layers leave to the device that runs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from vlrt_runtime.errors import InputError

__all__ = ["CPU", "CUDA", "TARGETS", "Target", "target_for"]

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


@dataclass(frozen=True, kw_only=True)
class Target:
    """A device, and how its graphs are lowered.

    Attributes:
        device: as the manifest names it.
        compute: dtype of activations, by precision; float32 where a precision is not named.
        cache: dtype of keys and values.
        rest: what `--precision` means for components but the decoder, where it is not the same.
        integer_activations: 4- and 8-bit weights may be multiplied with 8-bit activations.
        fused_bias: MatMulNBits adds the bias.
        picks: the decoder looks up the rows of ids, and gives the ids of the largest logits.
    """

    device: str
    compute: Mapping[str, ir.DataType] = field(default_factory=dict)
    cache: ir.DataType = FLOAT
    rest: Mapping[str, str] = field(default_factory=dict)
    integer_activations: bool = True
    fused_bias: bool = True
    picks: bool = False


# A picture encoder loses much more than a decoder at 4 bits and is read once per picture, not once
# per token: int4 leaves it at 8, or at 16 where that is the faster.
CPU = Target(device="cpu", rest={"int4": "int8"})

# onnxruntime's GroupQueryAttention has no float32 there, so keys and values never are. Kernels by
# type: https://github.com/microsoft/onnxruntime/blob/main/docs/OperatorKernels.md
CUDA = Target(
    device="cuda",
    compute=dict.fromkeys(("fp16", "int8", "int4"), HALF),
    cache=HALF,
    rest={"int4": "fp16"},
    integer_activations=False,
    fused_bias=False,  # older versions refuse it, newer ones add it in a kernel of its own too
    picks=True,
)

TARGETS = {target.device: target for target in (CPU, CUDA)}


def target_for(device: str) -> Target:
    """The target of that name.

    Raises:
        InputError: there is none.
    """
    if device not in TARGETS:
        raise InputError(f"device {device!r}: expected one of {', '.join(TARGETS)}")
    return TARGETS[device]
