"""A headless browser for tests: rendered pages, their network requests, accessibility checks."""

import json
import re
import shutil
import subprocess
from html import unescape
from importlib.resources import files
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=1800,3600", "--virtual-time-budget=600000",
)  # fmt: skip
ATTEMPTS = 3  # on a busy machine a page may not be ready when the time budget ends
BROWSER = "not an origin"  # the initiator of the browser's own requests
AXE_RESULT = "axe-result"


def dom(url: str, folder: Path, awaited: list[str], *flags: str) -> str:
    """The elements of a rendered page, once they contain the awaited texts."""
    for attempt in range(ATTEMPTS):
        command = [str(PROGRAM), *FLAGS, *flags, f"--user-data-dir={folder / str(attempt)}"]
        done = subprocess.run(
            [*command, "--dump-dom", url], capture_output=True, text=True, timeout=180
        )
        if all(text in done.stdout for text in awaited):
            break
    return done.stdout


def requested(url: str, folder: Path) -> list[str]:
    """Every address that a page requests, from the browser's network log."""
    folder.mkdir(exist_ok=True)
    log = folder / "net.json"
    dom(url, folder, ["</html>"], f"--log-net-log={log}")
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    by_page = [each for each in events if each.get("initiator", BROWSER) != BROWSER]
    return sorted({each["url"] for each in by_page if "url" in each})


def violations(page: Path, folder: Path) -> list[dict[str, Any]]:
    """A page's accessibility problems found by axe."""
    axe = files("axe_core_python").joinpath("axe.min.js").read_text()
    check = (
        "axe.run().then((result) => {"
        f"const output = document.createElement('pre'); output.id = '{AXE_RESULT}';"
        "output.textContent = JSON.stringify(result.violations.map((each) => ({"
        "id: each.id, impact: each.impact, help: each.help,"
        "nodes: each.nodes.map((node) => node.html)})));"
        "document.body.append(output); });"
    )
    checked = folder / "checked.html"
    checked.write_text(f"{page.read_text()}<script>{axe}</script><script>{check}</script>")
    rendered = dom(checked.as_uri(), folder, [f'<pre id="{AXE_RESULT}"'])
    match = re.search(rf'<pre id="{AXE_RESULT}">(.*?)</pre>', rendered, re.DOTALL)
    assert match is not None, "axe did not finish"
    problems: list[dict[str, Any]] = json.loads(unescape(match[1]))
    return problems
