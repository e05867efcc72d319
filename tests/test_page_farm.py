"""The web page beside a worker that really runs and machines that are paid for: what moves, and what is done to them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import expect

from coalition.client import Client
from coalition.server.app import create_app
from tests.cloud_world import LINUX, World, budget, pool, settings
from tests.fakes.server import RealServer
from tests.polling import poll_until
from tests.test_page import chromium, in_browser, serving
from tests.test_page_live import POOL, Live, press, titled, visited

pytestmark = in_browser

TALKS = "echo line 1; until [ -e {seen} ]; do sleep 0.1; done; echo ERROR: the end; exit 3"


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server with two machines that are paid for, which were started in another life of it, and a worker of its own."""
    folder = tmp_path_factory.mktemp("farm")
    with ExitStack() as stack:
        knobs = {**POOL, ("worker", "lease"): "1h", ("worker", "sync"): "0.2", ("pool cloud", "currency"): "USD"}
        server = stack.enter_context(RealServer(folder / "data", knobs=knobs))
        client = stack.enter_context(Client(server.url))
        words = [sys.executable, "-m", "coalition", "worker", "--server", server.url, "--name", "real-1", "--slots", "1"]
        states = ["--affinity", "real", "--state-dir", str(folder / "worker")]
        worker = subprocess.Popen([*words, *states], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(worker.wait, 30)
        stack.callback(worker.terminate)
        poll_until(lambda: [one for one in client.workers() if one.name == "real-1"])
        yield Live(server, client, stack.enter_context(chromium()), stack, 0, 0)


@pytest.fixture
def live(farm: Live) -> Iterator[Live]:
    with visited(farm) as shown:
        yield shown


def test_a_job_is_watched_from_waiting_to_its_error_and_run_again(live: Live, tmp_path: Path) -> None:
    page = live.open("/?view=jobs")
    seen = tmp_path / "seen"
    job = live.client.submit(title="talks", command=TALKS.format(seen=seen), user="ann", affinity=("real",))
    titled(page, "talks").click()
    expect(page.locator(".output")).to_contain_text("line 1")
    expect(page.locator(".log .live")).to_be_visible()
    seen.touch()
    expect(page.locator(".output")).to_contain_text("ERROR: the end")
    expect(titled(page, "talks")).to_contain_text("error")
    expect(page.locator(".why")).to_contain_text("Why it failed")
    page.get_by_role("link", name="Farm", exact=True).click()
    expect(page.locator(".needs")).to_contain_text("ended with errors")
    page.locator(".needs li", has_text="ended with errors").get_by_role("button", name="Look").click()
    titled(page, "talks").click()
    press(page, "Run errors again")
    page.locator(".question").get_by_role("button", name="Run errors again").click()
    poll_until(lambda: len(live.client.attempts(job)) == 2)
    page.get_by_role("link", name="Whole log").click()
    expect(page.get_by_label("Attempt")).to_be_visible()
    page.get_by_label("Attempt").select_option(index=2)
    expect(page.locator(".output")).to_contain_text("ERROR: the end")
    expect(page).to_have_url(re.compile("attempt="))


def test_the_frames_of_a_group_are_a_map_and_a_timeline_by_what_they_took(live: Live) -> None:
    eat = f"{sys.executable} -c \"b = bytearray(300 << 20); b[::4096] = b'x' * len(b[::4096])\""
    group = live.client.submit(title="eats", command=eat, frames="1-2", user="ann", affinity=("real",), priority=200)
    page = live.open(f"/?view=jobs&job={group}")
    expect(page.locator(".status")).to_contain_text("2 of 2 done", timeout=60_000)
    done = len(live.client.page(filter="state:FINISHED group:no").jobs)
    expect(page.locator(".vital.finished .figure")).to_have_text(str(done))
    page.get_by_role("button", name="Memory", exact=True).click()
    expect(page.locator(".glyphs .cell.shade-6").first).to_be_visible()
    expect(page.locator(".scale")).to_contain_text("MB")
    page.get_by_text("Timeline of the last 2 that ran").click()
    expect(page.locator(".frames a.lane")).to_have_count(2)
    page.locator(".frames a.lane").first.click()
    expect(page.locator(".facts")).to_contain_text("at most")


def test_a_groups_place_is_told_and_led_back_by_links(live: Live) -> None:
    top = live.client.submit(title="show", group=True, user="ann")
    shot = live.client.submit(title="shot 7", group=True, parent=top, user="ann")
    live.submit("inside", parent=shot, url="https://studio.test/view?x=1", note="see it")
    page = live.open(f"/?view=jobs&parent={shot}")
    expect(page.locator(".crumbs")).to_have_text(re.compile("All jobs/show/shot 7"))
    titled(page, "inside").click()
    link = page.locator(".facts a", has_text="https://studio.test/view?x=1")
    expect(link).to_have_attribute("rel", "noreferrer noopener")
    page.locator(".crumbs").get_by_role("link", name="show").click()
    titled(page, "shot 7").dblclick()
    expect(page).to_have_url(re.compile(f"parent={shot}"))
    expect(titled(page, "inside")).to_be_visible()


def test_a_workers_runs_are_a_timeline_and_it_is_deleted_after_a_question(live: Live) -> None:
    group = live.client.submit(title="short", command="true", frames="1-2", user="ann", affinity=("real",))
    poll_until(lambda: live.client.job(group).state == "FINISHED")
    page = live.open("/?view=workers")
    page.locator(".workers-grid .row", has_text="real-1").click()
    detail = page.get_by_role("complementary", name="Worker")
    expect(detail.locator(".gantt a.lane").first).to_be_visible()
    detail.get_by_role("button", name="Delete").click()
    expect(detail.locator(".question")).to_contain_text("Delete real-1?")
    detail.get_by_role("button", name="Cancel").click()


def test_the_page_goes_on_when_its_server_was_away(live: Live) -> None:
    page = live.open("/?view=jobs")
    expect(page.locator(".connection")).to_have_text("live")
    page.context.set_offline(True)
    expect(page.locator(".connection")).to_contain_text("stale since", timeout=40_000)
    job = live.submit("meanwhile")
    page.context.set_offline(False)
    expect(page.locator(f"[data-job='{job}']")).to_be_visible(timeout=40_000)
    expect(page.locator(".connection")).to_have_text("live")


def test_who_may_not_see_money_is_told_so(live: Live, tmp_path: Path) -> None:
    with RealServer(tmp_path / "local", auth="local") as server:
        server.store.create_account("gast", "correct horse battery", "guest")
        page = live.open(server.url + "/?view=money")
        page.get_by_label("Name").fill("gast")
        page.get_by_label("Password").fill("correct horse battery")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_text("You may not see this.").first).to_be_visible()


