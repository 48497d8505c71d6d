"""A real browser without a window: pages as they are drawn, and what they ask the network for."""

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
LOOKS = 3  # on a busy machine a page may not be ready when the time budget ends
BROWSER = "not an origin"  # who asks, where no page does
AXE_DONE = "axe-has-looked"


def dom(url: str, folder: Path, awaited: list[str], *flags: str) -> str:
    """A page's elements once it is drawn and holds the awaited texts."""
    for attempt in range(LOOKS):
        command = [str(PROGRAM), *FLAGS, *flags, f"--user-data-dir={folder / str(attempt)}"]
        done = subprocess.run(
            [*command, "--dump-dom", url], capture_output=True, text=True, timeout=180
        )
        if all(text in done.stdout for text in awaited):
            break
    return done.stdout


def requested(url: str, folder: Path) -> list[str]:
    """Every address that a page asks the network for, by the log of the browser."""
    folder.mkdir(exist_ok=True)
    log = folder / "net.json"
    dom(url, folder, ["</html>"], f"--log-net-log={log}")
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    by_page = [each for each in events if each.get("initiator", BROWSER) != BROWSER]
    return sorted({each["url"] for each in by_page if "url" in each})


def violations(page: Path, folder: Path) -> list[dict[str, Any]]:
    """What axe finds wrong with a page for people who use it by ear or by key."""
    axe = files("axe_core_python").joinpath("axe.min.js").read_text()
    look = (
        "axe.run().then((found) => {"
        f"const said = document.createElement('pre'); said.id = '{AXE_DONE}';"
        "said.textContent = JSON.stringify(found.violations.map((each) => ({"
        "id: each.id, impact: each.impact, help: each.help,"
        "nodes: each.nodes.map((node) => node.html)})));"
        "document.body.append(said); });"
    )
    watched = folder / "watched.html"
    watched.write_text(f"{page.read_text()}<script>{axe}</script><script>{look}</script>")
    drawn = dom(watched.as_uri(), folder, [f'<pre id="{AXE_DONE}"'])
    said = re.search(rf'<pre id="{AXE_DONE}">(.*?)</pre>', drawn, re.DOTALL)
    assert said is not None, "axe did not come to its end"
    found: list[dict[str, Any]] = json.loads(unescape(said[1]))
    return found
