"""Errors as OpenAI's clients read them: a status, and `{"error": {"message", "type", ...}}`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from vlrt.serve.wire import encode
from vlrt_runtime.errors import ContextLengthError, InputError, MissingDependencyError

__all__ = ["ApiError", "as_api_error", "stopping", "unknown_model"]

log = logging.getLogger("vlrt.serve")
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}


class ApiError(Exception):
    """What a client is told in place of an answer.

    Attributes:
        status: of HTTP.
        message: one line: what, where, expected and got, what to do.
        code: a word for programs.
        param: the field of the request that is at fault.
        headers: to go with it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The object that is sent."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        kind = TYPES.get(self.status, kind)
        told = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": told}

    def response(self) -> Response:
        """With status and headers."""
        return Response(
            encode(self.body()), self.status, self.headers, media_type="application/json"
        )


def stopping() -> ApiError:
    """For those who ask, or still wait, when the server has been told to stop."""
    return ApiError(503, "the server is stopping; ask again later", code="stopping")


def unknown_model(asked: str, name: str) -> ApiError:
    """For those who ask another model than the one there is."""
    message = f"model: {asked!r:.80} is not here, {name!r} is"
    return ApiError(404, message, code="model_not_found", param="model")


def as_api_error(error: Exception) -> ApiError:
    """Any error as one for the client: its own mistakes are told, faults of ours are logged."""
    if isinstance(error, ApiError):
        return error
    message = " ".join(str(error).split())
    if isinstance(error, ContextLengthError):
        return ApiError(400, message, code="context_length_exceeded", param="messages")
    if isinstance(error, InputError):
        return ApiError(400, message)
    if isinstance(error, MissingDependencyError):
        return ApiError(501, message, code="not_installed")
    log.error("fault while answering", exc_info=error)
    return ApiError(500, "the server failed; its log says why", code="internal_error")
