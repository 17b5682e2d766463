"""Pictures in, answers out, in a real Chromium against a real `vlrt serve`."""

from __future__ import annotations

import base64
import io
import re
import time

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect

from support.page import PICTURE, Visit

SEEN = "A black star, a purple digit 4, a blue square and a green letter U."
STAR = "Where is the black star?"


def pictures(message: dict) -> list[bytes]:
    urls = [part["image_url"]["url"] for part in message["content"] if "image_url" in part]
    return [base64.b64decode(url.partition(",")[2]) for url in urls]


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "png")
    return file.getvalue()


def wait_until(holds, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_picked_picture_is_sent_as_it_is_and_described(demo: Visit):
    demo.pick()
    expect(demo.page.get_by_role("img", name="picture.png")).to_be_visible()
    assert demo.answer("Describe the picture.") == SEEN
    (message,) = demo.sent()["messages"]
    assert pictures(message) == [PICTURE.read_bytes()]
    summary = demo.page.locator(".timings summary")
    shown = r"first token [\d.]+ m?s · [\d.]+ tokens/s · (\d+) tokens"
    found = re.fullmatch(shown, summary.inner_text())
    assert found
    summary.click()
    rows = demo.page.get_by_role("row").all_inner_texts()
    assert {"preparing", "looking", "reading", "answering"} <= {row.split()[0] for row in rows}
    expect(demo.page.locator(".timings")).to_contain_text(re.compile(r"Prompt: \d+ tokens, 42 of"))


def test_the_box_lies_on_what_was_asked_for(demo: Visit):
    demo.page.get_by_role("button", name="Use the example").click()
    demo.answer(STAR)
    drawn = demo.page.locator("#boxes .box")
    expect(drawn).to_have_count(1)
    frame = demo.page.locator("#picture").bounding_box()
    box = drawn.bounding_box()
    assert frame is not None
    assert box is not None
    left, top = (box["x"] - frame["x"]) / frame["width"], (box["y"] - frame["y"]) / frame["height"]
    right, bottom = left + box["width"] / frame["width"], top + box["height"] / frame["height"]
    with Image.open(PICTURE) as picture:
        black = np.asarray(picture.convert("L")) < 60
    ys, xs = np.nonzero(black & (np.indices(black.shape)[1] < black.shape[1] // 3))
    height, width = black.shape
    star = (xs.min() / width, ys.min() / height, xs.max() / width, ys.max() / height)
    # Half a percent of rounding in what the model says, and what it sees: 3 % of a side in all.
    np.testing.assert_allclose((left, top, right, bottom), star, atol=0.03)
    name = demo.page.get_by_role("button", name="Box")
    assert "from the left" in (name.get_attribute("title") or "")
    name.hover()
    expect(drawn).to_have_class(re.compile("strong"))
    assert demo.answer("How many things are there?") == "4"
    expect(drawn).to_have_count(0)
    name.focus()  # an earlier answer's boxes come back
    expect(drawn).to_have_class(re.compile("strong"))


def test_a_second_question_goes_on_from_the_first(demo: Visit):
    demo.pick()
    demo.page.get_by_text("Options").click()
    demo.page.get_by_label("Remember earlier questions").check()
    demo.answer("Describe the picture.")
    demo.answer(STAR)
    first, said, second = demo.sent()["messages"]
    assert len(pictures(first)) == 1
    assert said == {"role": "assistant", "content": SEEN}
    assert second["content"] == [{"type": "text", "text": STAR}]
    told = demo.page.locator(".timings p").last.text_content() or ""
    prompt, cached = re.findall(r"(\d+) tokens?,.* (\d+) were", told)[0]
    assert int(cached) > 0.8 * int(prompt)  # the picture and the first answer
    demo.page.get_by_label("Remember earlier questions").uncheck()
    demo.answer(STAR)
    (alone,) = demo.sent()["messages"]
    assert len(pictures(alone)) == 1


def test_stopped_answers_end_on_the_server_and_can_be_gone_on_from(endless: Visit):
    endless.pick()
    turn = endless.ask("Tell me all.")
    answer = turn.locator(".answer")
    wait_until(lambda: len(answer.inner_text()) > 50)  # it streams
    some = answer.inner_text()
    wait_until(lambda: len(answer.inner_text()) > len(some))
    expect(answer).to_have_attribute("aria-busy", "true")
    endless.page.get_by_role("button", name="Stop").click()
    expect(turn.locator(".note")).to_have_text("Stopped.")
    wait_until(lambda: endless.waiting() == 0)
    kept = answer.text_content()
    endless.stop(endless.ask("And then?"))
    _, said, _ = endless.sent()["messages"]
    assert said == {"role": "assistant", "content": kept}
    wait_until(lambda: endless.waiting() == 0)
    expect(endless.page.get_by_role("button", name="Ask", exact=True)).to_be_visible()


def test_what_is_being_done_is_told(demo: Visit):
    demo.page.evaluate("""() => {
      window.told = new Set();
      const look = () => document.querySelectorAll(".doing span").forEach((e) => told.add(e.innerText));
      const watched = { childList: true, subtree: true, characterData: true };
      new MutationObserver(look).observe(document.getElementById("turns"), watched);
    }""")  # noqa: E501
    pictures = [Image.new("RGB", (280, 280), colour) for colour in ("red", "blue")]
    demo.pick(*[{"name": "a.png", "mimeType": "image/png", "buffer": png(p)} for p in pictures])
    expect(demo.page.get_by_role("button", name="Picture 2")).to_be_visible()
    demo.answer("Describe the picture.")
    told = demo.page.evaluate("[...told]")
    assert {"Asking", "Preparing"} <= {text.partition(" ")[0] for text in told}
    assert any(text.startswith("Looking at picture") for text in told)
    assert any(text.startswith("Reading") for text in told)


def test_who_waits_is_told_so(endless: Visit, visit, endless_url: str):
    endless.ask("Tell me all.")
    wait_until(lambda: endless.waiting() == 1)
    other = visit(endless_url)
    turn = other.ask("Me too.")
    expect(turn.get_by_text("Waiting")).to_be_visible()
    other.stop(turn)
    turn.get_by_role("button", name="Ask again").click()
    expect(turn.get_by_text("Waiting")).to_be_visible()
    endless.page.keyboard.press("Escape")
    wait_until(lambda: len(turn.locator(".answer").inner_text()) > 20)
    other.page.get_by_role("button", name="Start over").click()
    expect(other.page.get_by_role("article")).to_have_count(0)
    wait_until(lambda: other.waiting() == 0)


def test_names_in_an_answer_show_their_boxes(demo: Visit):
    text = "\N{GRINNING FACE} A red star and <b>a car</b>, two."
    entities = [
        {"name": "a car", "span": [20, 25], "boxes": [[0, 0, 0.5, 1]]},
        {"name": "A red star", "span": [2, 12], "boxes": [[0.1, 0.2, 0.3, 0.4]]},
        {"name": "", "span": [0, 0], "boxes": [[0, 0, 1, 1]]},
    ]
    shown = demo.page.evaluate(
        """async ([text, entities]) => {
          const { namedText, unnamed } = await import("/static/boxes.js");
          const told = [];
          const nodes = namedText(text, entities, (number) => told.push(number));
          for (const node of nodes) if (node.click) node.click();
          const names = unnamed(entities, () => {}).map((button) => button.textContent);
          return [nodes.map((node) => node.outerHTML ?? node), told, names];
        }""",
        [text, entities],
    )
    nodes, told, names = shown
    assert nodes[0::2] == ["\N{GRINNING FACE} ", " and <b>", "</b>, two."]
    assert [re.sub("<.*?>", "", node) for node in nodes[1::2]] == ["A red star", "a car"]
    assert "10 % to 30 % from the left, 20 % to 40 % from the top" in nodes[1]
    assert told == [1, 0]
    assert names == ["Box 3"]


def test_what_is_said_is_never_markup(demo: Visit):
    markup = "<img src=x onerror=alert(1)><b>bold</b>"
    demo.answer(markup)
    expect(demo.page.get_by_role("heading", name=markup)).to_be_visible()
    expect(demo.page.locator(".turn img, .turn b")).to_have_count(0)
    policy = demo.page.request.get(demo.url).headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
