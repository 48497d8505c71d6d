"""What makes a number doubtful is counted and named."""

import re
from pathlib import Path

import numpy as np
import pytest

from cxr.data import quality, raw, splits
from cxr.data.splits import Split

SHARED = Path(__file__).parents[3] / "shared" / "data"


def split(images: list[int], labels: np.ndarray, patients: list[int], ids: list[str]) -> Split:
    """Images of one grey value each but for one pixel; 0 stays constant."""
    pictures = np.zeros((len(images), 8, 8), np.uint8)
    pictures[:, 0, 0] = images
    return Split(pictures, labels.astype(np.uint8), np.array(ids), np.array(patients))


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


def test_counts(described: dict) -> None:
    train = described["splits"]["train"]
    assert (train["n"], train["no_finding"], train["patients"]) == (4, 2, 3)
    assert train["positives"]["atelectasis"] == 2
    assert train["prevalence"]["effusion"] == 0.25
    assert described["pairs"][0][2] == described["pairs"][2][0] == 1
    assert described["pairs"][0][0] == 2


def test_faults_within_a_split(described: dict) -> None:
    train = described["splits"]["train"]
    assert train["constant_images"] == {"n": 1, "examples": [3]}
    assert train["duplicate_images"] == 1
    assert train["duplicate_ids"] == 1


def test_leaks_between_splits(described: dict) -> None:
    assert described["across"]["train-test"]["images"] == {"n": 1, "examples_in_test": [0]}
    assert described["across"]["train-test"]["patients"] == {"n": 1, "examples": [3]}
    assert described["across"]["train-test"]["ids"]["n"] == 1
    assert described["across"]["train-val"]["images"]["n"] == 0
    assert (
        "1 patients are in both train and test: numbers on test are too good"
        in (described["problems"])
    )


def test_labels_with_one_class_are_named(described: dict) -> None:
    assert (
        "val has no positive image of hernia: its AUROC is undefined there" in described["problems"]
    )
    assert not any("train has no positive image of atelectasis" in p for p in described["problems"])


def drawn(n: int, prevalence: float, brightness: float, seed: int) -> Split:
    """Noise of a mean, and atelectasis at a prevalence."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((n, 14), np.uint8)
    labels[:, 0] = rng.random(n) < prevalence
    images = np.clip(rng.normal(brightness, 20, (n, 1, 1)) + rng.normal(0, 9, (n, 8, 8)), 0, 255)
    return Split(images.astype(np.uint8), labels, None, None)


def test_a_shift_is_measured_in_standard_deviations() -> None:
    splits = {"train": drawn(4000, 0.1, 100, 0), "val": drawn(900, 0.1, 100, 1),
              "test": drawn(900, 0.2, 110, 2)}  # fmt: skip
    report = quality.describe(splits)
    a, b = (splits[name].labels[:, 0].astype(float) for name in ("train", "test"))
    expected = (b.mean() - a.mean()) / np.sqrt((a.var() + b.var()) / 2)
    assert report["shift"]["test"]["labels"]["atelectasis"] == pytest.approx(expected)
    assert report["shift"]["test"]["labels"]["mass"] == 0  # nobody has it
    assert report["shift"]["test"]["images"]["brightness"] == pytest.approx(0.5, abs=0.1)
    shifts = [p for p in report["problems"] if "shift" in p or "deviations" in p]
    assert len(shifts) == 2
    assert re.fullmatch(
        r"atelectasis is in \d+\.\d% of train and \d+\.\d% of test: a shift", shifts[0]
    )
    assert re.fullmatch(r"brightness of test is \+0\.\d+ standard deviations off train", shifts[1])


def test_chance_is_no_shift() -> None:
    """Twenty images vary by far more than a tenth of a standard deviation."""
    for seed in range(20):
        splits = {"train": drawn(4000, 0.3, 100, seed), "val": drawn(900, 0.3, 100, seed + 50),
                  "test": drawn(20, 0.3, 100, seed + 99)}  # fmt: skip
        report = quality.describe(splits)
        assert not [p for p in report["problems"] if "shift" in p or "deviations" in p]


@pytest.mark.skipif(not (SHARED / "nih_real_28.npz").exists(), reason="no real X-rays here")
def test_real_x_rays(tmp_path: Path) -> None:
    dataset, _ = raw.extract(
        SHARED / "nih_real_28.npz", splits.Origin("nih_real_28", "file"), tmp_path
    )
    assert dataset.n == {"train": 1462, "val": 171, "test": 711}
    report = quality.describe({s: splits.open_split(tmp_path, s) for s in splits.SPLITS})
    assert all(pair["patients"]["n"] == 0 for pair in report["across"].values())
    assert report["splits"]["val"]["positives"]["hernia"] == 0
    assert report["splits"]["val"]["positives"]["fibrosis"] == 2
