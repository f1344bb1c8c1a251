"""A person uses the page: filters, keys, copies, prints, on a phone and without JavaScript."""

from __future__ import annotations

import pytest

from tests import made_reports
from tests.browser.conftest import Open, Opened
from tests.browser.sample_pages import varied_report

SHOWN = "[...document.querySelectorAll('.finding')].filter(f => f.checkVisibility()).length"
FOCUSED = "document.activeElement.closest('.finding')?.id ?? document.activeElement.id"


def num_shown(opened: Opened) -> int:
    return int(opened.page.evaluate(SHOWN))


def focused(opened: Opened) -> str:
    return str(opened.page.evaluate(FOCUSED))


def ids(opened: Opened) -> list[str]:
    return [str(i) for i in opened.page.evaluate(
        "[...document.querySelectorAll('.finding')].map(f => f.id)")]


def chip(opened: Opened, facet: str, value: str) -> None:
    opened.page.locator(f'.chip[data-facet="{facet}"][data-value="{value}"]').click()


def test_filters_choose_rows_and_stand_in_the_hash(open_page: Open) -> None:
    opened = open_page(varied_report())
    assert num_shown(opened) == 5
    chip(opened, "verdict", "corruption")
    assert num_shown(opened) == 2
    assert opened.page.url.endswith("#verdict=corruption")
    assert opened.page.locator("#count").text_content() == "2 of 5 kinds shown"
    chip(opened, "cause", "persistent hardware")
    assert num_shown(opened) == 1
    chip(opened, "verdict", "corruption")
    chip(opened, "cause", "persistent hardware")
    chip(opened, "state", "known")
    assert num_shown(opened) == 2
    chip(opened, "tool", "hunt")
    assert num_shown(opened) == 1
    opened.page.locator("#clear").click()
    assert num_shown(opened) == 5
    assert "#" not in opened.page.url
    opened.page.locator("#q").fill("index_add")
    assert num_shown(opened) == 1
    assert opened.page.url.endswith("#q=index_add")
    opened.page.locator("#q").fill("no such text")
    assert num_shown(opened) == 0


def test_a_reload_keeps_the_filters_and_a_link_to_a_section_keeps_them_too(
    open_page: Open,
) -> None:
    opened = open_page(varied_report())
    chip(opened, "verdict", "precision")
    opened.page.locator("#q").fill("softmax")
    opened.page.locator('nav a[href="#coverage"]').click()
    assert focused(opened) == "coverage"
    opened.page.reload()
    assert num_shown(opened) == 1
    assert opened.page.locator('.chip[aria-pressed="true"]').count() == 1
    assert opened.page.locator("#q").input_value() == "softmax"
    assert focused(opened) == "coverage"


def test_a_link_to_a_finding_opens_it(open_page: Open) -> None:
    opened = open_page(varied_report())
    last = ids(opened)[-1]
    opened.page.goto(f"{opened.address}#{last}")
    opened.page.reload()
    assert opened.page.locator(f"#{last}").get_attribute("open") is not None
    assert focused(opened) == last


@pytest.mark.parametrize("script", [
    "", "Object.defineProperty(navigator, 'clipboard', {value: undefined});"],
    ids=["clipboard", "selection"])
def test_a_replay_line_is_copied(open_page: Open, script: str) -> None:
    opened = open_page(made_reports.made_report(), script=script,
                       permissions=["clipboard-read", "clipboard-write"])
    button = opened.page.locator(".banner .copy")
    button.click()
    opened.page.locator(".banner .copy", has_text="Copied").wait_for()
    opened.page.locator("#q").press("Control+V")
    assert opened.page.locator("#q").input_value() == (
        "sdc-guard replay runs/a/bundles/aten-sum-0.sdcz")


def test_keys_move_open_copy_and_filter(open_page: Open) -> None:
    opened = open_page(varied_report())
    page, order = opened.page, ids(opened)
    page.keyboard.press("j")
    assert focused(opened) == order[0]
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert focused(opened) == order[2]
    page.keyboard.press("k")
    assert focused(opened) == order[1]
    page.keyboard.press("o")
    assert page.locator(f"#{order[1]}").get_attribute("open") is not None
    page.keyboard.press("E")
    assert page.locator(".finding[open]").count() == 0
    page.keyboard.press("e")
    assert page.locator(".finding[open]").count() == 5
    page.keyboard.press("/")
    assert focused(opened) == "q"
    page.keyboard.type("jk?/")
    assert page.locator("#q").input_value() == "jk?/"
    page.keyboard.press("Escape")
    assert focused(opened) != "q"
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#keys").is_visible()


def test_the_first_tab_skips_to_the_findings_and_focus_is_seen(open_page: Open) -> None:
    opened = open_page(varied_report())
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.className") == "skip"
    assert opened.page.locator(".skip").bounding_box()["x"] >= 0  # type: ignore[index]
    opened.page.keyboard.press("Enter")
    assert focused(opened) == "findings"
    opened.page.keyboard.press("j")
    style = "getComputedStyle(document.activeElement)"
    assert opened.page.evaluate(f"{style}.outlineStyle") == "solid"
    assert opened.page.evaluate(f"{style}.outlineWidth") == "2px"


def test_without_javascript_the_verdict_and_the_findings_are_there(open_page: Open) -> None:
    opened = open_page(made_reports.made_report(), java_script_enabled=False)
    page = opened.page
    assert page.locator("h1").is_visible()
    assert "Corruption: 3 wrong results" in (page.locator("h1").text_content() or "")
    assert page.locator(".finding").first.is_visible()
    assert page.get_by_text("Worst element").first.is_visible()
    assert not page.locator(".filters").is_visible()
    assert not page.locator(".copy").first.is_visible()


def test_print_shows_all_details(open_page: Open) -> None:
    opened = open_page(varied_report())
    hidden = ("[...document.querySelectorAll('details')].filter(d => "
              "![...d.children].every(c => c.checkVisibility())).length")
    assert opened.page.evaluate(hidden) > 3
    opened.page.emulate_media(media="print")
    assert opened.page.evaluate(hidden) == 0
    assert not opened.page.locator(".filters").is_visible()


@pytest.mark.parametrize("name", ["varied", "clean", "empty", "hostile"])
def test_a_phone_scrolls_in_one_direction_only(open_page: Open, name: str) -> None:
    report = {"varied": varied_report, "clean": made_reports.clean_report,
              "empty": made_reports.empty_report, "hostile": made_reports.hostile_report}[name]()
    opened = open_page(report, viewport={"width": 360, "height": 740})
    opened.page.keyboard.press("e")
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 360


def test_a_hostile_report_executes_nothing(open_page: Open) -> None:
    opened = open_page(made_reports.hostile_report())
    opened.page.keyboard.press("e")
    assert opened.page.evaluate("window.called") == []
    assert opened.page.locator("img[onerror]").count() == 0
    assert opened.page.evaluate("document.scripts.length") == 1


def test_a_page_that_does_execute_something_would_be_seen(open_page: Open) -> None:
    page = "<!doctype html><body onload='alert(1)'><script>console.log('x')</script>"
    opened = open_page(page + "<img src='no-such-file.png'>")
    assert opened.page.evaluate("window.called") == [[1]]
    with pytest.raises(AssertionError):
        opened.check_silence()
    opened.requests.clear()
    opened.messages.clear()
