"""Norms, activations and feed-forward blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlrt_export.layers.base import FLOAT, Layer, cast, contrib
from vlrt_export.layers.linear import Linear
from vlrt_export.weights import Weights
from vlrt_runtime.errors import CheckpointError

__all__ = ["MLP", "GatedMLP", "LayerNorm", "RMSNorm", "activation"]


class RMSNorm(Layer):
    """x / rms(x) * weight, with the residual sum before it fused in where there is one."""

    def __init__(self, weights: Weights, name: str, size: int, eps: float) -> None:
        super().__init__()
        self.eps, self.plain_sum = float(eps), weights.target.static
        self.weight = self.vector(weights, f"{name}.weight", [size])

    def forward(self, op: Any, x: Any, residual: Any = None) -> tuple[Any, Any]:
        """(norm(s), s) of s = x, or of s = residual + x; all [..., size]."""
        if residual is not None and self.plain_sum:
            x, residual = op.Add(residual, x), None
        if residual is None:
            return op.RMSNormalization(x, self.weight, axis=-1, epsilon=self.eps), x
        return contrib(
            op,
            "SkipSimplifiedLayerNormalization",
            x,
            residual,
            self.weight,
            outputs=[x, None, None, x],
            epsilon=self.eps,
        )


class LayerNorm(Layer):
    """(x - mean) / std * weight + bias over the last axis, in float32."""

    def __init__(self, weights: Weights, name: str, size: int, eps: float) -> None:
        super().__init__()
        self.eps, self.dtype = float(eps), weights.dtype
        self.weight = self.vector(weights.wide, f"{name}.weight", [size])
        self.bias = self.vector(weights.wide, f"{name}.bias", [size])

    def forward(self, op: Any, x: Any) -> Any:
        """X [..., size] -> the same shape."""
        x = cast(op, x, FLOAT)
        y = op.LayerNormalization(x, self.weight, self.bias, axis=-1, epsilon=self.eps)
        return cast(op, y, self.dtype)


def activation(op: Any, x: Any, kind: str) -> Any:
    """The function that transformers knows by this name."""
    if kind not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise CheckpointError(f"config.json: activation {kind!r}, expected one of {known}")
    return ACTIVATIONS[kind](op, x)


def _sigmoid_gelu(alpha: float) -> Any:
    """X * sigmoid(alpha * x): SiLU at 1, CLIP's quick GELU at 1.702."""
    return lambda op, x: contrib(op, "QuickGelu", x, outputs=[x], alpha=alpha)


ACTIVATIONS = {
    "silu": _sigmoid_gelu(1.0),
    "quick_gelu": _sigmoid_gelu(1.702),
    "gelu": lambda op, x: op.Gelu(x, approximate="none"),
    "gelu_pytorch_tanh": lambda op, x: op.Gelu(x, approximate="tanh"),
}


class GatedMLP(Layer):
    """down(act(gate(x)) * up(x)), gate and up read in one multiplication."""

    def __init__(self, weights: Weights, hidden: int, inner: int, act: str) -> None:
        super().__init__()
        self.act = act
        self.gate_up = Linear(weights, ["gate_proj", "up_proj"], hidden, [inner, inner])
        self.down = Linear(weights, "down_proj", inner, hidden)

    def forward(self, op: Any, x: Any) -> Any:
        """X [..., hidden] -> the same shape."""
        gate, up = op.Split(self.gate_up(op, x), axis=-1, num_outputs=2, _outputs=2)
        return self.down(op, op.Mul(activation(op, gate, self.act), up))


class MLP(Layer):
    """second(act(first(x))), with biases. `sizes`: input, inner, output."""

    def __init__(
        self, weights: Weights, names: tuple[str, str], sizes: Sequence[int], act: str
    ) -> None:
        super().__init__()
        self.act = act
        outer, inner, output = sizes
        self.first = Linear(weights, names[0], outer, inner, bias=True)
        self.second = Linear(weights, names[1], inner, output, bias=True)

    def forward(self, op: Any, x: Any) -> Any:
        """X [..., sizes[0]] -> [..., sizes[2]]."""
        return self.second(op, activation(op, self.first(op, x), self.act))
