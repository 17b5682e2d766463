"""Saved programs: what is read against coremltools' own loader, states, modes, what may not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.mil import ct, function, mb, save, types
from vlrt_runtime.errors import InputError, PackageError
from vlrt_runtime.halt import Halt, Halted
from vlrt_runtime.mil.program import MilProgram

LENGTH, WIDTH = 6, 4
random = np.random.default_rng(3)
WEIGHT = random.standard_normal((WIDTH, WIDTH)).astype(np.float16)
CODES = random.integers(-8, 8, (WIDTH, WIDTH)).astype(np.int8)
SCALES = np.abs(random.standard_normal((WIDTH, 2))).astype(np.float16)


def cache_function(rows: int) -> Any:
    """Writes projected rows into a cache at a position; returns them times the whole cache."""
    specs = {
        "x": mb.TensorSpec((1, rows, WIDTH), types.fp16),
        "position": mb.TensorSpec((1,), types.int32),
        "cache": mb.StateTensorSpec((2, LENGTH, WIDTH), types.fp16),
    }

    def weight(name: str) -> Any:
        made = mb.const(val=WEIGHT, name=name)
        made.op.weight_id = "weight"
        return made

    def body(x: Any, position: Any, cache: Any) -> Any:
        codes = CODES.astype(types.np_int4_dtype)
        packed = mb.constexpr_blockwise_shift_scale(data=codes, scale=SCALES)
        packed.op.data.op.weight_id, packed.op.scale.op.weight_id = "codes", "scales"
        end = mb.add(x=position, y=np.array([rows], np.int32))
        held = mb.read_state(input=cache)
        old = mb.slice_by_index(x=held, begin=[1, 0, 0], end=[2, LENGTH, WIDTH])
        for at, matrix in enumerate((weight("weight"), packed)):
            begin = mb.concat(values=[np.array([at], np.int32), position, [0]], axis=0)
            stop = mb.concat(values=[np.array([at + 1], np.int32), end, [WIDTH]], axis=0)
            held = mb.slice_update(
                x=held, update=mb.linear(x=x, weight=matrix), begin=begin, end=stop
            )
            held = mb.coreml_update_state(state=cache, value=held)
        keys = mb.slice_by_index(x=held, begin=[0, 0, 0], end=[1, LENGTH, WIDTH])
        return (
            mb.matmul(x=x, y=keys, transpose_y=True, name="scores"),
            mb.identity(x=old, name="before"),
        )

    return function(specs, body)


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mil") / "cached.mlpackage"
    return save({"decode": cache_function(1), "prefill": cache_function(3)}, path)


@pytest.fixture(scope="module")
def program(cached: Path) -> MilProgram:
    return MilProgram.open(cached)


# ------------------------------------------------------------------ the reader


def test_functions_are_those_that_coremltools_reads(cached: Path, program: MilProgram):
    spec = ct.models.MLModel(str(cached), skip_model_load=True).get_spec()
    assert program.default == spec.description.defaultFunctionName == "decode"
    assert set(program.functions) == {f.name for f in spec.description.functions}
    dtypes = {65552: "fp16", 65568: "fp32", 131104: "int32"}
    for described in spec.description.functions:
        found = program.functions[described.name]
        for ours, theirs in (
            (found.inputs, described.input),
            (found.outputs, described.output),
        ):
            assert [(t.name, t.dtype, t.shape) for t in ours] == [
                (
                    t.name,
                    dtypes[t.type.multiArrayType.dataType],
                    tuple(t.type.multiArrayType.shape),
                )
                for t in theirs
            ]
        assert [(t.name, t.shape) for t in found.states] == [
            (t.name, tuple(t.type.stateType.arrayType.shape)) for t in described.state
        ]


def test_weights_are_those_that_coremltools_reads(cached: Path, program: MilProgram):
    from coremltools.converters.mil.frontend.milproto.load import load

    model = ct.models.MLModel(str(cached), skip_model_load=True)
    spec = model.get_spec()
    theirs = load(spec, spec.specificationVersion, model.weights_dir).functions["decode"]
    seen: dict[str, Any] = {}
    for op in theirs.operations:
        if op.op_type == "constexpr_blockwise_shift_scale":
            seen["packed"] = op.materialized_val_inference()
        elif op.op_type == "const" and op.outputs[0].name == "weight":
            seen["plain"] = op.outputs[0].val
    ours = [
        program._constants.get(step.arguments["weight"], declared=True)
        for step in program.functions["decode"].steps
        if step.kind == "linear"
    ]
    np.testing.assert_array_equal(ours[0], seen["plain"].astype(np.float32))
    np.testing.assert_array_equal(ours[1], seen["packed"].astype(np.float32))


# ------------------------------------------------------------------ running


def expected_scores(rows: list[Any]) -> Any:
    keys = np.zeros((LENGTH, WIDTH), np.float32)
    written = np.concatenate(rows) @ WEIGHT.astype(np.float32).T
    keys[: len(written)] = written
    return rows[-1] @ keys.T


def test_functions_share_one_state(program: MilProgram):
    rows = [random.standard_normal((n, WIDTH)).astype(np.float32) for n in (3, 1, 1)]
    state = program.make_state()
    assert state["cache"].shape == (2, LENGTH, WIDTH)
    before, position = np.zeros((LENGTH, WIDTH), np.float32), 0
    for at, block in enumerate(rows):
        outputs = program.predict(
            {"x": block[None], "position": np.array([position])},
            function="prefill" if len(block) > 1 else "decode",
            state=state,
        )
        np.testing.assert_allclose(outputs["scores"][0], expected_scores(rows[: at + 1]), rtol=1e-5)
        # read before the update: its old content, though the state is updated in place
        np.testing.assert_array_equal(outputs["before"][0], before)
        before = state["cache"][1].copy()
        position += len(block)
    dequantised = (CODES.reshape(WIDTH, 2, -1) * SCALES[..., None].astype(np.float32)).reshape(
        WIDTH, WIDTH
    )
    np.testing.assert_allclose(before[:5], np.concatenate(rows) @ dequantised.T, rtol=1e-5)


def test_a_state_is_updated_without_copies_of_it(program: MilProgram):
    steps = [s for s in program.functions["decode"].steps if s.kind == "slice_update"]
    assert [step.in_place for step in steps] == [True, True]


def test_functions_share_the_weights_that_are_kept(cached: Path):
    program = MilProgram.open(cached)
    x = np.ones((1, 1, WIDTH), np.float32)
    program.predict(
        {"x": x, "position": [0]}, function="decode", state=program.make_state("decode")
    )
    kept = program._constants.nbytes
    program.predict(
        {"x": np.repeat(x, 3, 1), "position": [0]}, function="prefill", state=program.make_state()
    )
    # What differs is a row count here and there.
    assert kept <= program._constants.nbytes < kept + 4 * WEIGHT.nbytes
    program._constants.budget = 0
    again = program.predict({"x": x, "position": [0]}, state=program.make_state())
    assert again["scores"].shape == (1, 1, LENGTH)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares, in float16; then the sum, in float32."""
    specs = {"x": mb.TensorSpec((1, 4), types.fp16)}

    def body(x: Any) -> Any:
        squares = mb.mul(x=x, y=x, name="squares")
        weighted = mb.mul(x=squares, y=np.full((1, 64), 0.5, np.float16)[:, :4], name="halves")
        wide = mb.cast(x=weighted, dtype="fp32")
        return mb.reduce_sum(x=wide, axes=[-1], keep_dims=False, name="total")

    path = tmp_path_factory.mktemp("mil") / "plain.mlpackage"
    return save({"main": function(specs, body)}, path)


