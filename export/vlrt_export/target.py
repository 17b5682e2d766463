"""What graphs are made for: the choices that layers leave to the device that runs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from vlrt_runtime.errors import InputError

__all__ = ["COREML", "CPU", "CUDA", "TARGETS", "Target", "target_for"]

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


@dataclass(frozen=True, kw_only=True)
class Target:
    """A device, and how its graphs are lowered.

    Attributes:
        device: as the manifest names it.
        compute: dtype of activations, by precision; float32 where a precision is not named.
        cache: dtype of keys and values; that of activations where it is None.
        rest: what `--precision` means for components but the decoder, where it is not the same.
        integer_activations: 4- and 8-bit weights may be multiplied with 8-bit activations.
        turned: and whole matrices of 8 bits are, once turned (see `vlrt_export.layers.turned`).
        fused_bias: MatMulNBits adds the bias.
        picks: the decoder looks up the rows of ids, and gives the ids of the largest logits.
        profile: of Core ML programs: gpu or ane; none for ONNX.
        storage: precision -> the form that `Linear` stores matrices in, where it is another.
        precision: where none is asked for.
        block_size: where none is asked for.
        unstored: precisions that are not to be had, and why.
    """

    device: str
    compute: Mapping[str, ir.DataType] = field(default_factory=dict)
    cache: ir.DataType | None = FLOAT
    rest: Mapping[str, str] = field(default_factory=dict)
    integer_activations: bool = True
    turned: bool = False
    fused_bias: bool = True
    picks: bool = False
    profile: str | None = None
    storage: Mapping[str, str] = field(default_factory=dict)
    precision: str = "int4"
    block_size: int = 128
    unstored: Mapping[str, str] = field(default_factory=dict)

    @property
    def static(self) -> bool:
        """Sizes are fixed when the graphs are made, and operators are plain ones."""
        return self.profile is not None


# A picture encoder loses much more than a decoder at 4 bits and is read once per picture, not once
# per token: int4 leaves it at 8, or at 16 where that is the faster.
CPU = Target(device="cpu", rest={"int4": "int8"}, turned=True)

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

# Apple's own recipe for decoders on the GPU is int4 in blocks of 32:
# https://machinelearning.apple.com/research/core-ml-on-device-llama. The Neural Engine computes in
# float16 alone, and knows no blocks but whole rows:
# https://apple.github.io/coremltools/docs-guides/source/opt-quantization-perf.html
COREML = {
    "gpu": Target(
        device="coreml",
        profile="gpu",
        compute=dict.fromkeys(("fp16", "int8", "int4"), HALF),
        cache=None,
        rest={"int4": "fp16"},
        integer_activations=False,
        storage={"int8": "codes8", "int4": "codes4"},
        block_size=32,
    ),
    "ane": Target(
        device="coreml",
        profile="ane",
        compute=dict.fromkeys(("fp32", "fp16", "int8", "int4"), HALF),
        cache=None,
        integer_activations=False,
        storage={"int8": "rows8"},
        precision="int8",
        unstored={
            "fp32": "the Neural Engine computes in float16",
            "int4": "the Neural Engine knows no blocks of 4 bits",
        },
    ),
}

TARGETS = {target.device: target for target in (CPU, CUDA)}


def target_for(kind: str, device: str | None = None, profile: str | None = None) -> Target:
    """The target of that kind of graphs: onnx, for a device, or coreml, of a profile.

    Raises:
        InputError: there is none.
    """
    choices = {"onnx": (device or "cpu", TARGETS, "device", profile, "profile")}
    choices["coreml"] = (profile or "gpu", COREML, "profile", device, "device")
    if kind not in choices:
        raise InputError(f"target {kind!r}: expected one of {', '.join(choices)}")
    word, known, name, other, other_name = choices[kind]
    if other is not None:
        raise InputError(f"{other_name} {other!r}: target {kind} has none; leave it out")
    if word not in known:
        raise InputError(f"{name} {word!r}: expected one of {', '.join(known)}")
    return known[word]
