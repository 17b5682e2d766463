"""--device coreml for ONNX packages: what is handed to onnxruntime, and when the CPU takes over.

onnxruntime has its Core ML provider on macOS only; here its absence is real, its presence is not.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import vlrt
from vlrt_runtime.session import ort

PROVIDER = "CoreMLExecutionProvider"


@pytest.fixture
def fixed_size(small_package: Path, tmp_path: Path) -> Path:
    """A package whose manifest says that pictures are of one size."""
    folder = Path(shutil.copytree(small_package, tmp_path / "package"))
    path = folder / "manifest.json"
    content = json.loads(path.read_text("utf-8"))
    for spec in content["graphs"]["vision_encoder"]["inputs"]:
        spec["shape"] = [16 if isinstance(size, str) else size for size in spec["shape"]]
    path.write_text(json.dumps(content), "utf-8")
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Pretends that the provider is there; collects what sessions are opened with."""
    calls: list[Any] = []
    real = ort.InferenceSession

    def session(path: str, options: Any, providers: list[Any]) -> Any:
        calls.append((Path(path).stem, providers))
        return real(path, options, providers=[p for p in providers if isinstance(p, str)])

    monkeypatch.setattr(ort, "get_available_providers", lambda: [PROVIDER, "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", session)
    return calls


def test_only_the_vision_encoder_goes_there(fixed_size: Path, opened: list[Any]):
    vlrt.load(fixed_size, device="coreml", compute_units="cpu-and-ne")
    for name, providers in opened:
        if name != "vision_encoder":
            assert providers == ["CPUExecutionProvider"]
    ((provider, settings), cpu) = dict(opened)["vision_encoder"]
    assert (provider, cpu) == (PROVIDER, "CPUExecutionProvider")
    assert settings["MLComputeUnits"] == "CPUAndNeuralEngine"
    assert settings["ModelFormat"] == "MLProgram"


def test_pictures_of_any_size_stay_on_the_cpu(small_package: Path, opened: list[Any]):
    with pytest.warns(UserWarning, match="on the CPU, not on Core ML: it takes pictures of any"):
        vlrt.load(small_package, device="coreml")
    assert all(providers == ["CPUExecutionProvider"] for _, providers in opened)


@pytest.mark.skipif(PROVIDER in ort.get_available_providers(), reason="the provider is here")
def test_where_there_is_no_provider_the_cpu_answers(fixed_size: Path):
    with pytest.warns(UserWarning, match=f"has no {PROVIDER} here"):
        assert vlrt.load(fixed_size, device="coreml").device == "cpu"


def test_a_provider_that_fails_gives_way(
    fixed_size: Path, monkeypatch: pytest.MonkeyPatch, opened: list[Any]
):
    real = ort.InferenceSession

    def session(path: str, options: Any, providers: list[Any]) -> Any:
        if not isinstance(providers[0], str):
            raise RuntimeError("Error compiling model")
        return real(path, options, providers=providers)

    monkeypatch.setattr(ort, "InferenceSession", session)
    with pytest.warns(UserWarning, match="cannot load it: Error compiling model"):
        vlrt.load(fixed_size, device="coreml")
