"""Ways in for pictures, and what becomes of those that cannot be taken."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect

from support.page import PICTURE, Visit, serving

HAND_OVER = """([type, files]) => {
  const data = new DataTransfer();
  for (const [name, kind, content] of files) {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    data.items.add(new File([bytes], name, { type: kind }));
  }
  const given = { bubbles: true, cancelable: true, clipboardData: data, dataTransfer: data };
  const Kind = type === "paste" ? ClipboardEvent : DragEvent;
  document.getElementById("question").dispatchEvent(new Kind(type, given));
}"""


def png(width: int = 60, height: int = 40, noise: bool = False) -> bytes:
    content = np.full((height, width, 3), (20, 120, 200), np.uint8)
    if noise:
        content = np.random.default_rng(0).integers(0, 256, content.shape, np.uint8)
    file = io.BytesIO()
    Image.fromarray(content).save(file, "png")
    return file.getvalue()


def hand_over(visit: Visit, event: str, **files: bytes) -> None:
    """Drops or pastes files, as the browser's events have them."""
    listed = [
        [f"{name}.png", "image/png", base64.b64encode(content).decode()]
        for name, content in files.items()
    ]
    visit.page.evaluate(HAND_OVER, [event, listed])


def sent_pictures(visit: Visit) -> list[bytes]:
    content = visit.sent()["messages"][-1]["content"]
    urls = [part["image_url"]["url"] for part in content if "image_url" in part]
    return [base64.b64decode(url.partition(",")[2]) for url in urls]


def file(name: str, content: bytes, kind: str = "image/png") -> dict:
    return {"name": name, "mimeType": kind, "buffer": content}


def test_dropped_and_pasted_pictures_are_sent_in_order(demo: Visit):
    first, second, third = png(60, 40), png(50, 50), png(40, 60)
    hand_over(demo, "dragover", first=first)
    expect(demo.page.get_by_text("Let go to add")).to_be_visible()
    hand_over(demo, "drop", first=first, second=second)
    expect(demo.page.get_by_text("Let go to add")).to_be_hidden()
    expect(demo.page.get_by_role("button", name="Picture 2: second.png")).to_be_visible()
    hand_over(demo, "paste", third=third)
    expect(demo.page.locator("#caption")).to_contain_text("third.png")
    expect(demo.page.get_by_label("Your question")).to_be_focused()
    demo.page.get_by_role("button", name="Remove second.png").click()
    demo.answer("How many things are there?")
    assert sent_pictures(demo) == [first, third]
    demo.page.get_by_role("button", name="Picture 1: first.png").click()
    expect(demo.page.get_by_role("img", name="Picture 1: first.png")).to_be_visible()
    expect(demo.page.get_by_role("button", name="Remove")).to_have_count(0)
    demo.page.get_by_role("button", name="Start over").click()
    expect(demo.page.get_by_text("Drop a picture here")).to_be_visible()
    expect(demo.page.get_by_role("button", name="Start over")).to_be_disabled()


def test_no_picture_at_all(demo: Visit):
    demo.pick(file("notes.pdf", b"%PDF-1.7", "application/pdf"), file("none.png", b""))
    notice = demo.page.get_by_role("alert").first
    expect(notice).to_contain_text("notes.pdf: not a picture (application/pdf).")
    expect(notice).to_contain_text("none.png: the file is empty.")
    expect(demo.page.get_by_text("Drop a picture here")).to_be_visible()


def test_a_picture_that_the_server_refuses_can_be_taken_away(demo: Visit):
    demo.pick(file("broken.png", b"no picture"), file("picture.png", PICTURE.read_bytes()))
    expect(demo.page.get_by_role("button", name="Picture 2: picture.png")).to_be_visible()
    turn = demo.ask("How many things are there?")
    expect(turn.locator(".error")).to_contain_text("not a picture that can be read")
    demo.page.get_by_role("button", name="Remove broken.png").click()
    turn.get_by_role("button", name="Try again").click()
    expect(turn.locator(".answer")).to_have_text("4")
    expect(turn.locator(".error")).to_have_count(0)
    assert sent_pictures(demo) == [PICTURE.read_bytes()]


def test_a_server_that_has_gone(demo: Visit):
    demo.page.context.set_offline(True)
    turn = demo.ask("How many things are there?")
    expect(turn.locator(".error")).to_contain_text("Is vlrt serve still running?")
    demo.page.context.set_offline(False)
    turn.get_by_role("button", name="Try again").click()
    expect(turn.locator(".timings")).to_be_visible()


def test_too_long_a_conversation_goes_on_without_its_beginning(demo: Visit):
    demo.pick()
    demo.page.get_by_text("Options").click()
    demo.page.get_by_label("Remember earlier questions").check()
    demo.answer("What is in the picture? " * 200)
    turn = demo.ask("How many things are there? " * 200)
    expect(turn.locator(".error")).to_contain_text("2048")
    turn.get_by_role("button", name="Ask without the earlier questions").click()
    expect(turn.locator(".timings")).to_be_visible()
    assert sent_pictures(demo) == [PICTURE.read_bytes()]


def test_limits_scale_pictures_down_and_a_key_is_asked_for(visit):
    large = png(1200, 900, noise=True)
    with serving("demo", "--max-body", 1, VLRT_API_KEY="sesame") as url:
        demo = visit(url, locked=True)
        page = demo.page
        for key in ("simsim", "sesame"):
            page.get_by_label("API key").fill(key)
            page.get_by_role("button", name="Use the key").click()
            if key == "simsim":
                expect(page.get_by_text("does not take this key")).to_be_visible()
        expect(page.locator("#model")).to_have_text("demo on cpu")
        demo.pick(file("noise.png", large))
        expect(page.locator("#caption")).to_contain_text("sent at")
        demo.answer("Describe the picture.")
        (content,) = sent_pictures(demo)
        assert len(content) < 2**20 < len(large)
        with Image.open(io.BytesIO(content)) as smaller:
            assert smaller.format == "JPEG"
            assert smaller.width / smaller.height == pytest.approx(4 / 3, abs=0.01)
