"""Who may ask: hosts, origins, keys; what web pages may not do."""

from __future__ import annotations

import httpx
import pytest

from vlrt.serve.guard import CSP, is_loopback

HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}


def code(response: httpx.Response) -> str | None:
    return response.json()["error"]["code"] if response.is_error else None


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("LOCALHOST:1", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("192.168.1.5", False),
        ("0.0.0.0", False),
        ("user@localhost", False),
        ("localhost/x", False),
        ("localhost:port", False),
        ("", False),
    ],
)
def test_only_names_of_this_machine(server, host: str, allowed: bool):
    response = server.get("/health", headers={"host": host})
    assert code(response) == (None if allowed else "host_not_allowed")
    assert response.status_code == (200 if allowed else 403)


def test_a_server_for_others_takes_addresses_and_given_names(serve):
    server = serve(host="0.0.0.0", allow_hosts=("box.local",))
    for host, allowed in (("192.168.1.5", True), ("box.local:80", True), ("evil.example", False)):
        assert server.get("/health", headers={"host": host}).is_success is allowed


def test_its_own_page_may(server):
    response = server.post(HELLO, headers={"origin": server.url, "sec-fetch-site": "same-origin"})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://localhost", "http://127.0.0.1:1", "file://", ""],
)
def test_other_pages_may_not(server, origin: str):
    before = server.metric("vlrt_queue_seconds_count")
    assert code(server.post(HELLO, headers={"origin": origin})) == "origin_not_allowed"
    assert code(server.get("/v1/models", headers={"origin": origin})) == "origin_not_allowed"
    assert server.metric("vlrt_queue_seconds_count") == before  # nothing was computed


def test_requests_without_origin_from_other_sites(server):
    for site in ("cross-site", "same-site"):
        headers = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}
        assert code(server.get("/metrics", headers=headers)) == "cross_site"
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert server.get("/", headers=link).status_code == 200
    assert code(server.get("/v1/models", headers=link)) == "cross_site"


def test_what_forms_can_send_is_no_request(server):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; b=1"):
        response = server.post(content=b'{"messages": []}', headers={"content-type": kind})
        assert (response.status_code, code(response)) == (415, "not_json")


def test_an_allowed_origin(serve):
    page = "https://app.example"
    server = serve(allow_origins=(page,), api_key="secret")
    asked = {"origin": page, "access-control-request-method": "POST"}
    asked["access-control-request-headers"] = "authorization,content-type"
    preflight = httpx.options(f"{server.url}/v1/chat/completions", headers=asked)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == page
    key = {"authorization": "Bearer secret", "origin": page, "sec-fetch-site": "cross-site"}
    assert server.post(HELLO, headers=key).headers["access-control-allow-origin"] == page
    refused = server.post(HELLO, headers={"origin": page})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == page  # so that the page can read it
    other = server.post(HELLO, headers={**key, "origin": "https://evil.example"})
    assert code(other) == "origin_not_allowed"
    assert "access-control-allow-origin" not in other.headers


def test_the_key(serve):
    server = serve(api_key="secret-key")
    assert [model.id for model in server.openai(api_key="secret-key").models.list()] == ["demo"]
    for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic c2VjcmV0"}):
        for path in ("/v1/models", "/metrics", "/v1/other"):
            response = server.get(path, headers=given)
            assert (response.status_code, code(response)) == (401, "invalid_api_key")
        assert server.post(HELLO, headers=given).status_code == 401
    for path in ("/", "/health", "/openapi.json"):
        assert server.get(path).status_code == 200


def test_a_key_in_any_letters(serve):
    server = serve(api_key="schlüssel")
    headers = {b"authorization": "Bearer schlüssel".encode()}
    assert server.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/nothing"])
def test_headers_of_whatever_is_sent(server, path: str):
    headers = server.get(path).headers
    assert headers["content-security-policy"] == CSP
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


@pytest.mark.parametrize(
    "name", ["nothing.js", "../app.py", "..%2fapp.py", "%2e%2e/app.py", "__init__.py", ""]
)
def test_static_files_are_those_of_the_page(server, name: str):
    assert server.get(f"/static/{name}").status_code == 404


def test_loopback():
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org", "")))
