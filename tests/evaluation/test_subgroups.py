"""Metrics of groups and their gaps, checked against pandas, sklearn and loops over resamples."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr import params
from cxr.errors import CxrError
from cxr.evaluation import evaluate as evaluation
from cxr.evaluation import intervals, significance, subgroups
from cxr.evaluation.description import ATTRIBUTES_ONLY, MIN_UNITS, Predicted
from cxr.evaluation.subgroups import Grouped
from cxr.labels import UNKNOWN

N, N_PATIENTS, SEED, N_RESAMPLES = 600, 250, 5, 30
NAMES = ("a", "b", "c", "rare", "nowhere")  # `c` has no threshold
MACRO = ["a", "b", "c"]  # of the view; `rare` is positive in one view only
THRESHOLDS = np.array([0.5, 0.35, np.nan, 0.4, 0.5])
METRICS = ("auroc", "ap", "sensitivity", "specificity", "calibration")
COMPARED = ("auroc", "sensitivity", "specificity", "calibration")
BANDS = {"age": (40.0, 65.0)}
GROUPS = {
    "view": ["AP", "LL", "PA"],
    "age": ["under 40", "40 to under 65", "65 and over"],
}
LARGE = {"view": ["AP", "PA"], "age": GROUPS["age"]}


def nothing(done: int, total: int) -> None:
    """Progress that is not shown."""


@pytest.fixture(scope="module")
def images() -> pd.DataFrame:
    """Patients with several images, often in both views; 12 images of 8 patients are lateral."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"patient": rng.integers(0, N_PATIENTS, N)})
    frame["view"] = rng.choice(["PA", "AP", ""], N, p=[0.5, 0.4, 0.1])
    frame["age"] = rng.choice([*map(str, range(18, 90)), "", "adult", "40", "65"], N)
    frame.loc[frame.index[:12], "view"] = "LL"
    frame.loc[frame.index[:12], "patient"] = np.arange(12) % 8
    for i, name in enumerate(NAMES):
        y = rng.random(N) < (0.35, 0.3, 0.25, 0.2, 0.0)[i]
        frame[name] = np.where(rng.random(N) < 0.1, UNKNOWN, y).astype(np.int8)
    frame.loc[(frame["view"] != "PA") & (frame["rare"] == 1), "rare"] = 0
    frame.loc[frame["view"] == "LL", "b"] = 0
    frame["nowhere"] = np.int8(UNKNOWN)
    return frame


@pytest.fixture(scope="module")
def models(images: pd.DataFrame) -> dict[str, Predicted]:
    """Rounded scores, so that some are tied; a score is not its probability."""
    rng = np.random.default_rng(1)
    of_patient = rng.normal(size=(N_PATIENTS, 5))[images["patient"]]
    predicted = {}
    for name in ("cnn", "vit"):
        noise = rng.normal(size=(N, 5)) + of_patient
        scores = np.round(noise + 1.5 * (images[list(NAMES)].to_numpy() == 1), 1)
        probs = np.round(expit(0.7 * scores - 0.6), 2)
        predicted[name] = Predicted(scores, probs, THRESHOLDS, "no threshold")
    return predicted


@pytest.fixture(scope="module")
def resamples(images: pd.DataFrame) -> intervals.Resamples:
    return intervals.draw(N, images["patient"].to_numpy(), N_RESAMPLES, SEED)


@pytest.fixture(scope="module")
def described(
    images: pd.DataFrame, models: dict[str, Predicted], resamples: intervals.Resamples
) -> dict[str, Any]:
    columns = {name: images[name].to_numpy(str) for name in ("view", "age")}
    grouped = subgroups.group(columns | {"one": np.full(N, "x")}, BANDS)
    labels = images[list(NAMES)].to_numpy(np.int8)
    return subgroups.describe(labels, NAMES, models, grouped, resamples, nothing)


def members(images: pd.DataFrame, attribute: str, group: str) -> pd.DataFrame:
    if attribute == "view":
        return images[images["view"] == group]
    age = pd.to_numeric(images["age"], errors="coerce")
    bands = pd.cut(age, [-np.inf, 40, 65, np.inf], right=False, labels=GROUPS["age"])
    return images[bands == group]


