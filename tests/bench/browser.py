"""The web page in headless Chromium on a large farm: how soon each view shows, how lists scroll, and what a tab takes."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from playwright.sync_api import Browser, Page, expect, sync_playwright

from coalition.server.page import folder as built

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--enable-precise-memory-info"]
PATIENCE_MS = 300_000
TRACED = ["toplevel", "devtools.timeline", "disabled-by-default-devtools.timeline", "__metadata"]
TASKS = ("RunTask", "ThreadControllerImpl::RunTask")
# As a hand does it: so many pixels a frame; resolves with the frames a second, from the first to the last one.
SCROLL = """([list, pixels, frames]) => new Promise((resolve) => {
  const grid = document.querySelector(list)
  let left = frames
  let begun
  const step = (now) => {
    begun ??= now
    grid.scrollTop += pixels
    if (left--) requestAnimationFrame(step)
    else resolve(frames / (now - begun) * 1000)
  }
  requestAnimationFrame(step)
})"""


@dataclass(frozen=True)
class Scrolled:
    """Frames a second, the longest task of the page's thread by the trace (by the clock, and of computing), and rows drawn."""

    frames_per_s: float
    longest_ms: float
    computing_ms: float
    rows: int


class Tab:
    """A page in a browser of its own."""

    def __init__(self, browser: Browser, address: str) -> None:
        self.browser, self.address = browser, address
        self.page: Page = browser.new_page(viewport={"width": 1440, "height": 900})

    def first_ms(self, place: str, shown: str) -> float:
        """From nothing until the first of what is `shown` (a selector) can be seen, nothing of the page being kept."""
        context = self.browser.new_context(viewport={"width": 1440, "height": 900})
        page = context.new_page()
        begun = time.perf_counter()
        page.goto(f"{self.address}/{place}", wait_until="commit")
        page.locator(shown).first.wait_for(timeout=PATIENCE_MS)
        took = (time.perf_counter() - begun) * 1e3
        context.close()
        return took

    def show(self, place: str, shown: str) -> None:
        """Goes there within the page, as its links do, so that it keeps what it holds on to."""
        if not self.page.url.startswith(self.address):
            self.page.goto(self.address)
        self.page.evaluate("to => { history.pushState(null, '', to); dispatchEvent(new PopStateEvent('popstate')) }", f"/{place}")
        self.page.locator(shown).first.wait_for(timeout=PATIENCE_MS)

    def scroll(self, grid: str, rows: str, frames: int, pixels: int = 90) -> Scrolled:
        """Scrolls a list by `pixels` a frame."""
        self.browser.start_tracing(page=self.page, categories=TRACED)
        rate = self.page.evaluate(SCROLL, [grid, pixels, frames])
        trace = self.browser.stop_tracing()
        return Scrolled(float(rate), *longest_task_ms(trace), self.page.locator(rows).count())

    def leap_ms(self, grid: str, top: int, shown: str) -> float:
        """From when a list is scrolled far ahead at once until what is there can be seen."""
        begun = time.perf_counter()
        self.page.locator(grid).evaluate("(grid, top) => { grid.scrollTop = top }", top)
        self.page.locator(shown).wait_for(timeout=PATIENCE_MS)
        return (time.perf_counter() - begun) * 1e3

    def to_the_end(self, grid: str, last: str) -> None:
        self.page.locator(grid).evaluate("grid => { grid.scrollTop = 1e9 }")
        expect(self.page.locator(last)).to_be_visible(timeout=PATIENCE_MS)

    def memory(self) -> tuple[int, int]:
        """Bytes: of its scripts, and of the largest of the browser's processes that draw pages, without what these share.

        What the page has let go of counts until Chromium collects it, some 20 s after the last scroll, as in a task manager.
        """
        heap = int(self.page.evaluate("performance.memory.usedJSHeapSize"))
        found = self.browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
        drawing = [psutil.Process(one["id"]).memory_full_info().uss for one in found if one["type"] == "renderer"]
        return heap, max(drawing)

    def collect(self) -> None:
        """Has Chromium give back what the page has let go of."""
        self.page.context.new_cdp_session(self.page).send("HeapProfiler.collectGarbage")


@contextmanager
def tab(address: str) -> Iterator[Tab]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield Tab(browser, address)
        browser.close()


def longest_task_ms(trace: bytes) -> tuple[float, float]:
    """The longest tasks of the threads that run the pages' scripts: by the clock, and by what they computed."""
    events = json.loads(trace)["traceEvents"]
    mains = {(one["pid"], one["tid"]) for one in events if one.get("name") == "thread_name" and _is_main(one)}
    tasks = [one for one in events if one.get("name") in TASKS and (one["pid"], one["tid"]) in mains]
    wall, computing = (max((one.get(name, 0) for one in tasks), default=0) / 1e3 for name in ("dur", "tdur"))
    return wall, computing


def _is_main(event: dict[str, dict[str, str]]) -> bool:
    return event["args"].get("name") == "CrRendererMain"


def first_load_bytes() -> int:
    """The scripts that are loaded before anything is shown, packed."""
    place = built() or Path()
    scripts = re.findall(r'(?:src|href)="/(assets/[^"]+[.]js)"', (place / "index.html").read_text(encoding="utf-8"))
    return sum(len(gzip.compress((place / script).read_bytes())) for script in scripts)
