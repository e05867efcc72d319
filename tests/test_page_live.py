"""The web page on the real server with workers: each view and each action, in a real browser, in both themes."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from coalition.client import Client
from coalition.model import Price
from tests.fakes.server import HandWorker, RealServer
from tests.polling import poll_until
from tests.test_page import ROOT, SCREENSHOTS, chromium, in_browser, trap

pytestmark = in_browser

AXE = ROOT / "webui" / "node_modules" / "axe-core" / "axe.min.js"
POOL = {("pool cloud", "provider"): "local", ("pool cloud", "max"): "4", ("pool cloud", "affinity"): "nuke"}
BUDGET = {("budget day", "amount"): "10", ("budget day", "currency"): "USD", ("budget day", "window"): "day"}
RULES = "wcag2a,wcag2aa,wcag21a,wcag21aa"


@dataclass
class Live:
    """A farm with a group of frames in every state, one worker that works and one that is idle, and the page on it."""

    server: RealServer
    client: Client
    browser: Browser
    stack: ExitStack
    logged: int  # a job that runs and has printed much
    failed: int
    faults: list[str] = field(default_factory=list)

    def open(self, where: str = "/", *, wide: int = 1440, dark: bool = False) -> Page:
        context = self.browser.new_context(
            viewport={"width": wide, "height": 900}, color_scheme="dark" if dark else "light", accept_downloads=True
        )
        self.stack.callback(context.close)
        tab = context.new_page()
        trap(tab, self.faults)
        tab.goto(where if where.startswith("http") else self.server.url + where)
        return tab

    def submit(self, title: str, **given: object) -> int:
        return self.client.submit(**{"title": title, "command": "true", "user": "ann", "affinity": ("nobody",), **given})


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("farm")
    with ExitStack() as stack:
        server = stack.enter_context(RealServer(folder, knobs={**POOL, **BUDGET, ("worker", "lease"): "1h"}))
        client = stack.enter_context(Client(server.url))
        yield Live(server, client, stack.enter_context(chromium()), stack, *_fill(server, client))


def _fill(server: RealServer, client: Client) -> tuple[int, int]:
    client.submit(title="shot 10", command="render {frame}", frames="1-12", user="ann", affinity=("nuke",), note="hero shot")
    worker = HandWorker(server.url, "render-01", slots=3, affinity=[["nuke", "linux"], ["nuke"]])
    HandWorker(server.url, "render-02", affinity=[["maya"]]).take()
    leases = worker.take()
    first, second, third = (lease["attempt"] for lease in leases)
    worker.write(first, b"reading scene\n\x1b[31mError:\x1b[0m no texture\nlast words\n")
    worker.end(first, exit_code=1)
    worker.end(second)
    worker.write(third, b"".join(b"line %06d of many\n" % n for n in range(30_000)))
    client.set_limit("nuke-licence", 3)
    return int(leases[2]["job"]), int(leases[0]["job"])


@contextmanager
def visited(farm: Live) -> Iterator[Live]:
    """A script that fails, fails the test; what a test opened is closed."""
    with ExitStack() as stack:
        shown = replace(farm, stack=stack, faults=[])
        yield shown
    assert shown.faults == []


@pytest.fixture
def live(farm: Live) -> Iterator[Live]:
    with visited(farm) as shown:
        yield shown


def titled(page: Page, title: str) -> Locator:
    return page.locator(".jobs-grid [data-job]").filter(has=page.get_by_text(title, exact=True))


def press(page: Page, name: str) -> None:
    page.locator(".chosen").get_by_role("button", name=name, exact=True).click()


def only(title: str) -> str:
    return f"/?view=jobs&filter=title:{title}"


# ---------------------------------------------------------------- what is done to jobs


def test_a_pause_is_undone_from_the_message(live: Live) -> None:
    job = live.submit("pause-me")
    page = live.open(only("pause-me"))
    titled(page, "pause-me").click()
    press(page, "Pause")
    expect(page.locator(".toast")).to_contain_text("Paused 1 job")
    expect(titled(page, "pause-me")).to_contain_text("paused")
    assert live.client.job(job).paused
    page.get_by_role("button", name="Undo").click()
    expect(titled(page, "pause-me")).to_contain_text("waiting")
    assert not live.client.job(job).paused


def test_all_that_match_are_deleted_after_a_count(live: Live) -> None:
    kept = live.submit("keep-it")
    for number in range(3):
        live.submit(f"doomed {number}")
    page = live.open(only("doomed"))
    expect(page.locator("[data-job]")).to_have_count(3)
    page.get_by_role("treegrid").focus()
    page.keyboard.press("Control+a")
    expect(page.locator(".chosen")).to_contain_text("all that match selected")
    press(page, "Delete")
    expect(page.locator(".question")).to_contain_text("Delete 3 selected jobs? This cannot be undone.")
    page.get_by_role("button", name="Cancel").click()
    assert len(live.client.page(filter="title:doomed").jobs) == 3
    press(page, "Delete")
    page.locator(".question").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("No job matches.")).to_be_visible()
    assert live.client.job(kept).title == "keep-it"


def test_rows_are_selected_with_ctrl_shift_and_keys(live: Live) -> None:
    for number in range(4):
        live.submit(f"pick {number}")
    page = live.open(only("pick"))
    titled(page, "pick 3").click()
    titled(page, "pick 1").click(modifiers=["Shift"])
    expect(page.locator(".chosen .what")).to_have_text("3 jobs selected")
    titled(page, "pick 2").click(modifiers=["Control"])
    expect(page.locator(".chosen .what")).to_have_text("2 jobs selected")
    expect(page.locator(".footer")).to_contain_text("2 selected")
    page.get_by_role("treegrid").focus()
    page.keyboard.press("Home")
    page.keyboard.press("Shift+ArrowDown")
    expect(page.locator("[aria-selected='true']")).to_have_count(2)
    page.keyboard.press("Escape")
    expect(page.locator(".chosen")).to_have_count(0)


def test_many_jobs_are_edited_and_mixed_values_are_shown(live: Live) -> None:
    ids = [live.submit("edit a", priority=10), live.submit("edit b", priority=20)]
    page = live.open(only("edit"))
    titled(page, "edit b").click()
    titled(page, "edit a").click(modifiers=["Control"])
    press(page, "Edit")
    form = page.get_by_role("complementary", name="Properties")
    expect(form.get_by_label("Priority")).to_have_attribute("placeholder", "several values")
    form.get_by_label("Priority").fill("999")
    form.get_by_label("Note").fill("both")
    form.get_by_role("button", name="Change 2 fields").click()
    expect(form.locator(".field .trouble")).to_contain_text("0 to 255")
    assert [live.client.job(job).note for job in ids] == ["", ""]
    form.get_by_label("Priority").fill("77")
    form.get_by_role("button", name="Change 2 fields").click()
    expect(form).to_have_count(0)
    assert [(job.priority, job.note, job.user) for job in map(live.client.job, ids)] == [(77, "both", "ann")] * 2


def test_priorities_go_up_and_back(live: Live) -> None:
    job = live.submit("urgent", priority=100)
    page = live.open(only("urgent"))
    titled(page, "urgent").click()
    press(page, "Priority ↑")
    expect(page.locator(".toast")).to_contain_text("Priority up")
    assert live.client.job(job).priority == 110
    page.get_by_role("button", name="Undo").click()
    poll_until(lambda: live.client.job(job).priority == 100)


def test_a_job_is_cut_and_put_into_a_group(live: Live) -> None:
    group = live.client.submit(title="move target", group=True, user="ann")
    job = live.submit("move me")
    page = live.open(only("move"))
    titled(page, "move me").click()
    press(page, "Cut")
    titled(page, "move target").click()
    page.get_by_role("button", name=f"Paste into #{group}").click()
    expect(page.locator(".toast")).to_contain_text("Moved 1 job")
    assert live.client.job(job).parent == group


def test_a_job_that_failed_is_run_elsewhere(live: Live) -> None:
    job = live.submit("fails here", affinity=("here",))
    worker = HandWorker(live.server.url, "render-09", affinity=[["here"]])
    (lease,) = worker.take()
    worker.end(lease["attempt"], exit_code=1)
    page = live.open(f"/?view=jobs&job={job}")
    detail = page.get_by_role("complementary", name="Job")
    expect(detail.locator(".why")).to_contain_text("Why it failed")
    detail.get_by_role("button", name="Run elsewhere").click()
    expect(page.locator(".toast")).to_contain_text("not on render-09")
    assert list(live.client.job(job).not_workers) == ["render-09"]
    assert live.client.job(job).state == "WAITING"
    live.client.delete_workers([one.id for one in live.client.workers() if one.name == "render-09"])


def test_what_is_submitted_comes_into_a_list_that_was_empty(live: Live) -> None:
    page = live.open(only("late-comer"))
    expect(page.locator(".jobs-grid .words")).to_be_visible()
    live.submit("late-comer")
    expect(titled(page, "late-comer")).to_be_visible()


def test_frames_are_added_after_a_preview(live: Live) -> None:
    page = live.open("/?view=jobs")
    page.get_by_role("button", name="New job").click()
    form = page.get_by_role("complementary", name="New job")
    form.get_by_label("Title").fill("new range")
    form.get_by_label("Command").fill("render {frame}")
    form.get_by_label("Affinity").fill("nobody")
    form.get_by_label("Frames", exact=True).fill("1-x")
    expect(form.locator(".trouble")).to_be_visible()
    expect(form.get_by_role("button", name="Submit")).to_be_disabled()
    form.get_by_label("Frames", exact=True).fill("1-20x2")
    expect(form.locator(".preview")).to_contain_text("a group and 10 jobs in it")
    form.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("complementary", name="Job").locator("h2")).to_have_text("new range")
    (group,) = live.client.page(parent=0, filter='title:"new range"').jobs
    assert group.counts is not None
    assert group.counts.total == 10


# Into the filter: one text, and just when the address has it another one; what stands there a moment later.
TYPE_ON = """async (texts) => {
  const box = document.querySelector('[aria-label="Filter jobs"]')
  const soon = () => new Promise((resolve) => setTimeout(resolve))
  for (const text of texts) {
    box.value = text
    box.dispatchEvent(new Event('input', { bubbles: true }))
    if (text === texts[0]) while (!location.search.includes(encodeURIComponent(text))) await soon()
  }
  await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))
  await soon()
  return box.value
}"""


def test_a_filter_is_completed_saved_and_told_what_is_wrong(live: Live) -> None:
    live.submit("findable")
    page = live.open("/?view=jobs")
    box = page.get_by_label("Filter jobs")
    box.press_sequentially("sta")
    page.get_by_role("option", name="state:").click()
    box.press_sequentially("WA")
    page.keyboard.press("Tab")
    expect(box).to_have_value("state:WAITING")
    expect(page).to_have_url(re.compile("filter=state%3AWAITING"))
    assert page.evaluate(TYPE_ON, ["user:b", "user:bo"]) == "user:bo"
    box.fill("state:WAITING")
    expect(page).to_have_url(re.compile("filter=state%3AWAITING"))
    page.get_by_text("Saved", exact=True).click()
    page.get_by_label("Name of this filter").fill("to do")
    page.get_by_role("button", name="Save", exact=True).click()
    box.fill("colour:red")
    expect(page.get_by_role("alert")).to_contain_text("'colour' is no field")
    page.get_by_text("Saved", exact=True).click()
    page.get_by_role("button", name="to do", exact=True).click()
    expect(box).to_have_value("state:WAITING")
    page.reload()
    expect(box).to_have_value("state:WAITING")
    expect(titled(page, "findable")).to_be_visible()


def test_columns_are_chosen_and_kept_and_lists_sorted(live: Live) -> None:
    for title in ("sort b", "sort a"):
        live.submit(title)
    page = live.open("/?view=jobs")
    expect(page.get_by_role("columnheader", name="Errors")).to_have_count(0)
    page.get_by_text("Columns", exact=True).click()
    for name in ("Errors", "Why", "User"):
        page.get_by_role("checkbox", name=name).click()
    page.reload()
    expect(page.get_by_role("columnheader", name="Errors")).to_be_visible()
    expect(page.get_by_role("columnheader", name="User")).to_have_count(0)
    page.get_by_role("columnheader", name="Job").get_by_role("button").click()
    expect(page).to_have_url(re.compile("sort=title"))
    a, b = (titled(page, title).bounding_box() for title in ("sort a", "sort b"))
    assert a
    assert b
    assert a["y"] < b["y"]


def test_the_list_is_saved_as_a_table_and_formulas_stay_text(live: Live) -> None:
    live.submit("=csv,1")
    page = live.open(only('"=csv,1"'))
    expect(page.locator("[data-job]")).to_have_count(1)
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    head, line = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    assert head.startswith("id,parent,title,state,user")
    assert ',"\'=csv,1",WAITING,ann,' in line


# ---------------------------------------------------------------- the other views


def test_a_group_shows_its_frames_as_a_map(live: Live) -> None:
    (group,) = live.client.page(parent=0, filter='title:"shot 10"').jobs
    page = live.open(f"/?view=jobs&job={group.id}")
    expect(page.locator(".glyphs a")).to_have_count(12)
    page.get_by_role("button", name="Time", exact=True).click()
    expect(page.locator(".glyphs .cell.shade-6").first).to_be_visible()
    expect(page.locator(".happenings")).to_contain_text("job.submit")


def test_a_whole_log_opens_at_its_end_is_searched_back_and_links_to_a_line(live: Live) -> None:
    page = live.open(f"/?view=log&job={live.logged}")
    log = page.get_by_label("Log", exact=True)
    expect(log.get_by_text("line 029999 of many")).to_be_visible()
    expect(log.get_by_text("line 000100 of many")).to_have_count(0)
    page.get_by_label("Find in the log").fill("line 000100")
    page.get_by_role("button", name="Find further back").click()
    line = page.locator(".log-line.current")
    expect(line).to_contain_text("line 000100 of many")
    line.click(position={"x": 8, "y": 5})
    expect(page).to_have_url(re.compile("at=2000"))
    page.reload()
    expect(page.locator(".log-line.marked")).to_contain_text("line 000100 of many")


def test_a_log_that_cannot_be_read_further_now_is_read_when_the_server_is_back(live: Live) -> None:
    page = live.open(f"/?view=log&job={live.logged}")
    expect(page.get_by_label("Log", exact=True).get_by_text("line 029999 of many")).to_be_visible()
    page.get_by_label("Find in the log").fill("line 000100")
    log = re.compile(r"/log\b")
    page.route(log, lambda route: route.abort())
    with page.expect_event("requestfailed", lambda request: bool(log.search(request.url))):
        page.get_by_role("button", name="Find further back").click()
    page.unroute(log)
    page.get_by_role("button", name="Find further back").click()
    expect(page.locator(".log-line.current")).to_contain_text("line 000100 of many")


def test_a_logs_colours_are_classes_or_rgb_and_all_else_of_a_terminal_is_dropped(live: Live) -> None:
    job = live.client.submit(title="colours", command="true", affinity=("colours",))
    worker = HandWorker(live.server.url, "render-colours", affinity=[["colours"]])
    attempt = worker.take()[0]["attempt"]
    lines = {
        "\x1b[31mred \x1b[0mplain": "red plain",
        "\x1b[1;4;92mall of it\x1b[22m no more\x1b[m": "all of it no more",
        "\x1b[38;5;208morange\x1b[0m, \x1b[38:2::1:2:3mmade\x1b[0m, \x1b[48;5;1mbehind\x1b[0m": "orange, made, behind",
        "\x1b[?25l\x1b]0;a title\x07\x1b[2K\x1b(B\x1b=bell\x07": "bell",
        "\x1b]8;;https://example.org\x07linked\x1b]8;;\x07": "linked",
        " 10 %\r100 %\r": "100 %",
        "\x1b[31m<img src=x onerror=fail()> &amp;\x1b[0m": "<img src=x onerror=fail()> &amp;",
        "cut off \x1b[3": "cut off [3",
        "the next": "the next",
    }
    worker.write(attempt, "\n".join(lines).encode())
    for where in (f"/?view=log&job={job}", f"/?view=jobs&job={job}"):
        page = live.open(where)
        shown = page.locator(".output .log-line")
        expect(shown).to_have_text(list(lines.values()))
        expect(shown.nth(0).locator(".fg-red")).to_have_text("red ")
        expect(shown.nth(1).locator(".bold.underline.fg-green")).to_have_text("all of it")
        expect(shown.nth(1).locator(":not(.bold).underline.fg-green")).to_have_text(" no more")
        expect(shown.nth(2).get_by_text("orange")).to_have_css("color", "rgb(255, 135, 0)")
        expect(shown.nth(2).get_by_text("made")).to_have_css("color", "rgb(1, 2, 3)")
        expect(shown.nth(2).locator(".bg-red")).to_have_text("behind")
        expect(page.locator(".output :is(a, img)")).to_have_count(0)
    worker.end(attempt)
    live.client.delete_workers([one.id for one in live.client.workers() if one.name == "render-colours"])


def test_a_worker_says_why_it_is_idle_and_its_lines_are_edited(live: Live) -> None:
    page = live.open("/?view=workers")
    page.locator(".workers-grid .row", has_text="render-02").click()
    detail = page.get_by_role("complementary", name="Worker")
    expect(detail.locator(".why")).to_contain_text("Why it is idle")
    detail.get_by_label("Affinity").fill("maya linux\nmaya")
    detail.get_by_label("Hours").fill("never")
    detail.get_by_role("button", name="Change 2 fields").click()
    expect(detail.locator(".trouble")).to_be_visible()
    detail.get_by_label("Hours").fill("")
    detail.get_by_role("button", name="Change 2 fields").click()
    expect(detail.get_by_role("button", name="Nothing changed")).to_be_visible()
    (worker,) = [one for one in live.client.workers() if one.name == "render-02"]
    assert [list(line) for line in worker.affinity] == [["linux", "maya"], ["maya"]]
    detail.get_by_role("button", name="Drain").click()
    expect(detail.locator(".status")).to_contain_text("draining")
    detail.get_by_role("button", name="Resume").click()
    expect(detail.get_by_role("button", name="Drain")).to_be_visible()


def test_activity_is_filtered_and_the_filter_is_in_the_address(live: Live) -> None:
    live.submit("noted")
    page = live.open("/?view=activity")
    expect(page.locator(".events")).to_contain_text("worker.enrol")
    page.locator(".events").get_by_role("button", name="job.submit").first.click()
    expect(page).to_have_url(re.compile("kind=job.submit"))
    expect(page.locator(".events")).not_to_contain_text("worker.enrol")
    page.go_back()
    expect(page.locator(".events")).to_contain_text("worker.enrol")


def test_limits_are_set_and_deleted(live: Live) -> None:
    page = live.open("/?view=limits")
    expect(page.locator("li.limit", has_text="nuke-licence")).to_contain_text("0 used of 3")
    page.get_by_label("Name of the new limit").fill("houdini")
    page.get_by_label("Maximum of the new limit").fill("7")
    page.get_by_role("button", name="Add").click()
    made = page.locator("li.limit", has_text="houdini")
    expect(made).to_contain_text("0 used of 7")
    made.get_by_role("button", name="Delete").click()
    made.locator(".question").get_by_role("button", name="Delete").click()
    expect(made).to_have_count(0)
    assert [limit.name for limit in live.client.limits()] == ["nuke-licence"]
    expect(page.locator(".tags-table")).to_contain_text("maya")


def test_tokens_are_made_shown_once_and_revoked(live: Live) -> None:
    page = live.open("/?view=settings")
    page.get_by_label("User of the token").fill("bob")
    page.get_by_label("What the token is for").fill("submits at night")
    page.get_by_role("button", name="New token").click()
    text = page.locator(".made code").text_content() or ""
    (token,) = live.client.tokens()
    assert text.startswith(token["id"])
    page.get_by_role("button", name="I have it").click()
    expect(page.locator(".made")).to_have_count(0)
    expect(page.locator(".tokens tbody tr")).to_contain_text("submits at night")
    page.locator(".tokens").get_by_role("button", name="Revoke").click()
    page.locator(".question").get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("No tokens.")).to_be_visible()


def test_pools_and_budgets_are_shown_with_their_limits(live: Live) -> None:
    page = live.open("/?view=cloud")
    expect(page.locator("li.pool")).to_contain_text("0 of at most 4")
    page.get_by_role("link", name="Money", exact=True).click()
    expect(page.locator(".budget")).to_contain_text("$10.00 left of $10.00")
    expect(page.get_by_text("Nothing was spent on cloud machines in this time.").first).to_be_visible()


def test_a_budget_is_changed_with_its_effect_shown_before(live: Live) -> None:
    page = live.open("/?view=money")
    budget = page.locator(".budget", has_text="day")
    budget.get_by_role("button", name="Change", exact=True).click()
    budget.get_by_label("Cap of day").fill("25.5")
    expect(budget.get_by_role("status")).to_contain_text("$10.00 left now, $25.50 then.")
    assert live.client.budget("day")["cap_micro"] == 10_000_000
    budget.get_by_role("button", name="Change", exact=True).click()
    expect(budget).to_contain_text("$25.50 left of $25.50")
    expect(budget).to_contain_text("changed just now")
    assert live.client.budget("day")["cap_micro"] == 25_500_000
    budget.get_by_role("button", name="Back to cloud.ini").click()
    budget.locator(".question").get_by_role("button", name="Back to cloud.ini").click()
    expect(budget).to_contain_text("$10.00 left of $10.00")


def test_a_budget_is_made_and_deleted_and_a_wrong_one_told_by_its_field(live: Live) -> None:
    page = live.open("/?view=money")
    page.get_by_role("button", name="New budget").click()
    form = page.get_by_role("form", name="New budget")
    form.get_by_label("Name of the new budget").fill("anns")
    form.get_by_label("Cap of the new budget").fill("7")
    form.get_by_label("What the new budget is for").fill("nobody:ann")
    expect(form.get_by_role("alert")).to_contain_text("applies_to: 'nobody:ann' is not allowed")
    form.get_by_label("What the new budget is for").fill("user:ann")
    expect(form.get_by_role("status")).to_contain_text("$7.00 will be left.")
    form.get_by_role("button", name="Make it").click()
    made = page.locator(".budget", has_text="anns")
    expect(made).to_contain_text("user:ann · month · hard cap")
    made.get_by_role("button", name="Delete").click()
    made.locator(".question").get_by_role("button", name="Delete").click()
    expect(made).to_have_count(0)
    assert [budget["name"] for budget in live.client.budgets()] == ["day"]


def test_pools_are_drained_and_resumed_and_scaling_is_paused(live: Live) -> None:
    page = live.open("/?view=cloud")
    pool = page.locator("li.pool")
    pool.get_by_role("button", name="Drain").click()
    pool.locator(".question").get_by_role("button", name="Drain").click()
    expect(pool).to_contain_text("it starts nothing until it is resumed")
    pool.get_by_role("button", name="Resume").click()
    expect(pool.get_by_role("button", name="Drain")).to_be_visible()
    page.get_by_role("button", name="Pause scaling").click()
    page.locator(".question").get_by_role("button", name="Pause scaling").click()
    expect(page.locator("section.pools")).to_contain_text("no machines are started")
    assert live.client.farm()["scaling"]["paused"]
    page.get_by_role("button", name="Resume scaling").click()
    expect(page.get_by_role("button", name="Pause scaling")).to_be_visible()
    assert not live.client.farm()["scaling"]["paused"]


def test_machines_are_asked_for_by_hand(live: Live) -> None:
    page = live.open("/?view=cloud")
    pool = page.locator("li.pool")
    pool.get_by_role("button", name="Launch by hand").click()
    pool.get_by_role("spinbutton").fill("3")
    pool.get_by_label("Type or offer in pool cloud").fill("nonsense")
    pool.get_by_role("button", name="Ask for them").click()
    expect(pool.get_by_role("alert")).to_have_text('pool cloud has no "nonsense"; allowed: local')
    assert live.client.events(kind="pool.ask_launch") == []
    pool.get_by_label("Type or offer in pool cloud").fill("")
    pool.get_by_role("button", name="Ask for them").click()
    expect(page.locator(".toast")).to_contain_text("3 machines asked for in pool cloud")
    (told, *_) = live.client.events(kind="pool.ask_launch")
    assert told["text"] == "3 in pool cloud, by hand"


def test_prices_are_found_by_their_words_and_unknown_ones_say_so(live: Live) -> None:
    common = {"provider": "aws", "region": "r", "market": "spot", "source": "studio", "currency": "USD", "as_of": time.time()}
    live.client.put_prices(
        [
            Price(zone="r-a", type="c5.large", price_micro=38_000, cpus=2, memory_bytes=4 << 30, **common),
            Price(zone="r-b", type="m5.large", price_micro=0, cpus=2, memory_bytes=8 << 30, **common),
            Price(zone="r-c", type="r5.large", price_micro=50_000, **{**common, "as_of": 1.6e9}),
        ]
    )
    page = live.open("/?view=cloud")
    rows = page.locator(".prices tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.last).to_contain_text("$0.0500not known: it is older than 7 days (price_max_age)")
    expect(rows.first).to_contain_text("$0.0380$0.01902 cpus4.0 GB".replace(" GB", "\u202fGB"))
    page.get_by_label("Find prices").fill("r-b M5")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("not known: it is 0")


# ---------------------------------------------------------------- for everybody


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_view_passes_axe(live: Live, dark: bool) -> None:
    (group,) = live.client.page(parent=0, filter='title:"shot 10"').jobs
    (worker, *_) = live.client.workers()
    page = live.open("/", dark=dark)
    places = ["/", f"/?view=jobs&job={group.id}", f"/?view=workers&worker={worker.id}", f"/?view=log&job={live.failed}"]
    places += [f"/?view={view}" for view in ("cloud", "money", "money&by=user", "activity", "limits", "settings")]
    places.append("/?view=activity&by=audit")
    for place in places:
        page.goto(live.server.url + place)
        expect(page.locator("main section").first).to_be_visible()
        expect(page.locator(".loading")).to_have_count(0)
        page.evaluate(AXE.read_text(encoding="utf-8"))  # the policy lets no other script in
        page.evaluate("document.getAnimations().forEach((one) => one.finish())")
        found = page.evaluate(f"axe.run(document, {{runOnly: {RULES.split(',')}}})")
        told = [(one["id"], [node["html"][:120] for node in one["nodes"][:3]]) for one in found["violations"]]
        assert told == [], place
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"\W+", "-", place.partition("view=")[2].partition("&")[0] or "farm")
        page.screenshot(path=SCREENSHOTS / f"{name}-{'dark' if dark else 'light'}.png")


# ---------------------------------------------------------------- over time, money, audit


def test_the_farm_over_time_is_drawn_and_stands_in_a_table(live: Live) -> None:
    counts = dict.fromkeys(("pending", "working", "error", "instances"), 0)
    live.server.store.note_minute({**counts, "waiting": 1_234, "slots": 8, "busy": 3, "burn_micro": 2_500_000})
    page = live.open("/")
    chart = page.locator("figure.chart").filter(has_text="waiting 1.2K")
    expect(chart.locator("canvas")).to_be_visible()
    expect(page.locator("figure.chart").last).to_contain_text("$2.50")
    chart.get_by_role("button", name="as a table").click()
    expect(chart.locator("tbody tr").first).to_contain_text("1.2K")
    page.get_by_role("button", name="30 days").click()
    expect(page.get_by_role("button", name="30 days")).to_have_attribute("aria-pressed", "true")


def test_what_needs_a_human_has_its_action(live: Live) -> None:
    page = live.open("/")
    line = page.locator(".needs li", has_text="ended with errors")
    line.get_by_role("button", name="Look").click()
    expect(page).to_have_url(re.compile("view=jobs.*filter=state%3AERROR"))
    page.go_back()
    expect(line).to_be_visible()


def test_spend_is_shown_by_what_one_asks_for_and_saved_as_a_table(live: Live) -> None:
    page = live.open("/?view=money")
    for by in ("pool", "type", "user", "group", "tag", "job"):
        page.get_by_role("button", name=by, exact=True).click()
        expect(page).to_have_url(re.compile(f"by={by}"))
        expect(page.get_by_text("Nothing was spent on cloud machines in this time.")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("button", name="tag", exact=True)).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".to-come")).to_contain_text("open job")
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    assert Path(download.value.path()).read_text(encoding="utf-8").startswith("key,name,")


def test_the_audit_tells_who_changed_what_from_where(live: Live) -> None:
    job = live.submit("audited", priority=3)
    live.client.edit([job], priority=9)
    page = live.open("/?view=activity")
    page.get_by_role("button", name="Audit").click()
    row = page.locator(".audit tbody tr").first
    expect(row).to_contain_text("job.edit")
    expect(row).to_contain_text("127.0.0.1")
    expect(row.locator(".change")).to_contain_text("priority: 3 9")
    page.get_by_label("From").fill("10.0.0.7")
    page.get_by_label("From").press("Enter")
    expect(page.get_by_text("Nobody did anything that fits.")).to_be_visible()


def test_activity_of_a_job_or_a_worker_tells_its_runs(live: Live) -> None:
    page = live.open("/?view=activity")
    page.get_by_label("Worker", exact=True).fill("render-01")
    page.get_by_label("Worker", exact=True).press("Enter")
    expect(page.get_by_text("on average, the longest")).to_be_visible()
    expect(page).to_have_url(re.compile("worker="))
    page.goto(live.server.url + "/?view=activity")
    page.get_by_label("Job", exact=True).fill(str(live.failed))
    page.get_by_label("Job", exact=True).press("Enter")
    expect(page).to_have_url(re.compile(f"job={live.failed}"))
    expect(page.get_by_text("worker.enrol")).to_have_count(0)


def test_affinity_lines_are_edited_in_their_place(live: Live) -> None:
    page = live.open("/?view=workers")
    row = page.locator(".workers-grid .row", has_text="render-02")
    row.get_by_role("button", name="Edit the lines").focus()
    page.keyboard.press("Enter")
    page.get_by_label("Affinity lines of render-02").fill("maya 2031, maya")
    page.keyboard.press("Enter")
    expect(page.locator(".toast")).to_contain_text("Changed the lines of render-02")
    (worker,) = [one for one in live.client.workers() if one.name == "render-02"]
    assert [list(line) for line in worker.affinity] == [["2031", "maya"], ["maya"]]


def test_workers_are_switched_off_and_on_together(live: Live) -> None:
    page = live.open("/?view=workers")
    page.locator(".workers-grid .row", has_text="render-01").click()
    page.locator(".workers-grid .row", has_text="render-02").click(modifiers=["Control"])
    press(page, "Switch off")
    poll_until(lambda: not any(worker.active for worker in live.client.workers()))
    press(page, "Switch on")
    poll_until(lambda: all(worker.active for worker in live.client.workers()))


def test_errors_of_a_log_are_jumped_to_lines_wrap_and_attempts_are_switched(live: Live) -> None:
    page = live.open(f"/?view=log&job={live.failed}")
    page.get_by_role("button", name="Previous error").click()
    expect(page.locator(".log-line.current")).to_contain_text("Error: no texture")
    page.get_by_role("checkbox", name="wrap").click()
    expect(page.locator(".output.flat")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save").click()
    assert "reading scene" in Path(download.value.path()).read_text(encoding="utf-8")


def test_columns_are_ordered_and_sized_by_keyboard_and_kept(live: Live) -> None:
    live.submit("wide")
    page = live.open(only("wide"))
    page.get_by_text("Columns", exact=True).click()
    page.get_by_role("button", name="Move Progress to the left").click()
    page.get_by_label("Width of User, in pixels").fill("160")
    page.get_by_label("Width of User, in pixels").press("Enter")
    page.reload()
    heads = page.get_by_role("columnheader")
    expect(heads.nth(1)).to_contain_text("Progress")
    box = page.get_by_role("columnheader", name="User").bounding_box()
    assert box
    assert box["width"] == pytest.approx(160, abs=8)