def measures(
    rows: pd.DataFrame, name: str, model: Predicted, weights: np.ndarray | None = None
) -> dict[str, float]:
    """The metrics of one label on some images of known label, with scikit-learn."""
    rows = rows[rows[name] != UNKNOWN]
    i, y = NAMES.index(name), rows[name].to_numpy(int)
    w = np.ones(len(y)) if weights is None else weights[rows.index].astype(float)
    scores, probs = model.scores[rows.index, i], model.probs[rows.index, i]
    found = dict.fromkeys(METRICS, np.nan)
    if not w.sum():
        return found
    found["calibration"] = np.average(probs, weights=w) - np.average(y, weights=w)
    if w[y == 1].sum() and w[y == 0].sum():
        found["auroc"] = roc_auc_score(y, scores, sample_weight=w)
        found["ap"] = average_precision_score(y, scores, sample_weight=w)
    if not np.isnan(THRESHOLDS[i]):
        predicted = probs >= THRESHOLDS[i]
        if w[y == 1].sum():
            found["sensitivity"] = np.average(predicted[y == 1], weights=w[y == 1])
        if w[y == 0].sum():
            found["specificity"] = np.average(~predicted[y == 0], weights=w[y == 0])
    return found


def macro(values: dict[str, dict[str, float]]) -> dict[str, float]:
    return {
        metric: float(pd.Series([values[name][metric] for name in MACRO]).mean())
        for metric in METRICS
    }


Loop = dict[tuple[str, str], dict[str, dict[str, np.ndarray]]]


@pytest.fixture(scope="module")
def loop(
    images: pd.DataFrame, models: dict[str, Predicted], resamples: intervals.Resamples
) -> Loop:
    """By model and view, each metric of each label and of `macro` on the images, then resamples."""
    counts = np.hstack(list(resamples.blocks()))
    result = {}
    for model, view in itertools.product(models, LARGE["view"]):
        rows = members(images, "view", view)
        found: list[dict[str, dict[str, float]]] = []
        for weights in (None, *counts.T):
            of_labels = {name: measures(rows, name, models[model], weights) for name in MACRO}
            found.append(of_labels | {"macro": macro(of_labels)})
        result[model, view] = {
            name: {metric: np.array([each[name][metric] for each in found]) for metric in METRICS}
            for name in found[0]
        }
    return result


def or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def holm_by_hand(p: Sequence[float]) -> list[float]:
    """The k-th smallest of n times n - k, none below its predecessor, at most 1."""
    corrected, least = [0.0] * len(p), 0.0
    for k, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        least = max(least, min(1.0, (len(p) - k) * p[i]))
        corrected[i] = least
    return corrected


def test_a_group_has_the_images_of_one_value_and_unknown_ones_have_none() -> None:
    grouped = subgroups.group({"view": np.array(["PA", "", "AP", "PA", "ap"])}, {})
    groups = grouped.of_attribute["view"]
    assert {name: mask.tolist() for name, mask in groups.items()} == {
        "AP": [False, False, True, False, False],
        "PA": [True, False, False, True, False],
        "ap": [False, False, False, False, True],
    }
    assert list(groups) == ["AP", "PA", "ap"]
    assert grouped.left_out == {}


@pytest.mark.parametrize(
    ("age", "band"),
    [
        ("0", "under 40"), ("39.99", "under 40"), ("-1", "under 40"),
        ("40", "40 to under 65"), ("40.0", "40 to under 65"), ("64.9", "40 to under 65"),
        ("65", "65 and over"), ("1e3", "65 and over"),
        ("", None), ("adult", None), ("nan", None), ("inf", None), ("-inf", None), ("058Y", None),
    ],
)  # fmt: skip
def test_an_age_is_in_the_band_that_starts_at_or_below_it(age: str, band: str | None) -> None:
    ages = np.array([age, "20", "50", "80"])
    groups = subgroups.group({"age": ages}, BANDS).of_attribute["age"]
    assert list(groups) == GROUPS["age"]
    assert [name for name, mask in groups.items() if mask[0]] == ([band] if band else [])


