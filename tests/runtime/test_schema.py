"""Answers that fit a JSON schema: from models of random weights, judged by jsonschema."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.pictures import picture
from vlrt_runtime.errors import InputError, MissingDependencyError
from vlrt_runtime.model import Model
from vlrt_runtime.sampling import Sampling
from vlrt_runtime.schema import FastForward

pytest.importorskip("llguidance")
jsonschema = pytest.importorskip("jsonschema")

ASK = "What is this?"
PICTURE = picture(90, 60)


def thing(**properties: object) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties][:2],
        "additionalProperties": False,
    }


BOX = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": 999},
    "minItems": 4,
    "maxItems": 4,
}
NAME = {"type": "string", "maxLength": 8}
# Each is bounded, so that a random model comes to an end as well.
SCHEMAS = {
    "boolean": {"type": "boolean"},
    "null": {"type": ["null", "boolean"]},
    "number": {"type": "integer", "minimum": -20, "maximum": 300},
    "constant": {"const": {"a": [1, None, "\u00e9\n\U0001f389"]}},
    "names": {"enum": ['say "hi"', "back\\slash", "\u732b", "caf\u00e9", 3, None]},
    "text": {"type": "string", "maxLength": 12},
    "pattern": {"type": "string", "pattern": "^[a-c]{2,4}-[0-9]{1,3}$"},
    "date": {"type": "string", "format": "date"},
    "list": {"type": "array", "items": NAME, "minItems": 1, "maxItems": 3},
    "object": thing(name=NAME, sure={"type": "boolean"}, box=BOX),
    "nested": thing(things={"type": "array", "items": thing(name=NAME, box=BOX), "maxItems": 2}),
    "either": {"anyOf": [thing(cat={"type": "boolean"}), thing(dogs={"enum": [1, 2, 3]}), BOX]},
    "reference": {
        "$defs": {"point": thing(x={"enum": [0, 1]}, y={"enum": [0, 1]})},
        **thing(a={"$ref": "#/$defs/point"}, b={"$ref": "#/$defs/point"}),
    },
}


@pytest.fixture(scope="module")
def model(small_package: Path) -> Model:
    return Model(small_package, threads=1)


@pytest.fixture(scope="module")
def sentencepiece(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """LLaVA's tokenizer: pieces of text, and single bytes where it has none."""
    from vlrt_export.exporter import export

    folder = tmp_path_factory.mktemp("llava") / "package"
    return Model(export(tiny_llava, folder, precision="fp32"), threads=1)


# ------------------------------------------------------------------ they fit


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("tokenizer", ["model", "sentencepiece"])
def test_a_random_model_says_what_fits(name: str, tokenizer: str, request: Any):
    model: Model = request.getfixturevalue(tokenizer)
    schema, said = SCHEMAS[name], set[str]()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    for sampling in (None, *(Sampling(3.0, seed=seed) for seed in range(8))):
        answer = model.generate(
            ASK, images=[PICTURE], max_new_tokens=400, schema=schema, sampling=sampling
        )
        assert answer.finish_reason == "stop"
        validator.validate(json.loads(answer.text))
        said.add(answer.text)
    assert len(said) > 1 or "const" in schema


def test_a_schema_may_be_its_text_and_pieces_make_the_answer(model: Model):
    schema = SCHEMAS["object"]
    stream = model.stream(ASK, max_new_tokens=400, schema=json.dumps(schema))
    text = "".join(stream)
    answer = stream.result()
    assert text == answer.text == model.generate(ASK, max_new_tokens=400, schema=schema).text
    assert answer.constraint_ms is not None
    assert 0 < answer.constraint_ms < answer.timings.total
    assert answer.as_dict()["constraint_ms"] > 0
    assert model.generate(ASK, max_new_tokens=4).constraint_ms is None


@pytest.mark.parametrize("most", range(1, 12))
def test_an_answer_that_is_cut_says_so(model: Model, most: int):
    schema = thing(name={"type": "string"}, sure={"type": "boolean"})
    whole = model.generate(ASK, max_new_tokens=12, schema=schema)
    answer = model.generate(ASK, max_new_tokens=most, schema=schema)
    assert answer.finish_reason == "length"
    assert answer.token_ids == whole.token_ids[:most]
    assert answer.prompt_tokens == whole.prompt_tokens


