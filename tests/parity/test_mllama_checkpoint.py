"""The tiny Llama 3.2 Vision is what transformers takes for a published one, and a fair judge."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.pictures import picture
from support.tiny.mllama import make_mllama
from vlrt.verify.reference import load_reference
from vlrt_export.checkpoint import Checkpoint, Tensor
from vlrt_export.exporter import export
from vlrt_export.families.mllama import FAMILY, Config
from vlrt_export.weights import Precision, Weights
from vlrt_runtime.errors import CheckpointError

torch = pytest.importorskip("torch", reason="the reference is transformers on torch")
transformers = pytest.importorskip("transformers", reason="the reference is transformers")

MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]


def test_every_tensor_shows_in_the_logits(small_mllama: Path):
    """A gate left at zero or a norm at one has to be a test that fails, not one that passes."""
    reference = load_reference(small_mllama, "mllama")
    inputs = reference.inputs(MESSAGES, [picture(100, 50)])
    right = reference.forward_logits(inputs)
    unseen = []
    with torch.no_grad():
        for name, parameter in reference.model.named_parameters():
            kept = parameter.clone()
            is_norm = parameter.ndim == 1 and "norm" in name and name.endswith("weight")
            assert not (kept == float(is_norm)).any(), name
            parameter.fill_(float(is_norm))
            if np.abs(reference.forward_logits(inputs) - right).max() < 0.003:
                unseen.append(name)
            parameter.copy_(kept)
    assert unseen == []


def test_the_transformers5_config_is_what_transformers_saves(tmp_path: Path):
    published = make_mllama(tmp_path / "published", vocabulary="small")
    ours = make_mllama(tmp_path / "ours", vocabulary="small", layout="transformers5")
    model = transformers.MllamaForConditionalGeneration.from_pretrained(
        published, dtype=torch.float32
    )
    model.save_pretrained(tmp_path / "theirs")
    saved, made = (
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
        for folder in (tmp_path / "theirs", ours)
    )
    for config in (saved, made):
        config.pop("transformers_version")
    assert made == saved


@pytest.mark.parametrize(
    ("where", "key", "value", "message"),
    [
        ("preprocessor_config.json", "max_image_tiles", 2, "max_image_tiles 2, expected"),
        ("preprocessor_config.json", "size", {"height": 70, "width": 70}, "size .*70.* expected"),
    ],
)
def test_a_processor_that_does_not_fit_is_refused(
    tmp_path: Path, where: str, key: str, value: Any, message: str
):
    folder = make_mllama(tmp_path / "checkpoint", vocabulary="small")
    path = folder / where
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(CheckpointError, match=message):
        export(folder, tmp_path / "package")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision": {"supported_aspect_ratios": [[1, 1], [2, 2]]}}, "supported_aspect_ratios"),
        ({"vision": {"intermediate_layers_indices": [1, 4]}}, "expected 0 to 3"),
        ({"text": {"rope_scaling": {"rope_type": "yarn"}}}, "rope_type 'yarn'"),
    ],
)
def test_a_config_that_is_not_known_is_refused(
    small_mllama: Path, changes: dict[str, dict[str, Any]], message: str
):
    checkpoint = Checkpoint(small_mllama)
    for part, values in changes.items():
        checkpoint.config[f"{part}_config"] |= values
    with pytest.raises(CheckpointError, match=message):
        FAMILY.runtime(checkpoint, Config.read(checkpoint.config))


def test_a_sparse_config_has_the_defaults_of_its_class():
    config = Config.read({"model_type": "mllama", "text_config": {}, "vision_config": {}})
    text, vision = config.decoder, config.vision
    assert (text.hidden_size, text.num_hidden_layers, text.head_dim) == (4096, 40, 128)
    assert config.cross_attention_layers == (3, 8, 13, 18, 23, 28, 33, 38)
    assert (vision.image_size, vision.tokens, vision.width) == (448, 1025, 7680)
    assert vision.intermediate_layers_indices == (3, 7, 15, 23, 30)


@dataclass(frozen=True)
class Asked(Weights):
    """Weights that have everything, and note what the graphs take."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def take(self, name: str, shape: Any) -> Tensor:
        self.shapes[self.prefix + name] = tuple(shape)
        return Tensor(name, Path(), 0, np.dtype(np.float32), tuple(shape))


@pytest.mark.parametrize(
    ("side", "text", "tensors", "numbers"),
    [
        (448, {}, 906, 10_642_941_475),
        (560, {}, 906, 10_670_220_835),
        (
            560,
            {
                "hidden_size": 8192,
                "intermediate_size": 28672,
                "num_attention_heads": 64,
                "num_hidden_layers": 100,
                "cross_attention_layers": list(range(3, 100, 5)),
            },
            1494,
            88_593_355_323,
        ),
    ],
)
def test_the_published_sizes_have_their_parameters(
    side: int, text: dict[str, Any], tensors: int, numbers: int
):
    """11B and 90B by config.json as it is found there: without what the class says anyway."""
    config = Config.read({"text_config": text, "vision_config": {"image_size": side}})
    asked = Asked(Checkpoint.__new__(Checkpoint), {}, Precision())
    for make in FAMILY.graphs.values():
        make(asked, config)
    asked.shapes["embedding"] = (config.decoder.vocab_size + 8, config.decoder.hidden_size)
    assert config.vision.tokens == {448: 1025, 560: 1601}[side]
    assert len(asked.shapes) == tensors
    assert sum(math.prod(shape) for shape in asked.shapes.values()) == numbers
