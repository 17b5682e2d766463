"""Commands inspect, models, export and verify: what they print, for people and as JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import vlrt
from support.commands import told
from vlrt.verify import Divergence, Stage, Verification


def test_inspect(command, small_package: Path):
    status, out, err = command("inspect", small_package)
    assert (status, err) == (0, "")
    for word in ("qwen2_vl", "vision_encoder", "projector", "decoder", "fp32", "not checked"):
        assert word in out
    assert "all files as in the manifest" in command("inspect", small_package, "--check")[1]


def test_inspect_tells_what_a_core_ml_package_takes(command, small_qwen2_vl: Path):
    pytest.importorskip("coremltools", reason="needs vlrt[coreml]")
    options = ["--target", "coreml", "--profile", "ane", "--image-size", "84x56", "--context", "64"]
    status, out, err = command("export", small_qwen2_vl, "-o", "package", *options)
    assert status == 0
    assert "state-axes: decode: key_value_cache" in err  # a warning of its lint
    _, out, _ = command("inspect", "package", "--check")
    assert "decoder: int8 by rtn (a scale a row, accuracy level 0)" in out
    assert "Core ML, ane profile: decoder in 1 program(s)" in out
    assert "pictures: 84x56" in out


def test_inspect_json_is_the_manifest_and_where_it_is(command, small_package: Path):
    status, out, err = command("inspect", small_package, "--json", "--check")
    assert (status, err, out.count("\n")) == (0, "", 1)
    found = json.loads(out)
    manifest = json.loads((small_package / "manifest.json").read_text("utf-8"))
    assert found == {"folder": str(small_package), "checked": True, **manifest}


def test_inspect_finds_a_changed_byte(command, small_package: Path):
    shutil.copytree(small_package, "package")
    path = Path("package/projector.onnx.data")
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert command("inspect", "package")[0] == 0
    line = told(command("inspect", "package", "--check", "--json"), 2)
    assert "damaged: projector.onnx.data; their SHA-256 is not the manifest's" in line


def test_models(command, small_package: Path, home: Path):
    status, out, err = command("models")
    assert (status, err) == (0, "")
    assert "qwen2-vl-2b" in out
    assert out.endswith("exported here: none yet\n")
    shutil.copytree(small_package, home / "packages" / "mine")
    assert command("models")[1].endswith("exported here: mine\n")
    listed = json.loads(command("models", "--json")[1])
    assert set(listed) == {"models", "exported"}
    assert listed["exported"] == ["mine"]
    assert {"name", "repo", "family", "licence", "gated"} <= set(listed["models"][0])


def test_export_prints_the_folder(command, small_qwen2_vl: Path, home: Path):
    status, out, err = command("export", small_qwen2_vl, "-o", "out", "--precision", "fp32")
    assert (status, Path(out.strip())) == (0, Path("out").absolute())
    assert "decoder fp32" in err
    assert "out" in told(command("export", small_qwen2_vl, "-o", "out"), 2)
    assert command("export", small_qwen2_vl, "-o", "out", "--force")[0] == 0
    assert vlrt.load("out").manifest.graphs["decoder"].precision.kind == "int4"
    named = command("export", small_qwen2_vl, "--precision", "fp32")
    assert named[1].strip() == str(home / "packages" / small_qwen2_vl.name)
    assert command("run", small_qwen2_vl.name, "x", "--max-new-tokens", 1)[0] == 0
    assert "nowhere" in told(command("export", "./nowhere", "-o", "new"), 2)
    assert not Path("new").exists()


def test_verify_prints_what_was_found(command, monkeypatch):
    found = Verification(
        stages=(Stage("decoder", 2e-5, 12.5),),
        prompt_equal=True,
        agreed_tokens=3,
        compared_tokens=8,
        divergence=Divergence(3, 17, None, 0.25, 0.001),
    )
    asked = {}
    module = pytest.importorskip("vlrt.cli.verify")
    monkeypatch.setattr(module, "verify", lambda *args, **options: asked.update(options) or found)
    argv = ("verify", "package", "--against", "checkpoint", "--max-new-tokens", 8)
    status, out, err = command(*argv)
    assert (status, err) == (0, "")
    assert "3 of 8 agree" in out
    assert "17 (margin 0.25), expected stop (margin 0.001)" in out
    assert asked["max_new_tokens"] == 8
    assert json.loads(command(*argv, "--json")[1]) == json.loads(json.dumps(found.as_dict()))
