"""The web page where machines are paid for: what needs a human with its one action, what machines cost, and what each says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask
from playwright.sync_api import Browser, Locator, Page, expect

from coalition.model import JobSpec
from coalition.server.app import create_app
from providers.base import Reason, Rejected
from tests.cloud_world import DOLLAR, LINUX, World, budget, pool, settings
from tests.fakes.server import HandWorker
from tests.polling import poll_until
from tests.test_page import Show, chromium, in_browser, serving
from tests.test_page import show as show

pytestmark = in_browser

CHEAP = replace(LINUX, name="cheap", price_micro=DOLLAR // 2)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, settings(tmp_path, [pool(max=4)], [budget()]))
    yield world
    world.scaler.stop()
    world.store.close()


class Cloud:
    """A world's page."""

    def __init__(self, world: World, show: Show) -> None:
        self.world, self.show = world, show
        self.app: Flask = create_app(world.settings, world.store, world.clock)
        self.url = show.stack.enter_context(serving(self.app))

    def open(self, where: str = "/") -> Page:
        return self.show.open(self.url + where)


@pytest.fixture
def cloud(world: World, show: Show) -> Cloud:
    return Cloud(world, show)


def need(page: Page, words: str) -> Locator:
    return page.locator(".needs li", has_text=words)


def press(line: Locator, name: str) -> None:
    line.get_by_role("button", name=name, exact=True).click()


# ---------------------------------------------------------------- what needs a human


def test_a_machine_that_did_not_come_up_leads_to_what_it_printed(cloud: Cloud) -> None:
    world = cloud.world
    world.submit()
    world.tick()
    world.fake.machines["f-1"].console = "starting\nno route to the server\n\nkernel panic"
    world.clock.wait(599)
    world.tick()
    world.clock.wait(2)
    world.tick(2)
    page = cloud.open()
    line = need(page, "did not come up in the last day: it has not enrolled within 600 s")
    expect(line.get_by_role("button")).to_have_count(1)
    press(line, "Console")
    expect(page.locator("pre.console")).to_contain_text("no route to the server")
    page.reload()
    expect(page.locator("pre.console")).to_contain_text("kernel panic")
    page.get_by_role("button", name="Console").click()
    expect(page.locator("pre.console")).to_have_count(0)


def test_a_pool_whose_boots_failed_is_resumed(cloud: Cloud) -> None:
    world = cloud.world
    world.submit()
    world.tick(12, seconds=301)
    page = cloud.open()
    line = need(page, "3 boots in a row failed")
    press(line, "Resume")
    expect(line).to_have_count(0)
    assert world.store.pools()[0]["blocked"] is None


def test_an_offer_that_is_blocked_is_resumed_and_said_beside_its_price(cloud: Cloud) -> None:
    world = cloud.world
    world.fake.offers = (LINUX, CHEAP)
    world.fake.faults.errors["launch"].append(Rejected(Reason.CAPACITY, "none left in the zone"))
    world.submit()
    world.tick()
    page = cloud.open("/?view=cloud")
    expect(page.locator("li.pool")).to_contain_text(re.compile(r"cheap is blocked \(\w+\): none left .*tried again in \d"))
    page.get_by_role("link", name="Farm", exact=True).click()
    line = need(page, "none left in the zone")
    expect(line).to_contain_text("p: cheap")
    press(line, "Resume")
    expect(line).to_have_count(0)
    assert world.store.pools()[0]["blocks"] == []


def test_a_budget_that_is_nearly_spent_leads_to_its_form(cloud: Cloud) -> None:
    cloud.world.reconfigure(budgets=(budget(amount=0.45),))
    cloud.world.submit(2 * LINUX.slots)
    cloud.world.tick()
    cloud.world.boot()
    cloud.world.clock.wait(540)
    page = cloud.open()
    line = need(page, "budget studio")
    expect(line).to_contain_text(re.compile(r"\$0.\d+ left of \$0.45: 80 % reached"))
    press(line, "Change")
    expect(page.get_by_label("Cap of studio")).to_have_value("0.45")
    expect(page.get_by_role("form", name="Change budget studio")).to_be_visible()


def test_a_sick_worker_is_resumed(cloud: Cloud) -> None:
    cloud.app.extensions["coalition"].dispatcher.start()
    cloud.show.stack.callback(cloud.app.extensions["coalition"].dispatcher.stop)
    cloud.world.submit(3, affinity=("ill",), retries=0)
    worker = HandWorker(cloud.url, "ill-1", slots=3, affinity=[["ill"]])
    for lease in worker.take():
        worker.end(lease["attempt"], exit_code=1)
    page = cloud.open()
    line = need(page, "ill-1")
    expect(line).to_contain_text("errors in a row")
    press(line, "Resume")
    expect(line).to_have_count(0)
    assert [one.state for one in cloud.world.store.workers()] != ["SICK"]


def test_a_silent_worker_is_looked_at(cloud: Cloud) -> None:
    HandWorker(cloud.url, "gone-1")
    cloud.world.clock.wait(600)
    cloud.world.store.sweep()
    page = cloud.open()
    line = need(page, "gone-1")
    expect(line).to_contain_text("has not been heard of")
    press(line, "Look")
    expect(page.get_by_role("complementary", name="Worker").locator("h2")).to_have_text("gone-1")


def test_nothing_needs_a_human_where_all_is_well(cloud: Cloud) -> None:
    cloud.world.submit()
    cloud.world.tick()
    page = cloud.open()
    expect(page.locator("section.fleet")).to_contain_text("pool p")
    expect(page.locator("section.needs")).to_have_count(0)


# ---------------------------------------------------------------- machines


