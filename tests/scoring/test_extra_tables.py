"""Predictions of others by group and by other readers, against pandas and scikit-learn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Cxr
from sklearn.metrics import cohen_kappa_score, precision_score, recall_score, roc_auc_score

from cxr.labels import CHESTMNIST

N = 400
LABELS = {
    split: (np.random.default_rng(i).random((N, 14)) < 0.3)
    for i, split in enumerate(("val", "test"))
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with predictions, and tables of the images in another order."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    arrays: dict[str, np.ndarray] = {}
    for split, y in LABELS.items():
        arrays |= {
            f"{split}_labels": y.astype(np.uint8),
            f"{split}_ids": np.array([f"{split}{i:04}_000" for i in range(N)]),
            f"{split}_probs": 1 / (1 + np.exp(-(rng.normal(size=y.shape) + 1.5 * y - 2))),
        }
    np.savez("theirs.npz", **arrays)
    table = pd.DataFrame(
        {
            "Image Index": [f"test{i:04}_000.png" for i in range(N)],
            "Patient ID": [i // 2 for i in range(N)],
            "Patient Age": [f"{20 + i % 60:03}Y" for i in range(N)],
            "Patient Gender": np.where(np.arange(N) % 3 == 0, "F", "M"),
            "View Position": ["AP"] * 12 + ["PA"] * (N - 12),
        }
    )
    table.iloc[::-1].to_csv("who.csv", index=False)
    mass, nodule = (LABELS["test"][:, CHESTMNIST.index(name)] for name in ("mass", "nodule"))
    flipped = rng.random(N) < 0.2
    readers = pd.DataFrame(
        {
            "image": table["Image Index"],
            "Hernia": np.where(rng.random(N) < 0.5, "YES", "NO"),
            "Nodule or mass": np.where((mass | nodule) ^ flipped, "YES", "NO"),
        }
    )
    readers[50:].to_csv("readers.csv", index=False)
    return tmp_path


def score(cxr: Cxr, *arguments: str) -> tuple[int, str, str]:
    done = cxr("score", *arguments, "--resamples", "100", cwd=Path.cwd())
    return done.returncode, done.stdout, done.stderr


def answer(cxr: Cxr, *arguments: str) -> dict[str, Any]:
    status, out, err = score(cxr, "theirs.npz", "--json", *arguments)
    assert status == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def test_a_companion_gives_every_metric_by_group_as_pandas_and_sklearn_do(
    folder: Path, cxr: Cxr
) -> None:
    found = answer(cxr, "--companion", "who.csv")
    assert (found["intervals"]["unit"], found["intervals"]["n_units"]) == ("patient", N // 2)
    who = pd.read_csv("who.csv").iloc[::-1].reset_index(drop=True)
    who["age"] = who["Patient Age"].str[:-1].astype(int)
    attributes = found["subgroups"]["attributes"]
    with np.load("theirs.npz") as arrays:
        y, p = arrays["test_labels"], arrays["test_probs"]
    cuts = np.array([found["labels"][name]["threshold"] for name in CHESTMNIST])
    masks = {
        ("sex", "F"): who["Patient Gender"] == "F",
        ("sex", "M"): who["Patient Gender"] == "M",
        ("age", "under 40"): who["age"] < 40,
        ("age", "40 to under 65"): who["age"].between(40, 64),
        ("age", "65 and over"): who["age"] >= 65,
        ("view", "AP"): who["View Position"] == "AP",
    }
    for (attribute, group), mask in masks.items():
        measured = attributes[attribute]["models"]["theirs"][group]
        assert attributes[attribute]["groups"][group]["n"] == mask.sum()
        for i, name in enumerate(CHESTMNIST):
            truth, probs = y[mask, i] == 1, p[mask, i]
            if len(set(truth)) < 2:
                continue
            expected = {
                "auroc": roc_auc_score(truth, probs),
                "sensitivity": np.mean(probs[truth] >= cuts[i]),
                "specificity": np.mean(probs[~truth] < cuts[i]),
                "calibration": np.mean(probs - truth),
            }
            assert {key: measured["labels"][name][key] for key in expected} == pytest.approx(
                expected
            )
    assert attributes["view"]["groups"]["AP"]["small"]
    assert attributes["view"]["gaps"] == []


def test_a_reference_gives_agreement_and_auroc_by_both(folder: Path, cxr: Cxr) -> None:
    found = answer(cxr, "--reference", "readers.csv", "--reading", "Nodule or mass=Nodule,Mass")
    readings = found["references"]["readers"]
    assert set(readings) == {"Hernia", "Nodule or mass"}
    with np.load("theirs.npz") as arrays:
        y, p = arrays["test_labels"][50:] == 1, arrays["test_probs"][50:]
    columns = [CHESTMNIST.index("nodule"), CHESTMNIST.index("mass")]
    truth = (pd.read_csv("readers.csv")["Nodule or mass"] == "YES").to_numpy()
    by_labels = y[:, columns].any(axis=1)
    agreement = readings["Nodule or mass"]["agreement"]
    assert agreement["n"] == N - 50
    assert agreement["sensitivity"] == pytest.approx(recall_score(truth, by_labels))
    assert agreement["ppv"] == pytest.approx(precision_score(truth, by_labels))
    assert agreement["kappa"] == pytest.approx(cohen_kappa_score(truth, by_labels))
    scores = 1 - np.prod(1 - p[:, columns], axis=1)
    measured = readings["Nodule or mass"]["test"]["models"]["theirs"]
    assert measured["auroc"] == pytest.approx(roc_auc_score(truth, scores))
    assert measured["auroc_labels"] == pytest.approx(roc_auc_score(by_labels, scores))


def test_the_printed_answer_has_groups_gaps_and_readers(folder: Path, cxr: Cxr) -> None:
    status, out, err = score(cxr, "theirs.npz", "--companion", "who.csv", "--bands", "50",
        "--reference", "readers.csv",
    )  # fmt: skip
    assert status == 0, err
    assert "sex: F" in out and "age: under 50" in out and "view: AP (small)" in out
    assert "macro AUROC" in out and "readers, Hernia: 350 images" in out


REFUSED = {
    "ages that are not numbers": (["--bands", "old"], "--bands is 'old'"),
    "ages that fall": (["--bands", "65,40"], "expected increasing ages such as 40,65"),
    "an infinite age": (["--bands", "40,inf"], "expected increasing ages"),
    "a reading without labels": (["--reading", "Mass="], "expected COLUMN=LABEL"),
    "a companion that does not exist": (["--companion", "none.csv"], "does not exist"),
    "a companion without attributes": (
        ["--companion", "readers.csv"],
        "named like sex",
    ),
    "a reference without labels": (["--reference", "who.csv"], "no column named like a label"),
    "an unknown label": (
        ["--reference", "readers.csv", "--reading", "Nodule or mass=bone"],
        "'bone' is not a label of the data",
    ),
    "an unknown column": (
        ["--reference", "readers.csv", "--reading", "Bone=mass"],
        "no column 'Bone'",
    ),
}


@pytest.mark.parametrize(("arguments", "says"), REFUSED.values(), ids=REFUSED)
def test_an_unusable_table_is_refused_in_one_line(
    folder: Path, cxr: Cxr, arguments: list[str], says: str
) -> None:
    status, out, err = score(cxr, "theirs.npz", *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert says in err


def test_images_without_ids_cannot_be_joined(folder: Path, cxr: Cxr) -> None:
    with np.load("theirs.npz") as arrays:
        np.savez("bare.npz", **{key: arrays[key] for key in arrays if not key.endswith("_ids")})
    status, _, err = score(cxr, "bare.npz", "--companion", "who.csv")
    assert status == 2 and "have no ids to join another table with" in err
