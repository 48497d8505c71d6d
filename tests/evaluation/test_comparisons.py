"""Paired comparisons against hand-computed cases, DeLong's test and a plain loop over sklearn."""

import itertools

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from cxr.evaluation import comparisons, intervals
from cxr.labels import LABELS


def test_holm_of_a_hand_computed_case() -> None:
    """0.01 * 4, then 0.02 * 3, 0.03 * 2, 0.04 * 1, none below the one before."""
    assert comparisons.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])


def test_holm_leaves_out_what_was_not_tested() -> None:
    assert comparisons.holm([0.04, None, 0.6]) == [pytest.approx(0.08), None, pytest.approx(0.6)]
    assert comparisons.holm([0.5, 0.9]) == [1, 1]
    assert comparisons.holm([None]) == [None]


def test_holm_rejects_as_the_step_down_does() -> None:
    """As written in the 1979 paper: go on while the k-th smallest is at most alpha / (n - k)."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = list(rng.random(6) ** 3)
        rejected = set()
        for k, i in enumerate(np.argsort(p)):
            if p[i] > 0.05 / (6 - k):
                break
            rejected.add(int(i))
        assert {i for i, each in enumerate(comparisons.holm(p)) if each <= 0.05} == rejected


def test_a_difference_has_the_normal_interval_and_p_of_its_resamples() -> None:
    resampled = np.array([0.01, 0.03, 0.05])
    told = comparisons.paired(0.03, resampled)
    error = 0.02
    assert told["ci"] == pytest.approx([0.03 - 1.959964 * error, 0.03 + 1.959964 * error])
    assert told["p"] == pytest.approx(2 * (1 - norm.cdf(1.5)))


def test_models_that_rank_alike_are_not_different() -> None:
    assert comparisons.paired(0.0, np.zeros(9)) == {"difference": 0, "ci": [0, 0], "p": 1}


@pytest.mark.parametrize(
    ("difference", "resampled"), [(np.nan, [0.1, 0.2]), (0.1, [0.1]), (0.1, [np.nan] * 4)]
)
def test_what_is_undefined_has_no_p(difference: float, resampled: list[float]) -> None:
    told = comparisons.paired(difference, np.array(resampled))
    assert (told["ci"], told["p"]) == (None, None)


def models(n: int = 500) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """`good` is better than `fair`, `same` ranks as `fair` does; hernia has one class."""
    rng = np.random.default_rng(0)
    labels = (rng.random((n, 14)) < 0.2).astype(np.uint8)
    labels[:, LABELS.index("hernia")] = 0
    fair = rng.normal(size=(n, 14)) + 0.3 * labels
    return labels, {"good": fair + 0.8 * labels, "fair": fair, "same": np.exp(fair)}


@pytest.fixture(scope="module")
def told() -> list[dict]:
    labels, scores = models()
    resamples = intervals.draw(len(labels), None, 400, seed=0)
    estimates = intervals.estimate(labels, scores, resamples, lambda done, total: None)
    return comparisons.compare(labels, scores, estimates, independent=True)


def test_every_two_models_are_compared(told: list[dict]) -> None:
    macro = [(each["a"], each["b"], each["metric"]) for each in told if "label" not in each]
    pairs = itertools.combinations(("good", "fair", "same"), 2)
    assert sorted(macro) == sorted(
        (a, b, metric) for (a, b) in pairs for metric in ("macro_auroc", "macro_ap")
    )
    assert len(told) == 6 + 3 * 2 * 14


def test_the_better_model_is_told_and_the_same_one_is_not(told: list[dict]) -> None:
    macro = {(e["a"], e["b"]): e for e in told if e["metric"] == "macro_auroc"}
    assert macro["good", "fair"]["difference"] > 0.15
    assert macro["good", "fair"]["p_holm"] < 1e-6
    assert macro["fair", "same"]["p"] == 1
    assert macro["fair", "same"]["difference"] == 0


def test_a_macro_difference_is_that_of_a_plain_loop(told: list[dict]) -> None:
    labels, scores = models()
    defined = [i for i in range(14) if labels[:, i].any()]

    def macro(rows: np.ndarray, model: str) -> float:
        areas = [roc_auc_score(labels[rows, i], scores[model][rows, i]) for i in defined]
        return float(np.mean(areas))

    every = np.arange(len(labels))
    resamples = intervals.draw(len(labels), None, 400, seed=0)
    drawn = [np.repeat(every, counts) for block in resamples.blocks() for counts in block.T]
    differences = [macro(rows, "good") - macro(rows, "fair") for rows in drawn[:60]]
    estimates = intervals.estimate(labels, scores, resamples, lambda done, total: None)
    difference = estimates["good"]["auroc"].minus(estimates["fair"]["auroc"])
    np.testing.assert_allclose(difference.macro_resampled[:60], differences, atol=1e-12)
    found = next(
        e for e in told if (e["a"], e["b"], e["metric"]) == ("good", "fair", "macro_auroc")
    )
    assert found["difference"] == pytest.approx(macro(every, "good") - macro(every, "fair"))
    error = np.std(difference.macro_resampled, ddof=1)
    assert found["ci"][1] - found["ci"][0] == pytest.approx(2 * 1.959964 * error)


def test_correction_is_for_all_comparisons_of_one_metric(told: list[dict]) -> None:
    for metric in ("macro_auroc", "macro_ap", "auroc", "ap"):
        family = [each for each in told if each["metric"] == metric]
        assert [each["p_holm"] for each in family] == comparisons.holm([e["p"] for e in family])


def test_a_label_of_one_class_is_not_compared(told: list[dict]) -> None:
    hernia = [each for each in told if each.get("label") == "hernia"]
    assert len(hernia) == 6
    assert {each[key] for each in hernia for key in ("difference", "ci", "p", "p_holm")} == {None}


def test_delong_stands_beside_and_agrees(told: list[dict]) -> None:
    labels, scores = models()
    compared = [e for e in told if e["metric"] == "auroc" and e["label"] == "mass"]
    i = LABELS.index("mass")
    for each in compared:
        both = np.stack([scores[each["a"]][:, i], scores[each["b"]][:, i]])
        areas, covariance = intervals.delong(labels[:, i], both)
        variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
        if variance > 1e-12:
            z = (areas[0] - areas[1]) / np.sqrt(variance)
            assert each["p_delong"] == pytest.approx(2 * norm.sf(abs(z)))
            assert np.log10(each["p"]) == pytest.approx(np.log10(each["p_delong"]), rel=0.3)
    assert [e["p_delong"] for e in compared if (e["a"], e["b"]) == ("fair", "same")] == [1]


def test_delong_is_left_out_where_images_depend_on_each_other() -> None:
    labels, scores = models(100)
    resamples = intervals.draw(100, np.arange(100) // 2, 100, seed=0)
    estimates = intervals.estimate(labels, scores, resamples, lambda done, total: None)
    told = comparisons.compare(labels, scores, estimates, resamples.independent)
    assert not any("p_delong" in each for each in told)


def test_one_model_alone_is_not_compared() -> None:
    labels, scores = models(100)
    alone = {"good": scores["good"]}
    resamples = intervals.draw(100, None, 100, seed=0)
    estimates = intervals.estimate(labels, alone, resamples, lambda done, total: None)
    assert comparisons.compare(labels, alone, estimates, True) == []


def test_a_difference_that_no_resample_changes_has_no_p() -> None:
    told = comparisons.paired(0.1, np.full(50, 0.1))
    assert (told["difference"], told["ci"], told["p"]) == (0.1, None, None)
    y, scores = np.array([1, 1, 0, 0]), np.array([[4.0, 3, 2, 1], [1.0, 2, 3, 4]])
    assert comparisons.delong_p(y, scores) is None
