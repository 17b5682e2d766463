"""An export finds each tensor that is missing, misshapen, unused or there twice, and names it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from support.tiny.qwen2_vl import make_qwen2_vl
from vlrt_export.checkpoint import SINGLE, Checkpoint
from vlrt_export.exporter import export
from vlrt_runtime.errors import CheckpointError, CheckpointNotFoundError

NORM = "model.norm.weight"
TABLE = "model.embed_tokens.weight"


@pytest.fixture
def changed(small_qwen2_vl: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies the tiny checkpoint, as one file, with its tensors changed."""

    def make(change: Callable[[dict[str, Any]], object]) -> Path:
        source = Checkpoint(small_qwen2_vl)
        tensors = {k: v for path in source.shards for k, v in load_file(path).items()}
        change(tensors)
        keep = ["config.json", "generation_config.json", "tokenizer.json"]
        folder = tmp_path / "changed"
        folder.mkdir()
        for name in keep:
            shutil.copy(small_qwen2_vl / name, folder)
        save_file(tensors, folder / SINGLE)
        return folder

    return make


def refused(folder: Path, match: str) -> str:
    with pytest.raises(CheckpointError, match=match) as caught:
        export(folder, folder.parent / "out")
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    return str(caught.value)


def test_missing_tensors_are_counted_and_five_are_named(changed):
    def change(tensors):
        for name in [name for name in tensors if name.startswith("model.layers.1.")]:
            del tensors[name]
        del tensors["visual.merger.ln_q.bias"]

    said = refused(changed(change), r"the checkpoint lacks 13 tensors: visual\.merger\.ln_q\.bias")
    assert said.count("language_model.layers.1.") == 4
    assert "and 8 more" in said


def test_unused_tensors_are_counted_and_five_are_named(changed):
    extra = {f"model.layers.{i}.extra": np.zeros(2, np.float32) for i in range(3, 10)}
    said = refused(changed(lambda tensors: tensors.update(extra)), "has a place for 7 tensors: ")
    assert said.count(".extra") == 5
    assert "and 2 more" in said


def test_misshapen_tensors_are_counted_and_five_are_named(changed):
    def change(tensors):
        for name, tensor in tensors.items():
            if name.endswith("_proj.weight") and "layers.0." in name:
                tensors[name] = np.zeros((tensor.shape[0] + 1, *tensor.shape[1:]), tensor.dtype)

    said = refused(changed(change), "other shapes than config.json calls for have 7 tensors: ")
    assert "model.layers.0.self_attn.q_proj.weight [65, 64], expected [64, 64]" in said
    assert "and 2 more" in said


def test_a_misspelled_tensor_is_named_as_missing_and_as_unused(changed):
    said = refused(
        changed(lambda t: t.update({"model.nrom.weight": t.pop(NORM)})), "lacks 1 tensor:"
    )
    assert "language_model.norm.weight" in said
    assert "model.nrom.weight" in said


def test_two_spellings_of_one_tensor(changed):
    other = "model.language_model.norm.weight"
    refused(changed(lambda t: t.update({other: t[NORM]})), "two spellings of one tensor")


def test_a_checkpoint_without_its_embedding_table(changed):
    refused(changed(lambda t: t.pop(TABLE)), r"embed_tokens\.weight: the checkpoint has no such")


def test_a_table_of_another_width_than_an_untied_decoder(tmp_path):
    folder = make_qwen2_vl(tmp_path / "it", vocabulary="small", tie=False, shards=1)
    tensors = load_file(folder / SINGLE)
    save_file(tensors | {TABLE: np.zeros((512, 62), np.float32)}, folder / SINGLE)
    refused(folder, r"embed_tokens\.weight \[512, 62\], expected 64 columns")


def test_a_second_copy_of_a_tied_head_is_dropped(changed):
    folder = changed(lambda t: t.update({"lm_head.weight": t[TABLE].copy()}))
    assert export(folder, folder.parent / "out").is_dir()


@pytest.mark.parametrize("shape", [(512, 64), (511, 64)])
def test_a_tied_head_that_differs_is_refused(changed, shape):
    head = np.ones(shape, np.float32)
    refused(changed(lambda t: t.update({"lm_head.weight": head})), r"lm_head\.weight: differs from")


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_a_missing_file_is_found_before_weights_are_made(changed, name):
    folder = changed(lambda tensors: None)
    (folder / name).unlink()
    told: list[str] = []
    with pytest.raises((CheckpointNotFoundError, CheckpointError), match=name):
        export(folder, folder.parent / "out", progress=lambda what, *_: told.append(what))
    assert not told
