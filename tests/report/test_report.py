"""The report: the stages' own numbers on one self-contained page."""

import base64
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pipeline import Pipeline

from cxr import report
from cxr.data.splits import Origin
from cxr.errors import CxrError
from cxr.labels import CHESTMNIST
from cxr.plots.figure import COLOURS
from cxr.plots.svg import inline
from cxr.plots.training import curves_of_models
from cxr.report import sheets
from cxr.report.background import FINDINGS, REPORTED, STARTED_FROM

HISTORY = {
    "cnn": [
        {"epoch": 1.0, "train_loss": 0.3, "val_loss": 0.31, "val_macro_auroc": 0.6},
        {"epoch": 2.0, "train_loss": 0.2, "val_loss": 0.25, "val_macro_auroc": 0.7},
    ]
}
ORIGIN = Origin("phantom-28", "phantom")
MODELS = ("cnn", "squeezenet", "vit")


class Page(HTMLParser):
    """A page's tags, ids, addresses and the texts of its table rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        by_name = dict(attributes)
        self.tags.append((tag, by_name))
        self.addresses += [
            str(value) for key, value in attributes if key in ("src", "href", "xlink:href", "data")
        ]
        if "id" in by_name:
            self.ids.append(str(by_name["id"]))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data

    def row(self, first: str, n: int = 0) -> list[str]:
        """The n-th row whose first cell is `first`."""
        rows = [row for row in self.rows if row and row[0] == first]
        return [" ".join(cell.split()) for cell in rows[n]]


def test_each_of_the_14_findings_is_explained() -> None:
    assert set(FINDINGS) == set(CHESTMNIST)


def test_the_published_accuracies_are_those_of_the_work_this_is_based_on() -> None:
    ours = [each.accuracy for each in REPORTED if each.source == STARTED_FROM]
    assert ours == [0.9459, 0.9474, 0.9474]


def test_a_chart_uses_the_colours_of_the_page() -> None:
    svg = inline(partial(curves_of_models, HISTORY, ORIGIN), "curves", 'two "curves" & more')
    root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert root.attrib["aria-label"] == 'two "curves" & more'
    assert "width" not in root.attrib
    assert COLOURS[0].lower() not in svg.lower()
    assert "var(--series-0)" in svg
    assert "Macro AUROC (validation)" in "".join(root.itertext())


def test_two_charts_on_a_page_have_no_common_ids() -> None:
    drawn = [inline(partial(curves_of_models, HISTORY, ORIGIN), name, name) for name in "ab"]
    first, second = (set(re.findall(r'<(?:clipPath|path) id="([^"]+)"', svg)) for svg in drawn)
    assert first
    assert not first & second


def test_a_chart_is_the_same_each_time() -> None:
    first, second = (
        inline(partial(curves_of_models, HISTORY, ORIGIN), "curves", "") for _ in range(2)
    )
    assert first == second


def test_missing_results_are_reported_with_the_command_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(CxrError, match=r"metrics\.json is missing; fetch it with `dvc pull`"):
        report.write(tmp_path)


@pytest.fixture(scope="module")
def reported(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    pipeline = Pipeline(kept).copy(tmp_path_factory.mktemp("reported") / "clone")
    done = pipeline.run("cxr", "report")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (pipeline.folder / "reports/index.html").as_uri()
    return pipeline


@pytest.fixture(scope="module")
def text(reported: Pipeline) -> str:
    return (reported.folder / "reports/index.html").read_text()


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


@pytest.mark.slow
def test_the_models_table_has_the_numbers_of_metrics_json(reported: Pipeline, page: Page) -> None:
    models = reported.json("reports/metrics.json")["models"]
    for name in MODELS:
        test = models[name]["test"]
        train = reported.json(f"reports/{name}/train.json")
        low, high = test["macro_auroc_ci"]
        row = page.row(name)
        assert row[1] == f"{test['macro_auroc']:.3f} [{low:.3f}, {high:.3f}]"
        assert row[-2:] == [f"{100 * test['accuracy']:.2f}%", f"{100 * test['accuracy_gain']:+.2f}"]
        trained = next(
            each for each in page.rows if each[0] == name and each[-1] == train["device"]
        )
        assert trained[4] == f"{train['seconds'] / train['epochs']:.2f}"
        total = train["parameters"]["total"]
        assert [int(cell.replace(",", "")) for cell in trained[5:7]] == [
            train["parameters"]["trainable"],
            total - train["parameters"]["trainable"],
        ]
    of_no = models["all-negative"]["test"]["accuracy"]
    assert page.row("all-negative")[-2] == f"{100 * of_no:.2f}%"


@pytest.mark.slow
def test_the_models_table_compares_with_the_attributes_and_between_groups(
    reported: Pipeline, page: Page
) -> None:
    metrics = reported.json("reports/metrics.json")
    low, high = metrics["models"]["attributes-only"]["test"]["macro_auroc_ci"]
    assert f"[{low:.3f}, {high:.3f}]" in page.row("attributes-only")[1]
    for name in MODELS:
        (compared,) = (
            each
            for each in metrics["comparisons"]
            if (each["a"], each["b"], each["metric"]) == (name, "attributes-only", "macro_auroc")
        )
        row = page.row(name)
        assert row[3].startswith(f"{compared['difference']:+.3f} [")
        gaps = [
            gap
            for attribute in metrics["subgroups"]["attributes"].values()
            for gap in attribute["gaps"]
            if gap["model"] == name and gap["metric"] == "macro_auroc"
        ]
        shown = [gap for gap in gaps if gap["p_holm"] is not None and gap["p_holm"] < 0.05]
        widest = max(shown, key=lambda gap: abs(gap["difference"]), default=None)
        expected = f"{widest['difference']:+.3f}" if widest else "none shown"
        assert expected in row[4]


@pytest.mark.slow
def test_every_group_has_a_row_with_its_metrics(reported: Pipeline, page: Page) -> None:
    subgroups = reported.json("reports/metrics.json")["subgroups"]["attributes"]
    assert set(subgroups) == {"sex", "age", "view"}
    for attribute in subgroups.values():
        for group, counts in attribute["groups"].items():
            rows = [row for row in page.rows if row and row[0].removesuffix(" (small)") == group]
            for name in MODELS:
                value = attribute["models"][name][group]["macro_auroc"]
                shown = "-" if value is None else f"{value:.3f}"
                assert any(
                    row[1] == f"{counts['n']:,}" and row[3].split()[0] == shown for row in rows
                )


@pytest.mark.slow
def test_every_finding_has_a_row_with_every_models_auroc(reported: Pipeline, page: Page) -> None:
    metrics = reported.json("reports/metrics.json")
    models, attributes = metrics["models"], metrics["subgroups"]["attributes"].values()
    n_groups = sum(len(each["groups"]) for each in attributes)  # which have the first rows
    for label in CHESTMNIST:
        row = page.row(label, n_groups)
        aurocs = [models[name]["test"]["labels"][label]["auroc"] for name in MODELS]
        expected = ["-" if auroc is None else f"{auroc:.3f}" for auroc in aurocs]
        assert [cell.split(" ")[0] for cell in row[3:]] == expected


@pytest.mark.slow
def test_the_page_refers_to_nothing_outside_itself(page: Page, text: str) -> None:
    external = [each for each in page.addresses if not each.startswith(("#", "data:image/"))]
    assert external == []
    assert not re.search(r"url\((?!#)", text)
    assert not re.search(r"@import|<link|<iframe", text)


@pytest.mark.slow
def test_ids_are_unique(page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))


@pytest.mark.slow
def test_every_picture_has_an_alternative_text(page: Page) -> None:
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) > 2 * 3 * 14
    assert all(attributes.get("alt") for attributes in pictures)


@pytest.mark.slow
def test_every_finding_can_be_chosen_and_one_is_preselected(page: Page) -> None:
    choices = [attributes for tag, attributes in page.tags if tag == "input"]
    assert [each["value"] for each in choices] == list(CHESTMNIST)
    chosen = [each["value"] for each in choices if "checked" in each]
    assert len(chosen) == 1
    seen = {
        attributes["data-finding"]
        for _, attributes in page.tags
        if "data-finding" in attributes and "hidden" not in attributes
    }
    assert seen == set(chosen)


@pytest.mark.slow
def test_the_page_marks_phantom_data_and_shows_the_audit(text: str) -> None:
    assert "PHANTOM" in text
    assert "The audit passes" in text
    assert "Not a medical device" in text


@pytest.mark.slow
def test_lineage_names_every_stage_run_and_md5(reported: Pipeline, text: str) -> None:
    names = [path.name for path in (reported.folder / "records").iterdir()]
    assert len(names) == 11
    for name in names:
        record = reported.json(f"records/{name}")
        assert record["fingerprint"] in text
        assert all(run["run_id"] in text for run in record["runs"])
        assert all(digest["md5"] in text for digest in record["outputs"].values())


@pytest.mark.slow
def test_a_changed_number_fails_the_audit_on_the_page(reported: Pipeline, tmp_path: Path) -> None:
    other = reported.copy(tmp_path / "changed")
    metrics = other.json("reports/metrics.json")
    metrics["models"]["cnn"]["test"]["macro_auroc"] = 0.999
    metrics["data"]["name"] = "<script>alert(1)</script>"
    replace(other.folder / "reports/metrics.json", metrics)
    done = other.run("cxr", "report", "--json")
    assert done.returncode == 2  # not a valid folder name
    metrics["data"]["name"] = "a<b>c"
    replace(other.folder / "reports/metrics.json", metrics)
    done = other.run("cxr", "report", "--json")
    assert done.returncode == 0, done.stderr
    text = Path(json.loads(done.stdout)["report"]).read_text()
    assert "The audit fails" in text
    assert "0.999" in text
    assert "<b>" not in text
    assert "a&lt;b&gt;c" in text


@pytest.mark.slow
def test_without_gradcam_the_page_says_that_there_are_no_maps_yet(
    reported: Pipeline, tmp_path: Path
) -> None:
    other = reported.copy(tmp_path / "without")
    (other.folder / "reports/gradcam.json").unlink()
    done = other.run("cxr", "report")
    assert done.returncode == 0, done.stderr
    assert "No maps yet" in (other.folder / "reports/index.html").read_text()


@pytest.mark.slow
def test_maps_of_earlier_models_are_not_shown(reported: Pipeline, tmp_path: Path) -> None:
    other = reported.copy(tmp_path / "ahead")
    other.change(train__vit__lr=0.003)
    other.repro("evaluate")
    done = other.run("cxr", "report")
    assert done.returncode == 0, done.stderr
    text = (other.folder / "reports/index.html").read_text()
    assert "are of other models or images than the rest of this page" in text
    assert "data-finding" not in text.split("<script>")[0]


@pytest.mark.slow
def test_results_that_cannot_be_shown_are_reported_in_one_line(
    reported: Pipeline, tmp_path: Path
) -> None:
    other = reported.copy(tmp_path / "damaged")
    with_text = reported.json("reports/metrics.json")
    with_text["models"]["vit"]["test"]["accuracy"] = "much"
    without_metric = reported.json("reports/metrics.json")
    del without_metric["models"]["cnn"]["test"]["labels"]["hernia"]["auroc"]
    without_models = {"data": {"name": "x", "source": "file"}, "models": {}}
    for content in ({"data": {}}, without_models, with_text, without_metric):
        replace(other.folder / "reports/metrics.json", content)
        done = other.run("cxr", "report")
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert done.stderr.startswith("cxr: ")


def replace(path: Path, content: Any) -> None:
    """Write a new file, because DVC's own may be a link into its cache."""
    path.unlink()
    path.write_text(json.dumps(content))


@pytest.mark.slow
def test_maps_without_attribution_show_the_plain_image(reported: Pipeline) -> None:
    gathered = sheets.gather(reported.folder, ("cnn", "vit"))
    images = np.load(reported.folder / "data/processed/test_images.npy")
    for name in ("cnn", "vit"):
        archive = np.load(reported.folder / f"attributions/{name}.npz")
        for case, index, attribution in zip(
            gathered.cases, archive["indices"], archive["attribution"], strict=True
        ):
            scale = np.abs(attribution).max()
            for i, label in enumerate(CHESTMNIST):
                shown = case.maps[name][label]
                assert shown.strongest == pytest.approx(float(attribution[i].max()))
                colours = decoded(shown.picture)
                max_saturation = (colours.max(axis=2) - colours.min(axis=2)).max()
                if shown.strongest <= 0:
                    grey = Image.fromarray(images[index]).resize((150, 150), 0)
                    assert max_saturation < 30  # JPEG rounds
                    assert np.abs(colours - np.asarray(grey, float)[..., None]).mean() < 4
                elif shown.strongest > scale / 2:
                    assert max_saturation > 60


def decoded(data_uri: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    kind, _, content = data_uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))), float)
