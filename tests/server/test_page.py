"""The page in a real browser: search, cut-off, boxes, questions, more like this, states, keyboard."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tests.chromium import chromium, needs_chromium
from tests.server.process import Running, serving
from tests.server.tiny_service import write_index

pytestmark = needs_chromium
SCREENSHOTS = os.environ.get("XVLM_SCREENSHOTS")
"""Folder that gets pictures of the page, for a person to look at."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(write_index(tmp_path_factory.mktemp("page"))) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with chromium() as browser:
        yield browser


@pytest.fixture(params=["desktop-light", "phone-dark"])
def page(running: Running, browser: object, request: pytest.FixtureRequest) -> Iterator[object]:
    phone = request.param == "phone-dark"
    context = browser.new_context(  # type: ignore[attr-defined]
        viewport={"width": 390, "height": 844} if phone else {"width": 1200, "height": 800},
        color_scheme="dark" if phone else "light",
        has_touch=phone,
    )
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.goto(running.url)
    yield page
    if SCREENSHOTS:
        page.screenshot(path=f"{SCREENSHOTS}/{request.node.name}.png")
    assert problems == getattr(page, "allowed", []), problems
    context.close()


def wait(page, condition: str) -> None:  # type: ignore[no-untyped-def]
    """Wait until an expression is true; the page's policy forbids Playwright's own way, which is `eval`."""
    end = time.monotonic() + 20
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)


def search(page, text: str) -> None:  # type: ignore[no-untyped-def]
    page.get_by_role("searchbox").fill(text)
    wait(page, "document.getElementById('state').textContent.endsWith('ms')")


def test_it_begins_empty_and_finds_as_one_types(page) -> None:  # type: ignore[no-untyped-def]
    assert page.locator("#note").inner_text() == "Type what you are looking for."
    search(page, "a red dog")
    assert page.locator("#hits li").count() == 5
    assert not page.locator("#more").is_visible(), "there are no more"
    wait(page, "[...document.querySelectorAll('#hits img')].every((one) => one.naturalWidth)")
    shown = page.locator("#hits .probability").all_inner_texts()
    assert all(text.endswith(" %") for text in shown)
    assert "q=a+red+dog" in page.url
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"


def test_the_cut_off_hides_what_is_less_certain(page) -> None:  # type: ignore[no-untyped-def]
    search(page, "a red dog")
    shown = [int(text.split()[0]) for text in page.locator("#hits .probability").all_inner_texts()]
    cut = sorted(shown)[2]
    page.locator("#cut").fill(str(cut))
    kept = [int(text.split()[0]) for text in page.locator("#hits .probability").all_inner_texts()]
    # Percentages are rounded, so those that equal the cut-off may be on either side of it.
    assert [one for one in shown if one > cut] == [one for one in kept if one > cut] and min(kept) >= cut
    page.locator("#cut").fill("100")
    assert page.locator("#hits li").count() == 0
    assert "slider" in page.locator("#note").inner_text()


def test_a_photo_is_asked_by_keyboard_alone(page) -> None:  # type: ignore[no-untyped-def]
    page.keyboard.type("a red dog")
    wait(page, "document.getElementById('state').textContent.endsWith('ms')")
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#hits') !== null"):
            break
    page.keyboard.press("Enter")
    assert page.locator("#photo").is_visible()
    page.keyboard.type("a small cat")
    page.keyboard.press("Enter")
    wait(page, "document.getElementById('answer').textContent.length > 1")
    assert page.locator("#answer").inner_text().split()[0] in ("no", "1", "2", "3", "4", "5", "6", "7", "8")
    page.locator("#phrase").fill("a red dog?")
    page.keyboard.press("Enter")
    wait(page, "!/found|here|…/.test(document.getElementById('answer').textContent)")
    page.keyboard.press("Escape")
    assert not page.locator("#photo").is_visible()


def test_more_like_this_and_like_a_part(page) -> None:  # type: ignore[no-untyped-def]
    search(page, "a red dog")
    page.locator("#hits button").first.click()
    wait(page, "document.getElementById('picture').naturalWidth > 0")
    assert page.locator("#like-part").is_disabled()
    box = page.locator("#picture").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.up()
    assert page.locator(".box.chosen").count() == 1
    page.locator("#like-part").click()
    wait(page, "document.querySelectorAll('#hits li').length === 5")
    assert page.locator("#clear-like").is_visible()
    page.locator("#clear-like").click()
    wait(page, "document.querySelectorAll('#hits li').length === 0")


def test_errors_are_shown(page) -> None:  # type: ignore[no-untyped-def]
    page.allowed = ["Failed to load resource: the server responded with a status of 400 (Bad Request)"]
    page.get_by_role("searchbox").fill("....")
    page.wait_for_selector("#note.error")
    assert "...." in page.locator("#note").inner_text()
