"""Hostile text in every field that somebody may set: on every view it is text, runs nothing, and moves nothing around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from coalition.client import Client
from coalition.server.app import create_app
from providers.base import Reason, Rejected, Scope
from tests.cloud_world import World, budget, pool, settings
from tests.fakes.server import HandWorker, RealServer
from tests.test_page import SCREENSHOTS, chromium, in_browser, serving
from tests.test_page_jobs import PASSWORD, sign_in
from tests.test_page_live import Live, press, titled

pytestmark = in_browser

SCRIPT = "<script>window.pwned=1</script>"
TURNED = "\u202egnp.exe"  # what follows is read from right to left
PRINTED = f'{SCRIPT}<img src=x onerror="window.pwned=1">\'"`${{7*7}}{{{{7*7}}}}%s&lt;'
ALL = f"{PRINTED}\x07\x1b[31m\x1b]8;;javascript:1\x07{TURNED}"
LONG = ALL + "W" * 4_000
RUNS = "script, iframe, object, style, [onerror], [onload], a[href^='javascript' i]"
TAG = "T" + "-.:#+_" * 10
ODD_NAME = "\u05d0\u05d1." + "w" * 120  # letters of a script that is read from right to left
# What follows, in its line, a text that turns the direction round.
TURNED_ROUND = """() => {
  const found = []
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  while (texts.nextNode()) {
    const text = texts.currentNode
    if (!text.data.includes('\\u202e')) continue
    let box = text.parentElement
    while (getComputedStyle(box).display === 'inline' && getComputedStyle(box).unicodeBidi === 'normal') box = box.parentElement
    const after = document.createRange()
    after.setStartAfter(text)
    after.setEndAfter(box.lastChild)
    if (after.toString().trim()) found.push(`${box.outerHTML.slice(0, 300)}: ${after}`)
  }
  return found
}"""


@dataclass
class Planted:
    live: Live
    group: int
    job: int
    worker: int
    instance: int


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    """A farm all of whose texts are hostile, as far as the server takes them."""
    folder = tmp_path_factory.mktemp("hostile")
    with ExitStack() as stack:
        target = f"affinity:{TAG}"
        world = World(folder, settings(folder, [pool(max=4), pool(name="q" * 64)], [budget("b" * 64, applies_to=target)]))
        stack.callback(world.store.close)
        stack.callback(world.scaler.stop)
        app = create_app(world.settings, world.store, world.clock)
        app.extensions["coalition"].dispatcher.start()
        stack.callback(app.extensions["coalition"].dispatcher.stop)
        url = stack.enter_context(serving(app))
        client = stack.enter_context(Client(url))
        texts = {"title": ALL + "W" * 60, "user": PRINTED[:64], "note": LONG[:1_000], "url": LONG[:4_000], "dir": LONG[:4_000]}
        wanted = {"affinity": (TAG,), "environment": {"A": LONG}, "command": LONG, "limits": {TAG: 1}}
        group = client.submit(group=True, **texts)
        job = client.submit(parent=group, **texts, **wanted)
        client.submit(parent=group, **{**texts, "url": "javascript:window.pwned=1"}, **wanted)
        client.set_limit(TAG, 1)
        worker = HandWorker(url, ODD_NAME, affinity=[[TAG]], host=LONG[:255])
        client.edit_workers([worker.enrolled["worker"]], note=LONG[:1_000])
        (lease,) = worker.take()
        worker.write(lease["attempt"], f"{LONG}\n\x1b[31m{ALL}\x1b[0m\n".encode())
        worker.end(lease["attempt"], exit_code=1)
        client.create_token("user", user=PRINTED[:64], role="user", name=PRINTED[:64])
        world.fake.faults.errors["launch"].append(Rejected(Reason.QUOTA, ALL, Scope.REGION))
        world.submit()
        world.tick()
        world.clock.wait(1_000)
        world.tick()
        (machine,) = [one for one in world.store.machines() if one.provider_id]
        world.fake.machines[machine.provider_id].console = ALL
        world.clock.wait(599)
        world.tick()
        world.clock.wait(2)
        world.fake.faults.errors["launch"].append(Rejected(Reason.QUOTA, ALL, Scope.REGION))
        world.tick(2)
        live = Live(None, client, stack.enter_context(chromium()), stack, 0, 0)  # type: ignore[arg-type]
        yield Planted(live, group, job, worker.enrolled["worker"], machine.id)


@pytest.fixture
def farm(planted: Planted) -> Iterator[Planted]:
    live = planted.live
    with ExitStack() as stack:
        live.stack = stack
        yield planted
    assert live.faults == []


def places(farm: Planted) -> dict[str, str]:
    """Each view, and a text that it shows."""
    return {
        "/": ALL,
        f"/?view=jobs&parent={farm.group}&job={farm.job}": LONG[:4_000],
        f"/?view=jobs&job={farm.group}": ALL,
        f"/?view=jobs&filter={SCRIPT}": SCRIPT,
        f"/?view=log&job={farm.job}": PRINTED,
        f"/?view=workers&worker={farm.worker}": LONG[:255],
        f"/?view=cloud&ended=1&instance={farm.instance}": ALL,
        "/?view=money&days=ever&by=user": "b" * 64,
        "/?view=activity": ALL,
        "/?view=activity&by=audit": PRINTED,
        "/?view=limits": TAG,
        "/?view=settings": PRINTED[:64],
    }


def no_harm(page: Page) -> None:
    assert page.evaluate("window.pwned") is None
    assert page.locator("#app").locator(RUNS).count() == 0
    assert page.locator("#app img:not([src='/favicon.svg'])").count() == 0
    assert page.evaluate(TURNED_ROUND) == []


def test_on_every_view_and_at_every_width_it_is_text(farm: Planted) -> None:
    page = farm.live.open(farm.live.client.url)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for number, (place, text) in enumerate(places(farm).items()):
        page.goto(farm.live.client.url + place)
        expect(page.locator("main section").first).to_be_visible()
        expect(page.locator(".loading")).to_have_count(0)
        shown = " ".join(text.split())  # as a reader sees it
        expect(page.locator("main")).to_contain_text(shown[:60])
        expect(page.locator("main")).to_contain_text(shown[-20:])
        for wide in (3840, 1440, 360):
            page.set_viewport_size({"width": wide, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") == wide, place
            no_harm(page)
        page.screenshot(path=SCREENSHOTS / f"hostile-{number}.png")


def test_it_is_text_in_forms_questions_and_messages_too(farm: Planted) -> None:
    url = farm.live.client.url
    page = farm.live.open(f"{url}/?view=jobs&job={farm.group}")
    detail = page.get_by_role("complementary", name="Job")
    detail.get_by_role("button", name="Delete").click()
    expect(detail.locator(".question")).to_contain_text(f"{SCRIPT}<img")
    no_harm(page)
    page.get_by_role("button", name="Cancel").click()
    detail.get_by_role("button", name="Edit").click()
    expect(page.get_by_role("complementary", name="Properties").get_by_label("User")).to_have_value(PRINTED[:64])
    no_harm(page)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="New job").click()
    form = page.get_by_role("complementary", name="New job")
    form.get_by_label("Title").fill("x")
    form.get_by_label("Affinity").fill(SCRIPT)
    expect(form.locator(".trouble")).to_contain_text(f"tag '{SCRIPT}'")
    no_harm(page)


def test_names_of_filters_and_what_is_searched_are_text(farm: Planted) -> None:
    page = farm.live.open(f"{farm.live.client.url}/?view=jobs&filter=state:ERROR")
    page.get_by_text("Saved", exact=True).click()
    page.get_by_label("Name of this filter").fill(ALL)
    page.get_by_role("button", name="Save", exact=True).click()
    page.reload()
    page.get_by_text("Saved", exact=True).click()
    expect(page.locator(".popup[open] .sheet")).to_contain_text(PRINTED)
    no_harm(page)
    page.get_by_label("Filter jobs").fill(f"state:{SCRIPT}")
    expect(page.get_by_role("alert")).to_contain_text(SCRIPT)
    no_harm(page)


def test_names_of_users_are_text(farm: Planted, tmp_path: Path) -> None:
    with RealServer(tmp_path, auth="local") as server:
        server.store.create_account("eve", PASSWORD, "admin")
        server.store.create_account(PRINTED, PASSWORD, "user")
        page = farm.live.open(f"{server.url}/?view=settings")
        sign_in(page, "eve")
        row = page.locator(".users tr", has_text=PRINTED)
        row.get_by_role("button", name="Remove").click()
        expect(row.locator(".question")).to_contain_text(f"Remove {PRINTED}, with all log-ins and tokens?")
        no_harm(page)


def test_a_selection_of_hostile_jobs_is_worked_with(farm: Planted) -> None:
    page = farm.live.open(f"{farm.live.client.url}/?view=jobs&parent={farm.group}")
    page.locator(f"[data-job='{farm.job}']").click()
    press(page, "Cut")
    no_harm(page)
    expect(titled(page, " ".join((ALL + "W" * 60).split()))).to_have_count(2)
