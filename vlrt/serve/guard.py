"""Who may ask: what keeps web pages and other machines from driving a server on this one.

A page of any site can send requests to this machine from its visitor's browser. It cannot hide
where it comes from (`Origin`, `Sec-Fetch-Site`), cannot send JSON without being allowed to, and one
whose name was made to lead here (DNS rebinding) calls the server by that name (`Host`).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlrt.serve.engine import Engine
from vlrt.serve.errors import ApiError, stopping
from vlrt.serve.options import ServeOptions

__all__ = ["CSP", "Guard", "KeyCheck", "is_loopback"]

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
OPEN = ("/", "/health", "/openapi.json", "/favicon.ico")  # and /static/: they tell no secret


class Guard:
    """Outermost: refuses foreign hosts and origins; puts headers on whatever is sent."""

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        self.engine, self.options = engine, engine.options
        self.app = app
        if self.options.allow_origins:
            self.app = CORSMiddleware(
                app,
                allow_origins=self.options.allow_origins,
                allow_methods=("GET", "POST"),
                allow_headers=("authorization", "content-type"),
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                self.engine.metrics.count(scope["path"], message["status"])
            await send(message)

        try:
            self._check(scope)
            await self.app(scope, receive, sending)
        except ApiError as error:
            await error.response()(scope, receive, sending)
        except asyncio.CancelledError:
            if started or not self.engine.stopping:
                raise
            await stopping().response()(scope, receive, sending)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        host = hosts[0].lower() if len(hosts) == 1 else ""
        if not _host_allowed(_name(host), self.options):
            message = (
                f"Host {host!r:.80}: not a name of this server; --allow-host would make it one"
            )
            raise ApiError(403, message, code="host_not_allowed")
        site = headers.get("sec-fetch-site", "none")
        if origins:
            own = origins == [f"{scope['scheme']}://{host}"]
            if not own and not set(origins) <= set(self.options.allow_origins):
                told = ", ".join(origins)
                message = f"Origin {told!r:.80}: another page; --allow-origin would let it"
                raise ApiError(403, message, code="origin_not_allowed")
        elif site not in ("none", "same-origin") and not _followed_link(scope, headers):
            raise ApiError(403, f"Sec-Fetch-Site {site!r:.80}: another page", code="cross_site")


class KeyCheck:
    """Asks for the API key, where there is one."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self.app = app
        self._digest = hashlib.sha256(api_key.encode()).digest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application."""
        if scope["type"] == "http" and not _open(scope["path"]):
            given = Headers(scope=scope).get("authorization", "")
            kind, _, key = given.partition(" ")
            # Digests have one length, so that the time it takes tells nothing of the key's.
            digest = hashlib.sha256(key.strip().encode("latin-1")).digest()
            same = hmac.compare_digest(digest, self._digest)
            if kind.lower() != "bearer" or not same:
                message = "API key: none, or a wrong one; send Authorization: Bearer KEY"
                headers = {"www-authenticate": "Bearer"}
                told = ApiError(401, message, code="invalid_api_key", headers=headers)
                await told.response()(scope, receive, send)
                return
        await self.app(scope, receive, send)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a socket that is bound to it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _name(host: str) -> str:
    """Of a Host header: without port and brackets; empty for what is none."""
    try:
        parts = urlsplit(f"//{host}")
        parts.port  # noqa: B018  raises where it is no number
    except ValueError:
        return ""
    return "" if parts.path or parts.username is not None else parts.hostname or ""


def _host_allowed(name: str, options: ServeOptions) -> bool:
    if is_loopback(name) or name in (options.host.lower(), *map(str.lower, options.allow_hosts)):
        return True
    if is_loopback(options.host):
        return False
    try:  # others call it by its address; a rebound name is never an address
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _followed_link(scope: Scope, headers: Headers) -> bool:
    """A person followed a link to the page itself."""
    return scope["path"] == "/" and headers.get("sec-fetch-mode") == "navigate"


def _open(path: str) -> bool:
    return path in OPEN or path.startswith("/static/")
