"""Every operation of the interpreter against coremltools' own evaluation, or else torch's.

All cases are functions of one package, which goes through its files: built by coremltools, saved,
and read by our reader.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from support.mil import function, mb, save, types
from vlrt_runtime.mil.ops import RULES
from vlrt_runtime.mil.program import MilProgram

torch = pytest.importorskip("torch")
functional = torch.nn.functional
random = np.random.default_rng(7)


def floats(*shape: int) -> Any:
    return random.standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> Any:
    return np.abs(floats(*shape)) + np.float32(0.1)


def flags(*shape: int) -> Any:
    return random.random(shape) > 0.5


def whole(*shape: int, low: int = -5, high: int = 6) -> Any:
    return random.integers(low, high, shape).astype(np.int32)


# name of a case -> (operands by parameter, other parameters, reference where coremltools has none)
Case = tuple[dict[str, Any], dict[str, Any], Callable[..., Any] | None]
CASES: dict[str, Case] = {}


def case(
    name: str,
    operands: dict[str, Any],
    reference: Callable[..., Any] | None = None,
    /,
    **others: Any,
) -> None:
    CASES[f"{name}__{sum(key.startswith(name + '__') for key in CASES)}"] = (
        operands,
        others,
        reference,
    )


X = floats(2, 3, 4)
for op in ("add", "sub", "mul", "real_div", "maximum", "minimum"):
    case(op, {"x": X, "y": floats(3, 1)})
    case(op, {"x": whole(2, 3), "y": whole(2, 3, low=1)}) if op != "real_div" else None
for op in ("floor_div", "mod", "pow"):
    case(op, {"x": positive(2, 3), "y": positive(3)})
for op in ("equal", "not_equal", "greater", "greater_equal", "less", "less_equal"):
    case(op, {"x": whole(3, 4, low=0, high=3), "y": whole(3, 4, low=0, high=3)})
for op in ("logical_and", "logical_or", "logical_xor"):
    case(op, {"x": flags(3, 4), "y": flags(3, 4)})
case("logical_not", {"x": flags(3, 4)})
for op in ("abs", "ceil", "cos", "erf", "exp", "exp2", "floor", "identity", "relu", "round"):
    case(op, {"x": 3 * X})
for op in ("sigmoid", "sign", "sin", "softsign", "softplus", "square", "tanh"):
    case(op, {"x": 3 * X})
case("silu", {"x": 3 * X}, lambda x: functional.silu(torch.tensor(x)))
case("leaky_relu", {"x": X}, alpha=0.1)
case("sqrt", {"x": positive(3)})
for op in ("log", "rsqrt", "inverse"):
    case(op, {"x": positive(3, 2)}, epsilon=1e-3)
for mode in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"):
    case("gelu", {"x": 2 * X}, mode=mode)
case("clip", {"x": X}, alpha=-0.5, beta=0.7)
case("softmax", {"x": X})
case("softmax", {"x": X}, axis=1)
case("cast", {"x": 3 * X}, dtype="int32")
case("cast", {"x": whole(3)}, dtype="fp32")
case("cast", {"x": whole(3)}, dtype="bool")
case("select", {"cond": flags(3, 4), "a": floats(3, 4), "b": floats(3, 4)})
for op in ("sum", "prod", "mean", "max", "min", "sum_square", "l1_norm", "l2_norm", "log_sum_exp"):
    case(f"reduce_{op}", {"x": X}, axes=[1], keep_dims=True)
    case(f"reduce_{op}", {"x": X}, axes=[0, -1], keep_dims=False)
case("reduce_log_sum", {"x": positive(2, 3)}, axes=[-1], keep_dims=False)
for op in ("reduce_argmax", "reduce_argmin"):
    case(op, {"x": X}, axis=1, keep_dims=True)
    case(op, {"x": X}, axis=-1, keep_dims=False)
case("layer_norm", {"x": X}, axes=[-1], gamma=floats(4), beta=floats(4), epsilon=1e-5)
case("layer_norm", {"x": X}, axes=[1], epsilon=1e-3)
case("layer_norm", {"x": X}, axes=[1, 2], gamma=floats(3, 4), beta=floats(3, 4))
case("l2_norm", {"x": floats(2, 3, 4, 5)}, epsilon=1e-4)
case("topk", {"x": X}, k=2, axis=1, ascending=False)
case("topk", {"x": X}, k=3, axis=-1, ascending=True)
case("cumsum", {"x": X}, axis=1)
case("cumsum", {"x": X}, axis=-1, reverse=True)
# coremltools' own evaluation of this one is broken
case(
    "cumsum",
    {"x": X},
    lambda x, **_: (torch.tensor(x).cumsum(1) - torch.tensor(x)).numpy(),
    axis=1,
    exclusive=True,
)
case("band_part", {"x": floats(2, 5, 5)}, lower=-1, upper=0)
case("band_part", {"x": floats(4, 6)}, lower=1, upper=2)
case("matmul", {"x": floats(2, 3, 4), "y": floats(2, 4, 5)})
case("matmul", {"x": floats(2, 4, 3), "y": floats(5, 4)}, transpose_x=True, transpose_y=True)
case("linear", {"x": floats(2, 3, 4)}, weight=floats(5, 4), bias=floats(5))
case("linear", {"x": floats(3, 4)}, weight=floats(5, 4))
case("einsum", {"values": (floats(1, 4, 2, 3), floats(1, 3, 2, 5))}, equation="bchq,bqhk->bchk")
case(
    "scaled_dot_product_attention",
    {"query": floats(1, 2, 3, 4), "key": floats(1, 2, 5, 4), "value": floats(1, 2, 5, 6)},
)
case(
    "scaled_dot_product_attention",
    {"query": floats(1, 2, 3, 4), "key": floats(1, 2, 5, 4), "value": floats(1, 2, 5, 4)},
    attn_mask=floats(1, 1, 3, 5),
)
case(
    "scaled_dot_product_attention",
    {"query": floats(1, 2, 3, 4), "key": floats(1, 2, 5, 4), "value": floats(1, 2, 5, 4)},
    attn_mask=np.tri(3, 5, 2, dtype=np.bool_)[None, None],
)


def conv(**torch_options: Any) -> Callable[..., Any]:
    def reference(x: Any, weight: Any, bias: Any = None, **_: Any) -> Any:
        run = (functional.conv1d, functional.conv2d, functional.conv3d)[x.ndim - 3]
        arrays = [None if a is None else torch.tensor(a) for a in (x, weight, bias)]
        return run(*arrays, **torch_options)

    return reference


case("conv", {"x": floats(2, 6, 1, 5)}, conv(), weight=floats(4, 6, 1, 1), bias=floats(4))
case("conv", {"x": floats(1, 3, 8, 8)}, conv(stride=4), weight=floats(5, 3, 4, 4), strides=[4, 4])
case(
    "conv",
    {"x": floats(1, 4, 7, 9)},
    conv(padding=(1, 2), groups=2, dilation=(2, 1), stride=(1, 2)),
    weight=floats(6, 2, 3, 3),
    strides=[1, 2],
    dilations=[2, 1],
    pad_type="custom",
    pad=[1, 1, 2, 2],
    groups=2,
)
case("conv", {"x": floats(1, 3, 8)}, conv(padding="same"), weight=floats(2, 3, 3), pad_type="same")
case(
    "conv",
    {"x": floats(1, 3, 2, 6, 6)},
    conv(stride=(2, 3, 3)),
    weight=floats(4, 3, 2, 3, 3),
    strides=[2, 3, 3],
)
case("reshape", {"x": X}, shape=[4, -1])
case("transpose", {"x": X}, perm=[2, 0, 1])
case("expand_dims", {"x": X}, axes=[0, -1])
case("squeeze", {"x": floats(1, 3, 1)}, axes=[0])
case("squeeze", {"x": floats(1, 3, 1)})
case("concat", {"values": (floats(2, 3), floats(2, 1))}, axis=1)
# coremltools' own evaluation leaves `interleave` out; this is what its documentation says
case(
    "concat",
    {"values": (floats(2, 3), floats(2, 3))},
    lambda values, **_: np.stack([values[0][0], values[1][0], values[0][1], values[1][1]]),
    axis=0,
    interleave=True,
)
case("stack", {"values": (floats(2, 3), floats(2, 3))}, axis=1)
case("split", {"x": floats(4, 6)}, num_splits=3, axis=1)
case("split", {"x": floats(4, 6)}, split_sizes=[1, 3, 2], axis=1)
case("tile", {"x": floats(2, 3)}, reps=[2, 3])
case("reverse", {"x": X}, axes=[0, 2])
case("pad", {"x": floats(2, 3, 4)}, pad=[1, 0, 0, 2], mode="constant", constant_val=0.5)
case("pad", {"x": floats(2, 3, 4)}, pad=[1, 1, 2, 1], mode="reflect")
case("pad", {"x": floats(2, 3, 4)}, pad=[1, 1, 2, 1], mode="replicate")
case("fill", {"shape": np.array([2, 3], np.int32)}, value=1.5)
case("range_1d", {}, start=2, end=9, step=3)
case("shape", {"x": X})
case("slice_by_index", {"x": X}, begin=[0, 1, 0], end=[2, 3, 3])
case(
    "slice_by_index",
    {"x": X},
    begin=[0, -1, 3],
    end=[0, 0, 0],
    stride=[1, 1, -1],
    begin_mask=[True, False, False],
    end_mask=[True, True, False],
    squeeze_mask=[False, True, False],
)
case("slice_by_size", {"x": X}, begin=[0, 1, 1], size=[2, -1, 2])
case("slice_update", {"x": X, "update": floats(1, 3, 2)}, begin=[1, 0, 1], end=[2, 3, 3])
case(
    "slice_update",
    {"x": X, "update": floats(3, 4)},
    begin=[1, 0, 0],
    end=[2, 3, 4],
    squeeze_mask=[True, False, False],
)
case("gather", {"x": X, "indices": np.array([2, -1, 0], np.int32)}, axis=1)
case("gather", {"x": X, "indices": whole(2, 2, low=0, high=3)}, axis=1, batch_dims=1)
case("gather_along_axis", {"x": X, "indices": whole(2, 2, 4, low=0, high=3)}, axis=1)


def compressed(op: str, **parameters: Any) -> None:
    """A weight decompressed and added to zeros: a program needs an input."""
    case(op, {}, **parameters)


CODES = random.integers(-8, 8, (8, 6)).astype(np.int8)
SCALE = positive(4, 3).astype(np.float16)
compressed("constexpr_blockwise_shift_scale", data=CODES, scale=SCALE)
compressed("constexpr_blockwise_shift_scale", data=CODES.astype(types.np_int4_dtype), scale=SCALE)
compressed(
    "constexpr_blockwise_shift_scale",
    data=(CODES + 8).astype(np.uint8).astype(types.np_uint4_dtype),
    scale=SCALE,
    offset=random.integers(0, 16, (4, 3)).astype(np.uint8).astype(types.np_uint4_dtype),
)
compressed("constexpr_blockwise_shift_scale", data=CODES, scale=positive(8, 1))
for bits, name in ((1, "uint1"), (2, "uint2"), (3, "uint3"), (4, "uint4"), (6, "uint6")):
    compressed(
        "constexpr_lut_to_dense",
        indices=random.integers(0, 2**bits, (8, 6)).astype(getattr(types, f"np_{name}_dtype")),
        lut=floats(2, 1, 2**bits, 1).astype(np.float16),
    )
compressed(
    "constexpr_lut_to_dense",
    indices=random.integers(0, 256, (4, 6)).astype(np.uint8),
    lut=floats(1, 1, 256, 1),
)


def build(name: str) -> tuple[Any, dict[str, Any], list[Any]]:
    """A case as a function, its inputs, and what it must give."""
    operands, others, reference = CASES[name]
    op = getattr(mb, name.split("__")[0])
    flat = {
        f"{parameter}_{at}": array
        for parameter, value in operands.items()
        for at, array in enumerate(value if isinstance(value, tuple) else (value,))
    } or {"x_0": np.zeros(1, np.float32)}

    def body(*values: Any) -> Any:
        if not operands:
            return op(**others), mb.identity(x=values[0])
        # A program takes and returns no booleans.
        left = [
            mb.cast(x=value, dtype="bool") if array.dtype == np.bool_ else value
            for value, array in zip(values, flat.values(), strict=True)
        ]
        given: dict[str, Any] = {}
        for parameter, value in operands.items():
            many = isinstance(value, tuple)
            given[parameter] = [left.pop(0) for _ in value] if many else left.pop(0)
        found = op(**given, **others)
        found = found if isinstance(found, (list, tuple)) else [found]
        return tuple(
            mb.cast(x=value, dtype="int32") if value.dtype == types.bool else value
            for value in found
        )

    specs = {
        key: mb.TensorSpec(
            array.shape,
            types.int32
            if array.dtype == np.bool_
            else types.numpy_type_to_builtin_type(array.dtype),
        )
        for key, array in flat.items()
    }
    # With constants for operands, the builder evaluates the operation itself.
    expected: Any = None
    if reference is None:

        def constant() -> Any:
            nonlocal expected
            found = op(**operands, **others)
            found = found if isinstance(found, (list, tuple)) else [found]
            expected = [
                v.op.materialized_val_inference() if v.val is None else v.val for v in found
            ]
            return found[0]

        function({}, constant)
    else:
        expected = [np.asarray(reference(**operands, **others))]
    return function(specs, body), flat, expected


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> tuple[MilProgram, dict[str, Any]]:
    built = {name: build(name) for name in CASES}
    path = tmp_path_factory.mktemp("mil") / "ops.mlpackage"
    save({name: made for name, (made, _, _) in built.items()}, path)
    return MilProgram.open(path), {name: rest for name, (_, *rest) in built.items()}


@pytest.mark.parametrize("name", CASES)
def test_an_operation_gives_what_coremltools_or_torch_gives(
    cases: tuple[MilProgram, dict[str, Any]], name: str
):
    program, built = cases
    inputs, expected = built[name]
    outputs = list(program.predict(inputs, function=name).values())
    for found, wanted in zip(outputs, expected, strict=False):
        assert found.shape == np.shape(wanted)
        if np.asarray(wanted).dtype != np.bool_:
            assert found.dtype.kind == np.asarray(wanted).dtype.kind
        # float16 scales are multiplied in float16 by coremltools, in float32 here
        tolerance = 1e-3 if np.asarray(wanted).dtype == np.float16 else 2e-6
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


def test_every_operation_has_a_case():
    of_ios16 = {"constexpr_affine_dequantize", "constexpr_cast"}
    assert set(RULES) - {name.split("__")[0] for name in CASES} == of_ios16


def test_weights_of_ios16_by_their_formulas():
    """Programs for iOS 18 cannot hold these, and others cannot hold the rest."""
    codes, zeros, scales = CODES, whole(8).astype(np.int8), positive(8)
    found = RULES["constexpr_affine_dequantize"](
        quantized_data=codes, zero_point=zeros, scale=scales, axis=0
    )
    expected = (codes.astype(np.float32) - zeros[:, None]) * scales[:, None]
    np.testing.assert_array_equal(found, expected)
    indices, table = random.integers(0, 16, (3, 5)).astype(np.uint8), floats(16)
    flat = np.append(indices.reshape(-1), 0).astype(np.uint8)  # a half byte is left over
    packed = flat[::2] | flat[1::2] << 4
    found = RULES["constexpr_lut_to_dense"](indices=packed, lut=table, shape=np.array([3, 5]))
    np.testing.assert_array_equal(found, table[indices])
    found = RULES["constexpr_cast"](source_val=table, output_dtype="fp32")
    np.testing.assert_array_equal(found, table)
