"""Long lists on the web page: rows far down are shown at once, and Back and a reload lead to where one was."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Page, Request, Route, expect

from coalition.client import Client
from tests.fakes.server import HandWorker, RealServer
from tests.polling import poll_until
from tests.test_page import chromium, in_browser, in_order, row
from tests.test_page_live import Live, visited

pytestmark = in_browser

FRAMES = 6_000
HEIGHT = 30


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """`logged` is a group of many frames, whose ids follow its own."""
    with ExitStack() as stack:
        server = stack.enter_context(RealServer(tmp_path_factory.mktemp("farm")))
        client = stack.enter_context(Client(server.url))
        group = client.submit(title="many", command="true", frames=f"1-{FRAMES}", affinity=("nobody",))
        for number in range(60):
            HandWorker(server.url, f"node-{number:02}")
        yield Live(server, client, stack.enter_context(chromium()), stack, group, 0)


@pytest.fixture
def live(farm: Live) -> Iterator[Live]:
    with visited(farm) as shown:
        yield shown


def scroll_to(page: Page, number: int) -> None:
    page.locator("[role=treegrid], .workers-grid").evaluate("(grid, top) => { grid.scrollTop = top }", number * HEIGHT)


def top_of(page: Page) -> int:
    return int(page.locator("[role=treegrid], .workers-grid").evaluate("grid => grid.scrollTop"))


def rests(page: Page) -> None:
    """What was scrolled is kept once the list rests."""
    poll_until(lambda: page.evaluate("history.state?.top") == top_of(page))


@pytest.mark.parametrize("sort", ["id", "-id", "-priority", "title"])
def test_rows_far_down_a_list_come_at_once_and_each_is_there_once(live: Live, sort: str) -> None:
    page = live.open(f"/?view=jobs&parent={live.logged}&sort={sort}")
    expect(page.locator("[role=treegrid]")).to_have_attribute("aria-rowcount", str(FRAMES + 1))

    order = sorted(range(1, FRAMES + 1), key=str if sort == "title" else int, reverse=sort.startswith("-"))

    def job_of(number: int) -> int:
        return live.logged + order[number]

    calls: list[str] = []

    def listed(request: Request) -> None:
        if "limit=100&" in request.url and "offset=" in request.url:
            calls.append(request.url)

    page.on("request", listed)
    for number in (3_000, 1_500, 2_990, 5_990, 0, 2_950):
        calls.clear()
        scroll_to(page, number)
        expect(row(page, job_of(number + 5))).to_be_visible()
        assert len(calls) <= 2, number
    in_order(page.locator("[role=treegrid]"), 2_900)
    for number in (2_900, 3_050, 3_100):
        scroll_to(page, number)
        expect(row(page, job_of(number + 5))).to_have_attribute("aria-rowindex", str(number + 7))


def test_what_is_deleted_above_moves_no_row_that_is_in_view(live: Live) -> None:
    group = live.client.submit(title="some", command="true", frames="1-2000", affinity=("nobody",))
    page = live.open(f"/?view=jobs&parent={group}")
    scroll_to(page, 1_000)
    shown = row(page, group + 1_010)
    expect(shown).to_have_attribute("aria-rowindex", "1011")
    live.client.delete(range(group + 301, group + 311))
    live.client.edit([group + 1_010], priority=200)
    expect(shown.locator(".priority")).to_have_text("200")
    expect(shown).to_have_attribute("aria-rowindex", "1011")
    scroll_to(page, 0)
    expect(row(page, group + 5)).to_be_visible()
    page.locator("[role=treegrid]").focus()
    page.keyboard.press("End")
    expect(row(page, group + 2_000)).to_be_visible()
    expect(row(page, group + 2_000)).to_have_class(re.compile("active"))


def test_a_list_that_ends_before_what_was_counted_is_as_long_as_it_is(live: Live) -> None:
    """As where a count stops, and all that is known is how many jobs there are below."""
    page = live.open("/?view=limits")

    def more(route: Route) -> None:
        answer = route.fetch()
        told = answer.json() if answer.status == 200 else {}  # 304: as before
        if told.get("total") is None:
            route.fulfill(response=answer)
        else:
            told |= {"total": 10_000, "more": True, "counts": {**told["counts"], "total": 10 * FRAMES}}
            route.fulfill(response=answer, json=told)

    page.route("**/api/v1/jobs?*", more)
    page.goto(f"{live.server.url}/?view=jobs&parent={live.logged}")
    grid = page.locator("[role=treegrid]")
    expect(grid).to_have_attribute("aria-rowcount", str(10 * FRAMES + 1))
    grid.focus()
    page.keyboard.press("End")
    expect(row(page, live.logged + FRAMES)).to_have_class(re.compile("active"))
    expect(grid).to_have_attribute("aria-rowcount", str(FRAMES + 1))
    page.unroute_all(behavior="ignoreErrors")  # what is on its way when the page goes


def test_back_and_a_reload_lead_to_where_the_list_was(live: Live) -> None:
    page = live.open(f"/?view=jobs&parent={live.logged}")
    expect(row(page, live.logged + 1)).to_be_visible()
    scroll_to(page, 4_000)
    expect(row(page, live.logged + 4_010)).to_be_visible()
    rests(page)
    row(page, live.logged + 4_010).click()
    expect(page.locator(".detail h2")).to_be_visible()
    assert top_of(page) == 4_000 * HEIGHT
    page.get_by_role("link", name="Workers", exact=True).click()
    expect(page.locator("[data-worker]").first).to_be_visible()
    scroll_to(page, 20)
    rests(page)
    page.go_back()
    expect(row(page, live.logged + 4_010)).to_be_visible()
    assert top_of(page) == 4_000 * HEIGHT
    page.reload()
    expect(row(page, live.logged + 4_010)).to_be_visible()
    assert top_of(page) == 4_000 * HEIGHT
    page.get_by_role("link", name="All jobs").click()
    expect(row(page, live.logged)).to_be_visible()
    assert top_of(page) == 0
    page.go_back()
    expect(row(page, live.logged + 4_010)).to_be_visible()
    page.go_forward()
    page.go_back()
    expect(row(page, live.logged + 4_010)).to_be_visible()
