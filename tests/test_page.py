"""The web page: it is built without a Node.js of the machine, served with care, and shows the farm live in a real browser."""

from __future__ import annotations

import gzip
import logging
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Locator, Page, expect, sync_playwright
from werkzeug.serving import BaseWSGIServer, make_server

from coalition.client import Client
from coalition.server import page as served
from tests.bench.browser import SCROLL
from tests.fakes.farm_api import TOKEN, Farm, create_app
from tests.fakes.farm_scenes import HOSTILE
from tests.fakes.server import HandWorker, RealServer
from tests.polling import poll_until

ROOT = Path(__file__).resolve().parent.parent
SCREENSHOTS = ROOT / "build" / "screenshots"
CHROMIUM = shutil.which("chromium")
FLAGS = ["no-sandbox", "disable-gpu", "disable-quic", "disable-background-networking", "disable-component-update", "disable-sync"]
NO_NODE = {**os.environ, "PATH": "/nonexistent"}
FIRST_LOAD_JS = 60 * 1024
GROUP, FRAME, WANTS_A_GPU = 1, 34, 63

expect.set_options(timeout=15_000)  # a browser, a server and a machine with two cores that do other things too
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def run(*words: str, cwd: Path = ROOT) -> str:
    done = subprocess.run([sys.executable, *words], cwd=cwd, env=NO_NODE, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def built() -> Path:
    run("scripts/build_page.py")
    return ROOT / "webui" / "dist"


# ---------------------------------------------------------------- the build


def test_it_is_built_on_a_machine_without_node(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "build_page.py", tmp_path / "scripts")
    shutil.copytree(ROOT / "webui", tmp_path / "webui", ignore=shutil.ignore_patterns("node_modules", "dist", ".dist-*"))
    run("scripts/build_page.py", cwd=tmp_path)
    assert (tmp_path / "webui" / "dist" / "index.html").is_file()


def test_it_is_not_built_again_while_its_sources_are_the_same(built: Path) -> None:
    before = (built / "index.html").stat().st_mtime_ns
    run("scripts/build_page.py")
    assert (built / "index.html").stat().st_mtime_ns == before


def test_versions_are_exact_and_the_lock_file_names_no_registry() -> None:
    assert '"resolved"' not in (ROOT / "webui" / "package-lock.json").read_text(encoding="utf-8")
    assert not {"^", "~", "*"} & set((ROOT / "webui" / "package.json").read_text(encoding="utf-8"))


def test_a_wheel_and_a_source_archive_carry_it(built: Path, tmp_path: Path) -> None:
    sdist = ("egg_info", "--egg-base", str(tmp_path), "sdist", "--dist-dir", str(tmp_path))
    run("setup.py", "-q", "build_py", "--build-lib", str(tmp_path / "lib"), *sdist)
    assert (tmp_path / "lib" / "coalition" / "server" / "static" / "index.html").is_file()
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= {"webui/dist/index.html", "webui/src/main.jsx", "webui/package-lock.json", "scripts/build_page.py"}


def test_the_first_load_is_at_most_60_kb_of_script_and_charts_are_not_in_it(built: Path) -> None:
    first = re.findall(r'(?:src|href)="/(assets/[^"]+[.]js)"', (built / "index.html").read_text(encoding="utf-8"))
    assert first
    assert sum(len(gzip.compress((built / script).read_bytes())) for script in first) <= FIRST_LOAD_JS
    assert [path.name for path in (built / "assets").glob("plot-*.js") if f"assets/{path.name}" in first] == []
    assert list((built / "assets").glob("plot-*.js"))


def test_every_source_of_the_page_fits_300_lines() -> None:
    sources = [path for path in (ROOT / "webui" / "src").rglob("*") if path.suffix in (".js", ".jsx")]
    assert {path.name: lines for path in sources if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 300} == {}


# ---------------------------------------------------------------- serving


def page_client(*pictures_from: str) -> Any:
    app = Flask("page", static_folder=None)
    served.register(app, pictures_from)
    return app.test_client()


def test_the_index_is_asked_for_each_time_and_allows_nothing_inline(built: Path) -> None:
    answer = page_client().get("/", buffered=True)
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "style=" not in answer.text
    assert "<script>" not in answer.text


def test_pictures_are_let_in_from_this_server_and_where_it_is_told_and_nothing_else_is(built: Path) -> None:
    def policy(*pictures_from: str) -> dict[str, str]:
        text = page_client(*pictures_from).get("/", buffered=True).headers["Content-Security-Policy"]
        return dict(rule.strip().split(" ", 1) for rule in text.split(";"))

    usual, told = policy(), policy("https://renders.studio.example", "http://nas:8080")
    assert usual["img-src"] == "'self'"
    assert told == {**usual, "img-src": "'self' https://renders.studio.example http://nas:8080"}


def test_hashed_files_are_kept_for_good_and_sent_packed(built: Path) -> None:
    script = next((built / "assets").glob("*.js"))
    client = page_client()
    packed = client.get(f"/assets/{script.name}", headers={"Accept-Encoding": "gzip"}, buffered=True)
    plain = client.get(f"/assets/{script.name}", buffered=True)
    assert "immutable" in packed.headers["Cache-Control"]
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.mimetype == plain.mimetype == "text/javascript"
    assert gzip.decompress(packed.data) == plain.data == script.read_bytes()


@pytest.mark.parametrize(
    "path", ["/assets/nothing.js", "/assets/../index.html", "/assets/..%2f.sources.sha256", "/.sources.sha256"]
)
def test_nothing_else_is_served(built: Path, path: str) -> None:
    assert page_client().get(path, buffered=True).status_code == 404


def test_without_a_build_the_answer_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "SOURCES", tmp_path)
    answer = page_client().get("/", buffered=True)
    assert answer.status_code == 503
    assert answer.mimetype == "text/plain"
    assert "scripts/build_page.py" in answer.text


