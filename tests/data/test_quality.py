"""Problems that make a result doubtful are counted and named."""

import re
from pathlib import Path

import numpy as np
import pytest

from cxr.data import quality, raw, splits
from cxr.data.splits import Split
from cxr.labels import CHESTMNIST

SHARED = Path(__file__).parents[3] / "shared" / "data"


def split(images: list[int], labels: np.ndarray, patients: list[int], ids: list[str]) -> Split:
    """Black images with one pixel of the given value; 0 gives a constant image."""
    pictures = np.zeros((len(images), 8, 8), np.uint8)
    pictures[:, 0, 0] = images
    return Split(pictures, labels.astype(np.int8), CHESTMNIST, np.array(ids), np.array(patients))


@pytest.fixture
def described() -> dict:
    labels = np.zeros((4, 14), int)
    labels[:2, 0] = 1
    labels[1, 2] = 1
    three = np.zeros((3, 14), int)
    three[0, 0] = 1
    return quality.describe(
        {
            "train": split([1, 2, 2, 0], labels, [1, 1, 2, 3], ["a", "b", "c", "c"]),
            "val": split([5, 6, 7], three, [4, 5, 6], ["d", "e", "f"]),
            "test": split([2, 8, 9], three, [3, 7, 8], ["a", "g", "h"]),
        }
    )


def test_images_labels_patients_and_pairs_are_counted(described: dict) -> None:
    train = described["splits"]["train"]
    assert (train["n"], train["no_finding"], train["patients"]) == (4, 2, 3)
    assert train["positives"]["atelectasis"] == 2
    assert train["prevalence"]["effusion"] == 0.25
    assert described["pairs"][0][2] == described["pairs"][2][0] == 1
    assert described["pairs"][0][0] == 2


def test_unknown_labels_are_neither_positive_nor_negative() -> None:
    def labels(column: list[int]) -> np.ndarray:
        return np.repeat(np.array(column)[:, None], 14, axis=1)

    train = labels([1, -1, 0, -1])
    train[:, 2] = [1, 1, -1, 0]
    report = quality.describe(
        {
            "train": split([1, 2, 3, 4], train, [1, 2, 3, 4], list("abcd")),
            "val": split([5, 6, 7], labels([1, 1, -1]), [5, 6, 7], list("efg")),
            "test": split([8, 9], labels([1, 0]), [8, 9], list("hi")),
        }
    )
    of_train, of_val = (report["splits"][name] for name in ("train", "val"))
    assert (of_train["known"]["mass"], of_train["positives"]["mass"]) == (2, 1)
    assert (of_train["prevalence"]["mass"], of_val["prevalence"]["mass"]) == (0.5, 1.0)
    assert of_train["no_finding"] == 0  # the third image has an unknown label
    assert report["pairs"][0][2] == 1
    # Means 1/2 and 1, variances 1/4 and 0.
    assert report["shift"]["val"]["labels"]["mass"] == pytest.approx(0.5 / np.sqrt(1 / 8))
    assert "val has no negative image of mass; its AUROC on val is undefined" in report["problems"]


def test_problems_within_a_split_are_counted_and_named(described: dict) -> None:
    train = described["splits"]["train"]
    assert train["constant_images"] == {"n": 1, "examples": [3]}
    assert train["duplicate_images"] == 1
    assert train["duplicate_ids"] == 1
    for sentence in (
        "train has 1 image with a single grey value",
        "train has 1 exact duplicate image",
        "train has 1 duplicate id",
    ):
        assert sentence in described["problems"]


def test_leaks_between_splits_are_counted_and_named(described: dict) -> None:
    assert described["across"]["train-test"]["images"] == {"n": 1, "examples_in_test": [0]}
    assert described["across"]["train-test"]["patients"] == {"n": 1, "examples": [3]}
    assert described["across"]["train-test"]["ids"]["n"] == 1
    assert described["across"]["train-val"]["images"]["n"] == 0
    for sentence in (
        "1 image appears in both train and test; test metrics are optimistic",
        "1 id appears in both train and test; test metrics are optimistic",
        "1 patient appears in both train and test; test metrics are optimistic",
    ):
        assert sentence in described["problems"]


def test_labels_with_one_class_are_named(described: dict) -> None:
    assert (
        "val has no positive image of hernia; its AUROC on val is undefined"
        in described["problems"]
    )
    assert not any("train has no positive image of atelectasis" in p for p in described["problems"])


def drawn(n: int, prevalence: float, brightness: float, seed: int) -> Split:
    """Noise around a mean brightness, and atelectasis at a prevalence."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((n, 14), np.uint8)
    labels[:, 0] = rng.random(n) < prevalence
    images = np.clip(rng.normal(brightness, 20, (n, 1, 1)) + rng.normal(0, 9, (n, 8, 8)), 0, 255)
    return Split(images.astype(np.uint8), labels, CHESTMNIST, None, None)


def test_a_shift_is_measured_in_standard_deviations() -> None:
    splits = {"train": drawn(4000, 0.1, 100, 0), "val": drawn(900, 0.1, 100, 1),
              "test": drawn(900, 0.2, 110, 2)}  # fmt: skip
    report = quality.describe(splits)
    a, b = (splits[name].labels[:, 0].astype(float) for name in ("train", "test"))
    expected = (b.mean() - a.mean()) / np.sqrt((a.var() + b.var()) / 2)
    assert report["shift"]["test"]["labels"]["atelectasis"] == pytest.approx(expected)
    assert report["shift"]["test"]["labels"]["mass"] == 0  # no positive image
    assert report["shift"]["test"]["images"]["brightness"] == pytest.approx(0.5, abs=0.1)
    shifts = [p for p in report["problems"] if "shift" in p or "deviations" in p]
    assert len(shifts) == 2
    assert re.fullmatch(
        r"prevalence of atelectasis shifts from \d+\.\d% in train to \d+\.\d% in test", shifts[0]
    )
    assert re.fullmatch(
        r"brightness of test differs from train by \+0\.\d+ standard deviations", shifts[1]
    )


def test_sampling_error_is_not_reported_as_a_shift() -> None:
    """Twenty images vary by far more than a tenth of a standard deviation."""
    for seed in range(20):
        splits = {"train": drawn(4000, 0.3, 100, seed), "val": drawn(900, 0.3, 100, seed + 50),
                  "test": drawn(20, 0.3, 100, seed + 99)}  # fmt: skip
        report = quality.describe(splits)
        assert not [p for p in report["problems"] if "shift" in p or "deviations" in p]


@pytest.mark.skipif(not (SHARED / "nih_real_28.npz").exists(), reason="no real X-rays here")
def test_real_x_rays_have_no_leaks(tmp_path: Path) -> None:
    origin = splits.Origin("nih_real_28", "file")
    dataset = raw.extract(SHARED / "nih_real_28.npz", origin, tmp_path, "pad").dataset
    assert dataset.n == {"train": 1462, "val": 171, "test": 711}
    report = quality.describe({s: splits.open_split(tmp_path, s) for s in splits.SPLITS})
    assert all(pair["patients"]["n"] == 0 for pair in report["across"].values())
    assert report["splits"]["val"]["positives"]["hernia"] == 0
    assert report["splits"]["val"]["positives"]["fibrosis"] == 2
