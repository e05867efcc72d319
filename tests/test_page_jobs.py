"""The web page's jobs, log and workers where test_page_live.py ends: each remaining action, and what holds for every view."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from coalition.client import Client
from tests.fakes.pictures import Pictures
from tests.fakes.server import HandWorker, RealServer
from tests.polling import poll_until
from tests.test_page import VIEWS, chromium, in_browser
from tests.test_page_live import BUDGET, POOL, Live, only, press, titled, visited

pytestmark = in_browser

SCHEMES = {("server", "url_schemes"): "http, https, rvlink"}
PASSWORD = "correct horse battery"
SHOWN = ("name", "state", "progress", "left", "user", "priority", "affinity", "worker", "time", "created", "url", "id")
DRAWN = "src => new Promise((end) => Object.assign(new Image(), {onload: () => end(true), onerror: () => end(false), src}))"
MOVING = "() => [...document.querySelectorAll('*')].some((one) => parseFloat(getComputedStyle(one).transitionDuration))"


@pytest.fixture(scope="module")
def renders() -> Iterator[Pictures]:
    """Where the farm's pictures may be from."""
    with Pictures() as running:
        yield running


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, renders: Pictures) -> Iterator[Live]:
    with ExitStack() as stack:
        knobs = {**POOL, **BUDGET, **SCHEMES, ("worker", "lease"): "1h", ("server", "pictures_from"): renders.origin}
        server = stack.enter_context(RealServer(tmp_path_factory.mktemp("farm"), knobs=knobs))
        client = stack.enter_context(Client(server.url))
        yield Live(server, client, stack.enter_context(chromium()), stack, 0, 0)


@pytest.fixture
def live(farm: Live) -> Iterator[Live]:
    with visited(farm) as shown:
        yield shown


def a_run(live: Live, title: str, **given: object) -> tuple[int, HandWorker, int]:
    """A job that runs on a worker of its own: the job, the worker, the attempt."""
    job = live.submit(title, affinity=(title,), **given)
    worker = HandWorker(live.server.url, f"{title}-1", affinity=[[title]])
    (lease,) = worker.take()
    return job, worker, lease["attempt"]


def show_columns(page: Page) -> None:
    page.evaluate("order => localStorage.setItem('coalition.columns', JSON.stringify({ order }))", SHOWN)
    page.reload()


def sign_in(page: Page, name: str) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()


# ---------------------------------------------------------------- the list


