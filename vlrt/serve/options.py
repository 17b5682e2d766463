"""What a server is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["ServeOptions"]


@dataclass(frozen=True)
class ServeOptions:
    """Limits, and who may ask.

    Attributes:
        name: the model's, as clients call it.
        host: that the socket is bound to; decides which `Host` headers are taken.
        api_key: that requests must carry; none is asked for where it is None.
        allow_hosts: names, beside the socket's own, that requests may call this server by.
        allow_origins: other web pages (`https://app.example`) that may use it.
        allow_picture_urls: fetch pictures from http and https addresses that requests name.
        picture_folder: files below it may be named as pictures (`file://` addresses).
        queue: requests that may wait for their turn; more are told to come back later.
        parallel: answers that are computed at once.
        max_tokens: of an answer at most, and where a request does not say.
        max_body: bytes of a request.
        max_bodies: bytes of all requests that are held at once.
        max_text: characters of a request's messages together.
        max_pictures: of a request.
        max_pixels: of a request's pictures together, before they are scaled.
        max_connections: at once.
        header_seconds: for a client to send a request's head.
        body_seconds: and its body.
        keep_seconds: that a connection stays open for a next request.
        write_seconds: for a client that has stopped reading to go on.
        ping_seconds: between signs of life to a client that waits for a stream.
        grace_seconds: for answers to end after the server was told to stop.
    """

    name: str
    host: str = "127.0.0.1"
    api_key: str | None = None
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    allow_picture_urls: bool = False
    picture_folder: Path | None = None
    queue: int = 16
    parallel: int = 1
    max_tokens: int = 1024
    max_body: int = 32 << 20
    max_bodies: int = 256 << 20
    max_text: int = 1 << 20
    max_pictures: int = 8
    max_pixels: int = 64 << 20
    max_connections: int = 256
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    keep_seconds: int = 5
    write_seconds: float = 30.0
    ping_seconds: float = 10.0
    grace_seconds: float = 10.0