def test_machines_that_are_paid_for_say_why_and_are_drained_and_ended(live: Live, tmp_path: Path) -> None:
    world = World(tmp_path, settings(tmp_path, [pool(max=4)], [budget(amount=100)]))
    world.submit(2 * LINUX.slots)
    world.tick()
    world.boot()
    world.clock.wait(360)
    with serving(create_app(world.settings, world.store, world.clock)) as url:
        page = live.open(url + "/?view=cloud")
        rows = page.locator(".instances [role='row']:not(.head)")
        expect(rows.first).to_contain_text("wait")
        rows.first.get_by_role("button", name="Drain").click()
        poll_until(lambda: "drain" in [one.wish for one in world.store.machines()])
        rows.last.get_by_role("button", name="Terminate").click()
        expect(page.locator(".question")).to_contain_text("now? What it runs is stopped and run again elsewhere.")
        page.locator(".question").get_by_role("button", name="Terminate").click()
        poll_until(lambda: "terminate" in [one.wish for one in world.store.machines()])
        page.goto(url + "/?view=money&by=pool&days=ever")
        expect(page.locator(".spend tbody tr")).to_contain_text("p")
        expect(page.locator(".budget")).to_contain_text("forecast")
        page.goto(url + "/?view=workers")
        expect(page.locator(".workers-grid .price .job-link").first).to_have_text("$1.00")
    world.scaler.stop()
    world.store.close()
