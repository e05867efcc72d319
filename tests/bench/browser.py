"""The web page in headless Chromium: how soon it shows a large farm, how it scrolls through one group, and what it keeps."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from playwright.sync_api import Page, expect, sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--enable-precise-memory-info"]
ROW_PX = 30
PATIENCE_MS = 120_000
WATCH = """() => {
  window.longest = 0
  new PerformanceObserver((list) => list.getEntries().forEach((task) => {
    window.longest = Math.max(window.longest, task.duration)
  })).observe({ type: 'longtask', buffered: false })
}"""
# As a hand does it: so many pixels a frame; resolves with the frames a second.
SCROLL = """([pixels, frames]) => new Promise((resolve) => {
  const grid = document.querySelector('.jobs-grid')
  const begun = performance.now()
  let left = frames
  const step = () => {
    grid.scrollTop += pixels
    if (left--) requestAnimationFrame(step)
    else resolve(frames / (performance.now() - begun) * 1000)
  }
  requestAnimationFrame(step)
})"""


@dataclass(frozen=True)
class Seen:
    """Milliseconds until rows are shown, frames a second, the longest task while scrolling (ms), rows drawn, and bytes kept."""

    first_ms: float
    frames_per_s: float
    longest_ms: float
    rows: int
    heap_bytes: int


@contextmanager
def tab() -> Iterator[Page]:
    """A page of a browser of its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield browser.new_page(viewport={"width": 1440, "height": 900})
        browser.close()


def look(address: str, group: int, jobs: int, frames: int = 600) -> Seen:
    """Opens the list of a group of so many jobs, scrolls through it, and to its end."""
    with tab() as page:
        begun = time.perf_counter()
        page.goto(f"{address}/?view=jobs&parent={group}")
        rows = page.locator("[data-job]")
        expect(rows.first).to_be_visible(timeout=PATIENCE_MS)
        first_ms = (time.perf_counter() - begun) * 1e3
        page.evaluate(WATCH)
        rate = page.evaluate(SCROLL, [3 * ROW_PX, frames])
        page.get_by_role("treegrid").evaluate("grid => { grid.scrollTop = 1e9 }")
        expect(page.locator(f"[data-job='{group + jobs}']")).to_be_visible(timeout=PATIENCE_MS)
        heap = int(page.evaluate("performance.memory.usedJSHeapSize"))
        return Seen(first_ms, float(rate), float(page.evaluate("window.longest")), rows.count(), heap)
