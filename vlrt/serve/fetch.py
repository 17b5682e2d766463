"""Pictures from the web, for servers that were told to fetch them: not from the network inside.

Whoever sends a request chooses the address, so it must not lead to this machine or its network
(server-side request forgery). The address that a connection has in fact is looked at, before
anything is sent: names that resolve to one thing now and another later change nothing, and each
redirection is looked at in turn. Proxies are not used: they would make the connection.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import time
import urllib.error
import urllib.request
from typing import Any

from vlrt.serve.errors import ApiError

__all__ = ["fetch"]

SECONDS = 15.0  # for all of it
WAIT_SECONDS = 5.0  # for one answer of the other side
PIECE = 1 << 16


def fetch(url: str, where: str, most: int, *, inside: bool = False) -> bytes:
    """The bytes at an address; `inside` lets it be in this network, for tests.

    Raises:
        ApiError: it cannot be had, is too large, too slow, or inside.
    """

    def refused(why: object) -> ApiError:
        message = f"{where}: cannot be fetched: {why}"
        return ApiError(400, message, param=where, code="invalid_image_url")

    deadline = time.monotonic() + SECONDS
    opener = urllib.request.OpenerDirector()
    for handler in (
        _Plain(inside),
        _Secure(inside),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    content = bytearray()
    try:
        request = urllib.request.Request(url, headers={"user-agent": "vlrt"})
        with opener.open(request, timeout=WAIT_SECONDS) as response:
            while piece := response.read1(PIECE):
                content += piece
                if len(content) > most:
                    raise refused(f"more than {most} bytes")
                if time.monotonic() > deadline:
                    raise refused(f"not whole after {SECONDS:g} s")
    except urllib.error.HTTPError as error:
        raise refused(f"status {error.code}") from None
    except urllib.error.URLError as error:
        raise refused(error.reason) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise refused(error) from None
    return bytes(content)


class _Looking:
    """A connection that looks at where it leads."""

    inside = False
    _create_connection: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        connect = self._create_connection  # where http.client makes sockets, TLS comes after

        def checked(*args: Any, **kwargs: Any) -> socket.socket:
            made: socket.socket = connect(*args, **kwargs)
            if not (self.inside or _is_global(made.getpeername()[0])):
                made.close()
                raise OSError("it is in the server's own network")
            return made

        self._create_connection = checked


class _Http(_Looking, http.client.HTTPConnection):
    pass


class _Https(_Looking, http.client.HTTPSConnection):
    pass


class _HttpInside(_Http):
    inside = True


class _HttpsInside(_Https):
    inside = True


def _is_global(host: str) -> bool:
    address = ipaddress.ip_address(host.partition("%")[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_global


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, inside: bool) -> None:
        super().__init__()
        self._connection = _HttpInside if inside else _Http

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._connection, req)


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, inside: bool) -> None:
        super().__init__()
        self._connection = _HttpsInside if inside else _Https

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._connection, req)
