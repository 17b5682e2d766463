"""`vlrt run`: how answers are drawn, where they stop, what they fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.commands import told

SCHEMA = {"type": "object", "properties": {"count": {"enum": [1, 2, 3]}}, "required": ["count"]}
SCHEMA["additionalProperties"] = False


def run(command, package: Path, *options: object) -> dict:
    argv = ("run", package, "What?", "--max-new-tokens", 12, *options, "--json")
    status, out, err = command(*argv)
    assert (status, err) == (0, "")
    return json.loads(out)


def test_a_seed_repeats_an_answer(command, small_package: Path):
    hot = ("--temperature", 1.5, "--top-k", 50, "--top-p", 0.95, "--min-p", 0.001)
    first = run(command, small_package, *hot, "--seed", 3)["token_ids"]
    assert run(command, small_package, *hot, "--seed", 3)["token_ids"] == first
    assert run(command, small_package, *hot, "--seed", 4)["token_ids"] != first
    assert run(command, small_package)["token_ids"] != first


def test_an_answer_ends_before_a_stop(command, small_package: Path):
    whole = run(command, small_package)
    cut = run(command, small_package, "--stop", "never", "--stop", whole["text"][3:5])
    assert cut["text"] == whole["text"][: whole["text"].index(whole["text"][3:5])]
    assert cut["finish_reason"] == "stop"


def test_an_answer_fits_a_schema(command, small_package: Path, tmp_path: Path):
    pytest.importorskip("llguidance")
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA))
    options = ("--json-schema", file, "--max-new-tokens", 60)
    answer = run(command, small_package, *options)
    assert json.loads(answer["text"])["count"] in (1, 2, 3)
    assert answer["constraint_ms"] > 0
    status, out, err = command("run", small_package, "What?", *options, "--stats")
    assert status == 0
    assert out == answer["text"] + "\n"
    assert "ms a token" in next(line for line in err.splitlines() if line.startswith("schema:"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--top-p", "0.9"), "--top-p: nothing is drawn without --temperature"),
        (("--seed", "3", "--temperature", "0"), "--seed: nothing is drawn without --temperature"),
        (("--temperature", "-1"), "temperature -1.0: expected 0 up"),
        (("--temperature", "1", "--speculate"), "speculate: it guesses greedy answers"),
        (("--stop", ""), "stop: expected texts that are not empty"),
        (("--json-schema", "nowhere.json"), "--json-schema nowhere.json: No such file"),
        (("--json-schema", "."), "--json-schema .: Is a directory"),
        (("--json-schema", "words.json"), "schema: not a JSON schema"),
        (("--json-schema", "bytes.json"), "--json-schema bytes.json: not UTF-8 text"),
    ],
)
def test_what_cannot_be_is_one_line(
    command, small_package: Path, tmp_path: Path, monkeypatch, options, said: str
):
    monkeypatch.chdir(tmp_path)
    Path("words.json").write_text("words")
    Path("bytes.json").write_bytes(b"\xff{}")
    assert said in told(command("run", small_package, "What?", *options), 2)