def test_declared_types_show_rounding_and_overflow(plain: Path):
    program = MilProgram.open(plain)
    x = np.array([[300.0, 1.0, 0.1, 0.0]], np.float32)
    exact = program.predict({"x": x})["total"]
    np.testing.assert_allclose(exact, [45000 + 0.5 + 0.005], rtol=1e-6)
    assert np.isinf(program.predict({"x": x}, mode="declared")["total"]).all()
    x[0, 0] = 2
    rounded = program.predict({"x": x}, mode="declared")["total"]
    half = x[0].astype(np.float16)
    np.testing.assert_array_equal(
        rounded, [(half * half * np.float16(0.5)).astype(np.float32).sum()]
    )


def test_every_result_can_be_observed(plain: Path):
    seen: list[tuple[str, str]] = []
    MilProgram.open(plain).predict(
        {"x": np.zeros((1, 4), np.float16)}, observe=lambda kind, name, _: seen.append((kind, name))
    )
    assert [kind for kind, _ in seen] == ["mul", "mul", "cast", "reduce_sum"]
    assert {"squares", "halves", "total"} < {name for _, name in seen}


def test_an_interpreted_program_ends_in_the_middle(plain: Path):
    halt, seen = Halt(), list[str]()

    def hear(kind: str, *_: object) -> None:
        seen.append(kind)
        if len(seen) == 2:
            halt.set()

    with pytest.raises(Halted), halt.over():
        MilProgram.open(plain).predict({"x": np.zeros((1, 4), np.float16)}, observe=hear)
    assert seen == ["mul", "mul"]


def test_sizes_may_be_free(tmp_path: Path):
    size = ct.converters.mil.mil.get_new_symbol("n")
    made = function({"x": mb.TensorSpec((1, size), types.fp32)}, lambda x: mb.exp(x=x, name="y"))
    ranged = ct.TensorType("x", (1, ct.RangeDim(1, 9)), dtype=np.float32)
    path = save({"main": made}, tmp_path / "ranged.mlpackage", inputs=[ranged])
    program = MilProgram.open(path)
    assert program.functions["main"].inputs[0].shape == (1, None)
    for count in (1, 9):
        x = random.standard_normal((1, count)).astype(np.float32)
        np.testing.assert_allclose(program.predict({"x": x})["y"], np.exp(x), rtol=1e-6)


# ------------------------------------------------------------------ wrong input


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input 'x': missing, only nothing given"),
        ({"x": np.zeros((1, 5), np.float32)}, r"input 'x': expected fp16 \[1, 4\], got shape"),
        (
            {"x": np.zeros((1, 4), np.complex64)},
            r"input 'x': expected fp16 \[1, 4\], got complex64",
        ),
    ],
)
def test_wrong_inputs_are_refused(plain: Path, inputs: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        MilProgram.open(plain).predict(inputs)


def test_wrong_functions_modes_and_states_are_refused(program: MilProgram):
    inputs = {"x": np.zeros((1, 1, WIDTH), np.float32), "position": [0]}
    with pytest.raises(InputError, match="no function 'other', only decode, prefill"):
        program.predict(inputs, function="other")
    with pytest.raises(InputError, match="mode 'fp8': expected one of fp32, declared"):
        program.predict(inputs, mode="fp8")
    with pytest.raises(InputError, match="state 'cache': missing; pass state="):
        program.predict(inputs)
    with pytest.raises(InputError, match=r"state 'cache': expected fp16 \[2, 6, 4\]"):
        program.predict(inputs, state={"cache": np.zeros((2, 6, 4), np.float16)})


def test_a_position_beyond_the_cache_is_refused_by_name(program: MilProgram):
    inputs = {"x": np.zeros((1, 1, WIDTH), np.float32), "position": [LENGTH]}
    with pytest.raises(PackageError, match=r"slice_update .*an update of shape"):
        program.predict(inputs, state=program.make_state())
