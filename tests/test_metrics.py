"""Metrics against pair counts, hand-computed cases and printed figures; sklearn beside them."""

import itertools
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr import metrics
from cxr.labels import LABELS

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
CHESTXRAY14 = SHARED / "chestxray14_labels.npz"
PREDICTIONS = SHARED / "predictions"


def cases(n: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Small columns (y, scores) with both classes and many tied scores."""
    rng = np.random.default_rng(seed)
    found = []
    while len(found) < n:
        size = rng.integers(3, 30)
        y = (rng.random(size) < 0.35).astype(np.uint8)
        if 0 < y.sum() < size:
            found.append((y, np.round(0.6 * rng.random(size) + 0.3 * y, 1)))
    return found


def counted_auroc(y: np.ndarray, scores: np.ndarray) -> float:
    """Share of pairs (positive, negative) in the right order, a tie being half of one."""
    pairs = list(itertools.product(scores[y == 1], scores[y == 0]))
    return sum((p > n) + 0.5 * (p == n) for p, n in pairs) / len(pairs)


def summed_ap(y: np.ndarray, scores: np.ndarray) -> float:
    """Sum of precision times the step in recall, tied scores taken together."""
    total, found_before = 0.0, 0
    for cut in sorted(set(scores), reverse=True):
        called = scores >= cut
        found = int(y[called].sum())
        total += (found - found_before) / y.sum() * found / called.sum()
        found_before = found
    return total


def best_cut(y: np.ndarray, probs: np.ndarray, rule: str) -> tuple[Fraction, float]:
    """Largest value of the rule over all cuts, in exact fractions, and the highest such cut."""
    values = []
    for cut in set(probs):
        called, n_positive = probs >= cut, int(y.sum())
        true, false = int((called & (y == 1)).sum()), int((called & (y == 0)).sum())
        if rule == "youden":
            value = Fraction(true, n_positive) - Fraction(false, len(y) - n_positive)
        else:
            value = Fraction(2 * true, true + false + n_positive)
        values.append((value, float(cut)))
    return max(values)


def one_column(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, 1)


def test_hand_computed_areas() -> None:
    # Positives at 3 and 2, negatives at 2 and 1: pairs 1, 1, 1/2, 1. AP: 1/2 * 1 + 1/2 * 2/3.
    y, scores = np.array([[1], [1], [0], [0]], np.uint8), np.array([[3.0], [2.0], [2.0], [1.0]])
    assert metrics.auroc(y, scores)[0] == pytest.approx(3.5 / 4)
    assert metrics.average_precision(y, scores)[0] == pytest.approx(1 / 2 + 1 / 3)


def test_areas_equal_counts_over_pairs_and_steps_with_ties() -> None:
    for y, scores in cases(300):
        area = metrics.auroc(one_column(y), one_column(scores))[0]
        assert area == pytest.approx(counted_auroc(y, scores), abs=1e-12)
        assert area == pytest.approx(roc_auc_score(y, scores), abs=1e-12)
        precision = metrics.average_precision(one_column(y), one_column(scores))[0]
        assert precision == pytest.approx(summed_ap(y, scores), abs=1e-12)
        assert precision == pytest.approx(average_precision_score(y, scores), abs=1e-12)


def test_each_label_is_measured_on_its_own_column() -> None:
    rng = np.random.default_rng(1)
    y, scores = (rng.random((40, 5)) < 0.4).astype(np.uint8), rng.normal(size=(40, 5))
    for measure, peer in ((metrics.auroc, counted_auroc), (metrics.average_precision, summed_ap)):
        assert np.allclose(measure(y, scores), [peer(*c) for c in zip(y.T, scores.T, strict=True)])


def test_auroc_of_logits_and_of_their_probabilities_is_one() -> None:
    rng = np.random.default_rng(1)
    y = (rng.random((200, 2)) < 0.4).astype(np.uint8)
    logits = rng.normal(scale=8, size=(200, 2)).astype(np.float32)
    assert np.array_equal(metrics.auroc(y, logits), metrics.auroc(y, metrics.sigmoid(logits)))


def test_label_with_one_class_is_undefined_and_left_out_of_the_macro() -> None:
    y = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1]], np.uint8)
    scores = np.array([[0.5, 0.1, 0.3], [0.9, 0.2, 0.2], [0.1, 0.3, 0.1]])
    for measure, first in ((metrics.auroc, 0.5), (metrics.average_precision, 0.5)):
        values = measure(y, scores)
        assert np.isnan(values).tolist() == [False, True, True]
        assert values[0] == pytest.approx(first)
        assert metrics.macro(values) == pytest.approx(first)


@pytest.mark.parametrize(
    ("values", "mean"),
    [([0.2, 0.6], 0.4), ([0.2, np.nan, 0.6], 0.4), ([np.nan, np.nan], np.nan)],
)
def test_macro_is_the_mean_of_what_is_defined(values: list[float], mean: float) -> None:
    assert metrics.macro(np.array(values)) == pytest.approx(mean, nan_ok=True)


@pytest.mark.parametrize("rule", ["youden", "f1"])
def test_threshold_is_the_best_of_all_cuts(rule: metrics.Rule) -> None:
    for y, probs in cases(300):
        chosen = metrics.thresholds(one_column(y), one_column(probs), rule)[0]
        best, _ = best_cut(y, probs, rule)
        at_chosen, _ = best_cut(y, np.where(probs >= chosen, 1.0, -np.inf), rule)
        assert chosen in probs
        assert at_chosen == best


@pytest.mark.parametrize("rule", ["youden", "f1"])
def test_threshold_is_the_highest_of_equally_good_cuts(rule: metrics.Rule) -> None:
    for y, probs in cases(1000):
        chosen = metrics.thresholds(one_column(y), one_column(probs), rule)[0]
        assert chosen == best_cut(y, probs, rule)[1]


@pytest.mark.parametrize(("rule", "cut"), [("youden", 0.3), ("f1", 0.8)])
def test_thresholds_of_a_hand_computed_case(rule: metrics.Rule, cut: float) -> None:
    """Positives at 0.9, 0.8 and 0.3 among ten images.

    At 0.8 sensitivity is 2/3 and specificity 1: J = 0.67 and F1 = 4/5.
    At 0.3 both false calls cost 2/7: J = 0.71, F1 = 6/8.
    """
    y = np.array([1, 1, 0, 0, 1, 0, 0, 0, 0, 0], np.uint8)
    probs = np.array([0.9, 0.8, 0.7, 0.6, 0.3, 0.2, 0.2, 0.1, 0.1, 0.0])
    assert metrics.thresholds(one_column(y), one_column(probs), rule)[0] == cut


def test_threshold_of_chance_is_the_highest_probability() -> None:
    """Every cut of this label has a Youden index of zero."""
    y, probs = np.array([1, 0, 1, 0], np.uint8), np.array([0.9, 0.9, 0.1, 0.1])
    assert metrics.thresholds(one_column(y), one_column(probs), "youden")[0] == 0.9


def test_threshold_of_a_label_with_one_class_is_nan() -> None:
    y = np.array([[1, 0, 1], [0, 0, 1]], np.uint8)
    for rule in ("youden", "f1"):
        cut = metrics.thresholds(y, np.array([[0.9, 0.5, 0.5], [0.1, 0.5, 0.4]]), rule)
        assert cut[0] == 0.9 and np.isnan(cut[1:]).all()


def test_sigmoid_is_double_precision_and_bounded() -> None:
    logits = np.concatenate([np.linspace(-40, 40, 801), [-1000, -700, 700, 1000]])
    with np.errstate(all="raise", under="ignore"):
        probs = metrics.sigmoid(logits)
    assert np.allclose(probs, expit(logits), rtol=1e-12, atol=0)
    assert (probs[-4], probs[-1]) == (0, 1)
    single = metrics.sigmoid(np.array([-30], np.float32))
    assert single.dtype == np.float64 and single[0] == pytest.approx(expit(-30.0), rel=1e-14)


def four_images() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atelectasis is mixed, edema always there, the rest never; probabilities and cuts by hand."""
    labels, probs = np.zeros((4, 14), np.uint8), np.full((4, 14), 0.1)
    labels[:, LABELS.index("atelectasis")] = [1, 1, 0, 0]
    probs[:, LABELS.index("atelectasis")] = [0.9, 0.4, 0.6, 0.1]
    labels[:, LABELS.index("edema")] = 1
    probs[:, LABELS.index("edema")] = [0.5, 0.9, 0.9, 0.9]
    cut = np.full(14, 0.4)
    cut[LABELS.index("hernia")] = np.nan
    return labels, probs, cut


def test_describe_of_four_images_by_hand() -> None:
    told = metrics.describe(*four_images())
    assert told["labels"]["atelectasis"] == pytest.approx(
        {
            "n_positive": 2,
            "prevalence": 0.5,
            "auroc": 0.75,  # of four pairs 0.4 < 0.6 is wrong
            "ap": 0.5 * 1 + 0.5 * 2 / 3,
            "accuracy": 0.5,  # at 0.5 the second and the third image are wrong
            "accuracy_all_negative": 0.5,
            "brier": (0.01 + 0.36 + 0.36 + 0.01) / 4,
            "threshold": 0.4,
            "sensitivity": 1.0,  # a probability at the threshold counts as positive
            "specificity": 0.5,
        }
    )
    edema = told["labels"]["edema"]
    assert edema["accuracy"] == 1 and edema["accuracy_all_negative"] == 0  # 0.5 counts as yes
    assert edema["sensitivity"] == 1 and edema["specificity"] is None
    hernia = told["labels"]["hernia"]
    assert (hernia["sensitivity"], hernia["specificity"]) == (None, None)
    assert (hernia["auroc"], hernia["ap"], hernia["threshold"]) == (None, None, None)
    assert hernia["brier"] == pytest.approx(0.01) and hernia["n_positive"] == 0
    nodule = told["labels"]["nodule"]
    assert (nodule["sensitivity"], nodule["specificity"]) == (None, 1)


def test_describe_sums_four_images_up_by_hand() -> None:
    told = metrics.describe(*four_images())
    assert (told["n"], told["n_labels"]) == (4, 1)
    assert told["macro_auroc"] == 0.75
    assert told["macro_ap"] == pytest.approx(5 / 6)
    assert told["accuracy"] == pytest.approx(54 / 56)  # two wrong of 4 x 14
    assert told["accuracy_gain"] == pytest.approx((54 - 50) / 56)  # "no" is wrong six times
    brier = 0.74 + (0.25 + 3 * 0.01) + 12 * 4 * 0.01
    assert told["brier"] == pytest.approx(brier / 56)


def test_describe_names_what_is_undefined_and_why() -> None:
    undefined = metrics.describe(*four_images())["undefined"]
    areas = [entry["label"] for entry in undefined if entry["what"] == "auroc, ap"]
    assert areas == [label for label in LABELS if label != "atelectasis"]
    cuts = [entry for entry in undefined if entry["what"] == "threshold"]
    assert [entry["label"] for entry in cuts] == ["hernia"]
    assert cuts[0]["why"] == "the validation split has images of one class only"
    assert {entry["why"] for entry in undefined if entry not in cuts} == {
        "has images of one class only"
    }


def test_describe_has_every_label_and_keys_that_json_can_hold() -> None:
    told = json.loads(json.dumps(metrics.describe(*four_images()), allow_nan=False))
    assert list(told) == [
        "n", "n_labels", "macro_auroc", "macro_ap", "accuracy", "accuracy_gain", "brier",
        "labels", "undefined",
    ]  # fmt: skip
    assert tuple(told["labels"]) == LABELS
    assert {tuple(values) for values in told["labels"].values()} == {
        ("n_positive", "prevalence", "auroc", "ap", "accuracy", "accuracy_all_negative", "brier",
         "threshold", "sensitivity", "specificity")
    }  # fmt: skip


def test_split_without_a_defined_label_has_no_macro() -> None:
    told = metrics.describe(np.zeros((3, 14), np.uint8), np.full((3, 14), 0.2), np.full(14, np.nan))
    assert told["macro_auroc"] is None and told["macro_ap"] is None
    assert (told["n_labels"], told["accuracy_gain"]) == (0, 0)
    json.dumps(told, allow_nan=False)


def test_all_negative_by_hand() -> None:
    assert metrics.all_negative(np.array([[1, 0, 0], [0, 0, 1]], np.uint8)) == {
        "accuracy": pytest.approx(4 / 6),
        "macro_auroc": 0.5,
        "brier": pytest.approx(2 / 6),
    }


@pytest.mark.skipif(not CHESTXRAY14.is_file(), reason=f"{CHESTXRAY14} is not here")
@pytest.mark.parametrize(
    ("split", "percent"), [("train", 94.857), ("val", 94.921), ("test", 94.743)]
)
def test_all_negative_on_chestxray14_is_the_known_accuracy(split: str, percent: float) -> None:
    with np.load(CHESTXRAY14) as file:
        told = metrics.all_negative(file[f"{split}_labels"])
    assert round(100 * told["accuracy"], 3) == percent


@pytest.mark.skipif(not PREDICTIONS.is_dir(), reason=f"{PREDICTIONS} is not here")
@pytest.mark.parametrize(
    ("name", "printed"), [("densenet121_seed0", 0.7025), ("vit_small_seed0", 0.6755)]
)
def test_macro_auroc_of_published_predictions_is_the_printed_one(name: str, printed: float) -> None:
    with np.load(PREDICTIONS / f"{name}.npz") as file:
        areas = metrics.auroc(file["test_labels"].astype(np.uint8), file["test_logits"])
    assert round(metrics.macro(areas), 4) == printed