def test_bands_have_names_with_their_limits_and_empty_ones_are_left_out() -> None:
    values = {"dose": np.array(["0.1", "3", "7", "7.5"])}
    groups = subgroups.group(values, {"dose": (0.5, 2.0, 7.0)}).of_attribute["dose"]
    assert list(groups) == ["under 0.5", "2 to under 7", "7 and over"]
    one = subgroups.group(values, {"dose": (2.5,)}).of_attribute["dose"]
    assert list(one) == ["under 2.5", "2.5 and over"]


@pytest.mark.parametrize("ends", [[65, 40], [40, 40]])
def test_bands_that_do_not_increase_are_refused(ends: list[int], tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text((Path(__file__).parents[2] / "params.yaml").read_text())
    assert params.load(path).evaluate.bands == {"age": (40, 65)}
    params.change(path, {"evaluate.bands": {"age": ends}})
    with pytest.raises(CxrError, match=r"^params\.yaml: evaluate: bands\.age is \[.*increasing"):
        params.load(path)


def test_an_attribute_with_one_group_or_too_many_is_left_out_with_the_reason() -> None:
    columns = {
        "view": np.array(["PA", ""] * 15),
        "sex": np.array([""] * 30),
        "date": np.array([f"day {i}" for i in range(21)] + [""] * 9),
        "device": np.array([f"device {i}" for i in range(20)] + [""] * 10),
        "age": np.array([str(i) for i in range(30)]),
        "grown": np.array([str(40 + i) for i in range(20)] + ["old"] * 10),
    }
    grouped = subgroups.group(columns, {"age": (15.0,), "grown": (18.0,)})
    assert set(grouped.of_attribute) == {"device", "age"}
    assert grouped.left_out == {
        "view": "its known values are in fewer than two groups",
        "sex": "its known values are in fewer than two groups",
        "date": "it has 21 values; set evaluate.bands.date for numbers",
        "grown": "its known values are in fewer than two groups",
    }


def test_without_groups_only_the_reasons_are_reported(
    models: dict[str, Predicted], resamples: intervals.Resamples
) -> None:
    labels = np.zeros((N, 5), np.int8)
    report = subgroups.describe(
        labels, NAMES, models, Grouped({}, {"x": "why"}), resamples, nothing
    )
    assert report == {"attributes": {}, "left_out": {"x": "why"}}


def test_attributes_groups_and_models_are_reported_in_order(described: dict[str, Any]) -> None:
    assert list(described["attributes"]) == ["view", "age"]
    assert described["left_out"] == {"one": "its known values are in fewer than two groups"}
    for attribute, report in described["attributes"].items():
        assert list(report["groups"]) == GROUPS[attribute]
        assert list(report["models"]) == ["cnn", "vit"]
        for of_model in report["models"].values():
            assert list(of_model) == GROUPS[attribute]


@pytest.mark.parametrize("attribute", ["view", "age"])
def test_a_group_counts_its_images_patients_and_labels(
    attribute: str, described: dict[str, Any], images: pd.DataFrame
) -> None:
    report = described["attributes"][attribute]
    all_members = [members(images, attribute, group) for group in GROUPS[attribute]]
    assert report["n_unknown"] == N - sum(map(len, all_members)) > 0
    for group, rows in zip(GROUPS[attribute], all_members, strict=True):
        found = report["groups"][group]
        assert found["n"] == len(rows)
        assert found["n_units"] == rows["patient"].nunique() < len(rows)
        assert found["small"] == (rows["patient"].nunique() < 20)
        few = []
        for name in NAMES:
            assert found["labels"][name] == {
                "n": (rows[name] != UNKNOWN).sum(),
                "n_positive": (rows[name] == 1).sum(),
            }
            units = [rows[rows[name] == value]["patient"].nunique() for value in (0, 1)]
            few += [name] if 0 < min(units) < 20 else []
        assert found["unsure"] == few


@pytest.mark.parametrize("model", ["cnn", "vit"])
@pytest.mark.parametrize(
    ("attribute", "group"), [(name, group) for name in GROUPS for group in GROUPS[name]]
)
def test_metrics_of_a_group_are_those_of_its_images_of_known_label(
    model: str, attribute: str, group: str, described: dict[str, Any], images: pd.DataFrame,
    models: dict[str, Predicted],
) -> None:  # fmt: skip
    found = described["attributes"][attribute]["models"][model][group]
    rows = members(images, attribute, group)
    of_labels = {}
    for name in NAMES:
        of_labels[name] = measures(rows, name, models[model])
        values = {metric: or_nan(found["labels"][name][metric]) for metric in METRICS}
        assert values == pytest.approx(of_labels[name], nan_ok=True)
    assert found["labels"]["c"]["sensitivity"] is None and found["labels"]["c"]["auroc"] is not None
    in_macro = described["attributes"][attribute]["macro_labels"]
    for metric in METRICS:
        mean = np.nanmean([of_labels[name][metric] for name in in_macro])
        assert found[f"macro_{metric}"] == pytest.approx(mean)


def test_macro_labels_have_both_classes_in_every_group_that_is_not_small(
    described: dict[str, Any], images: pd.DataFrame
) -> None:
    """The small lateral group has no positive of `b`, which does not count."""
    assert members(images, "view", "LL")["b"].max() == 0
    for attribute, groups in LARGE.items():
        expected = [
            name
            for name in NAMES
            if all(
                {0, 1} <= set(members(images, attribute, group)[name].unique()) for group in groups
            )
        ]
        assert described["attributes"][attribute]["macro_labels"] == expected
    assert described["attributes"]["view"]["macro_labels"] == MACRO
    assert described["attributes"]["age"]["macro_labels"] == [*MACRO, "rare"]


def normal_interval(metric: str, values: np.ndarray) -> list[float]:
    """From the value on all images, then those on resamples; of areas and shares by logits."""
    value, *resampled = values
    if metric == "calibration":
        half = 1.959964 * np.std(resampled, ddof=1)
        return [value - half, value + half]
    half = 1.959964 * np.std(logit(resampled), ddof=1)
    return list(expit(logit(value) + np.array([-half, half])))


@pytest.mark.parametrize("metric", METRICS)
def test_an_interval_is_that_of_a_loop_over_resamples_of_the_group(
    metric: str, described: dict[str, Any], loop: Loop
) -> None:
    for (model, view), values in loop.items():
        found = described["attributes"]["view"]["models"][model][view]
        assert found[f"macro_{metric}_ci"] == pytest.approx(
            normal_interval(metric, values["macro"][metric]), rel=1e-5
        )
        for name in MACRO:
            if np.isnan(values[name][metric][0]):
                assert found["labels"][name][f"{metric}_ci"] is None
                continue
            assert found["labels"][name][f"{metric}_ci"] == pytest.approx(
                normal_interval(metric, values[name][metric]), rel=1e-5
            )


def gaps_of(report: dict[str, Any], **wanted: str | None) -> list[dict[str, Any]]:
    return [
        gap for gap in report["gaps"] if all(gap.get(key) == value for key, value in wanted.items())
    ]


@pytest.mark.parametrize("attribute", ["view", "age"])
def test_every_pair_of_groups_that_are_not_small_has_a_gap_of_every_metric(
    attribute: str, described: dict[str, Any]
) -> None:
    expected = [
        (model, a, b, metric if label else f"macro_{metric}", label)
        for model in ("cnn", "vit")
        for a, b in itertools.combinations(LARGE[attribute], 2)
        for metric in COMPARED
        for label in (None, *NAMES)
    ]
    gaps = described["attributes"][attribute]["gaps"]
    keys = ("model", "a", "b", "metric")
    found = [(*(gap[key] for key in keys), gap.get("label")) for gap in gaps]
    assert sorted(found, key=str) == sorted(expected, key=str)


@pytest.mark.parametrize("attribute", ["view", "age"])
def test_a_gap_is_the_difference_of_the_groups_values(
    attribute: str, described: dict[str, Any]
) -> None:
    report = described["attributes"][attribute]
    for gap in report["gaps"]:
        of_groups = []
        for group in (gap["a"], gap["b"]):
            values = report["models"][gap["model"]][group]
            values = values["labels"][gap["label"]] if "label" in gap else values
            of_groups.append(or_nan(values[gap["metric"]]))
        assert or_nan(gap["difference"]) == pytest.approx(
            of_groups[0] - of_groups[1], nan_ok=True, abs=1e-12
        )


@pytest.mark.parametrize("metric", COMPARED)
def test_gaps_equal_those_of_a_loop_that_resamples_both_groups_together(
    metric: str, described: dict[str, Any], loop: Loop
) -> None:
    report = described["attributes"]["view"]
    for model, name in itertools.product(("cnn", "vit"), (*MACRO, "macro")):
        a, b = (loop[model, view][name][metric] for view in LARGE["view"])
        wanted: dict[str, str | None] = {"metric": metric, "label": name}
        if name == "macro":
            wanted = {"metric": f"macro_{metric}", "label": None}
        (gap,) = gaps_of(report, model=model, **wanted)
        assert (gap["a"], gap["b"]) == ("AP", "PA")
        if np.isnan(a[0]):
            assert gap["difference"] is None and gap["ci"] is None
            continue
        difference, error = (a - b)[0], np.std((a - b)[1:], ddof=1)
        assert gap["difference"] == pytest.approx(difference)
        assert gap["ci"] == pytest.approx(
            [difference - 1.959964 * error, difference + 1.959964 * error], rel=1e-4
        )
        if name == "macro":
            assert gap["p"] == pytest.approx(2 * norm.cdf(-abs(difference) / error), rel=1e-4)
        else:
            assert "p" not in gap and "p_holm" not in gap


@pytest.mark.parametrize("attribute", ["view", "age"])
def test_p_is_corrected_for_the_macro_gaps_of_one_attribute_and_one_model(
    attribute: str, described: dict[str, Any]
) -> None:
    report = described["attributes"][attribute]
    for model in ("cnn", "vit"):
        family = gaps_of(report, model=model, label=None)
        n_pairs = len(LARGE[attribute]) * (len(LARGE[attribute]) - 1) / 2
        assert len(family) == 4 * n_pairs
        expected = holm_by_hand([gap["p"] for gap in family])
        assert [gap["p_holm"] for gap in family] == pytest.approx(expected)


def test_a_small_group_is_marked_and_measured_but_has_no_gaps(described: dict[str, Any]) -> None:
    report = described["attributes"]["view"]
    assert {name: each["small"] for name, each in report["groups"].items()} == {
        "AP": False, "LL": True, "PA": False,
    }  # fmt: skip
    assert report["groups"]["LL"]["n_units"] == 8
    assert report["models"]["cnn"]["LL"]["labels"]["a"]["auroc"] is not None
    assert {gap[side] for gap in report["gaps"] for side in "ab"} == {"AP", "PA"}


@pytest.mark.parametrize(("n_patients", "is_small"), [(19, True), (20, False)])
def test_a_group_is_small_below_20_patients(n_patients: int, is_small: bool) -> None:
    """The group has 40 images either way."""
    patients = np.hstack([np.arange(40) % n_patients, 100 + np.arange(60)])
    report = two_groups(np.arange(100) < 40, patients)
    assert report["groups"]["x"]["small"] is is_small
    assert (report["gaps"] == []) is is_small
    assert MIN_UNITS == 20


def two_groups(
    in_x: np.ndarray, patients: np.ndarray | None, labels: np.ndarray | None = None
) -> dict[str, Any]:
    """The report of an attribute with the groups `x` and `y`, of one model and one label."""
    rng = np.random.default_rng(3)
    n = len(in_x)
    y = (np.arange(n) % 3 == 0).astype(np.int8)[:, None] if labels is None else labels
    scores = rng.normal(size=y.shape) + (y == 1)
    model = Predicted(scores, expit(scores), np.full(y.shape[1], 0.5), "")
    grouped = subgroups.group({"where": np.where(in_x, "x", "y")}, {})
    names = NAMES[: y.shape[1]]
    report = subgroups.describe(
        y, names, {"cnn": model}, grouped, intervals.draw(n, patients, 60, 0), nothing
    )
    json.dumps(report, allow_nan=False)
    attribute: dict[str, Any] = report["attributes"]["where"]
    return attribute


def test_images_are_the_units_if_patients_are_unknown() -> None:
    report = two_groups(np.arange(60) < 25, None)
    assert [report["groups"][name]["n_units"] for name in "xy"] == [25, 35]
    assert two_groups(np.arange(60) < 19, None)["groups"]["x"]["small"]


def test_a_patient_with_images_in_two_groups_is_in_both_or_in_neither() -> None:
    """Each patient has the same image in both groups, so that no resample has a gap."""
    n = 60
    labels = np.tile(np.arange(n) % 3 == 0, 2).astype(np.int8)[:, None]
    scores = np.tile(np.random.default_rng(0).normal(size=n), 2)[:, None] + labels
    model = Predicted(scores, expit(scores), np.array([0.5]), "")
    grouped = subgroups.group({"view": np.repeat(["AP", "PA"], n)}, {})
    for patients, is_paired in ((np.tile(np.arange(n), 2), True), (np.arange(2 * n), False)):
        resamples = intervals.draw(2 * n, patients, 60, 0)
        report = subgroups.describe(labels, ("a",), {"cnn": model}, grouped, resamples, nothing)
        for gap in report["attributes"]["view"]["gaps"]:
            assert gap["difference"] == pytest.approx(0, abs=1e-12)
            width = gap["ci"][1] - gap["ci"][0]
            assert width < 1e-9 if is_paired else width > 0.05


def test_a_label_with_one_class_in_a_group_is_left_out_of_the_macro_of_all() -> None:
    """`b` counted in one group only would make a gap of its own."""
    rng = np.random.default_rng(0)
    labels = (rng.random((200, 2)) < 0.4).astype(np.int8)
    in_x = np.arange(200) < 100
    labels[in_x, 1] = 0
    report = two_groups(in_x, None, labels)
    assert report["macro_labels"] == ["a"]
    for group in "xy":
        found = report["models"]["cnn"][group]
        assert found["macro_auroc"] == found["labels"]["a"]["auroc"]
        assert found["macro_calibration"] == found["labels"]["a"]["calibration"]
    assert report["models"]["cnn"]["x"]["labels"]["b"]["auroc"] is None
    assert report["models"]["cnn"]["y"]["labels"]["b"]["auroc"] is not None
    (gap,) = gaps_of(report, metric="auroc", label="b")
    assert (gap["difference"], gap["ci"]) == (None, None)


def test_groups_that_share_no_label_with_both_classes_have_no_macro() -> None:
    labels = (np.arange(200) % 3 == 0).astype(np.int8)[:, None]
    in_x = np.arange(200) < 100
    labels[in_x] = 1
    report = two_groups(in_x, None, labels)
    assert report["macro_labels"] == []
    assert report["models"]["cnn"]["y"]["macro_auroc"] is None
    assert report["models"]["cnn"]["y"]["macro_auroc_ci"] is None
    family = gaps_of(report, label=None)
    assert {gap[key] for gap in family for key in ("difference", "ci", "p", "p_holm")} == {None}


def test_small_groups_alone_have_no_gaps_and_no_macro() -> None:
    report = two_groups(np.arange(30) < 15, None)
    assert (report["gaps"], report["macro_labels"]) == ([], [])
    assert report["models"]["cnn"]["x"]["macro_auroc"] is None
    assert report["models"]["cnn"]["x"]["labels"]["a"]["auroc"] is not None


def test_one_patient_gives_values_without_intervals() -> None:
    report = two_groups(np.arange(30) < 15, np.zeros(30))
    found = report["models"]["cnn"]["x"]["labels"]["a"]
    assert found["auroc"] is not None and found["calibration"] is not None
    assert found["auroc_ci"] is None and found["calibration_ci"] is None


def test_a_share_of_1_has_no_interval() -> None:
    labels = (np.arange(60) % 3 == 0).astype(np.int8)[:, None]
    scores = 4.0 * labels - 2
    model = Predicted(scores, expit(scores), np.array([0.5]), "")
    grouped = subgroups.group({"view": np.repeat(["AP", "PA"], 30)}, {})
    resamples = intervals.draw(60, None, 50, 0)
    report = subgroups.describe(labels, ("a",), {"cnn": model}, grouped, resamples, nothing)
    found = report["attributes"]["view"]["models"]["cnn"]["AP"]["labels"]["a"]
    for metric in ("auroc", "ap", "sensitivity", "specificity"):
        assert (found[metric], found[f"{metric}_ci"]) == (1, None)


def test_a_probability_at_the_threshold_is_positive() -> None:
    labels = np.tile([1, 1, 0, 0], 12).astype(np.int8)[:, None]
    probs = np.tile([0.5, 0.4, 0.5, 0.4], 12)[:, None]
    model = Predicted(probs, probs, np.array([0.5]), "")
    grouped = subgroups.group({"view": np.repeat(["AP", "PA"], 24)}, {})
    resamples = intervals.draw(48, None, 50, 0)
    report = subgroups.describe(labels, ("a",), {"cnn": model}, grouped, resamples, nothing)
    found = report["attributes"]["view"]["models"]["cnn"]["AP"]["labels"]["a"]
    assert (found["sensitivity"], found["specificity"]) == (0.5, 0.5)
    assert found["calibration"] == pytest.approx(0.45 - 0.5)


def test_the_result_can_be_written_as_json(described: dict[str, Any]) -> None:
    text = json.dumps(described, allow_nan=False)
    assert json.loads(text) == described


def test_subgroups_are_part_of_an_evaluation_without_the_baselines(
    images: pd.DataFrame, models: dict[str, Predicted], described: dict[str, Any]
) -> None:
    columns = {name: images[name].to_numpy(str) for name in ("view", "age")}
    grouped = subgroups.group(columns | {"one": np.full(N, "x")}, BANDS)
    all_models = models | {ATTRIBUTES_ONLY: models["cnn"]}
    labels, patients = images[list(NAMES)].to_numpy(np.int8), images["patient"].to_numpy()
    result = evaluation.evaluate(
        labels, NAMES, all_models, patients, N_RESAMPLES, SEED, nothing, grouped
    )
    assert result.subgroups == described
    result = evaluation.evaluate(labels, NAMES, models, patients, N_RESAMPLES, SEED, nothing)
    assert result.subgroups is None


def gap(metric: str, difference: float, p_holm: float | None, model: str = "cnn") -> dict[str, Any]:
    return {"model": model, "metric": metric, "difference": difference, "p_holm": p_holm}


def test_the_widest_gap_is_one_in_macro_auroc_that_chance_does_not_explain() -> None:
    view = [
        gap("macro_auroc", 0.05, 0.01),
        gap("macro_auroc", -0.30, 0.05),  # not below 0.05
        gap("macro_sensitivity", 0.60, 0.001),
        gap("macro_auroc", 0.70, 0.001, model="vit"),
        gap("macro_auroc", 0.80, None),
        {"model": "cnn", "metric": "auroc", "label": "a", "difference": 0.9},
    ]
    age = [gap("macro_auroc", -0.06, 0.049), gap("macro_auroc", 0.04, 0.0)]
    report = {"attributes": {"view": {"gaps": view}, "age": {"gaps": age}}, "left_out": {}}
    assert significance.widest_gap(report, "cnn") == {"attribute": "age", **age[0]}
    assert significance.widest_gap(report, "vit") == {"attribute": "view", **view[3]}
    assert significance.widest_gap(report, "squeezenet") is None
    assert significance.widest_gap({"attributes": {}, "left_out": {}}, "cnn") is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"difference": -0.1}, False),
        ({"difference": 0.0, "p_holm": 0.0}, False),
        ({"p_holm": 0.05}, False),
        ({"p_holm": None}, False),
        ({"metric": "macro_ap"}, False),
        ({"metric": "auroc", "label": "a"}, False),
        ({"a": "vit"}, False),
        ({"b": "prevalence"}, False),
        ({"a": ATTRIBUTES_ONLY, "b": "cnn"}, False),
    ],
)
def test_a_model_is_better_if_its_macro_auroc_is_shown_to_be_higher(
    changes: dict[str, Any], expected: bool
) -> None:
    comparison = {
        "a": "cnn", "b": ATTRIBUTES_ONLY, "metric": "macro_auroc", "difference": 0.1, "p_holm": 0.04
    }  # fmt: skip
    irrelevant = comparison | {"metric": "macro_ap", "difference": -0.5, "p_holm": 0.0}
    compared = [irrelevant, comparison | changes]
    assert significance.is_better(compared, "cnn", ATTRIBUTES_ONLY) is expected
    assert not significance.is_better([], "cnn", ATTRIBUTES_ONLY)
