"""The server fuzzed from its own description, by schemathesis: requests that fit it and that don't.

Every response has a status that is described and a body that fits its schema; what does not fit the
description is refused; nothing is a fault of the server. Not looked at: whether all that fits is
accepted, for a schema cannot say that an address must be that of a picture.
"""

from __future__ import annotations

import json

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

CHAT = "/v1/chat/completions"
fuzz = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def fuzzed(serve):
    return serve(max_tokens=2)


@pytest.fixture(scope="module")
def description(fuzzed):
    return schemathesis.openapi.from_url(f"{fuzzed.url}/openapi.json")


def keeps_to(operation, mode: GenerationMode) -> None:
    @fuzz
    @given(case=operation.as_strategy(generation_mode=mode))
    def holds(case: schemathesis.Case) -> None:
        case.call_and_validate(excluded_checks=[positive_data_acceptance], timeout=30)

    holds()


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_chat(fuzzed, description, mode: GenerationMode):
    keeps_to(description[CHAT]["POST"], mode)
    # Some were answered, or refused, and each has given back what it held.
    status = "400" if mode is GenerationMode.NEGATIVE else "200"
    assert fuzzed.metric(f'vlrt_requests_total{{path="{CHAT}",status="{status}"}}') > 10
    assert fuzzed.metric("vlrt_requests_total{") >= 50
    assert fuzzed.metric("vlrt_held_bytes") == fuzzed.get("/health").json()["running"] == 0


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/{model}", "/health", "/metrics"])
def test_what_is_read(description, path: str):
    keeps_to(description[path]["GET"], GenerationMode.POSITIVE)


def test_every_route_is_described(fuzzed, description):
    paths = fuzzed.get("/openapi.json").json()["paths"]
    assert set(paths) == {CHAT, "/v1/models", "/v1/models/{model}", "/health", "/metrics"}


def test_the_pieces_of_a_stream_fit_their_schema(fuzzed):
    described = fuzzed.get("/openapi.json").json()
    ref = "#/components/schemas/"
    kinds = {name: {"$ref": ref + name} | described for name in ("Chunk", "StageChunk")}
    messages = [{"role": "user", "content": "Hello"}]
    asked = {"messages": messages, "stream": True, "vlrt": {"stages": True}}
    lines = fuzzed.post({**asked, "stream_options": {"include_usage": True}}).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    for line in lines[:-2]:
        assert line.startswith("data: ")
        kind = "StageChunk" if '"stage":' in line else "Chunk"
        jsonschema.Draft202012Validator(kinds[kind]).validate(json.loads(line[6:]))
