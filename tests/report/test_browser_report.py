"""The report in a real browser: colour schemes, phone, network requests, accessibility (axe).

Also the page of `dvc plots`, which draws its charts in the browser.
"""

import re
from pathlib import Path

import chromium
import pytest
from pipeline import Pipeline

from cxr.labels import LABELS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.PROGRAM is None, reason="chromium is not installed"),
]

COLOURS = """<script>
const shown = document.createElement("pre");
shown.id = "style";
shown.textContent = getComputedStyle(document.body).backgroundColor + " width "
  + document.documentElement.scrollWidth + " of " + document.documentElement.clientWidth;
document.body.append(shown);
</script>"""
CHOOSE = """<script>
const choice = document.querySelector('input[value="hernia"]');
choice.click();
document.title = [...document.querySelectorAll("[data-finding]:not([hidden])")]
  .map((each) => each.dataset.finding).join(" ");
</script>"""


N_CHARTS = 7  # in dvc.yaml for `dvc plots`
CHART = '<div class="chart-wrapper'  # Vega's element around a drawn chart


@pytest.fixture(scope="module")
def pipeline(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline(kept).copy(tmp_path_factory.mktemp("page") / "clone")


@pytest.fixture(scope="module")
def page(pipeline: Pipeline) -> Path:
    assert pipeline.run("cxr", "report").returncode == 0
    return pipeline.folder / "reports" / "index.html"


def with_script(page: Path, script: str, folder: Path) -> str:
    """The address of a copy of the page with a script at its end."""
    changed = folder / "changed.html"
    changed.write_text(page.read_text() + script)
    return changed.as_uri()


def test_axe_finds_no_serious_problem(page: Path, tmp_path: Path) -> None:
    found = chromium.violations(page, tmp_path)
    assert [each for each in found if each["impact"] in ("serious", "critical")] == []


def test_axe_finds_a_missing_description_and_low_contrast(page: Path, tmp_path: Path) -> None:
    """Proves that the previous test can fail."""
    broken = tmp_path / "broken.html"
    wrong = '<img src="data:,"><p style="color:#999;background:#fff">hard to read</p></main>'
    text = page.read_text().replace("</main>", wrong)
    broken.write_text(text)
    found = {each["id"] for each in chromium.violations(broken, tmp_path)}
    assert {"image-alt", "color-contrast"} <= found


def test_the_page_requests_nothing_from_the_network(page: Path, tmp_path: Path) -> None:
    assert chromium.requested(page.as_uri(), tmp_path) == []


def test_the_browser_log_shows_a_request(page: Path, tmp_path: Path) -> None:
    picture = '<img src="http://127.0.0.1:9/picture.png">'
    requests = chromium.requested(with_script(page, picture, tmp_path), tmp_path)
    assert "http://127.0.0.1:9/picture.png" in requests


@pytest.mark.parametrize(
    ("flags", "background"),
    [([], "rgb(255, 255, 255)"), (["--blink-settings=preferredColorScheme=0"], "rgb(20, 24, 28)")],
    ids=["light", "dark"],
)
def test_the_page_follows_the_preferred_colour_scheme(
    page: Path, flags: list[str], background: str, tmp_path: Path
) -> None:
    address = with_script(page, COLOURS, tmp_path)
    assert background in chromium.dom(address, tmp_path, ['<pre id="style">'], *flags)


def test_the_page_does_not_scroll_sideways_on_a_phone(page: Path, tmp_path: Path) -> None:
    # A headless browser's window is at least 500 pixels wide; a frame can be narrower.
    frame = tmp_path / "phone.html"
    address = with_script(page, COLOURS, tmp_path)
    frame.write_text(
        f'<iframe src="{address}" width="390" height="3000" id="phone"></iframe>'
        '<script>document.getElementById("phone").onload = (event) => {'
        'document.body.append(event.target.contentDocument.getElementById("style")); };</script>'
    )
    drawn = chromium.dom(
        frame.as_uri(), tmp_path, ['<pre id="style">'], "--allow-file-access-from-files"
    )
    found = re.search(r"width (\d+) of (\d+)<", drawn)
    assert found is not None
    assert int(found[1]) == int(found[2]) <= 390


def test_choosing_a_finding_shows_only_its_maps(page: Path, tmp_path: Path) -> None:
    drawn = chromium.dom(with_script(page, CHOOSE, tmp_path), tmp_path, ["<title>hernia"])
    title = drawn.split("<title>")[1].split("</title>")[0].split()
    assert set(title) == {"hernia"}
    assert len(title) == 2 * 3  # two images, three models
    assert all(label in drawn for label in LABELS)


def test_dvc_plots_are_drawn_without_the_network(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.dvc("plots", "show")
    address = (pipeline.folder / "dvc_plots" / "index.html").as_uri()
    drawn = chromium.dom(address, tmp_path, [CHART])
    assert drawn.count(CHART) == N_CHARTS
    assert chromium.requested(address, tmp_path / "again") == []
