"""What stands around the list of jobs on the web page keeps up with it: selection, actions, sums, filter, sort and editor."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Route, expect

from coalition.client import Client
from tests.fakes.server import HandWorker, RealServer
from tests.test_page import chromium, in_browser, row
from tests.test_page_live import Live, titled, visited

pytestmark = in_browser


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with ExitStack() as stack:
        server = stack.enter_context(RealServer(tmp_path_factory.mktemp("farm")))
        client = stack.enter_context(Client(server.url))
        yield Live(server, client, stack.enter_context(chromium()), stack, 0, 0)


@pytest.fixture
def live(farm: Live) -> Iterator[Live]:
    with visited(farm) as shown:
        yield shown


def test_the_actions_on_what_is_selected_are_those_of_now(live: Live) -> None:
    job = live.submit("of now")
    page = live.open("/?view=jobs", wide=1920)
    row(page, job).click()
    selection = page.locator(".selection")
    expect(selection.get_by_role("button", name="Start", exact=True)).to_have_count(0)
    selection.get_by_role("button", name="Pause", exact=True).click()
    expect(selection.get_by_role("button", name="Start", exact=True)).to_be_visible()
    for priority in (137, 147):
        selection.get_by_role("button", name="Priority ↑").click()
        expect(row(page, job).locator(".priority")).to_have_text(str(priority))


def test_the_footer_counts_what_came_into_an_empty_list(live: Live) -> None:
    page = live.open("/?view=jobs&filter=title:footed")
    footer = page.locator(".footer")
    expect(footer).to_contain_text("0 rows")
    for number in range(3):
        live.submit(f"footed {number}")
    expect(footer).to_contain_text("3 rows")
    expect(footer).not_to_contain_text("to do")  # of a filter nobody counts these


def test_the_footer_sums_a_group_once_though_it_is_open(live: Live) -> None:
    group = live.client.submit(title="summed", command="true", frames="1-3", affinity=("summed",))
    worker = HandWorker(live.server.url, "summed-1", affinity=[["summed"]])
    for _ in range(2):
        worker.end(worker.take()[0]["attempt"])
    page = live.open(f"/?view=jobs&filter=id:{group}")
    footer = page.locator(".footer")
    expect(footer).to_contain_text("run time 3\u202fs")
    row(page, group).get_by_role("button", name="Open the group").click()
    expect(row(page, group + 3)).to_be_visible()
    expect(footer).to_contain_text("run time 3\u202fs")


def test_deleting_a_group_counts_the_jobs_in_it(live: Live) -> None:
    group = live.client.submit(title="counted", command="true", frames="1-30", affinity=("nobody",))
    page = live.open(f"/?view=jobs&filter=id:{group}")
    row(page, group).click()
    page.locator(".selection [data-action=delete]").click()
    expect(page.locator(".selection .question")).to_contain_text("Delete 1 selected job, 30 jobs in all?")
    page.locator(".selection").get_by_role("button", name="Cancel").click()
    page.locator(".selection [data-action=skip]").click()
    expect(page.locator(".selection .question")).to_contain_text("without being run: 1 selected job, 30 jobs in all?")


def test_a_question_does_not_count_the_jobs_that_wait_for_the_selected_one(live: Live) -> None:
    first = live.submit("alone")
    for number in range(3):
        live.submit(f"after {number}", depends_on=[first])
    page = live.open(f"/?view=jobs&filter=id:{first}")
    row(page, first).click()
    page.locator(".selection [data-action=skip]").click()
    expect(page.locator(".selection .question")).to_contain_text("without being run: 1 selected job?")


@pytest.mark.parametrize("wide", [1100, 1280, 1440, 1920])
def test_no_row_moves_when_one_is_selected_so_that_a_double_click_opens_that_one(live: Live, wide: int) -> None:
    group = live.client.submit(title=f"double {wide}", group=True)
    for number in range(3):
        live.submit(f"double {wide} {number}")
    page = live.open(f"/?view=jobs&filter=title:%22double+{wide}%22", wide=wide)
    box = titled(page, f"double {wide}").bounding_box()
    row(page, group).click()
    expect(page.locator(".detail h2")).to_be_visible()
    assert titled(page, f"double {wide}").bounding_box() | {"width": 0} == box | {"width": 0}
    row(page, group).dblclick()
    expect(page).to_have_url(re.compile(f"parent={group}"))


def test_a_filter_over_all_jobs_drops_the_sort_by_title_that_nothing_can_do(live: Live) -> None:
    live.submit("dropped b")
    live.submit("dropped a")
    page = live.open("/?view=jobs&sort=title")
    head = page.get_by_role("columnheader", name="Job")
    expect(head.get_by_role("button")).to_be_visible()
    page.get_by_label("Filter jobs").fill("title:dropped")
    expect(page.locator("[data-job]")).to_have_count(2)
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(head.get_by_role("button")).to_have_count(0)
    expect(head).not_to_have_attribute("aria-sort", re.compile("ascending|descending"))
    page.get_by_label("Filter jobs").fill("")
    expect(head.get_by_role("button")).to_be_visible()


def test_a_field_of_which_there_are_several_values_stays_so_when_it_is_emptied(live: Live) -> None:
    jobs = [live.submit(f"mixed {priority}", priority=priority) for priority in (100, 140)]
    page = live.open("/?view=jobs&filter=title:mixed")
    row(page, jobs[0]).click()
    row(page, jobs[1]).click(modifiers=["Control"])
    page.locator(".selection [data-action=edit]").click()
    form = page.get_by_role("complementary", name="Properties")
    expect(form.get_by_label("Title")).to_be_focused()
    priority = form.get_by_label("Priority")
    expect(priority).to_have_attribute("placeholder", re.compile("several values"))
    priority.fill("7")
    expect(form.get_by_role("button", name="Change 1 field")).to_be_visible()
    priority.fill("")
    expect(form.get_by_role("button", name="Nothing changed")).to_be_disabled()
    form.get_by_label("Note").fill("kept")
    form.get_by_role("button", name="Change 1 field").click()
    expect(form).to_have_count(0)
    assert [live.client.job(job).priority for job in jobs] == [100, 140]
    assert {live.client.job(job).note for job in jobs} == {"kept"}


def test_the_editor_says_when_it_does_not_know_all_values(live: Live) -> None:
    group = live.client.submit(title="fifty", command="true", frames="1-51", affinity=("nobody",))
    page = live.open(f"/?view=jobs&parent={group}")
    expect(row(page, group + 1)).to_be_visible()
    page.get_by_role("button", name="Select all that match").click()
    page.locator(".selection [data-action=edit]").click()
    form = page.get_by_role("complementary", name="Properties")
    expect(form).to_contain_text("These are the values of the first 50")
    priority = form.get_by_label("Priority")
    priority.fill("1")
    priority.fill("127")  # as the first 50 have it, and as all shall have it
    expect(form.get_by_role("button", name="Change 1 field")).to_be_enabled()


def test_users_are_offered_though_the_filter_has_none_yet(live: Live) -> None:
    live.submit("of zoe", user="zoe")
    page = live.open("/?view=jobs")
    expect(titled(page, "of zoe")).to_be_visible()
    filtered = page.get_by_label("Filter jobs")
    filtered.press_sequentially("us")
    page.keyboard.press("Tab")
    expect(filtered).to_have_value("user:")
    expect(titled(page, "of zoe")).to_be_visible()
    filtered.press_sequentially("z")
    page.get_by_role("option", name="user:zoe").click()
    expect(page).to_have_url(re.compile("filter=user%3Azoe"))


def test_money_is_of_the_whole_farm_whatever_group_was_looked_at(live: Live) -> None:
    group = live.client.submit(title="looked at", group=True)
    page = live.open(f"/?view=jobs&parent={group}")
    page.get_by_role("link", name="Money", exact=True).click()
    expect(page.get_by_role("heading", name="Spend")).to_be_visible()
    expect(page.get_by_text("In group")).to_have_count(0)


def test_a_link_to_workers_has_what_was_searched_and_the_order(live: Live) -> None:
    for name in ("linked-a", "linked-b", "other-c"):
        HandWorker(live.server.url, name)
    page = live.open("/?view=workers")
    page.get_by_label("Find workers").fill("linked")
    page.get_by_role("columnheader", name="Errors").get_by_role("button").click()
    expect(page).to_have_url(re.compile("find=linked&order=errors"))
    colleague = live.open(page.url)
    expect(colleague.locator("[data-worker]")).to_have_count(2)
    expect(colleague.get_by_role("columnheader", name="Errors")).to_have_attribute("aria-sort", "ascending")
    colleague.get_by_label("Find workers").fill("nothing like it")
    expect(colleague.get_by_text("No worker fits.")).to_be_visible()
    colleague.goto(f"{live.server.url}/?view=workers&find=linked&order=__proto__")
    expect(colleague.locator("[data-worker]")).to_have_count(2)


def test_events_of_workers_name_them(live: Live) -> None:
    HandWorker(live.server.url, "named-1").take()
    page = live.open("/?view=activity")
    expect(page.locator(".events").get_by_role("link", name="named-1").first).to_be_visible()


def test_a_column_that_was_chosen_is_shown_rather_than_a_usual_one(live: Live) -> None:
    live.submit("columned")
    page = live.open("/?view=jobs", wide=1100)
    expect(page.get_by_role("columnheader", name="Affinity")).to_have_count(0)
    page.get_by_text("Columns", exact=True).click()
    page.locator(".columns-menu label", has_text="Affinity").click(position={"x": 40, "y": 8})  # the word, not the box
    expect(page.get_by_role("columnheader", name="Affinity")).to_be_visible()


def test_escape_does_not_throw_away_what_was_written(live: Live) -> None:
    job = live.submit("written")
    page = live.open(f"/?view=jobs&filter=id:{job}")
    row(page, job).click()
    page.locator(".selection [data-action=edit]").click()
    form = page.get_by_role("complementary", name="Properties")
    form.get_by_label("Note").fill("half a thought")
    page.keyboard.press("Escape")
    expect(form.get_by_label("Note")).to_have_value("half a thought")
    form.get_by_role("button", name="As it was").click()
    page.keyboard.press("Escape")
    expect(form).to_have_count(0)


def test_the_keyboard_skips_the_menu(live: Live) -> None:
    page = live.open("/?view=jobs")
    expect(page.get_by_label("Filter jobs")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the view")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Filter jobs")).to_be_focused()
    assert page.url == f"{live.server.url}/?view=jobs"


def test_what_is_found_in_a_log_is_a_link(live: Live) -> None:
    job = live.submit("found", affinity=("found",))
    worker = HandWorker(live.server.url, "found-1", affinity=[["found"]])
    worker.write(worker.take()[0]["attempt"], b"".join(b"line %d\n" % number for number in range(500)))
    page = live.open(f"/?view=log&job={job}")
    expect(page.get_by_text("line 499")).to_be_visible()
    search = page.get_by_label("Find in the log")
    search.fill("line 123")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"at=\d+"))
    colleague = live.open(page.url)
    expect(colleague.locator(".log-line.marked")).to_contain_text("line 123")


def test_what_failed_or_runs_is_run_again_on_another_worker(live: Live) -> None:
    jobs = [live.submit(f"leaves {number}", affinity=("leaves",)) for number in range(2)]
    first = HandWorker(live.server.url, "leaves-1", slots=2, affinity=[["leaves"]])
    attempts = [lease["attempt"] for lease in first.take()]
    first.end(attempts[0], exit_code=1)
    page = live.open("/?view=jobs&filter=title:leaves")
    row(page, jobs[0]).click()
    row(page, jobs[1]).click(modifiers=["Control"])
    page.locator(".selection [data-action=elsewhere]").click()
    question = page.locator(".selection .question")
    expect(question).to_contain_text("Run 2 jobs on another worker? What it did so far is lost.")
    question.get_by_role("button", name="Run elsewhere").click()
    for job in jobs:
        expect(row(page, job).locator(".state .word")).to_have_text("waiting")
        assert live.client.job(job).not_workers == ("leaves-1",)


def test_what_was_cut_goes_into_a_group_only(live: Live) -> None:
    group = live.client.submit(title="goes into", group=True)
    job = live.submit("goes in")
    page = live.open("/?view=jobs&filter=title:goes", wide=1920)
    row(page, job).click()
    page.locator(".selection [data-action=cut]").click()
    into = page.get_by_role("button", name="Paste into")
    expect(page.get_by_role("button", name="Paste at the top")).to_be_visible()
    expect(into).to_have_count(0)
    row(page, group).click()
    into.click()
    expect(page.get_by_role("status").filter(has_text="Moved 1 job")).to_be_visible()
    assert live.client.job(job).parent == group


def test_a_log_that_is_seen_at_its_end_leads_to_its_beginning(live: Live) -> None:
    job = live.submit("from the start", affinity=("start",))
    worker = HandWorker(live.server.url, "start-1", affinity=[["start"]])
    worker.write(worker.take()[0]["attempt"], b"".join(b"line %06d of many\n" % number for number in range(30_000)))
    page = live.open(f"/?view=log&job={job}")
    expect(page.get_by_text("line 029999 of many")).to_be_visible()
    page.get_by_role("button", name="To the beginning").click()
    expect(page.get_by_text("line 000000 of many")).to_be_visible()
    page.get_by_role("button", name="To the end").click()
    expect(page.get_by_text("line 029999 of many")).to_be_visible()


def test_what_ended_while_a_question_stood_is_not_run_again(live: Live) -> None:
    job = live.submit("ends soon", affinity=("soon",))
    worker = HandWorker(live.server.url, "soon-1", affinity=[["soon"]])
    attempt = worker.take()[0]["attempt"]
    page = live.open(f"/?view=jobs&filter=id:{job}")
    row(page, job).click()
    page.locator(".selection [data-action=elsewhere]").click()
    worker.end(attempt)
    page.locator(".selection .question").get_by_role("button", name="Run elsewhere").click()
    expect(page.locator(".toast")).to_contain_text("0 jobs will run again, not where each was; 1 job left out: it is no longer")
    assert live.client.job(job).state == "FINISHED"


def test_a_filter_whose_last_word_is_not_finished_says_the_rest(live: Live) -> None:
    live.submit("begun here")
    live.submit("other there")
    page = live.open("/?view=jobs")
    filtered = page.get_by_label("Filter jobs")
    filtered.fill("begun user:")
    expect(page.locator("[data-job]")).to_have_count(1)
    expect(page).to_have_url(re.compile("filter=begun$"))
    expect(filtered).to_have_value("begun user:")
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")  # as it is: of nobody
    expect(page).to_have_url(re.compile("filter=begun[+]user%3A$"))
    expect(page.get_by_text("No job matches.")).to_be_visible()


def test_a_range_by_mouse_leaves_the_keyboard_in_the_list_and_selects_no_text(live: Live) -> None:
    jobs = [live.submit(f"ranged {number}") for number in range(3)]
    page = live.open("/?view=jobs&filter=title:ranged")
    row(page, jobs[2]).click()
    page.get_by_label("Filter jobs").focus()
    row(page, jobs[0]).click(modifiers=["Shift"])
    expect(page.locator(".selection")).to_contain_text("3 jobs selected")
    expect(page.get_by_role("treegrid")).to_be_focused()
    assert page.evaluate("String(getSelection())") == ""


def test_an_unknown_worker_is_told_beside_its_field(live: Live) -> None:
    HandWorker(live.server.url, "known-1")
    page = live.open("/?view=activity")
    field = page.get_by_label("Worker")
    field.fill("nobody-9")
    page.keyboard.press("Tab")
    expect(page.get_by_role("alert")).to_have_text("There is no worker nobody-9.")
    expect(field).not_to_be_focused()


def test_who_sees_own_jobs_only_has_no_menu_of_machines_and_money(live: Live) -> None:
    page = live.open("/?view=limits")
    expect(page.get_by_role("link", name="Money", exact=True)).to_be_visible()

    def own(route: Route) -> None:
        answer = route.fetch(headers={**route.request.headers, "If-None-Match": ""})
        route.fulfill(response=answer, json={**answer.json(), "rights": ["create"]})

    page.route("**/api/v1/server", own)
    page.goto(f"{live.server.url}/?view=money")
    expect(page.get_by_role("alert")).to_have_text("You may not see this. Ask whoever runs the farm for the right to.")
    expect(page.get_by_role("link", name="Limits", exact=True)).to_be_visible()
    for view in ("Money", "Cloud"):
        expect(page.get_by_role("link", name=view, exact=True)).to_have_count(0)
    page.unroute_all(behavior="ignoreErrors")  # what is on its way when the page goes


def test_the_home_view_tells_the_newest_of_what_holds_a_pool_back(live: Live) -> None:
    page = live.open("/?view=limits")
    told = [
        ("hold", "a", "3 wait"),
        ("hold", "b", "no money"),
        ("hold", "a", "2 wait"),
        ("launch", "a", "1 wants it"),
        ("hold", "a", "0 wait"),
    ]
    rows = [
        {"id": 9 - number, "at": 1e9, "last_at": None, "action": action, "pool": pool, "count": 0, "reason": reason}
        for number, (action, pool, reason) in enumerate(told)
    ]
    page.route("**/api/v1/decisions*", lambda route: route.fulfill(json={"decisions": rows, "next": None}))
    page.goto(live.server.url)
    expect(page.locator(".decision p")).to_have_text(["3 wait", "no money", "1 wants it"])
    page.goto(f"{live.server.url}/?view=cloud")
    expect(page.locator(".decision p")).to_have_text([reason for _, _, reason in told])


def test_the_map_of_a_group_marks_what_failed_and_what_runs_yet(live: Live) -> None:
    group = live.client.submit(title="mapped", command="true", frames="1-3", affinity=("mapped",))
    worker = HandWorker(live.server.url, "mapped-1", slots=3, affinity=[["mapped"]])
    first, second, _ = (lease["attempt"] for lease in worker.take())
    worker.end(first, exit_code=1)
    worker.end(second)
    page = live.open(f"/?view=jobs&job={group}")
    page.locator(".children").get_by_role("button", name="Time", exact=True).click()
    cells = page.locator(".children .glyphs .cell")
    expect(cells.nth(0)).to_have_class(re.compile("failed"))
    expect(cells.nth(0)).to_have_attribute("aria-label", re.compile(", error$"))
    expect(cells.nth(1)).to_have_class(re.compile(r"^cell shade-[0-6]$"))
    expect(cells.nth(2)).to_have_class(re.compile("runs"))
