"""A real browser for tests of pages: Chromium of the machine, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

OPTIONS = ("--no-sandbox", "--disable-gpu", "--enable-precise-memory-info")


@contextmanager
def running_browser(*options: str) -> Iterator[Any]:
    """Yield a browser with further options; skip the test where Chromium or Playwright is absent."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no browser: neither chromium nor google-chrome is installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=[*OPTIONS, *options])
        try:
            yield browser
        finally:
            browser.close()


class Errors(list[str]):
    """Collect what a page complains about: errors of scripts, refused content, failed requests to our own files."""

    def __init__(self, page: Any) -> None:
        page.on("pageerror", lambda error: self.append(str(error)))
        page.on("console", lambda said: self.append(said.text) if said.type == "error" else None)


def heap_mb(page: Any) -> float:
    """Return the size of the script's live objects, in MB."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    size = float(page.evaluate("performance.memory.usedJSHeapSize")) / 1e6
    session.detach()
    return size
