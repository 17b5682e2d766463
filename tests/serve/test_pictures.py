"""Where pictures may come from."""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from vlrt.demo import PICTURE
from vlrt.serve.errors import ApiError
from vlrt.serve.fetch import fetch
from vlrt.serve.options import ServeOptions
from vlrt.serve.pictures import picture_bytes

WHERE = "messages[0].content[0].image_url.url"
CONTENT = PICTURE.read_bytes()


def read(url: str, **options: Any) -> bytes:
    return picture_bytes(url, WHERE, ServeOptions("demo", **options))


def refusal(url: str, **options: Any) -> str:
    with pytest.raises(ApiError) as refused:
        read(url, **options)
    assert (refused.value.status, refused.value.param) == (400, WHERE)
    assert len(refused.value.message) < 400
    return refused.value.message


def test_data_addresses():
    encoded = base64.b64encode(CONTENT).decode()
    assert read(f"data:image/png;base64,{encoded}") == CONTENT
    assert read(f"DATA:;Base64,{quote(encoded)}") == CONTENT
    assert read(f"data:image/png,{quote(CONTENT)}") == CONTENT
    assert "not base64" in refusal("data:image/png;base64,a*b")
    assert "without a comma" in refusal("data:image/png;base64")


@pytest.mark.parametrize("url", ["http://localhost/a.png", "HTTPS://example.org/a.png"])
def test_nothing_is_fetched_unless_it_is_allowed(url: str):
    assert "pictures are not fetched (--allow-picture-urls would)" in refusal(url)


@pytest.mark.parametrize(
    "url", [str(PICTURE), PICTURE.as_uri(), "picture.png", "ftp://x/y.png", "", "javascript:x"]
)
def test_no_file_is_read_unless_it_is_allowed(url: str):
    assert "files are not read (--picture-folder" in refusal(url)


def test_files_of_the_folder_alone(tmp_path: Path):
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a b.png").write_bytes(CONTENT)
    (tmp_path / "secret.png").write_bytes(CONTENT)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    inside = ("deep/a b.png", "./deep/../deep/a b.png", (folder / "deep" / "a b.png").as_uri())
    for url in inside:
        assert read(url, picture_folder=folder) == CONTENT
    outside = (
        *("../secret.png", str(tmp_path / "secret.png"), (tmp_path / "secret.png").as_uri()),
        *("link.png", "file:///etc/passwd", "nothing.png", "deep", "file://host/x", "a\0b"),
        "file:///%2e%2e/secret.png",
    )
    # Whether there is such a file cannot be told from the answer.
    assert len({refusal(url, picture_folder=folder) for url in outside}) == 1
    assert "more than 10 bytes" in refusal(inside[0], picture_folder=folder, max_body=10)


class _Web(BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/away":
            self.send_response(302)
            self.send_header("location", "/picture.png")
            self.end_headers()
        elif self.path in ("/picture.png", "/endless"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(CONTENT)
            while self.path == "/endless":
                self.wfile.write(b" " * 65536)
        else:
            self.send_response(404)
            self.end_headers()

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # whoever asked has had enough
            super().handle()


@pytest.fixture
def web() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("Web", (_Web,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def test_fetching(web):
    url, _ = web
    for path in ("/picture.png", "/away"):
        assert fetch(url + path, WHERE, 1 << 20, inside=True) == CONTENT
    for path, told in (("/nothing", "status 404"), ("/endless", "more than 1048576 bytes")):
        with pytest.raises(ApiError, match=told):
            fetch(url + path, WHERE, 1 << 20, inside=True)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"]
)
def test_what_is_inside_is_not_asked(web, host: str):
    url, asked = web
    told = refusal(url.replace("127.0.0.1", host) + "/picture.png", allow_picture_urls=True)
    assert "cannot be fetched" in told
    assert asked == []


def test_addresses_that_are_none():
    for url in ("http://", "http://[", "http://localhost:99999/", "https://localhost:1/x y"):
        assert "cannot be fetched" in refusal(url, allow_picture_urls=True)


def test_files_and_their_absence_over_the_wire(serve, tmp_path: Path):
    (tmp_path / "a.png").write_bytes(CONTENT)
    server = serve(picture_folder=tmp_path)

    def ask(url: str):
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "?"}]
        return server.post({"messages": [{"role": "user", "content": parts}], "max_tokens": 2})

    assert ask("a.png").status_code == 200
    assert ask("b.png").json()["error"]["param"] == WHERE
