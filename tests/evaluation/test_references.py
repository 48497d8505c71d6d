"""Agreement of labels and readers, and models against both, checked against scikit-learn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.metrics import cohen_kappa_score, precision_score, recall_score, roc_auc_score

from cxr.data import references as tables
from cxr.data.references import Reading
from cxr.data.splits import Split
from cxr.evaluation import intervals, references
from cxr.evaluation.description import Predicted
from cxr.labels import CHESTMNIST, UNKNOWN
from cxr.params import Reference

DATA = Path(__file__).parents[3] / "shared/data"
CHESTXRAY14 = DATA / "chestxray14_labels.npz"
GOOGLE = DATA / "annotations/google2019_nih-chest-xray-labels.csv.gz"
needs_google = pytest.mark.skipif(
    not (CHESTXRAY14.exists() and GOOGLE.exists()),
    reason=f"{CHESTXRAY14} or {GOOGLE} does not exist",
)
NAMES = ("a", "b", "c")
N = {"train": 300, "val": 80, "test": 200}
N_RESAMPLES, SEED = 40, 3
LABELS = {"single": (2,), "any": (0, 1)}

Report = dict[str, dict[str, Any]]


def split_of(labels: np.ndarray, patients: np.ndarray | None) -> Split:
    images = np.zeros((len(labels), 1, 1), np.uint8)
    return Split(images, labels.astype(np.int8), NAMES, None, patients)


@pytest.fixture(scope="module")
def data() -> dict[str, Split]:
    """Labels of which some are unknown; patients have two images each and are in one split."""
    rng = np.random.default_rng(0)
    found = {}
    for number, (split, n) in enumerate(N.items()):
        labels = np.where(rng.random((n, 3)) < 0.1, UNKNOWN, rng.random((n, 3)) < 0.3)
        found[split] = split_of(labels, 1000 * number + np.arange(n) // 2)
    return found


@pytest.fixture(scope="module")
def readings(data: dict[str, Split]) -> list[Reading]:
    """Readers that agree with the labels on four of five images, and know two of three."""
    rng = np.random.default_rng(1)
    found = []
    for name, labels in LABELS.items():
        values = {}
        for split, each in data.items():
            truth = (each.labels[:, labels] == 1).any(axis=1)
            read = np.where(rng.random(len(truth)) < 0.2, ~truth, truth)
            known = rng.random(len(truth)) < 0.67
            values[split] = np.where(known, read, UNKNOWN).astype(np.int8)
        found.append(Reading("readers", name, labels, values))
    found.append(Reading("others", "single", (2,), found[0].values))
    return found


@pytest.fixture(scope="module")
def models(data: dict[str, Split]) -> dict[str, Predicted]:
    """Scores that rank otherwise than the probabilities, which are used."""
    rng = np.random.default_rng(2)
    predicted = {}
    for name in ("cnn", "vit"):
        noise = rng.normal(size=(N["test"], 3))
        probs = np.round(expit(noise + (data["test"].labels == 1) - 1), 2)
        predicted[name] = Predicted(-probs, probs, np.full(3, 0.5), "")
    return predicted


@pytest.fixture(scope="module")
def report(readings: list[Reading], data: dict[str, Split], models: dict[str, Predicted]) -> Report:
    return references.describe(readings, data, models, N_RESAMPLES, SEED)


def joined(labels: np.ndarray) -> np.ndarray:
    """Any of several labels, image by image."""
    return np.array([1 if 1 in row else UNKNOWN if UNKNOWN in row else 0 for row in labels])


def known(data: dict[str, Split], reading: Reading, *splits: str) -> tuple[np.ndarray, ...]:
    """Labels and readings where both are known, and the indices of these images."""
    labels = np.concatenate([joined(data[s].labels[:, reading.labels]) for s in splits])
    read = np.concatenate([reading.values[s] for s in splits])
    rows = np.array([i for i in range(len(read)) if labels[i] >= 0 and read[i] >= 0])
    return labels[rows], read[rows], rows


def test_references_and_readings_are_reported_by_name(report: Report) -> None:
    assert {reference: list(each) for reference, each in report.items()} == {
        "readers": ["single", "any"], "others": ["single"],
    }  # fmt: skip
    assert report["readers"]["any"]["labels"] == ["a", "b"]
    assert report["readers"]["single"]["labels"] == ["c"]
    assert report["others"]["single"] == report["readers"]["single"]


@pytest.mark.parametrize("i", [0, 1])
def test_agreement_over_all_splits_is_scikit_learns(
    i: int, report: Report, readings: list[Reading], data: dict[str, Split]
) -> None:
    found = report["readers"][readings[i].name]["agreement"]
    labels, read, _ = known(data, readings[i], "train", "val", "test")
    assert found["n"] == len(read) < sum(N.values())
    assert found["n_positive"] == read.sum() != labels.sum()
    assert found["n_positive_labels"] == labels.sum()
    assert found["sensitivity"] == pytest.approx(recall_score(read, labels))
    assert found["ppv"] == pytest.approx(precision_score(read, labels))
    assert found["kappa"] == pytest.approx(cohen_kappa_score(read, labels))


@pytest.mark.parametrize("i", [0, 1])
def test_intervals_of_agreement_are_those_of_a_loop_over_patients(
    i: int, report: Report, readings: list[Reading], data: dict[str, Split]
) -> None:
    found = report["readers"][readings[i].name]["agreement"]
    labels, read, rows = known(data, readings[i], "train", "val", "test")
    patients = np.concatenate(
        [each.patients for each in data.values() if each.patients is not None]
    )
    blocks = intervals.draw(len(patients), patients, N_RESAMPLES, SEED).blocks()
    counts = np.hstack(list(blocks))[rows].astype(float)
    for key, theirs in (("sensitivity", recall_score), ("ppv", precision_score)):
        values = [theirs(read, labels, sample_weight=weights) for weights in counts.T]
        half = 1.959964 * np.std(logit(values), ddof=1)
        expected = expit(logit(theirs(read, labels)) + np.array([-half, half]))
        assert found[f"{key}_ci"] == pytest.approx(list(expected), rel=1e-5)
    kappas = [cohen_kappa_score(read, labels, sample_weight=weights) for weights in counts.T]
    half = 1.959964 * np.std(kappas, ddof=1)
    expected = cohen_kappa_score(read, labels) + np.array([-half, half])
    assert found["kappa_ci"] == pytest.approx(list(expected), rel=1e-5)


@pytest.mark.parametrize("model", ["cnn", "vit"])
@pytest.mark.parametrize("i", [0, 1])
def test_models_against_readers_and_labels_are_scikit_learns_on_the_same_test_images(
    i: int, model: str, report: Report, readings: list[Reading], data: dict[str, Split],
    models: dict[str, Predicted],
) -> None:  # fmt: skip
    whole = report["readers"][readings[i].name]["test"]
    labels, read, rows = known(data, readings[i], "test")
    assert (whole["n"], whole["n_positive"], whole["n_positive_labels"]) == (
        len(rows), read.sum(), labels.sum(),
    )  # fmt: skip
    none = np.ones(len(rows))
    for column in readings[i].labels:
        none *= 1 - models[model].probs[rows, column]
    found = whole["models"][model]
    assert found["auroc"] == pytest.approx(roc_auc_score(read, 1 - none))
    assert found["auroc_labels"] == pytest.approx(roc_auc_score(labels, 1 - none))
    assert found["difference"] == pytest.approx(found["auroc"] - found["auroc_labels"])
    blocks = intervals.draw(N["test"], data["test"].patients, N_RESAMPLES, SEED).blocks()
    counts = np.hstack(list(blocks))[rows].astype(float)
    pairs = [
        [roc_auc_score(y, 1 - none, sample_weight=weights) for y in (read, labels)]
        for weights in counts.T
    ]
    for key, values in (("auroc", [a for a, _ in pairs]), ("auroc_labels", [b for _, b in pairs])):
        half = 1.959964 * np.std(logit(values), ddof=1)
        expected = expit(logit(found[key]) + np.array([-half, half]))
        assert found[f"{key}_ci"] == pytest.approx(list(expected))
    half = 1.959964 * np.std(np.subtract(*np.transpose(pairs)), ddof=1)
    assert found["difference_ci"] == pytest.approx(
        [found["difference"] - half, found["difference"] + half]
    )


def test_the_result_can_be_written_as_json(report: Report) -> None:
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def agreement_of(read: list[int], labels: list[int], probs: list[float]) -> dict[str, Any]:
    """The report of one reading of label `a` on these test images."""
    n = len(read)
    of_all = np.column_stack([labels, np.full((n, 2), UNKNOWN)])
    data = {split: split_of(of_all, None) for split in ("train", "val", "test")}
    nowhere = np.full(n, UNKNOWN, np.int8)
    values = {"train": nowhere, "val": nowhere, "test": np.array(read, np.int8)}
    predicted = np.tile(np.array(probs)[:, None], 3)
    models = {"cnn": Predicted(predicted, predicted, np.full(3, 0.5), "")}
    report = references.describe([Reading("r", "a", (0,), values)], data, models, 50, 0)
    json.dumps(report, allow_nan=False)
    found: dict[str, Any] = report["r"]["a"]
    return found


def test_agreement_of_a_hand_computed_case() -> None:
    """Of 10 images two are known to one side only; sides agree on 2 positives, 3 negatives."""
    read = [1, 1, 1, 1, 0, 0, 0, 0, -1, 1]
    labels = [1, 1, 0, 0, 1, 0, 0, 0, 1, -1]
    found = agreement_of(read, labels, [0.9, 0.8, 0.2, 0.7, 0.6, 0.5, 0.4, 0.3, 0.1, 0.1])
    agreed = found["agreement"]
    assert (agreed["n"], agreed["n_positive"], agreed["n_positive_labels"]) == (8, 4, 3)
    assert agreed["sensitivity"] == pytest.approx(2 / 4)
    assert agreed["ppv"] == pytest.approx(2 / 3)
    by_chance = 3 / 8 * 4 / 8 + 5 / 8 * 4 / 8
    assert agreed["kappa"] == pytest.approx((5 / 8 - by_chance) / (1 - by_chance))
    model = found["test"]["models"]["cnn"]
    assert model["auroc"] == pytest.approx(12 / 16)  # 0.2 is below all four negatives
    assert model["auroc_labels"] == pytest.approx(14 / 15)  # 0.7 is above 0.6


def test_readings_with_fewer_than_20_images_of_a_class_are_marked() -> None:
    for n_readers, n_labels, few in ((20, 20, False), (19, 20, True), (20, 19, True)):
        read, labels = ([1] * n + [0] * (40 - n) for n in (n_readers, n_labels))
        found = agreement_of(labels, read, list(np.linspace(0.1, 0.9, 40)))
        assert found["agreement"]["unsure"] == found["test"]["unsure"] == few


def test_readers_who_agree_on_all_images_or_know_none_have_what_is_defined() -> None:
    same = agreement_of([0] * 30, [0] * 30, [0.1] * 30)
    assert same["agreement"] == {
        "n": 30, "n_positive": 0, "n_positive_labels": 0, "unsure": False, "sensitivity": None,
        "sensitivity_ci": None, "ppv": None, "ppv_ci": None, "kappa": None, "kappa_ci": None,
    }  # fmt: skip
    assert set(same["test"]["models"]["cnn"].values()) == {None}
    unknown = agreement_of([-1] * 30, [0] * 30, [0.1] * 30)
    assert unknown["agreement"] == same["agreement"] | {"n": 0}
    perfect = agreement_of([0, 1] * 15, [0, 1] * 15, [0.1, 0.2] * 15)
    agreed = perfect["agreement"]
    assert (agreed["sensitivity"], agreed["ppv"], agreed["kappa"]) == (1, 1, 1)
    assert (agreed["sensitivity_ci"], agreed["ppv_ci"], agreed["kappa_ci"]) == (None, None, None)
    model = perfect["test"]["models"]["cnn"]
    assert (model["auroc"], model["auroc_ci"]) == (1, None)
    assert (model["difference"], model["difference_ci"]) == (0, [0, 0])


def test_images_count_alone_unless_the_patients_of_all_splits_are_known(
    readings: list[Reading], data: dict[str, Split]
) -> None:
    """The report then equals that of data without patients, except on the test split."""
    partly = data | {"val": split_of(data["val"].labels, None)}
    nowhere = {split: split_of(each.labels, None) for split, each in data.items()}
    found, alone = (
        references.describe(readings, each, {}, N_RESAMPLES, SEED) for each in (partly, nowhere)
    )
    assert found["readers"]["any"]["agreement"] == alone["readers"]["any"]["agreement"]
    by_patient = references.describe(readings, data, {}, N_RESAMPLES, SEED)
    assert by_patient["readers"]["any"]["agreement"] != alone["readers"]["any"]["agreement"]


@needs_google
def test_nihs_labels_have_a_known_agreement_with_googles_radiologists() -> None:
    """Over all 112,120 images, of which 4,376 were read."""
    arrays = np.load(CHESTXRAY14)
    data = {
        split: Split(
            np.zeros((0, 1, 1), np.uint8),
            arrays[f"{split}_labels"].astype(np.int8),
            CHESTMNIST,
            arrays[f"{split}_ids"],
            None,
        )
        for split in ("train", "val", "test")
    }
    settings = Reference.model_validate(
        {
            "path": str(GOOGLE),
            "id": "Image Index",
            "readings": {
                "Pneumothorax": {"labels": ["pneumothorax"]},
                "nodule or mass": {"labels": ["nodule", "mass"], "column": "Nodule or mass"},
            },
        }
    )
    readings = tables.read({"google": settings}, {"google": GOOGLE}, data)
    found = references.describe(readings, data, {}, 2, 0)["google"]
    assert {reading: each["agreement"]["n"] for reading, each in found.items()} == {
        "Pneumothorax": 4376, "nodule or mass": 4376,
    }  # fmt: skip
    shown = {
        reading: [round(each["agreement"][key], 3) for key in ("sensitivity", "ppv")]
        for reading, each in found.items()
    }
    assert shown == {"Pneumothorax": [0.450, 0.453], "nodule or mass": [0.418, 0.562]}
    assert all(each["test"]["models"] == {} for each in found.values())
