"""The real `openai` client over a real socket; the truth is what the model itself answers."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import openai
import pytest

from vlrt.demo import PICTURE
from vlrt_runtime.sampling import Sampling

QUESTION = "Describe the picture."
SCHEMA = {
    "type": "object",
    "properties": {
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "colour": {"enum": ["red", "blue", "green"]},
    },
    "required": ["count", "colour"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(server) -> openai.OpenAI:
    return server.openai()


@pytest.fixture(scope="module")
def truth(demo_model):
    def ask(question: str, **options: Any):
        return demo_model.generate(question, images=[PICTURE], **options)

    return ask


@pytest.fixture(scope="module")
def ask(client, picture_url):
    def completion(question: str, **options: Any) -> Any:
        picture = {"type": "image_url", "image_url": {"url": picture_url}}
        parts = [picture, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": parts}]
        return client.chat.completions.create(model="demo", messages=messages, **options)

    return completion


def test_models(client):
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").owned_by == "vlrt"
    with pytest.raises(openai.NotFoundError, match="'gpt' is not here, 'demo' is"):
        client.models.retrieve("gpt")


def test_an_answer(ask, truth):
    expected = truth(QUESTION)
    got = ask(QUESTION)
    assert got.choices[0].message.content == expected.text
    assert got.choices[0].finish_reason == "stop" == expected.finish_reason
    assert got.usage.prompt_tokens == expected.prompt_tokens
    assert got.usage.completion_tokens == len(expected.token_ids)
    assert got.usage.total_tokens == got.usage.prompt_tokens + got.usage.completion_tokens
    assert got.vlrt["image_tokens"] == expected.image_tokens > 0
    assert got.vlrt["timings_ms"]["total"] > 0


def test_boxes_come_with_the_answer(ask, truth):
    thing = truth(QUESTION).text.partition(",")[0].removeprefix("A ")
    question = f"Where is the {thing}?"
    expected = truth(question)
    assert expected.entities
    told = ask(question).vlrt["entities"]
    assert told == json.loads(json.dumps([entity.as_dict() for entity in expected.entities]))


def test_a_stream(ask, truth):
    chunks = list(ask(QUESTION, stream=True, stream_options={"include_usage": True}))
    expected = truth(QUESTION)
    *said, last, usage = chunks
    assert len({chunk.id for chunk in chunks}) == 1
    assert said[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content for chunk in said[1:]]
    assert len(pieces) > 5
    assert "".join(pieces) == expected.text == last.vlrt["text"]
    assert [c.choices[0].finish_reason for c in (*said, last)] == [None] * len(said) + ["stop"]
    assert usage.choices == []
    assert usage.usage.completion_tokens == len(expected.token_ids)
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_stages_are_told_where_asked_for(ask):
    options = {"stream": True, "extra_body": {"vlrt": {"stages": True}}}
    stages = [c.vlrt for c in ask("How many things?", **options) if hasattr(c, "vlrt")]
    assert {"preprocess", "prefill"} <= {told["stage"] for told in stages if "stage" in told}
    assert all(told["done"] <= told["total"] for told in stages if "stage" in told)
    assert not [c for c in ask("How many?", stream=True) if "stage" in getattr(c, "vlrt", {})]


def test_limits_and_stops(ask, truth):
    short = ask(QUESTION, max_tokens=3)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 3)
    assert ask(QUESTION, max_completion_tokens=2).usage.completion_tokens == 2
    first = truth(QUESTION).text.partition(",")[0]
    for stop in (",", [",", "!"]):
        stopped = ask(QUESTION, stop=stop).choices[0]
        assert (stopped.message.content, stopped.finish_reason) == (first, "stop")


def test_sampling_is_that_of_the_model(ask, truth):
    sampling = Sampling(temperature=2.0, top_k=40, top_p=0.99, min_p=0.0001, seed=7)
    expected = truth(QUESTION, sampling=sampling, max_new_tokens=20).text
    assert expected != truth(QUESTION, max_new_tokens=20).text
    options = {"temperature": 2.0, "top_p": 0.99, "seed": 7, "max_tokens": 20}
    got = ask(QUESTION, **options, extra_body={"top_k": 40, "min_p": 0.0001})
    assert got.choices[0].message.content == expected


@pytest.mark.parametrize("stream", [False, True])
def test_answers_that_fit_a_schema(ask, stream: bool):
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA}}
    got = ask("How many?", response_format=form, stream=stream)
    text = "".join(c.choices[0].delta.content or "" for c in got) if stream else (
        got.choices[0].message.content
    )  # fmt: skip
    jsonschema.validate(json.loads(text), SCHEMA)


def test_several_turns(client, demo_model):
    said = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Yes.", "refusal": None, "tool_calls": None},
        {"role": "user", "content": [{"type": "text", "text": "And now?"}]},
    ]
    got = client.chat.completions.create(model="demo", messages=said, max_tokens=8)
    plain = [{"role": m["role"], "content": m["content"]} for m in said]
    plain[0]["role"] = "system"
    assert got.choices[0].message.content == demo_model.generate(plain, max_new_tokens=8).text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"model": "gpt-4o"}, "model: 'gpt-4o' is not here, 'demo' is"),
        ({"n": 2}, "n: invalid enum value 2"),
        ({"max_tokens": 0}, "max_tokens: expected int >= 1"),
        ({"logprobs": True}, "logprobs: they are not given"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools: expected array"),
        ({"temperature": -1}, "temperature: expected float >= 0"),
        ({"extra_body": {"max_token": 5}}, "body: object contains unknown field max_token"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages\\[0\\].content: expected"),
        ({"messages": []}, "messages: expected array of length >= 1"),
        ({"stop": [""]}, "stop\\[0\\]: expected str of length >= 1"),
    ],
)
def test_mistakes_are_told_in_openai_s_form(client, options: dict[str, Any], told: str):
    given = {"model": "demo", "messages": [{"role": "user", "content": "x"}], **options}
    with pytest.raises(openai.APIStatusError, match=told) as failed:
        client.chat.completions.create(**given)
    assert failed.value.status_code == (404 if "model" in options else 400)
    assert failed.value.type in ("invalid_request_error", "not_found_error")
    assert "/" not in failed.value.message  # no path of the server


def test_a_prompt_that_is_too_long(client):
    with pytest.raises(openai.BadRequestError) as failed:
        client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": "word " * 5000}]
        )
    assert failed.value.code == "context_length_exceeded"
