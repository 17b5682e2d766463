"""Values of the wrong kind in a checkpoint's JSON files: told in one line, whatever the family."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.tiny.kosmos2 import make_kosmos2
from support.tiny.llama3_vision_alpha import make_alpha
from support.tiny.llava import make_llava
from support.tiny.mllama import make_mllama
from support.tiny.qwen2_vl import make_qwen2_vl
from vlrt.cli import main
from vlrt_export import assets
from vlrt_export.checkpoint import Checkpoint, read_json
from vlrt_export.families import family_of
from vlrt_export.schema import FILES, Config
from vlrt_runtime.errors import CheckpointError, VlrtError

MAKERS = {
    "kosmos2": make_kosmos2,
    "llama3_vision_alpha": partial(make_alpha, vocabulary="small"),
    "llava": make_llava,
    "mllama": partial(make_mllama, vocabulary="small"),
    "qwen2_vl": partial(make_qwen2_vl, vocabulary="small"),
}
WRONG: list[Any] = [[None], -7.5]  # whatever the kind
TABLE = "added_tokens_decoder"  # of thousands, which nobody reads
Path_ = tuple[str, ...]


@pytest.fixture(scope="module", params=MAKERS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MAKERS[request.param](tmp_path_factory.mktemp("tiny") / request.param)


@pytest.fixture
def files(checkpoint: Path, tmp_path: Path) -> Path:
    """The JSON files alone, to be written to."""
    folder = tmp_path / "files"
    folder.mkdir()
    for path in checkpoint.glob("*.json"):
        shutil.copy(path, folder)
    return folder


def said(folder: Path) -> str:
    """All that the exporter takes from the JSON files."""
    checkpoint = Checkpoint(folder)
    family = family_of(checkpoint)
    config = family.config(checkpoint.config)
    runtime = family.runtime(checkpoint, config)
    generation = assets.generation(checkpoint, runtime.max_context, runtime.stop_ids)
    others = assets.special_tokens(checkpoint), assets.chat_template(checkpoint)
    return repr((config, runtime, generation, others))


def paths(values: dict[str, Any], before: Path_ = ()) -> Iterator[Path_]:
    for key, value in values.items():
        if key == TABLE:
            continue
        yield (*before, key)
        if isinstance(value, dict):
            yield from paths(value, (*before, key))


def changed(values: dict[str, Any], path: Path_, value: Any) -> dict[str, Any]:
    copy = at = deepcopy(values)
    for key in path[:-1]:
        at = at.setdefault(key, {})
    at[path[-1]] = value
    return copy


def places(name: str, values: dict[str, Any]) -> set[Path_]:
    """Those of the file, and in config.json those that any family reads."""
    found = set(paths(values))
    if name == "config.json":
        sections: list[Path_] = [(), ("text_config",), ("vision_config",)]
        found |= {(*s, key) for s in sections for key in Config.__struct_fields__}
    return found


@pytest.mark.parametrize("name", sorted(set(FILES) - {"tokenizer.json"}))
def test_what_is_read_is_checked(files: Path, name: str):
    """A wrong value is refused by name, or nobody looks at it."""
    file = files / name
    values = json.loads(file.read_bytes()) if file.is_file() else {}
    values.pop(TABLE, None)
    expected, wrong = said(files), []
    for path in sorted(places(name, values)):
        for value in WRONG:
            file.write_text(json.dumps(changed(values, path, value)))
            try:
                if said(files) != expected:
                    wrong.append((path, value, "taken"))
            except VlrtError as error:
                if path[-1] not in str(error):
                    wrong.append((path, value, str(error)))
            except Exception as error:  # noqa: BLE001  all of them are to be seen
                wrong.append((path, value, repr(error)))
    assert wrong == []


@pytest.mark.parametrize(("key", "value"), [("num_attention_heads", 0), ("hidden_size", "x")])
def test_the_command_says_it_in_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, value: Any
):
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_bytes())
    section = ("text_config",) if "text_config" in config else ()
    (folder / "config.json").write_text(json.dumps(changed(config, (*section, key), value)))
    assert main(["export", str(folder), "-o", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    place = ".".join((*section, key))
    assert message.startswith(f"vlrt: config.json: {place} is {value!r}, expected int")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("config.json", {"eos_token_id": [1, "x"]}, r"eos_token_id\[1\] is 'x', expected int;"),
        ("config.json", {"rms_norm_eps": 1e400}, r"rms_norm_eps is inf, expected float <= 1e\+30;"),
        ("config.json", {"depth": True}, r"depth is True, expected int;"),
        ("tokenizer_config.json", {"bos_token": {}}, r"bos_token is {}, .* with content;"),
        ("tokenizer.json", {"added_tokens": [{"id": 1}]}, r"added_tokens\[0\] is {'id': 1}, .*"),
        ("processor_config.json", {"image_processor": 3}, "image_processor is 3, expected object;"),
    ],
)
def test_what_was_found_and_what_was_expected(tmp_path: Path, name, values, message: str):
    (tmp_path / name).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=rf"{name}: {message}"):
        read_json(tmp_path / name)


def test_sections_in_sections_without_end(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"text_config": ' * 100_000 + "{}" + "}" * 100_000)
    with pytest.raises(CheckpointError, match=r"^config\.json: "):
        read_json(tmp_path / "config.json")


def test_null_is_as_good_as_absent(files: Path):
    expected = said(files)
    file = files / "config.json"
    values = json.loads(file.read_bytes())
    absent = [p for p in places(file.name, values) - set(paths(values)) if p[:-1] in paths(values)]
    for path in absent:
        values = changed(values, path, None)
    file.write_text(json.dumps(values))
    assert absent
    assert said(files) == expected