def test_the_licences_of_what_is_bundled_are_served(built: Path) -> None:
    text = page_client().get("/licences.txt", buffered=True).text
    assert all(name in text for name in ("preact", "signals", "ansi_up", "uplot", "SIL OPEN FONT LICENSE"))


# ---------------------------------------------------------------- in the browser


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser, and the page built for it."""
    run("scripts/build_page.py")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=[f"--{flag}" for flag in FLAGS])
        yield launched
        launched.close()


def trap(tab: Page, faults: list[str]) -> None:
    """Whatever no page may do is told there: scripts that fail or are stopped by the policy, errors in the console, dialogs."""

    def heard(line: ConsoleMessage) -> None:
        if line.type == "error" and "Failed to load resource" not in line.text:  # an answer that is no success is told as one
            faults.append(line.text)

    def asked(dialog: Dialog) -> None:
        faults.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", heard)
    tab.on("dialog", asked)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@contextmanager
def serving(app: Flask) -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server: BaseWSGIServer = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Show:
    """Opens the page in new tabs: on a scene of the fake (then `farm` is what it shows), or on any server."""

    def __init__(self, browser: Browser, stack: ExitStack) -> None:
        self.browser, self.stack = browser, stack
        self.farm = Farm("empty")
        self.faults: list[str] = []

    def __call__(self, scene: str = "lively", where: str = "/", wide: int = 1440, dark: bool = False) -> Page:
        self.farm = Farm(scene)
        return self.open(self.stack.enter_context(serving(create_app(self.farm))) + where, wide, dark)

    def open(self, url: str, wide: int = 1440, dark: bool = False) -> Page:
        context = self.browser.new_context(viewport={"width": wide, "height": 900}, color_scheme="dark" if dark else "light")
        self.stack.callback(context.close)
        tab = context.new_page()
        trap(tab, self.faults)
        tab.goto(url)
        return tab


@pytest.fixture
def show(browser: Browser) -> Iterator[Show]:
    """A script that fails, or that the policy had to stop, fails the test."""
    with ExitStack() as stack:
        shown = Show(browser, stack)
        yield shown
    assert shown.faults == []


def row(page: Page, job_id: int) -> Any:
    return page.locator(f'[data-job="{job_id}"]')


@in_browser
def test_the_farm_is_seen_at_a_glance(show: Show) -> None:
    page = show()
    expect(page.get_by_role("heading", name="demo farm")).to_be_visible()
    expect(row(page, GROUP)).to_contain_text("orbit, 48 frames")
    expect(row(page, GROUP)).to_contain_text("/ 48")
    expect(page.locator(".budget").first).to_contain_text("left of $2.50")
    expect(page.locator(".budget .reserved").first).to_be_visible()
    expect(page.locator("section.needs")).to_contain_text("render-04")
    expect(page.locator("section.needs")).to_contain_text("has not been heard of for 14 min")
    expect(page.locator("section.fleet")).to_contain_text("working 3")
    expect(page.locator("section.decisions")).to_contain_text("budget month has $3.10 left")
    expect(page).to_have_title(re.compile(r"^\d errors?, \d+ working . demo farm . Coalition$"))
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / "test-farm.png")


@in_browser
def test_numbers_move_without_a_reload(show: Show) -> None:
    page = show()
    time_of_group = row(page, GROUP).locator(".time")
    before = time_of_group.text_content()
    expect(time_of_group).not_to_have_text(str(before))


@in_browser
def test_a_group_of_100_000_opens_in_place_and_only_what_is_in_view_is_drawn(show: Show) -> None:
    page = show("huge", "/?view=jobs")
    row(page, 7).get_by_role("button").click()
    expect(row(page, 100_001)).to_be_visible()
    expect(page.get_by_role("treegrid")).to_have_attribute("aria-rowcount", re.compile(r"\d{3,}"))
    grid = page.get_by_role("treegrid")
    grid.evaluate("grid => { grid.scrollTop = 9000 }")
    expect(row(page, 100_290)).to_be_visible()
    assert page.locator("[data-job]").count() < 100
    grid.evaluate("grid => { grid.scrollTop = 0 }")
    expect(row(page, 100_001)).to_be_visible()


@in_browser
def test_rows_that_come_into_view_take_the_elements_of_those_that_left_but_not_their_focus(show: Show) -> None:
    page = show("huge", "/?view=jobs")
    row(page, 7).get_by_role("button").click()
    expect(row(page, 100_001)).to_be_visible()
    grid = page.get_by_role("treegrid")
    drawn = page.locator("[data-job]").count()
    grid.evaluate("grid => grid.querySelectorAll('[data-job]').forEach((row) => { row.drawnBefore = true })")
    expect(row(page, 7).get_by_role("button")).to_be_focused()
    grid.evaluate("grid => { grid.scrollTop = 1500 }")
    expect(row(page, 100_070)).to_be_visible()
    kept = grid.evaluate("grid => [...grid.querySelectorAll('[data-job]')].filter((row) => row.drawnBefore).length")
    assert kept >= drawn // 2
    expect(grid).to_be_focused()


def in_order(grid: Locator, beyond: int = 0) -> None:
    """Waits until the rows of a list stand in the document by their numbers, all of them after `beyond`."""
    numbers = "grid => [...grid.querySelectorAll('[role=rowgroup] > .row')].map((row) => Number(row.ariaRowIndex))"
    poll_until(lambda: (found := grid.evaluate(numbers)) == sorted(found) and found[0] > beyond)


@in_browser
def test_rows_stand_in_order_when_the_list_rests_and_what_has_the_focus_keeps_it(show: Show) -> None:
    page = show("busy", "/?view=workers")
    page.evaluate("delete Element.prototype.moveBefore")  # as in a browser that has none
    page.set_viewport_size({"width": 1440, "height": 500})
    grid = page.get_by_role("grid", name="Workers")
    expect(page.locator("[data-worker='110']")).to_be_visible()
    page.evaluate("""() => new Promise((drawn) => {
      document.querySelector('.workers-grid').scrollTop = 760
      const look = () => {
        const pen = document.querySelector("[data-worker='131'] .pen")
        pen ? drawn(pen.focus({ preventScroll: true })) : requestAnimationFrame(look)
      }
      look()
    })""")
    in_order(grid, beyond=2)
    expect(page.get_by_role("button", name="Edit the lines of node-031")).to_be_focused()


@in_browser
def test_what_was_drawn_once_is_let_go_of(show: Show) -> None:
    page = show("huge", "/?view=jobs")
    row(page, 7).get_by_role("button").click()
    expect(row(page, 100_001)).to_be_visible()
    devtools = page.context.new_cdp_session(page)

    def bytes_after(pixels: int) -> float:
        page.evaluate(SCROLL, [".jobs-grid", pixels, 150])
        page.evaluate(SCROLL, [".jobs-grid", -pixels, 150])
        devtools.send("HeapProfiler.collectGarbage")
        return float(devtools.send("Runtime.getHeapUsage")["usedSize"])

    first = bytes_after(90)
    bytes_after(90)
    assert bytes_after(90) - first < 1_500_000


# Scrolls slowly; resolves with how many rows moved in the document meanwhile, and the longest time between two frames.
SLOWLY = """([list, pixels, frames]) => new Promise((resolve) => {
  const grid = document.querySelector(list)
  let moved = 0
  let longest = 0
  let last = performance.now()
  grid.querySelectorAll('.row').forEach((row) => { row.drawnBefore = true })
  const watch = new MutationObserver((seen) => {
    moved += seen.flatMap(({ addedNodes }) => [...addedNodes]).filter((node) => node.drawnBefore).length
  })
  watch.observe(grid, { childList: true, subtree: true })
  const step = (now) => {
    longest = Math.max(longest, now - last)
    last = now
    grid.scrollTop += pixels
    if (frames--) requestAnimationFrame(step)
    else resolve([moved, longest, watch.disconnect()])
  }
  requestAnimationFrame(step)
})"""


@in_browser
def test_no_row_moves_in_the_document_while_the_list_is_scrolled_however_slowly(show: Show) -> None:
    page = show("huge", "/?view=jobs")
    expect(row(page, 7)).to_be_visible()
    page.evaluate(SLOWLY, [".jobs-grid", 90, 30])
    grid = page.get_by_role("treegrid")

    def moved() -> int | None:
        """None where the browser was held up for so long that the list rested."""
        in_order(grid)
        found, longest_ms, _ = page.evaluate(SLOWLY, [".jobs-grid", 8, 80])
        return int(found) if longest_ms < 100 else None

    assert poll_until(lambda: [found] if (found := moved()) is not None else None) == [0]


@in_browser
def test_rows_stand_in_order_also_while_the_focus_is_in_a_field_beside_the_list(show: Show) -> None:
    page = show("busy", "/?view=workers")
    page.set_viewport_size({"width": 1440, "height": 500})
    grid = page.get_by_role("grid", name="Workers")
    expect(page.locator("[data-worker='110']")).to_be_visible()
    page.get_by_label("Find workers").focus()
    grid.evaluate("grid => { grid.scrollTop = 760 }")
    in_order(grid, beyond=2)
    expect(page.get_by_label("Find workers")).to_be_focused()


@in_browser
def test_a_range_over_rows_that_are_not_loaded_selects_nothing(show: Show) -> None:
    page = show("huge", "/?view=jobs")
    row(page, 3).click()
    grid = page.get_by_role("treegrid")
    grid.evaluate("grid => { grid.scrollTop = 30 * 3_000 }")
    row(page, 3_001).click(modifiers=["Shift"])
    expect(page.locator(".toast")).to_contain_text("some of the rows between are not loaded")
    expect(page.get_by_text("1 job selected")).to_be_visible()
    page.keyboard.press("Escape")
    row(page, 3_003).click(modifiers=["Shift"])
    row(page, 3_006).click(modifiers=["Shift"])
    expect(page.get_by_text("4 jobs selected")).to_be_visible()


@in_browser
def test_the_keyboard_goes_to_a_row_as_soon_as_it_is_loaded(show: Show) -> None:
    page = show("huge", "/?view=jobs")
    row(page, 3).click()
    grid = page.get_by_role("treegrid")
    grid.focus()
    last = int(grid.get_attribute("aria-rowcount") or 0) - 1
    page.keyboard.press("End")
    expect(row(page, last)).to_have_attribute("aria-selected", "true")
    page.keyboard.press("ArrowUp")
    expect(row(page, last - 1)).to_have_attribute("aria-selected", "true")


@in_browser
def test_workers_are_walked_and_selected_with_the_keyboard(show: Show) -> None:
    page = show("busy", "/?view=workers")
    names = page.locator(".workers-grid [data-worker][aria-selected='true'] .name")
    grid = page.get_by_role("grid", name="Workers")
    expect(page.locator("[data-worker='110']")).to_be_visible()
    steps = page.evaluate("history.length")
    grid.focus()
    for key in ("ArrowDown", "Shift+ArrowDown", "Shift+ArrowDown", "Shift+ArrowDown"):
        page.keyboard.press(key)
    expect(names).to_have_text(["edit-suite-3", "local-7", "local-8", "node-000"])
    page.keyboard.press("Shift+ArrowUp")
    expect(names).to_have_text(["edit-suite-3", "local-7", "local-8"])
    page.keyboard.press("PageDown")
    expect(names).to_have_text([re.compile("^node-0[1-3]")])
    page.keyboard.press("End")
    expect(page.locator(".detail h2")).to_have_text("render-04")
    page.keyboard.press("Escape")
    page.get_by_role("grid", name="Workers").focus()
    page.keyboard.press("ArrowUp")
    expect(names).to_have_text(["render-03"])
    assert page.evaluate("history.length") <= steps + 1


@in_browser
def test_lines_are_edited_by_a_double_click_and_changed_by_enter_only(show: Show) -> None:
    page = show("busy", "/?view=workers")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method) if request.method != "GET" else None)
    page.get_by_role("gridcell", name="linux povray Edit the lines of node-007").dblclick()
    field = page.get_by_label("Affinity lines of node-007")
    field.fill("half writ")
    page.get_by_role("grid", name="Workers").evaluate("grid => { grid.scrollTop = 1_500 }")
    expect(field).to_have_count(0)
    page.get_by_role("button", name="Edit the lines of node-050").click()
    page.get_by_label("Affinity lines of node-050").fill("whole")
    page.keyboard.press("Escape")
    expect(page.get_by_role("grid", name="Workers")).to_be_focused()
    assert sent == []
    page.get_by_role("button", name="Edit the lines of node-050").click()
    page.get_by_label("Affinity lines of node-050").fill("whole")
    page.keyboard.press("Enter")
    poll_until(lambda: sent == ["PATCH"])


@in_browser
def test_the_next_error_is_looked_for_in_what_is_not_loaded_yet(show: Show) -> None:
    page = show("lively")
    text = "".join(f"{'Error' if line in (10, 8_800) else 'line'} {line} of a long log\n" for line in range(9_000)).encode()
    show.farm.log = lambda job: text  # type: ignore[method-assign]
    page.goto(page.url + f"?view=log&job={FRAME}&at=0")
    for line in (10, 8_800):
        page.get_by_role("button", name="Next error").click()
        expect(page.locator(".log-line.current")).to_have_text(f"Error {line} of a long log\n")
    page.get_by_role("button", name="Next error").click()
    expect(page.get_by_text("none further on")).to_be_visible()


@in_browser
def test_a_log_that_is_not_followed_says_how_long_it_is_and_stays_with_its_attempt(show: Show) -> None:
    page = show("lively")
    farm, found = show.farm, replace(show.farm.job(FRAME), state="WORKING", attempt=7)
    text = "".join(f"line {line} of a log\n" for line in range(2_000)).encode()
    farm.job = lambda job_id: found  # type: ignore[method-assign]
    farm.log = lambda job: text  # type: ignore[method-assign]
    page.goto(page.url + f"?view=log&job={FRAME}&at=0")
    expect(page.locator("section.log-page header")).to_contain_text("36 KB, live")
    text *= 2
    expect(page.locator("section.log-page header")).to_contain_text("72 KB, live")
    found = replace(found, attempt=8)
    with page.expect_response(lambda answer: answer.headers.get("x-log-attempt") == "8"):
        text = b"another run\n"
    expect(page.locator(".log-line").first).to_have_text("line 0 of a log\n")


@in_browser
def test_the_log_of_the_next_attempt_is_shown_though_it_ends_alike(show: Show) -> None:
    page = show("lively")
    farm, found, run = show.farm, show.farm.job(FRAME), 1
    farm.job = lambda job_id: replace(found, attempt=run)  # type: ignore[method-assign]
    farm.log = lambda job: f"run {run}\nrendered\nexit 1\n".encode()  # type: ignore[method-assign]
    page.goto(page.url + f"?view=log&job={FRAME}")
    for run in range(1, 7):
        expect(page.locator(".log-line").first).to_have_text(f"run {run}\n")


@in_browser
def test_the_list_is_walked_with_the_keyboard(show: Show) -> None:
    page = show()
    row(page, GROUP).click()
    grid = page.get_by_role("treegrid")
    grid.focus()
    page.keyboard.press("ArrowRight")
    expect(row(page, 10)).to_be_visible()
    page.keyboard.press("ArrowDown")
    expect(grid).to_have_attribute("aria-activedescendant", "job-10")
    page.keyboard.press("Enter")
    expect(page.locator(".detail h2")).to_have_text("frame 0001")
    page.get_by_role("button", name="Close", exact=True).focus()
    page.keyboard.press("Escape")
    expect(page.locator(".detail")).to_have_count(0)
    expect(grid).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(grid).to_have_attribute("aria-activedescendant", f"job-{GROUP}")


@in_browser
def test_a_job_says_why_it_waits(show: Show) -> None:
    page = show()
    row(page, WANTS_A_GPU).click()
    reasons = page.locator(".why")
    expect(reasons).to_contain_text("Why it waits")
    expect(reasons).to_contain_text("render-02 has 0 gpus and the job needs 1")
    expect(reasons).to_contain_text("budget month has $3.10 left")


@in_browser
def test_a_jobs_log_is_followed_in_colours(show: Show) -> None:
    page = show("lively", f"/?job={FRAME}")
    log = page.locator(".output")
    expect(log.locator(".fg-cyan")).to_have_text("orbit.pov")
    before = log.text_content() or ""
    poll_until(lambda: len(log.text_content() or "") > len(before))
    assert (log.text_content() or "").startswith(before.rstrip("\n"))


@in_browser
def test_an_error_is_told_with_its_attempts(show: Show) -> None:
    page = show("lively", "/?job=65")
    expect(page.locator(".why")).to_contain_text("killed, out of memory")
    expect(page.locator(".attempts .row").first).to_contain_text("render-04")


@in_browser
def test_an_action_calls_the_api_and_the_row_changes(show: Show) -> None:
    page = show("lively", f"/?job={GROUP}")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Start")).to_be_visible()
    assert show.farm.calls == [("pause", {"ids": [GROUP]})]


@in_browser
def test_deleting_is_asked_first_and_names_how_much(show: Show) -> None:
    page = show("lively", f"/?job={GROUP}")
    detail = page.locator(".detail")
    detail.get_by_role("button", name="Delete").click()
    expect(page.locator(".question")).to_contain_text("Delete orbit, 48 frames and the 48 jobs in it?")
    page.get_by_role("button", name="Cancel").click()
    assert show.farm.calls == []
    detail.get_by_role("button", name="Delete").click()
    page.locator(".question").get_by_role("button", name="Delete").click()
    expect(row(page, GROUP)).to_have_count(0)
    assert show.farm.calls == [("delete", {"ids": [GROUP]})]


@in_browser
def test_a_worker_is_drained_beside_the_list(show: Show) -> None:
    page = show("lively", "/?view=workers")
    page.locator(".workers-grid .row", has_text="render-01").click()
    page.locator(".detail").get_by_role("button", name="Drain").click()
    poll_until(lambda: ("workers/drain", {"ids": [1]}) in show.farm.calls)


@in_browser
@pytest.mark.parametrize(
    "where", ["/", "/?job=2", "/?parent=1&job=1", "/?view=workers", "/?view=cloud", "/?view=jobs&filter=<img src=x"]
)
def test_hostile_text_is_shown_as_text(show: Show, where: str) -> None:
    page = show("hostile", where)
    expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    expect(page.locator("main")).to_contain_text("onerror" if "filter" not in where else "All jobs")
    if "job=2" in where:
        expect(page.locator(".output")).to_contain_text("<script>")
        expect(page.get_by_text("javascript:window.pwned=1")).to_be_visible()
    assert page.evaluate("window.pwned") is None
    assert page.locator("#app script, #app iframe, img:not([src='/favicon.svg'])").count() == 0
    assert page.locator("a[href^='javascript']").count() == 0


@in_browser
def test_the_policy_stops_inline_script(show: Show) -> None:
    page = show("empty")
    page.evaluate("() => { const s = document.createElement('script'); s.text = 'window.pwned = 1'; document.body.append(s) }")
    assert page.evaluate("window.pwned") is None
    poll_until(lambda: page.evaluate("1") and show.faults)  # a call lets the browser's messages in
    show.faults.clear()


@in_browser
def test_a_server_that_is_away_is_said_and_its_return_noticed(show: Show) -> None:
    page = show()
    expect(row(page, GROUP)).to_be_visible()
    expect(page.locator(".connection")).to_have_text("live")
    show.farm.away = True
    expect(page.locator(".connection")).to_contain_text("stale since", timeout=10_000)
    expect(row(page, GROUP)).to_be_visible()
    show.farm.away = False
    expect(page.locator(".connection")).to_have_text("live", timeout=10_000)


@in_browser
def test_an_empty_farm_says_how_to_begin(show: Show) -> None:
    page = show("empty")
    expect(page.get_by_text("No jobs yet. Submit one:")).to_be_visible()
    expect(page.get_by_text("coalition worker")).to_be_visible()
    expect(page.get_by_text("Nothing decided yet.")).to_be_visible()
    page.get_by_role("link", name="Cloud", exact=True).click()
    expect(page.get_by_text("No cloud machines.")).to_be_visible()


@in_browser
def test_a_farm_with_tokens_asks_for_one_and_keeps_it_in_the_tab(show: Show) -> None:
    page = show("token")
    page.get_by_label("API token").fill("nothing.good")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("not known, or no longer valid")).to_be_visible()
    page.get_by_label("API token").fill(TOKEN)
    page.get_by_role("button", name="Sign in").click()
    expect(row(page, GROUP)).to_be_visible()
    assert page.evaluate("[sessionStorage.length, document.cookie]") == [1, ""]
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API token")).to_be_visible()


@in_browser
def test_the_theme_follows_the_system_until_one_is_chosen(show: Show) -> None:
    page = show(dark=True)
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.evaluate(paper) == "rgb(18, 21, 25)"
    page.get_by_role("button", name="Theme: system").click()
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    page.reload()
    expect(row(page, GROUP)).to_be_visible()
    assert page.evaluate(paper) == "rgb(255, 255, 255)"


VIEWS = ("farm", "jobs", "workers", "cloud", "money", "activity", "limits", "settings", "log")


@in_browser
@pytest.mark.parametrize("scene", ["lively", "hostile"])
def test_a_narrow_screen_needs_no_scrolling_sideways(show: Show, scene: str) -> None:
    page = show(scene, wide=360)
    for view in VIEWS:
        page.goto(f"{page.url.partition('?')[0]}?view={view}&job=2")
        expect(page.locator("main section").first).to_be_visible()
        expect(page.locator(".loading")).to_have_count(0)
        assert page.evaluate("document.documentElement.scrollWidth") == 360, view


@in_browser
def test_the_address_holds_the_place_and_back_works(show: Show) -> None:
    page = show("lively", "/?view=jobs")
    row(page, GROUP).click()
    expect(page).to_have_url(page.url.split("?")[0] + f"?view=jobs&job={GROUP}")
    page.get_by_role("link", name="List them").click()
    expect(row(page, 10)).to_be_visible()
    page.go_back()
    expect(page.locator(".detail h2")).to_have_text("orbit, 48 frames")
    page.locator(".glyphs a").nth(3).click()
    page.reload()
    expect(page.locator(".detail h2")).to_have_text("frame 0004")


@in_browser
def test_a_count_leads_to_the_jobs_it_counts(show: Show) -> None:
    page = show()
    page.get_by_role("link", name="Pending").click()
    expect(row(page, 58)).to_contain_text("orbit, film")
    expect(row(page, GROUP)).to_have_count(0)
    expect(page.get_by_label("Filter jobs")).to_have_value("state:PENDING group:no")


# ---------------------------------------------------------------- with the real server


@in_browser
def test_it_shows_and_steers_the_real_server(show: Show, tmp_path: Path) -> None:
    with RealServer(tmp_path) as server, Client(server.url) as client:
        group = client.submit(title="three frames", command="render {frame}", frames="1-3", user="anim")
        worker = HandWorker(server.url, "hand-1")
        attempt = worker.take()[0]["attempt"]
        worker.write(attempt, b"frame 1 \x1b[32mbegins\x1b[0m\n")
        page = show.open(server.url)
        expect(row(page, group)).to_contain_text("0 / 3")
        row(page, group).get_by_role("button").click()
        page.locator("[aria-level='2']").first.click()
        expect(page.locator(".output")).to_contain_text("frame 1 begins")
        worker.end(attempt)
        expect(row(page, group)).to_contain_text("1 / 3")
        expect(page.locator(".attempts")).to_contain_text("finished")
        row(page, group).click()
        page.locator(".detail").get_by_role("button", name="Pause").click()
        expect(row(page, group)).to_contain_text("paused")
        poll_until(lambda: client.job(group).paused)  # the row shows at once what is asked for
        expect(page.locator(".why")).to_contain_text("Is paused", ignore_case=True)


@in_browser
def test_people_sign_in_with_a_password_and_out_again(show: Show, tmp_path: Path) -> None:
    with RealServer(tmp_path, auth="local") as server:
        server.store.create_account("ann", "correct horse battery", "user")
        page = show.open(server.url)
        page.get_by_label("Name").fill("ann")
        page.get_by_label("Password").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_text("the name or the password is wrong")).to_be_visible()
        page.get_by_label("Password").fill("correct horse battery")
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator(".corner .user")).to_have_text("ann")
        assert page.evaluate("[sessionStorage.length, document.cookie]") == [0, ""]
        page.reload()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Name")).to_be_visible()


@in_browser
def test_an_admin_makes_users_gives_them_roles_and_removes_them(show: Show, tmp_path: Path) -> None:
    with RealServer(tmp_path, auth="local") as server:
        server.store.create_account("eve", "correct horse battery", "admin")
        page = show.open(f"{server.url}/?view=settings")
        page.get_by_label("Name").fill("eve")
        page.get_by_label("Password").fill("correct horse battery")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_label("Name of the new user").fill("ann")
        page.get_by_label("Password of the new user").fill("short")
        page.get_by_role("button", name="New user").click()
        expect(page.get_by_role("form", name="New user").get_by_role("alert")).to_be_visible()
        page.get_by_label("Password of the new user").fill("staple battery horse")
        page.get_by_role("button", name="New user").click()
        page.get_by_label("Role of ann").select_option("wrangler")
        expect(page.locator(".toast")).to_contain_text("ann is wrangler now")
        assert {one["name"]: one["role"] for one in server.store.accounts()} == {"eve": "admin", "ann": "wrangler"}
        expect(page.locator(".users tr", has_text="eve").get_by_role("button", name="Remove")).to_have_count(0)
        page.locator(".users tr", has_text="ann").get_by_role("button", name="Remove").click()
        page.locator(".question").get_by_role("button", name="Remove").click()
        expect(page.locator(".users tbody tr")).to_have_count(1)


@in_browser
def test_people_change_their_own_password(show: Show, tmp_path: Path) -> None:
    with RealServer(tmp_path, auth="local") as server:
        server.store.create_account("ann", "correct horse battery", "user")
        page = show.open(f"{server.url}/?view=settings")
        page.get_by_label("Name").fill("ann")
        page.get_by_label("Password").fill("correct horse battery")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_label("Your password now").fill("not that one at all")
        page.get_by_label("Your new password").fill("staple battery horse")
        page.get_by_role("button", name="Change", exact=True).click()
        expect(page.get_by_role("form", name="Your password").get_by_role("alert")).to_be_visible()
        page.get_by_label("Your password now").fill("correct horse battery")
        page.get_by_role("button", name="Change", exact=True).click()
        expect(page.get_by_label("Name")).to_be_visible()
        page.get_by_label("Name").fill("ann")
        page.get_by_label("Password").fill("staple battery horse")
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator(".corner .user")).to_have_text("ann")
