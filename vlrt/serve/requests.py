"""What a request for a chat completion says, checked to its types.

Fields of OpenAI's that would change an answer and are not supported are taken where they change
nothing (`n` of 1, no `tools`), and refused otherwise; those that only label a request are ignored;
unknown ones are refused: a misspelt limit must not be silently none.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from vlrt.serve.errors import ApiError
from vlrt_runtime.sampling import Sampling

__all__ = ["ChatRequest", "ImagePart", "RequestMessage", "TextPart", "parse"]

AT = re.compile(r" - at `(key in )?\$\.?(?P<where>[^`]*)`$")
Zero = Annotated[float, Meta(ge=0, le=0)]
Tokens = Annotated[int, Meta(ge=1, le=1 << 31)]
StopText = Annotated[str, Meta(min_length=1, max_length=256)]
Label = Annotated[str, Meta(max_length=1024)]


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """No field but those that are declared."""


class TextPart(Strict, tag_field="type", tag="text"):
    """Text of a message."""

    text: str


class ImageURL(Strict):
    """Where a picture is: a `data:` address, or what the server's options allow."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Strict, tag_field="type", tag="image_url"):
    """A picture of a message."""

    image_url: ImageURL


class RequestMessage(Strict):
    """A turn; what clients send back of an answer's empty fields is taken."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart | ImagePart]
    name: Label | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[Any], Meta(max_length=0)] | None = None
    annotations: Annotated[list[Any], Meta(max_length=0)] | None = None


class StreamOptions(Strict):
    """`include_usage`: a last chunk with the usage."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Extras(Strict):
    """Extensions of vlrt's: `stages` asks for chunks that tell what is being done."""

    stages: bool = False


class JsonSchema(Strict):
    """The schema that an answer keeps to."""

    name: Label
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class TextFormat(Strict, tag_field="type", tag="text"):
    """Any text."""


class ObjectFormat(Strict, tag_field="type", tag="json_object"):
    """Any JSON object."""


class SchemaFormat(Strict, tag_field="type", tag="json_schema"):
    """JSON of a schema."""

    json_schema: JsonSchema


class ChatRequest(Strict):
    """The body of `POST /v1/chat/completions`."""

    messages: Annotated[list[RequestMessage], Meta(min_length=1, max_length=1024)]
    model: Label | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    stop: StopText | Annotated[list[StopText], Meta(max_length=16)] | None = None
    response_format: TextFormat | ObjectFormat | SchemaFormat | None = None
    # Greedy where there is no temperature; top_k and min_p are extensions that others have too.
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=1 << 31)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] | None = None
    vlrt: Extras | None = None
    # Neutral values only.
    n: Literal[1] | None = None
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None
    logit_bias: Annotated[dict[str, float], Meta(max_length=0)] | None = None
    top_logprobs: Literal[0] | None = None
    tools: Annotated[list[Any], Meta(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    modalities: list[Literal["text"]] | None = None
    # Labels, ignored.
    logprobs: bool | None = None
    parallel_tool_calls: bool | None = None
    user: Label | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None

    @property
    def limit(self) -> int | None:
        """Tokens of the answer at most, where it says."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def sampling(self) -> Sampling:
        """How ids are drawn."""
        return Sampling(
            temperature=self.temperature or 0.0,
            top_k=self.top_k or 0,
            top_p=self.top_p or 1.0,
            min_p=self.min_p or 0.0,
            seed=self.seed,
        )

    @property
    def stops(self) -> list[str]:
        """Texts that the answer ends before."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def schema(self) -> dict[str, Any] | None:
        """That the answer fits."""
        if isinstance(self.response_format, SchemaFormat):
            return self.response_format.json_schema.schema
        return {"type": "object"} if isinstance(self.response_format, ObjectFormat) else None


_decode = msgspec.json.Decoder(ChatRequest).decode


def parse(body: bytes | bytearray) -> ChatRequest:
    """The request of a body.

    Raises:
        ApiError: it is not JSON, or not such a request; `param` says which field.
    """
    try:
        request = _decode(body)
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"body: not JSON: {error}; send a JSON object"
        raise ApiError(400, message, code="invalid_json") from None
    if request.logprobs:
        raise ApiError(400, "logprobs: they are not given; leave it out", param="logprobs")
    return request


def _refusal(message: str) -> ApiError:
    found = AT.search(message)
    where = found["where"] if found else ""
    what = AT.sub("", message)
    what = what[:1].lower() + what[1:].replace("`", "")
    return ApiError(400, f"{where or 'body'}: {what}", param=where or None, code="invalid_value")
