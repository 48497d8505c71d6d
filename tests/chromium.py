"""A headless browser for tests: rendered pages, their network requests, accessibility checks."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, TimeoutError, sync_playwright

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu"]  # CI runs as root, without a screen
WINDOW = (1800, 3600)
SECONDS = 90  # for a page to be rendered on a busy machine
HAS_ALL = "texts => texts.every(text => document.documentElement.outerHTML.includes(text))"


@contextmanager
def page(url: str, window: tuple[int, int] = WINDOW, scheme: Any = "light") -> Iterator[Page]:
    """A page in a new browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=FLAGS)
        width, height = window
        opened = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        opened.set_default_timeout(1000 * SECONDS)
        opened.goto(url)
        yield opened
        browser.close()


def dom(url: str, awaited: list[str], window: tuple[int, int] = WINDOW) -> str:
    """The elements of a rendered page, once they contain the awaited texts or time is up."""
    with page(url, window) as opened:
        with suppress(TimeoutError):  # the test shows which texts are missing
            opened.wait_for_function(HAS_ALL, arg=awaited)
        return opened.content()


def requested(url: str, awaited: list[str]) -> list[str]:
    """Every network address that a page requests before it contains the awaited texts."""
    addresses: list[str] = []
    with page("about:blank") as opened:
        opened.on("request", lambda request: addresses.append(request.url))
        opened.goto(url)
        opened.wait_for_function(HAS_ALL, arg=awaited)
    return [each for each in addresses if not each.startswith(("file:", "data:"))]


def violations(path: Path) -> list[dict[str, Any]]:
    """A page's accessibility problems found by axe."""
    with page(path.as_uri()) as opened:
        opened.add_script_tag(path=files("axe_core_python").joinpath("axe.min.js"))
        found: list[dict[str, Any]] = opened.evaluate("axe.run().then(found => found.violations)")
    return found
