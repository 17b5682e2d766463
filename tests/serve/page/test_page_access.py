"""The page without a mouse, without eyes, on a phone, in the dark."""

from __future__ import annotations

import re
import time

import pytest

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Page, expect

from support.page import Visit

STAR = "Where is the black star?"

# Of every piece of text that is shown: WCAG's contrast with the nearest background behind it.
CONTRASTS = """() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const background = (element) => {
    for (; element; element = element.parentElement) {
      const found = channels(getComputedStyle(element).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (element.matches(":disabled")) continue;
    const pair = [channels(getComputedStyle(element).color), background(element)].map(luminance);
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    found.push([walker.currentNode.data.trim(), ratio]);
  }
  return found;
}"""
NAMED_ROLES = {"button", "textbox", "image", "checkbox", "spinbutton", "region", "log", "list"}


def nodes(page: Page) -> list[tuple[str, str]]:
    """Role and name of all that assistive technology is told of."""
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    told = [each for each in tree if not each["ignored"]]
    return [(each["role"]["value"], each.get("name", {}).get("value", "")) for each in told]


def tab_to(page: Page, name: str) -> None:
    for _ in range(30):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        if focused.count() and re.search(name, focused.evaluate("e => e.innerText || e.id")):
            return
    raise AssertionError(f"Tab does not lead to {name}")


def test_by_keyboard_alone(demo: Visit):
    page = demo.page
    tab_to(page, "Use the example")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Your question")).to_be_focused()
    page.keyboard.type("Where is")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("the black star?")
    expect(page.get_by_label("Your question")).to_have_value("Where is\nthe black star?")
    page.get_by_label("Your question").fill("")
    page.keyboard.type(STAR)
    page.keyboard.press("Enter")
    expect(page.locator(".timings")).to_be_visible()
    expect(page.get_by_label("Your question")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    expect(page.get_by_role("button", name="Box")).to_be_focused()
    expect(page.locator("#boxes .box")).to_have_class(re.compile("strong"))
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # timings unfold
    expect(page.get_by_role("table", name="Time by stage")).to_be_visible()


def test_focus_is_never_lost(endless: Visit):
    page = endless.page
    page.get_by_label("Your question").fill("Tell me all.")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_role("button", name="Stop")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".note")).to_have_text("Stopped.")
    expect(page.get_by_label("Your question")).to_be_focused()


def test_everything_has_a_name(demo: Visit):
    demo.page.get_by_role("button", name="Use the example").click()
    demo.answer(STAR)
    demo.page.get_by_text("Options").click()
    told = nodes(demo.page)
    assert {role for role, _ in told} >= {"main", "banner", "heading", "article", "log", "button"}
    assert [role for role, name in told if role in NAMED_ROLES and not name.strip()] == []
    names = [name for role, name in told if role == "heading"]
    assert names == ["vlrt", "Pictures", "Conversation", STAR]
    assert demo.page.locator("html").get_attribute("lang") == "en"
    assert demo.page.title() == "demo · vlrt"


def test_answers_are_announced_and_not_letter_by_letter(demo: Visit):
    demo.page.evaluate("""() => {
      window.said = [];
      new MutationObserver((records) => {
        for (const { addedNodes } of records) for (const { textContent } of addedNodes) said.push(textContent);
      }).observe(document.getElementById("live"), { childList: true, subtree: true });
    }""")  # noqa: E501
    demo.page.get_by_role("button", name="Use the example").click()
    answer = demo.answer("Describe the picture.")
    assert demo.page.evaluate("said") == ["example.png added", answer, "End of the answer."]
    expect(demo.page.locator("#live")).to_have_attribute("aria-live", "polite")
    assert demo.page.locator("[aria-live], [role=alert], [role=log]").count() == 3


def test_a_long_answer_is_not_a_flood(endless: Visit):
    endless.page.evaluate("""() => {
      window.times = 0;
      new MutationObserver(() => times++).observe(document.getElementById("live"), { childList: true });
    }""")  # noqa: E501
    turn = endless.ask("Tell me all.")
    time.sleep(4)
    endless.stop(turn)
    assert len(endless.page.locator(".answer").inner_text()) > 100
    assert endless.page.evaluate("times") <= 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(visit, demo_url: str, scheme: str):
    demo = visit(demo_url, color_scheme=scheme)
    texts = demo.page.evaluate(CONTRASTS)
    demo.page.get_by_role("button", name="Use the example").click()
    demo.answer(STAR)
    demo.page.locator(".timings summary").click()
    demo.pick({"name": "broken.png", "mimeType": "image/png", "buffer": b"no"})
    expect(demo.page.locator("#caption")).to_contain_text("broken.png")
    turn = demo.ask("And this?")
    expect(turn.locator(".error")).to_be_visible()
    texts += demo.page.evaluate(CONTRASTS)
    assert {"Drop a picture here", STAR, "And this?"} <= {text for text, _ in texts}
    assert [(text, ratio) for text, ratio in texts if ratio < 4.5] == []
    page = demo.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(page.split("(")[1].split(",")[0]) > 127) == (scheme == "light")


@pytest.mark.parametrize("width", [320, 390])
def test_on_a_phone(visit, demo_url: str, width: int):
    demo = visit(demo_url, viewport={"width": width, "height": 700}, is_mobile=True, has_touch=True)
    page = demo.page
    page.get_by_role("button", name="Use the example").tap()
    assert demo.answer(STAR).startswith("(")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for shown in (page.locator("#picture"), page.get_by_role("button", name="Ask", exact=True)):
        expect(shown).to_be_in_viewport(ratio=1)
    expect(page.locator(".answer")).to_be_in_viewport()


def test_reduced_motion(endless: Visit, visit, endless_url: str):
    first = endless.ask("Tell me all.")
    expect(first.locator(".answer")).not_to_be_empty()
    for motion, moves in (("no-preference", True), ("reduce", False)):
        other = visit(endless_url, reduced_motion=motion)
        style = "getComputedStyle(document.querySelector('progress')).animationName"
        turn = other.ask("Me too.")
        expect(turn.get_by_text("Waiting")).to_be_visible()
        assert (other.page.evaluate(style) != "none") == moves
        other.stop(turn)
    endless.stop(first)
