"""Everybody can use the page: names for screen readers, the keyboard, a phone, contrast; and its picture."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from helpers.browser import Page
from helpers.page_server import Script
from helpers.page_steps import ANSWERED, TREES, ask, asked

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
SCREENSHOTS = "ELM_MLX_WRITE_SCREENSHOTS"  # set where the picture in docs/images is to be made anew
CONTROLS = {"button", "textbox", "combobox", "radio", "spinbutton", "link", "DisclosureTriangle", "meter", "region",
            "navigation", "dialog", "alertdialog", "option", "searchbox", "slider"}  # fmt: skip
CONTRAST = """
(() => {
  const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = parse(getComputedStyle(node).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
  };
  const low = [];
  for (const node of document.querySelectorAll("body *")) {
    const isText = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!isText || !node.checkVisibility({ visibilityProperty: true }) || node.matches(":disabled, noscript")) continue;
    const [one, two] = [light(parse(getComputedStyle(node).color)), light(behind(node))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (two + 0.05);
    if (ratio < 4.5) low.push([node.tagName, node.className, node.innerText.slice(0, 30), ratio]);
  }
  return low;
})()"""


def test_every_control_has_a_name(page: Page, script: Script) -> None:
    script.replies = {"trees": [{"reasoning_content": "hm"}, TREES]}
    asked(page, "trees")
    seen = page.accessible()
    page.click("#open-settings")
    seen += page.accessible()
    assert [role for role, name in seen if role in CONTROLS and not name.strip()] == []
    expected = {
        ("button", "New conversation"), ("button", "Send"), ("textbox", "Your message"), ("combobox", "Model"),
        ("radio", "Chat"), ("radio", "Completion"), ("button", "Settings"), ("button", "Dark"), ("button", "Edit"),
        ("button", "Regenerate"), ("meter", "Context in use"), ("listitem", "You"), ("listitem", "Answer of chatty"),
        ("dialog", "Settings of this conversation"), ("textbox", "System prompt"), ("region", "Code, python"),
        ("navigation", "Conversations"), ("region", "Messages"), ("status", ""),
    }  # fmt: skip
    assert expected <= set(seen)
    assert sum(role == "spinbutton" for role, _ in seen) == 7


def test_all_is_done_with_the_keyboard_alone(page: Page, script: Script) -> None:
    order = []
    for _ in range(12):
        page.press("Tab")
        order.append(
            page.js("document.activeElement.id || document.activeElement.name || document.activeElement.tagName")
        )
    wanted = ["send", "new", "export-all", "model", "mode", "open-settings", "theme", "scroll", "question"]
    assert [name for name in order if name in wanted][:9] == wanted
    asked(page, "line one")
    page.write("two")
    page.press("Enter", "shift")
    assert page.js("document.activeElement.value") == "two\n"
    page.js("document.activeElement.value = ''")
    page.press("ArrowUp")
    page.wait("document.activeElement.matches('.editor textarea')")
    page.press("Escape")
    page.wait("!document.querySelector('.editor')")
    page.js("document.activeElement.blur()")
    page.press("/")
    assert page.js("document.activeElement.id + document.activeElement.value") == "question"
    assert "Enter sends" in page.text("#keys")


def asked_by_button(page: Page, question: str) -> None:
    page.click("#question")
    page.write(question)
    page.click("#send")
    page.wait(ANSWERED)


def test_a_phone_scrolls_in_one_direction_only(page: Page, script: Script) -> None:
    wide = "| " + " | ".join(["column"] * 30) + " |\n|" + "--|" * 30 + "\n"
    script.replies = {"wide": [TREES, "\n", wide, "\n", "x" * 500, "\n\n```\n", "y" * 500, "\n```\n"]}
    page.resize(360, 640, phone=True)
    asked_by_button(page, "wide")
    width = "Math.max(document.documentElement.scrollWidth, document.querySelector('#scroll').scrollWidth)"
    assert page.js(width) <= 360
    page.click("#menu")
    page.wait("getComputedStyle(document.querySelector('#side')).visibility === 'visible'")
    page.press("Escape")
    page.click("#open-settings")
    assert page.js("document.querySelector('#settings').scrollWidth") <= 360


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(page: Page, script: Script, scheme: str) -> None:
    script.replies = {
        "trees": [{"reasoning_content": "hm"}, TREES + "\n> quoted\n"],
        "fail": ["a", {"error": {"message": "It failed."}}],
    }
    page.prefer(scheme)
    asked(page, "trees")
    ask(page, "fail")
    page.wait("document.querySelector('.error')")
    page.wait(f"getComputedStyle(document.documentElement).colorScheme && {ANSWERED}")
    assert page.js(CONTRAST) == []
    dark = page.js("getComputedStyle(document.body).backgroundColor") == "rgb(22, 25, 23)"
    assert dark == (scheme == "dark")


def test_the_theme_can_be_chosen_against_the_system_and_is_kept(page: Page, url: str) -> None:
    page.prefer("light")
    page.click("#theme")
    dark = "getComputedStyle(document.body).backgroundColor === 'rgb(22, 25, 23)'"
    page.wait(dark)
    assert page.js("document.querySelector('#theme').getAttribute('aria-pressed')") == "true"
    page.open(f"{url}/?again")
    assert page.js(dark)


@pytest.mark.skipif(SCREENSHOTS not in os.environ, reason=f"writes docs/images/page.png where {SCREENSHOTS} is set")
def test_the_picture_in_the_docs_is_made(page: Page, script: Script) -> None:
    question = "Which elms grow in Europe?"
    script.replies = {question: [*re.findall(r"\S*\s+", TREES)]}
    asked(page, "Why do leaves turn yellow?")
    script.pause_s = 0.03
    page.click("#new")
    asked(page, question)
    page.js("document.activeElement.blur()")
    page.js("document.querySelector('#scroll').scrollTop = 0")
    images = ROOT / "docs" / "images"
    images.mkdir(exist_ok=True)
    page.resize(1100, 820)
    page.save_screenshot(images / "page.png")