def test_a_row_tells_all_that_the_list_is_for_and_when_it_will_be_done(live: Live) -> None:
    job, worker, attempt = a_run(live, "told", user="bea", priority=133, progress_pattern="%percent")
    worker.write(attempt, b"50%\n")
    worker.report()
    page = live.open(only("told"), wide=2000)
    show_columns(page)
    row = titled(page, "told")
    expect(row.locator("[role=gridcell].state")).to_contain_text("working")
    expect(row.locator(".progress").get_by_role("img")).to_have_attribute("aria-label", "50\u202f%")
    expect(row.locator(".left")).to_have_text(re.compile(r"^~\d"))
    for kind, text in {"user": "bea", "priority": "133", "affinity": "told", "worker": "told-1", "id": str(job)}.items():
        expect(row.locator(f".{kind}")).to_have_text(text)
    expect(row.locator(".created time")).to_have_attribute("title", re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$"))
    row.locator(".name").click()
    expect(page.locator(".facts")).to_contain_text(re.compile(r"Forecast.*done in \d"))
    expect(page.locator(".why")).to_contain_text("told-1")


def test_a_column_is_made_wider_by_dragging_its_edge(live: Live) -> None:
    live.submit("dragged")
    page = live.open(only("dragged"))
    head = page.get_by_role("columnheader", name="User")
    before, edge = head.bounding_box(), head.locator(".resizer").bounding_box()
    assert before
    assert edge
    page.mouse.move(edge["x"] + 2, edge["y"] + 5)
    page.mouse.down()
    page.mouse.move(edge["x"] - 58, edge["y"] + 5)
    page.mouse.up()
    page.reload()
    after = head.bounding_box()
    assert after
    assert after["width"] == pytest.approx(before["width"] + 60, abs=4)


def test_priorities_go_down_to_none_and_back(live: Live) -> None:
    ids = [live.submit("sinks a", priority=4), live.submit("sinks b", priority=40)]
    page = live.open(only("sinks"))
    titled(page, "sinks a").click()
    titled(page, "sinks b").click(modifiers=["Control"])
    press(page, "Priority ↓")
    expect(page.locator(".toast")).to_contain_text("Priority down for 2 jobs")
    assert [live.client.job(job).priority for job in ids] == [0, 30]
    page.get_by_role("button", name="Undo").click()
    poll_until(lambda: [live.client.job(job).priority for job in ids] == [4, 40])


def test_what_is_paused_is_started(live: Live) -> None:
    job = live.submit("held", paused=True)
    page = live.open(only("held"))
    expect(titled(page, "held")).to_contain_text("paused")
    titled(page, "held").click()
    press(page, "Start")
    expect(page.locator(".toast")).to_contain_text("Started 1 job")
    assert not live.client.job(job).paused


def test_what_was_done_is_run_again_after_a_question(live: Live) -> None:
    job, worker, attempt = a_run(live, "again")
    worker.end(attempt)
    page = live.open(only("again"))
    expect(titled(page, "again")).to_contain_text("finished")
    titled(page, "again").click()
    press(page, "Run again")
    expect(page.locator(".chosen .question")).to_contain_text("What was finished is done anew, and paid anew.")
    assert live.client.job(job).state == "FINISHED"
    page.locator(".chosen .question").get_by_role("button", name="Run again").click()
    expect(titled(page, "again")).to_contain_text("waiting")


def test_a_job_that_is_not_needed_is_skipped(live: Live) -> None:
    job = live.submit("needless")
    page = live.open(only("needless"))
    titled(page, "needless").click()
    press(page, "Skip")
    page.locator(".chosen .question").get_by_role("button", name="Skip").click()
    poll_until(lambda: live.client.job(job).state == "FINISHED")


def test_what_is_asked_of_running_jobs_names_how_many_run(live: Live) -> None:
    a_run(live, "busy")
    page = live.open(only("busy"))
    titled(page, "busy").click()
    press(page, "Delete")
    expect(page.locator(".chosen .question")).to_contain_text("Delete 1 selected job, of which 1 run now?")
    page.get_by_role("button", name="Cancel").click()


def test_the_footer_sums_what_is_shown_or_selected(live: Live) -> None:
    for title in ("sum-a", "sum-b"):
        _, worker, attempt = a_run(live, title)
        worker.end(attempt)
    live.submit("sum-c")
    page = live.open(only("sum-"))
    footer = page.locator(".footer")
    expect(footer).to_contain_text("3 rows")
    expect(footer).to_contain_text("run time 3\u202fs")
    expect(footer).to_contain_text("average 1.5\u202fs")
    titled(page, "sum-a").click()
    expect(footer).to_contain_text("1 selected")
    expect(footer).to_contain_text("run time 1.5\u202fs")


def test_one_jobs_properties_are_edited_beside_it(live: Live) -> None:
    job = live.submit("single", priority=9)
    page = live.open(f"/?view=jobs&job={job}")
    page.get_by_role("complementary", name="Job").get_by_role("button", name="Edit").click()
    form = page.get_by_role("complementary", name="Properties")
    expect(form.get_by_label("Priority")).to_have_value("9")
    form.get_by_label("Memory", exact=True).fill("8G")
    form.get_by_label("Environment").fill("SHOT=a=b")
    form.get_by_role("button", name="Change 2 fields").click()
    expect(page.locator(".toast")).to_contain_text("Changed 1 job")
    changed = live.client.job(job)
    assert (changed.memory_bytes, changed.environment, changed.priority) == (8 << 30, {"SHOT": "a=b"}, 9)


# ---------------------------------------------------------------- by keyboard


def tab_to(page: Page, name: str) -> None:
    """Presses Tab until what has this name has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        named = page.evaluate("(document.activeElement.ariaLabel || document.activeElement.innerText || '').trim()")
        if named == name:
            return
    raise AssertionError(f"no way by Tab to {name!r}")


def test_a_job_is_added_moved_and_deleted_by_keyboard_alone(live: Live) -> None:
    group = live.client.submit(title="keys-group", group=True, user="ann")
    page = live.open(only("keys-"))
    expect(titled(page, "keys-group")).to_be_visible()
    tab_to(page, "New job")
    page.keyboard.press("Enter")
    form = page.get_by_role("complementary", name="New job")
    expect(form).to_be_visible()
    while not form.get_by_label("Title").evaluate("field => field === document.activeElement"):
        page.keyboard.press("Tab")
    page.keyboard.type("keys-job")
    page.keyboard.press("Tab")
    page.keyboard.type("true")
    expect(form.locator(".preview")).to_have_text("This makes one job.")
    tab_to(page, "Submit")
    page.keyboard.press("Enter")
    expect(page.get_by_role("complementary", name="Job").locator("h2")).to_have_text("keys-job")
    page.keyboard.press("Escape")
    page.keyboard.press("Home")
    page.keyboard.press("Control+x")
    expect(page.get_by_text("1 job cut")).to_be_visible()
    page.keyboard.press("End")
    page.keyboard.press("Control+v")
    expect(page.locator(".toast")).to_contain_text("Moved 1 job")
    (job,) = live.client.page(filter="title:keys-job").jobs
    assert job.parent == group
    page.keyboard.press("Home")
    tab_to(page, "Delete")
    page.keyboard.press("Enter")
    expect(page.locator(".question").get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(titled(page, "keys-job")).to_have_count(0)


# ---------------------------------------------------------------- what the server refuses


def test_what_was_shown_at_once_is_taken_back_with_the_reason_when_it_is_refused(live: Live, tmp_path: Path) -> None:
    with RealServer(tmp_path, auth="local") as server:
        server.store.create_account("ann", PASSWORD, "user")
        admin = Client(server.url, token=server.store.create_token("user", user="eve", role="admin"))
        job = admin.submit(title="was anns", command="true", user="ann", affinity=("nobody",))
        page = live.open(server.url + only("anns"))
        sign_in(page, "ann")
        titled(page, "was anns").click()

        def late(route: Route) -> None:
            expect(titled(page, "was anns")).to_contain_text("paused")
            admin.edit([job], user="bob")
            route.continue_()

        page.route("**/api/v1/jobs/pause*", late)
        press(page, "Pause")
        told = f"Nothing was changed: ann may change own jobs only; job {job} is bob's"
        expect(page.locator(".toast, .chosen .trouble").filter(has_text=told)).to_be_visible()
        expect(titled(page, "was anns")).to_contain_text("waiting")
        assert not admin.job(job).paused


def test_a_view_says_that_it_loads_and_what_could_not_be_loaded(live: Live) -> None:
    page = live.open("/?view=settings")
    held: list[Route] = []
    page.route("**/api/v1/limits", lambda route: held.append(route))
    page.get_by_role("link", name="Limits", exact=True).click()
    expect(page.locator("section.limits .loading")).to_be_visible()
    poll_until(lambda: page.evaluate("1") and held)  # a call lets the browser's messages in
    held[0].fulfill(status=500, content_type="application/problem+json", body='{"detail": "the disk is full"}')
    expect(page.locator("section.limits").get_by_role("alert")).to_have_text("This could not be loaded: the disk is full")
    page.unroute("**/api/v1/limits")
    expect(page.get_by_text("No limits.")).to_be_visible()


def test_a_view_that_was_never_seen_says_when_the_server_is_away(live: Live) -> None:
    page = live.open("/?view=settings")
    expect(page.locator(".connection.live")).to_be_visible()
    page.route("**/api/v1/**", lambda route: route.abort())
    page.get_by_role("link", name="Limits", exact=True).click()
    expect(page.locator("section.limits")).to_contain_text("The server does not answer: this comes as soon as it does.")
    page.unroute("**/api/v1/**")
    expect(page.get_by_text("No limits.")).to_be_visible()


# ---------------------------------------------------------------- one job


def test_only_addresses_of_allowed_schemes_are_links(live: Live) -> None:
    opened = ["https://studio.test/a?b=1", "http://studio.test/", "RVLINK:///shows/a.mov"]
    texts = [
        "javascript:alert(1)",
        " javascript:alert(1)",
        "java\tscript:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "x",
    ]
    for number, url in enumerate(opened + texts):
        live.submit(f"address-{number}", url=url)
    page = live.open(only("address-"), wide=2000)
    show_columns(page)
    for number, url in enumerate(opened + texts):
        row = titled(page, f"address-{number}")
        expect(row.locator(".url")).to_have_text(url.strip())
        assert [link.get_attribute("href") for link in row.locator("a").all()] == ([url] if url in opened else [])
    for number, url in enumerate(opened + texts):
        titled(page, f"address-{number}").locator(".name").click()
        fact = page.locator(".facts dd", has_text=url.strip())
        expect(fact).to_be_visible()
        expect(fact.locator("a")).to_have_count(int(url in opened))


def opened(page: Page, live: Live, url: str) -> Locator:
    """The place of the picture of a job with this address, in the job's detail."""
    job = live.submit("pictured", url=url)
    page.goto(f"{live.server.url}/?view=jobs&job={job}")
    expect(page.locator(".facts")).to_contain_text(url)
    return page.get_by_role("img", name="What the job made")


def test_a_picture_of_this_server_is_shown_and_of_others_not(live: Live, renders: Pictures) -> None:
    page = live.open()
    with Pictures() as stranger:
        for origin in (live.server.url, renders.origin):
            picture = opened(page, live, f"{origin}/{'favicon.svg' if origin == live.server.url else 'shots/a.png?take=2'}")
            expect(picture).to_be_visible()
            poll_until(lambda one=picture: one.evaluate("img => img.naturalWidth") > 0)
        assert renders.asked == ["/shots/a.png?take=2"]
        assert renders.referrers == {""}
        for origin in (stranger.origin, renders.origin.replace("127.0.0.1", "localhost")):
            expect(opened(page, live, f"{origin}/a.png")).to_have_count(0)
        assert (stranger.asked, renders.asked[1:]) == ([], [])


def test_the_pages_policy_stops_pictures_from_elsewhere_though_a_script_asked_for_them(live: Live, renders: Pictures) -> None:
    page = live.open()
    with Pictures() as stranger:
        assert page.evaluate(DRAWN, f"{renders.origin}/by-script.png")
        assert not page.evaluate(DRAWN, f"{stranger.origin}/by-script.png")
        assert stranger.asked == []
    assert live.faults
    assert all(stranger.origin in fault and "img-src" in fault for fault in live.faults)
    live.faults.clear()


def test_a_picture_that_does_not_come_leaves_no_gap(live: Live, renders: Pictures) -> None:
    picture = opened(live.open(), live, f"{renders.origin}/missing.png")
    expect(picture).to_have_count(0)
    poll_until(lambda: "/missing.png" in renders.asked)
    expect(picture).to_have_count(0)


# ---------------------------------------------------------------- logs and workers


def test_a_log_that_grows_is_followed_in_colours_of_the_theme(live: Live) -> None:
    job, worker, attempt = a_run(live, "coloured")
    size = worker.write(attempt, b"\x1b[33myellow\x1b[0m words\n")
    page = live.open(f"/?view=log&job={job}")
    yellow = page.locator(".output .fg-yellow")
    expect(yellow).to_have_text("yellow")
    colour = "span => getComputedStyle(span).color"
    light = yellow.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    assert yellow.evaluate(colour) != light
    worker.write(attempt, b"and more\n", size)
    expect(page.get_by_text("and more")).to_be_visible()


def test_deleting_a_worker_says_what_runs_there_and_is_done(live: Live) -> None:
    job, _, _ = a_run(live, "doomed")
    page = live.open("/?view=workers")
    page.locator(".workers-grid .row", has_text="doomed-1").click()
    detail = page.get_by_role("complementary", name="Worker")
    expect(detail.locator(".facts")).to_contain_text("Last seen")
    detail.get_by_role("button", name="Delete").click()
    expect(detail.locator(".question")).to_contain_text(f"Delete doomed-1? 1 job on it will be run again elsewhere: #{job}.")
    detail.locator(".question").get_by_role("button", name="Delete").click()
    expect(page.locator(".workers-grid .row", has_text="doomed-1")).to_have_count(0)
    assert "doomed-1" not in [one.name for one in live.client.workers()]


# ---------------------------------------------------------------- every view


def test_theme_and_density_are_chosen_and_kept(live: Live) -> None:
    live.submit("dense")
    page = live.open("/?view=settings")
    page.get_by_role("radio", name="dark").check()
    page.get_by_role("radio", name="roomy").check()
    page.goto(live.server.url + only("dense"))
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(18, 21, 25)"
    box = titled(page, "dense").bounding_box()
    assert box
    assert box["height"] == 38


def test_a_link_shows_a_colleague_the_same_and_back_leads_back(live: Live) -> None:
    group = live.client.submit(title="link-group", group=True, user="ann")
    job = live.submit("link-job", parent=group)
    page = live.open(f"/?view=jobs&parent={group}&sort=title")
    titled(page, "link-job").click()
    page.get_by_label("Filter jobs").fill("title:link")
    expect(page).to_have_url(re.compile("filter=title"))
    colleague = live.open(page.url)
    expect(colleague.get_by_role("complementary", name="Job").locator("h2")).to_have_text("link-job")
    expect(colleague.get_by_label("Filter jobs")).to_have_value("title:link")
    expect(colleague.locator(".crumbs")).to_contain_text("link-group")
    expect(colleague.locator("[data-job]")).to_have_count(1)
    colleague.goto(f"{live.server.url}/?view=money&by=user&days=7")
    expect(colleague.get_by_role("button", name="user", exact=True)).to_have_attribute("aria-pressed", "true")
    expect(colleague.get_by_role("button", name="a week")).to_have_attribute("aria-pressed", "true")
    colleague.goto(f"{live.server.url}/?view=activity&kind=job.submit&since=86400")
    expect(colleague.get_by_label("Kind")).to_have_value("job.submit")
    expect(colleague.get_by_label("Time")).to_have_value("86400")
    for view in ("Workers", "Money", "Limits"):
        colleague.get_by_role("link", name=view, exact=True).click()
    colleague.go_back()
    expect(colleague).to_have_url(re.compile("view=money"))
    colleague.go_back()
    colleague.go_back()
    expect(colleague.get_by_label("Kind")).to_have_value("job.submit")
    assert live.client.job(job).parent == group


def test_who_wants_no_motion_gets_none(live: Live) -> None:
    live.client.submit(title="still", command="true", frames="1-2", user="ann", affinity=("nobody",))
    page = live.open(only("still"))
    expect(page.locator("[data-job]").first).to_be_visible()
    assert page.evaluate(MOVING)
    page.emulate_media(reduced_motion="reduce")
    for view in VIEWS:
        page.goto(f"{live.server.url}/?view={view}")
        expect(page.locator("main section").first).to_be_visible()
        assert not page.evaluate(MOVING), view
        assert page.evaluate("document.getAnimations().length") == 0, view


def test_a_state_has_a_shape_of_its_own_beside_its_colour(live: Live) -> None:
    a_run(live, "shape-runs")
    live.submit("shape-waits")
    live.submit("shape-held", paused=True)
    page = live.open(only("shape-"))
    expect(page.locator("[data-job]")).to_have_count(3)
    shapes = page.locator("[data-job] .state .glyph").evaluate_all("all => all.map((one) => one.innerHTML)")
    assert len(set(shapes)) == 3
    expect(page.locator("[data-job] .state .word")).to_have_text(["paused", "waiting", "working"])


def test_a_workers_row_is_one_line_at_any_width(live: Live) -> None:
    worker = HandWorker(live.server.url, "lined-1", affinity=[["lined"]]).enrolled["worker"]
    page = live.open(f"/?view=workers&worker={worker}")
    row = page.locator(f"[data-worker='{worker}']")
    for wide in (3840, 1440, 1200, 800):
        page.set_viewport_size({"width": wide, "height": 900})
        expect(row).to_be_visible()
        outside = """row => {
          const { top, bottom } = row.getBoundingClientRect()
          const cells = [...row.children].map((cell) => cell.getBoundingClientRect()).filter((cell) => cell.width)
          return cells.filter((cell) => cell.top < top || cell.bottom > bottom).length
        }"""
        assert row.evaluate(outside) == 0, wide
    page.goto(f"{live.server.url}/?view=workers")
    page.set_viewport_size({"width": 360, "height": 900})
    assert row.evaluate(outside) == 0


def test_the_name_of_the_view_is_in_sight_on_a_narrow_screen(live: Live) -> None:
    page = live.open("/?view=settings", wide=360)
    expect(page.get_by_role("link", name="Settings", exact=True)).to_be_in_viewport(ratio=0.9)
