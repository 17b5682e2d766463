"""--device coreml against a recorded contract: which selectors, which functions, which units.

It shows that calls are made as Apple documents them, not that Apple's compiler takes a program: for
that there is scripts/macos_smoke.py.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlrt
from support.coreml_package import BLOCK, Arithmetic, make_package
from support.fake_coreml import FakeCoreML
from support.fake_coremlpython import FakeNative
from support.pictures import picture
from vlrt_runtime.errors import MissingDependencyError, PackageError

pytest.importorskip("coremltools", reason="needs vlrt[coreml]")

from coremltools.models import _compiled_model, utils

SIZES = ((56, 84), (84, 56))
random = np.random.default_rng(4)


@pytest.fixture(scope="module")
def made(small_package: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Arithmetic]:
    return make_package(small_package, tmp_path_factory.mktemp("device") / "p", sizes=SIZES)


Mac = FakeCoreML | FakeNative


@pytest.fixture(params=["CoreML", "coremltools"])
def mac(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Mac:
    """A Mac where Core ML is to be had by pyobjc, or by coremltools alone."""
    monkeypatch.setenv("VLRT_HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where compilers put what they make
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(
        "vlrt_runtime.coreml.find_spec", lambda name: None if name != request.param else name
    )
    if request.param == "CoreML":
        fake = FakeCoreML()
        for name, module in (("CoreML", fake.coreml), ("Foundation", fake.foundation)):
            monkeypatch.setitem(sys.modules, name, module)  # pyright: ignore
        return fake
    native = FakeNative()
    monkeypatch.setitem(sys.modules, "coremltools.libcoremlpython", native)  # pyright: ignore
    monkeypatch.setattr(_compiled_model, "_MLModelProxy", native._MLModelProxy)
    for module in (_compiled_model, utils):
        monkeypatch.setattr(module, "_macos_version", lambda: (15, 0))
    return native


def test_answers_are_the_interpreters(mac: Mac, made: tuple[Path, Arithmetic]):
    model = vlrt.load(made[0])
    assert model.device == "coreml"
    found = model.generate("What?", images=[picture(100, 60)], max_new_tokens=3)
    interpreted = vlrt.load(made[0], device="mil-interpreter", mil_precision="declared")
    expected = interpreted.generate("What?", images=[picture(100, 60)], max_new_tokens=3)
    assert found.token_ids == expected.token_ids
    assert found.token_ids
    # one state, made once and shared by both functions
    assert [call for call in mac.calls if call[0] == "newState"] == [("newState", "decode")]
    predicted = [call[1] for call in mac.calls if call[0] == "predict"]
    assert predicted[:2] == ["size_56x84", "size_56x84"]
    blocks = -(-(found.prompt_tokens - 1) // BLOCK)
    assert predicted[2:] == ["prefill"] * blocks + ["decode"] * (len(predicted) - 2 - blocks)


@pytest.mark.parametrize(
    ("units", "number"),
    [(None, 1), ("cpu", 0), ("cpu-and-gpu", 1), ("all", 2), ("cpu-and-ne", 3)],
)
def test_compute_units(mac: Mac, made: tuple[Path, Arithmetic], units: str | None, number: int):
    model = vlrt.load(made[0], compute_units=units)
    model.backend.decoder({})
    assert [call for call in mac.calls if call[0] == "load"] == [("load", "decode", number)]


def test_a_program_is_compiled_once(mac: Mac, made: tuple[Path, Arithmetic]):
    for _ in range(2):
        vlrt.load(made[0]).backend.decoder({})
    assert [call for call in mac.calls if call[0] == "compile"] == [
        ("compile", "decoder_0.mlpackage")
    ]


def test_a_sequence_can_be_forked(mac: Mac, made: tuple[Path, Arithmetic]):
    inputs = {
        "inputs_embeds": random.standard_normal((1, 6, made[1].hidden)).astype(np.float32),
        "cos": np.ones((1, 6, made[1].half), np.float32),
    }
    decoder = vlrt.load(made[0]).backend.decoder({})
    decoder.run({name: array[:, :5] for name, array in inputs.items()})
    other = decoder.fork(5, {})
    decoder.run({name: array[:, 4:] for name, array in inputs.items()})
    found = other.run({name: array[:, 5:] for name, array in inputs.items()})
    expected = made[1].logits(inputs["inputs_embeds"][0], inputs["cos"][0])[-1:]
    np.testing.assert_allclose(found, expected, atol=2e-2)  # a float16 cache


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("compile", "Core ML does not compile it: no such thing here; try --compute-units cpu"),
        ("load", "Core ML does not load 'decode': no such thing here"),
        ("array", "Core ML takes no such array"),
        ("predict", "Core ML failed to run 'decode'"),
    ],
)
def test_what_core_ml_refuses_is_told(
    mac: Mac, made: tuple[Path, Arithmetic], selector: str, message: str
):
    if selector == "array" and isinstance(mac, FakeNative):
        pytest.skip("coremltools makes arrays by itself")
    mac.refuses = selector
    inputs: dict[str, Any] = {
        "inputs_embeds": np.zeros((1, 1, made[1].hidden), np.float32),
        "cos": np.zeros((1, 1, made[1].half), np.float32),
    }
    with pytest.raises(PackageError, match=message):
        vlrt.load(made[0]).backend.decoder({}).run(inputs)


def test_what_to_install(monkeypatch: pytest.MonkeyPatch, made: tuple[Path, Arithmetic], mac: Mac):
    monkeypatch.setattr("vlrt_runtime.coreml.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install pyobjc-framework-CoreML"):
        vlrt.load(made[0])
