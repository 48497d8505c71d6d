"""AUROC, AP, thresholds and baselines against sklearn, counting and published figures."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from cxr import metrics
from cxr.labels import LABELS

SHARED = Path(__file__).parents[2] / "shared" / "data"
HAS_SHARED = pytest.mark.skipif(not SHARED.exists(), reason="no published predictions here")


def column(y: list[int], scores: list[float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(y, np.uint8)[:, None], np.array(scores)[:, None]


def tied(seed: int, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 14)) < 0.2).astype(np.uint8)
    return labels, np.round(rng.normal(labels, 1.5), 0)


def test_auroc_counts_pairs_and_half_of_the_ties() -> None:
    labels, scores = tied(0)
    for i, area in enumerate(metrics.auroc(labels, scores)):
        positive, negative = scores[labels[:, i] == 1, i], scores[labels[:, i] == 0, i]
        wins = (positive[:, None] > negative).sum() + (positive[:, None] == negative).sum() / 2
        assert area == pytest.approx(wins / (len(positive) * len(negative)), abs=1e-12)


def test_auroc_and_ap_are_sklearns() -> None:
    labels, scores = tied(1)
    areas, precisions = metrics.auroc(labels, scores), metrics.average_precision(labels, scores)
    for i in range(14):
        assert areas[i] == pytest.approx(roc_auc_score(labels[:, i], scores[:, i]))
        assert precisions[i] == pytest.approx(average_precision_score(labels[:, i], scores[:, i]))


def test_average_precision_by_hand() -> None:
    """Cuts at 0.9 (1 of 1), 0.5 (tie: 2 of 3), 0.1 (2 of 4): 1/2 * 1 + 1/2 * 2/3."""
    labels, scores = column([1, 1, 0, 0], [0.9, 0.5, 0.5, 0.1])
    assert metrics.average_precision(labels, scores)[0] == pytest.approx(0.5 + 1 / 3)


def test_one_class_is_undefined_and_left_out_of_the_mean() -> None:
    labels, scores = tied(2)
    labels[:, 3] = 0
    labels[:, 5] = 1
    areas = metrics.auroc(labels, scores)
    assert set(np.flatnonzero(np.isnan(areas))) == {3, 5}
    assert metrics.macro(areas) == pytest.approx(np.delete(areas, [3, 5]).mean())
    assert np.isnan(metrics.macro(np.full(3, np.nan)))


def test_sigmoid_is_scipys_at_any_size() -> None:
    logits = np.array([-1000, -30, 0, 2.5, 1000], np.float32)
    np.testing.assert_allclose(metrics.sigmoid(logits), expit(logits.astype(float)), rtol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_thresholds_are_the_best_cuts(seed: int) -> None:
    labels, scores = tied(seed)
    probs = metrics.sigmoid(scores)
    youden = metrics.thresholds(labels, probs, "youden")
    f1 = metrics.thresholds(labels, probs, "f1")
    for i in range(14):
        y, p = labels[:, i] == 1, probs[:, i]

        def gain(cut: float, y: np.ndarray = y, p: np.ndarray = p) -> float:
            return (p >= cut)[y].mean() - (p >= cut)[~y].mean()

        cuts = np.unique(p)
        assert gain(youden[i]) == pytest.approx(max(gain(cut) for cut in cuts))
        best = max(f1_score(y, p >= cut) for cut in cuts)
        assert f1_score(y, p >= f1[i]) == pytest.approx(best)


def described() -> dict:
    labels = np.zeros((4, 14), np.uint8)
    labels[:2, 0] = 1
    labels[1, 2] = 1
    probs = np.full((4, 14), 0.1)
    probs[:, 0] = [0.9, 0.3, 0.6, 0.2]
    cut = np.full(14, 0.25)
    cut[13] = np.nan
    return metrics.describe(labels, probs, cut)


def test_one_split_by_hand() -> None:
    """Atelectasis: 0.9 and 0.3 positive, 0.6 and 0.2 negative; three of four pairs in order."""
    made = described()
    first = made["labels"]["atelectasis"]
    assert first["auroc"] == 0.75
    assert first["accuracy"] == 0.5
    assert first["accuracy_all_negative"] == 0.5
    assert (first["sensitivity"], first["specificity"]) == (1.0, 0.5)
    assert first["brier"] == pytest.approx((0.01 + 0.49 + 0.36 + 0.04) / 4)
    # Right are 2 of 4 for atelectasis, 3 of 4 for effusion, all for the other twelve.
    assert made["accuracy"] == pytest.approx((2 + 3 + 12 * 4) / 56)
    assert made["accuracy_gain"] == pytest.approx((53 - 53) / 56)
    assert made["n_labels"] == 2


def test_what_is_undefined_is_none_and_named() -> None:
    made = described()
    assert made["labels"]["hernia"]["auroc"] is None
    assert made["labels"]["hernia"]["sensitivity"] is None
    reasons = {(entry["label"], entry["what"]) for entry in made["undefined"]}
    assert ("hernia", "auroc, ap") in reasons
    assert ("hernia", "threshold") in reasons
    assert list(made["labels"]) == list(LABELS)
    json.dumps(made, allow_nan=False)


@HAS_SHARED
def test_no_for_everything_scores_what_was_published() -> None:
    labels = np.load(SHARED / "chestxray14_labels.npz")
    scores = {
        split: 100 * metrics.all_negative(labels[f"{split}_labels"])["accuracy"]
        for split in ("train", "val", "test")
    }
    assert {k: round(v, 3) for k, v in scores.items()} == {
        "train": 94.857, "val": 94.921, "test": 94.743,
    }  # fmt: skip


@HAS_SHARED
@pytest.mark.parametrize(
    ("name", "published"), [("densenet121_seed0", 0.7025), ("vit_small_seed0", 0.6755)]
)
def test_published_predictions_score_what_was_published(name: str, published: float) -> None:
    file = np.load(SHARED / "predictions" / f"{name}.npz")
    area = metrics.macro(metrics.auroc(file["test_labels"].astype(np.uint8), file["test_logits"]))
    assert round(area, 4) == published