def test_what_is_kept_of_it_is_what_was_said(model: Model):
    """Ids that are run at once, and cut, leave no position behind that was not said."""
    schema = thing(name={"type": "string", "maxLength": 3}, sure={"type": "boolean"})
    fresh = Model(model.package.folder, threads=1, prefix_cache_mb=0)
    turns: list[dict[str, Any]] = [{"role": "user", "content": ASK}]
    for most in (1, 2, 5, 9, 30):
        answer = model.generate(turns, max_new_tokens=most, schema=schema)
        expected = fresh.generate(turns, max_new_tokens=most, schema=schema)
        assert answer.token_ids == expected.token_ids
        said = [*turns, {"role": "assistant", "content": answer.text}]
        asked = [*said, {"role": "user", "content": "More?"}]
        again = model.generate(asked, max_new_tokens=6)
        assert again.token_ids == fresh.generate(asked, max_new_tokens=6).token_ids
        assert again.cached_tokens >= answer.prompt_tokens


def test_cancelling_among_forced_ids_leaves_the_model_usable(model: Model):
    schema = SCHEMAS["object"]
    whole = model.generate(ASK, max_new_tokens=400, schema=schema)
    with model.stream(ASK, max_new_tokens=400, schema=schema) as stream:
        next(stream)
    assert stream.answer is not None
    assert stream.answer.finish_reason == "cancelled"
    assert model.generate(ASK, max_new_tokens=400, schema=schema).token_ids == whole.token_ids


# ------------------------------------------------------------------ forced ids


class Script:
    """A constraint that forces what it is told to."""

    def __init__(self, *forced: Sequence[int]) -> None:
        self.forced = list(forced)

    def force(self, most: int) -> Sequence[int]:
        return self.forced.pop(0)[:most]


def test_forced_ids_are_run_at_once_and_logits_are_those_behind_the_last():
    runs: list[list[int]] = []

    def run(tokens: Sequence[int]) -> np.ndarray:
        runs.append(list(tokens))
        return np.array([[token] for token in tokens], np.float32)

    script: Any = Script([], [2, 3], [7, 8, 9])
    ahead = FastForward(script, step=lambda token: run([token])[-1], run=run, limit=7)
    assert [float(ahead.step(token)[0]) for token in (0, 1, 2, 3)] == [0, 3, 3, 3]
    assert float(ahead.step(4)[0]) == 8  # two ids are left of seven
    assert runs == [[0], [1, 2, 3], [4, 7, 8]]


def test_the_frame_of_an_object_costs_few_runs(model: Model, monkeypatch: pytest.MonkeyPatch):
    runs: list[int] = []
    monkeypatch.setattr(Model, "step", counted(Model.step, runs, lambda *a, **o: 1))
    monkeypatch.setattr(Model, "steps", counted(Model.steps, runs, lambda *a, **o: len(a[-1])))
    schema = thing(name={"enum": ["cat", "dog"]}, sure={"type": "boolean"})
    answer = model.generate(ASK, max_new_tokens=100, schema=schema)
    assert answer.finish_reason == "stop"
    assert sum(runs) == len(answer.token_ids)
    assert len(runs) < len(answer.token_ids) / 3


def counted(function: Any, runs: list[int], size: Callable[..., int]) -> Any:
    def run(*arguments: Any, **options: Any) -> Any:
        runs.append(size(*arguments, **options))
        return function(*arguments, **options)

    return run


# ------------------------------------------------------------------ what cannot be


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ("{", "schema: not a JSON schema: "),
        ("3", "schema: not a JSON schema: expected an object, got int"),
        ({"type": object}, "schema: not a JSON schema: "),
        ({"type": "thing"}, "schema: it cannot be enforced: "),
        ({"type": "array", "uniqueItems": True}, "schema: it cannot be enforced: .*uniqueItems"),
        ({"$ref": "https://example.org/schema.json"}, "schema: it cannot be enforced: "),
        ({"type": "string", "pattern": "("}, "schema: it cannot be enforced: "),
    ],
)
def test_a_schema_that_cannot_be_is_refused_at_once(model: Model, schema, said: str):
    with pytest.raises(InputError, match=said) as refused:
        model.stream(ASK, schema=schema)
    assert "\n" not in str(refused.value)


def test_speculation_and_a_schema_do_not_go_together(model: Model):
    with pytest.raises(InputError, match="speculate: it knows no schema"):
        model.stream(ASK, schema={"type": "boolean"}, speculate=True)


def test_a_tokenizer_that_is_not_known_is_told(
    tiny_kosmos2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from vlrt_export.exporter import export

    model = Model(export(tiny_kosmos2, tmp_path / "package", precision="fp32"), threads=1)
    with pytest.raises(InputError, match="llguidance does not know this model's kind of token"):
        model.generate("An image of", images=[PICTURE], schema={"type": "boolean"})


def test_what_to_install_is_told(model: Model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("llguidance")
    with pytest.raises(MissingDependencyError, match=r"pip install 'vlrt\[json\]'"):
        model.stream(ASK, schema={"type": "boolean"})
