"""Each lint rule, by a function that breaks it and nothing else that is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools", reason="needs vlrt[coreml]")

from coremltools.converters.mil.mil import get_new_symbol

from support.mil import function, mb, types
from vlrt_export.coreml import checks
from vlrt_export.coreml.errors import LintError
from vlrt_export.coreml.lint import RULES, findings, lint

HALF = np.float16
STATE = mb.StateTensorSpec((2, 2, 64, 32), types.fp16)


def spec(*shape: Any, dtype: Any = types.fp16) -> Any:
    return mb.TensorSpec(shape, dtype)


def one(body: Callable[..., Any], *shape: int, **inputs: Any) -> Any:
    return function({"x": spec(*(shape or (1, 64, 1, 32)))} | inputs, body)


def double(x: Any) -> Any:
    return mb.add(x=x, y=x)


def blockwise(x: Any) -> Any:
    weight = mb.constexpr_blockwise_shift_scale(
        data=np.ones((8, 64, 1, 1), np.int8), scale=np.ones((8, 2, 1, 1), HALF)
    )
    return mb.conv(x=x, weight=weight)


def in_rows(x: Any) -> Any:
    weight = mb.constexpr_blockwise_shift_scale(
        data=np.ones((8, 64, 1, 1), np.int8), scale=np.ones((8, 1, 1, 1), HALF)
    )
    return mb.conv(x=x, weight=weight)


def mean_square(x: Any) -> Any:
    return mb.reduce_mean(x=mb.mul(x=x, y=x), axes=[1], keep_dims=True)


def with_state(**states: Any) -> Any:
    def body(x: Any, *given: Any) -> Any:
        return mb.add(x=x, y=mb.reduce_sum(x=mb.read_state(input=given[0]), keep_dims=False))

    return function({"x": spec(1, 64, 1, 32), **states}, body)


BROKEN: dict[str, Callable[[], Any]] = {
    "rank": lambda: one(double, 1, 1, 1, 1, 1, 8),
    "axis-length": lambda: one(double, 1, 16385, 1, 2),
    "free-size": lambda: function({"x": spec(1, 64, 1, get_new_symbol("s"))}, double),
    "state-count": lambda: with_state(one=STATE, two=STATE),
    "state-rank": lambda: with_state(one=mb.StateTensorSpec((2, 64, 32), types.fp16)),
    "state-axes": lambda: with_state(one=mb.StateTensorSpec((2, 2, 64, 24), types.fp16)),
    "program-size": lambda: one(lambda x: mb.add(x=x, y=np.ones((1, 64, 1, 32), HALF))),
    "blocks": lambda: one(blockwise),
    "infinite": lambda: one(lambda x: mb.add(x=x, y=HALF(-np.inf))),
    "float32": lambda: function({"x": spec(1, 64, 1, 32, dtype=types.fp32)}, double),
    "fused-attention": lambda: one(
        lambda x: mb.scaled_dot_product_attention(query=x, key=x, value=x), 1, 2, 8, 32
    ),
    "gather-nd": lambda: one(
        lambda x: mb.gather_nd(x=x, indices=np.array([[0], [0]], np.int32), batch_dims=0)
    ),
    "table": lambda: one(
        lambda x: mb.gather(x=x, indices=np.array([0], np.int32), axis=0), 4097, 16384
    ),
    "epsilon": lambda: one(lambda x: mb.rsqrt(x=x, epsilon=HALF(1e-12))),
    "squares": lambda: one(mean_square),
    "scores": lambda: one(lambda x: mb.softmax(x=x, axis=-1), 1, 16, 4784, 4784),
}


def test_every_rule_is_tried():
    assert list(BROKEN) == [rule.id for rule in RULES]
    assert all(rule.source.startswith("https://") and rule.reason for rule in RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_finds_what_breaks_it(rule: Any, monkeypatch: pytest.MonkeyPatch):
    if rule.id == "program-size":
        monkeypatch.setattr(checks, "LARGEST_PROGRAM", 1000)
    broken = BROKEN[rule.id]()
    for profile in ("gpu", "ane"):
        found = {finding.rule.id for finding in findings({"decode": broken}, profile)}
        assert (rule.id in found) == (profile in rule.profiles)
    profile = rule.profiles[0]
    if rule.refuses:
        with pytest.raises(LintError, match=f"^decoder: {rule.id}: decode: "):
            lint({"decode": broken}, "decoder", profile)
    else:
        (line,) = (
            line for line in lint({"decode": broken}, "decoder", profile) if f" {rule.id}: " in line
        )
        assert line.endswith(f"{rule.reason} ({rule.source})")


@pytest.mark.parametrize(
    "made",
    [lambda: one(double), lambda: one(in_rows), lambda: with_state(one=STATE)],
    ids=["plain", "rows of integers", "a state"],
)
def test_what_is_sound_passes(made: Callable[[], Any]):
    assert findings({"decode": made()}, "gpu") == []
    assert findings({"decode": made()}, "ane") == []