def a_farm_at_work(world: World) -> int:
    """Two machines; one has rendered the first two frames of a group of four, which took 90 and 360 s. The group."""
    frames = [JobSpec(title=f"frame {n}", command="true", user="ann", affinity=("linux",)) for n in range(1, 5)]
    (group, *_) = world.store.submit([JobSpec(title="rendered", group=True, user="ann", children=frames)]).ids
    world.tick()
    world.boot()
    (first, *_) = world.workers
    for seconds in (90, 360):
        world.work(first)
        world.clock.wait(seconds)
        world.finish(first, run_s=seconds, slot_price_micro=LINUX.price_micro // LINUX.slots)
    for name in world.workers:
        world.beat(name)
    world.tick()
    return int(group)


def test_the_farm_shows_its_fleet_by_pool_its_burn_and_its_budget(cloud: Cloud) -> None:
    a_farm_at_work(cloud.world)
    page = cloud.open()
    expect(page.locator("section.fleet .tally", has_text="pool p")).to_contain_text("running 2")
    expect(page.locator(".vital.burn")).to_contain_text("$2.00 / h")
    expect(page.locator(".vital.slots")).to_contain_text("0 / 4")
    line = page.locator(".budget")
    expect(line).to_contain_text("left of $100.00")
    expect(line).to_contain_text("$0.25 spent")
    expect(line).to_contain_text("reserved")
    expect(line).to_contain_text("forecast $")
    expect(page.locator("section.decisions")).to_contain_text("launch 2")


def test_an_instance_tells_its_age_price_spend_lease_and_why_it_runs(cloud: Cloud) -> None:
    a_farm_at_work(cloud.world)
    page = cloud.open("/?view=cloud")
    row = page.locator(".instances [role='row']:not(.head)").last
    expect(row).to_contain_text("w-f-1")
    expect(row).to_contain_text("7\u202fm 30\u202fs")
    expect(row).to_contain_text("$1.00")
    expect(row).to_contain_text("$0.125")
    expect(row.locator(".paid")).to_contain_text(re.compile(r"paid \d+\u202f\w+ ahead"))
    expect(row.locator(".note")).to_contain_text(re.compile("p · machine.*job"))


def test_a_rented_worker_is_terminated_from_the_list_of_workers(cloud: Cloud) -> None:
    a_farm_at_work(cloud.world)
    cloud.world.work("f-1")
    page = cloud.open("/?view=workers")
    page.locator(".workers-grid .row", has_text="w-f-1").click()
    detail = page.get_by_role("complementary", name="Worker")
    expect(detail.locator(".facts")).to_contain_text("$1.00")
    press(detail, "Terminate")
    question = detail.locator(".question")
    expect(question).to_have_text(re.compile(r"End the machine of w-f-1 now[?] 1 job on it will be run again elsewhere: #\d+[.]"))
    press(question, "Cancel")
    assert [one.wish for one in cloud.world.store.machines()] == ["", ""]
    press(detail, "Terminate")
    press(question, "Terminate")
    poll_until(lambda: sorted(one.wish for one in cloud.world.store.machines()) == ["", "terminate"])


# ---------------------------------------------------------------- what it costs


def test_a_group_shows_what_its_frames_cost_and_took(cloud: Cloud) -> None:
    group = a_farm_at_work(cloud.world)
    page = cloud.open(f"/?view=jobs&job={group}")
    cells = page.locator(".glyphs .cell")
    for mode, words in {"Cost": r"\$0\.05", "Time": r"6\u202fm 00\u202fs"}.items():
        page.get_by_role("button", name=mode, exact=True).click()
        expect(cells).to_have_count(4)
        expect(cells.nth(0)).to_have_attribute("class", "cell shade-2")
        expect(cells.nth(1)).to_have_attribute("class", "cell shade-6")
        expect(cells.nth(1)).to_have_attribute("aria-label", re.compile(f"^frame 2: {words}"))
        expect(cells.nth(3)).to_have_attribute("class", "cell shade-0")
        expect(page.locator(".scale")).to_contain_text(re.compile(words))
    expect(page.locator(".facts")).to_contain_text(re.compile(r"Cost\$0\.06"))
    page.locator(".glyphs a").nth(1).click()
    expect(page.locator(".attempts")).to_contain_text("finished")
    expect(page.locator(".facts")).to_contain_text("$0.05")
    expect(page.locator(f"[data-job='{group}'] .cost")).to_have_text(re.compile(r"\$0\.06"))


def test_spend_is_told_by_pool_type_user_group_and_frame_with_idle_and_boot(cloud: Cloud) -> None:
    group = a_farm_at_work(cloud.world)
    page = cloud.open("/?view=money&days=ever")
    rows = page.locator(".spend tbody tr")
    expect(rows).to_have_count(1)
    expect(page.locator(".spend .sum")).to_contain_text("$0.25 spent, of it 25 % on work")
    expect(rows.first.get_by_role("img")).to_have_attribute("aria-label", re.compile("work, .* waste, .* boot, .* idle"))
    for by, first in {"pool": "p", "type": "machine", "user": "ann", "group": "rendered", "tag": "linux"}.items():
        page.get_by_role("button", name=by, exact=True).click()
        expect(rows.filter(has_text=first)).to_have_count(1)
        expect(rows.locator("td").last).to_contain_text("$")
    page.get_by_role("button", name="group", exact=True).click()
    rows.filter(has_text="rendered").get_by_role("button", name="frames").click()
    expect(page.locator("section.spend")).to_contain_text(f"In group #{group} only.")
    expect(rows.first).to_contain_text("frame 2")
    expect(rows.nth(1)).to_contain_text("frame 1")
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[1] for line in lines] == ["name", "frame 1", "frame 2"]
