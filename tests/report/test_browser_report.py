"""The report in a real browser: colour schemes, phone, network requests, accessibility (axe).

Also the page of `dvc plots`, which draws its charts in the browser.
"""

from pathlib import Path

import chromium
import pytest
from pipeline import Pipeline

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.PROGRAM is None, reason="chromium is not installed"),
]

WIDTHS = "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
SHOWN = """() => [...document.querySelectorAll("[data-finding]:not([hidden])")]
  .map((each) => each.dataset.finding)"""
N_CHARTS = 7  # in dvc.yaml for `dvc plots`
CHART = '<div class="chart-wrapper'  # Vega's element around a drawn chart


@pytest.fixture(scope="module")
def pipeline(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline(kept).copy(tmp_path_factory.mktemp("page") / "clone")


@pytest.fixture(scope="module")
def page(pipeline: Pipeline) -> Path:
    assert pipeline.run("cxr", "report").returncode == 0
    return pipeline.folder / "reports" / "index.html"


@pytest.fixture(scope="module")
def unfolded(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page with all parts open, since a browser does not check what is folded."""
    path = tmp_path_factory.mktemp("unfolded") / "index.html"
    path.write_text(page.read_text().replace("<details", "<details open"))
    return path


def test_axe_finds_no_serious_problem(page: Path, unfolded: Path) -> None:
    found = [*chromium.violations(page), *chromium.violations(unfolded)]
    assert [each for each in found if each["impact"] in ("serious", "critical")] == []


def test_axe_finds_a_missing_description_and_low_contrast(unfolded: Path, tmp_path: Path) -> None:
    """Proves that the previous test can fail."""
    broken = tmp_path / "broken.html"
    wrong = '<img src="data:,"><p style="color:#999;background:#fff">hard to read</p></main>'
    broken.write_text(unfolded.read_text().replace("</main>", wrong))
    found = {each["id"] for each in chromium.violations(broken)}
    assert {"image-alt", "color-contrast"} <= found


def test_the_page_requests_nothing_from_the_network(page: Path) -> None:
    assert chromium.requested(page.as_uri(), ["</html>"]) == []


def test_a_request_of_the_page_is_noticed(page: Path, tmp_path: Path) -> None:
    """Proves that the previous test can fail."""
    changed = tmp_path / "changed.html"
    picture = "http://127.0.0.1:9/picture.png"
    changed.write_text(f'{page.read_text()}<img src="{picture}">')
    assert chromium.requested(changed.as_uri(), ["</html>"]) == [picture]


@pytest.mark.parametrize(
    ("scheme", "background"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 24, 28)")]
)
def test_the_page_follows_the_preferred_colour_scheme(
    page: Path, scheme: str, background: str
) -> None:
    with chromium.page(page.as_uri(), scheme=scheme) as opened:
        shown = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    assert shown == background


def test_the_page_does_not_scroll_sideways_on_a_phone(page: Path, unfolded: Path) -> None:
    for path in (page, unfolded):
        with chromium.page(path.as_uri(), window=(390, 800)) as opened:
            content, window = opened.evaluate(WIDTHS)
        assert content == window == 390


def test_the_first_screen_has_the_models_their_gaps_and_baselines(page: Path) -> None:
    with chromium.page(page.as_uri(), window=(1280, 900)) as opened:
        box = opened.locator("#results table").first.bounding_box()
        seen = opened.locator("#results table").first.inner_text()
    assert box is not None and box["y"] + box["height"] <= 900
    assert all(text in seen for text in ("cnn", "attributes-only", "widest gap", "prevalence"))


def test_a_link_opens_the_part_that_it_leads_to_also_by_keyboard(page: Path) -> None:
    with chromium.page(page.as_uri()) as opened:
        parts = "[...document.querySelectorAll('details.part[open]')].map((each) => each.id)"
        assert opened.evaluate(parts) == []
        opened.locator("nav a[href='#groups']").press("Enter")
        opened.wait_for_function("document.getElementById('groups').open")
        opened.locator("#data > summary").press("Enter")
        assert opened.evaluate(parts) == ["groups", "data"]


def test_all_parts_are_printed(page: Path) -> None:
    with chromium.page(page.as_uri()) as opened:
        opened.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert opened.locator("details.part:not([open])").count() == 0


def test_choosing_a_finding_shows_only_its_maps(page: Path) -> None:
    with chromium.page(page.as_uri()) as opened:
        opened.locator("#maps > summary").click()
        opened.locator('input[value="hernia"]').check()
        shown = opened.evaluate(SHOWN)
    assert shown == ["hernia"] * 2 * 3  # two images, three models


def test_dvc_plots_are_drawn_without_the_network(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.dvc("plots", "show")
    address = (pipeline.folder / "dvc_plots" / "index.html").as_uri()
    drawn = chromium.dom(address, [CHART])
    assert drawn.count(CHART) == N_CHARTS
    assert chromium.requested(address, [CHART]) == []
