"""Comparisons of models, checked by hand, by DeLong's test and by a loop over sklearn."""

import itertools

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from cxr.evaluation import comparisons, intervals
from cxr.labels import CHESTMNIST


def test_holm_of_a_hand_computed_case() -> None:
    """0.01 * 4, 0.02 * 3, 0.03 * 2, 0.04 * 1; none may be smaller than its predecessor."""
    assert comparisons.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])


def test_holm_does_not_count_undefined_p() -> None:
    assert comparisons.holm([0.04, None, 0.6]) == [pytest.approx(0.08), None, pytest.approx(0.6)]
    assert comparisons.holm([0.5, 0.9]) == [1, 1]
    assert comparisons.holm([None]) == [None]


def test_holm_rejects_as_the_step_down_procedure() -> None:
    """As in the 1979 paper: reject while the k-th smallest p is at most alpha / (n - k)."""
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
    comparison = comparisons.paired(0.03, resampled)
    error = 0.02
    assert comparison["ci"] == pytest.approx([0.03 - 1.959964 * error, 0.03 + 1.959964 * error])
    assert comparison["p"] == pytest.approx(2 * (1 - norm.cdf(1.5)))


def test_models_that_rank_alike_are_not_different() -> None:
    assert comparisons.paired(0.0, np.zeros(9)) == {"difference": 0, "ci": [0, 0], "p": 1}


@pytest.mark.parametrize(
    ("difference", "resampled"), [(np.nan, [0.1, 0.2]), (0.1, [0.1]), (0.1, [np.nan] * 4)]
)
def test_an_undefined_difference_has_no_p(difference: float, resampled: list[float]) -> None:
    comparison = comparisons.paired(difference, np.array(resampled))
    assert (comparison["ci"], comparison["p"]) == (None, None)


def models(n: int = 500) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """`good` is better than `fair`, `same` ranks like `fair`; hernia has one class only."""
    rng = np.random.default_rng(0)
    labels = (rng.random((n, 14)) < 0.2).astype(np.uint8)
    labels[:, CHESTMNIST.index("hernia")] = 0
    fair = rng.normal(size=(n, 14)) + 0.3 * labels
    return labels, {"good": fair + 0.8 * labels, "fair": fair, "same": np.exp(fair)}


@pytest.fixture(scope="module")
def compared() -> list[dict]:
    labels, scores = models()
    resamples = intervals.draw(len(labels), None, 400, seed=0)
    estimates = intervals.estimate(labels, scores, resamples, lambda done, total: None)
    return comparisons.compare(labels, CHESTMNIST, scores, estimates, independent=True)


def test_every_pair_of_models_is_compared(compared: list[dict]) -> None:
    macro = [(each["a"], each["b"], each["metric"]) for each in compared if "label" not in each]
    pairs = itertools.combinations(("good", "fair", "same"), 2)
    assert sorted(macro) == sorted(
        (a, b, metric) for (a, b) in pairs for metric in ("macro_auroc", "macro_ap")
    )
    assert len(compared) == 6 + 3 * 2 * 14


def test_a_better_model_differs_and_an_equal_one_does_not(compared: list[dict]) -> None:
    macro = {(e["a"], e["b"]): e for e in compared if e["metric"] == "macro_auroc"}
    assert macro["good", "fair"]["difference"] > 0.15
    assert macro["good", "fair"]["p_holm"] < 1e-6
    assert macro["fair", "same"]["p"] == 1
    assert macro["fair", "same"]["difference"] == 0


def test_a_macro_difference_equals_that_of_a_loop_over_sklearn(compared: list[dict]) -> None:
    labels, scores = models()
    defined = [i for i in range(14) if labels[:, i].any()]

    def macro(rows: np.ndarray, model: str) -> float:
        aurocs = [roc_auc_score(labels[rows, i], scores[model][rows, i]) for i in defined]
        return float(np.mean(aurocs))

    all_rows = np.arange(len(labels))
    resamples = intervals.draw(len(labels), None, 400, seed=0)
    drawn = [np.repeat(all_rows, counts) for block in resamples.blocks() for counts in block.T]
    differences = [macro(rows, "good") - macro(rows, "fair") for rows in drawn[:60]]
    estimates = intervals.estimate(labels, scores, resamples, lambda done, total: None)
    difference = estimates["good"]["auroc"].minus(estimates["fair"]["auroc"])
    np.testing.assert_allclose(difference.macro_resampled[:60], differences, atol=1e-12)
    comparison = next(
        e for e in compared if (e["a"], e["b"], e["metric"]) == ("good", "fair", "macro_auroc")
    )
    assert comparison["difference"] == pytest.approx(
        macro(all_rows, "good") - macro(all_rows, "fair")
    )
    error = np.std(difference.macro_resampled, ddof=1)
    assert comparison["ci"][1] - comparison["ci"][0] == pytest.approx(2 * 1.959964 * error)


def test_p_is_corrected_for_all_comparisons_of_a_metric(compared: list[dict]) -> None:
    for metric in ("macro_auroc", "macro_ap", "auroc", "ap"):
        family = [each for each in compared if each["metric"] == metric]
        assert [each["p_holm"] for each in family] == comparisons.holm([e["p"] for e in family])


def test_a_label_of_one_class_is_not_compared(compared: list[dict]) -> None:
    hernia = [each for each in compared if each.get("label") == "hernia"]
    assert len(hernia) == 6
    assert {each[key] for each in hernia for key in ("difference", "ci", "p", "p_holm")} == {None}


def test_delongs_p_is_added_and_agrees(compared: list[dict]) -> None:
    labels, scores = models()
    mass = [e for e in compared if e["metric"] == "auroc" and e["label"] == "mass"]
    i = CHESTMNIST.index("mass")
    for each in mass:
        both = np.stack([scores[each["a"]][:, i], scores[each["b"]][:, i]])
        aurocs, covariance = intervals.delong(labels[:, i], both)
        variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
        if variance > 1e-12:
            z = (aurocs[0] - aurocs[1]) / np.sqrt(variance)
            assert each["p_delong"] == pytest.approx(2 * norm.sf(abs(z)))
            assert np.log10(each["p"]) == pytest.approx(np.log10(each["p_delong"]), rel=0.3)
    assert [e["p_delong"] for e in mass if (e["a"], e["b"]) == ("fair", "same")] == [1]


def test_delong_is_left_out_if_patients_have_several_images() -> None:
    labels, scores = models(100)
    resamples = intervals.draw(100, np.arange(100) // 2, 100, seed=0)
    estimates = intervals.estimate(labels, scores, resamples, lambda done, total: None)
    compared = comparisons.compare(labels, CHESTMNIST, scores, estimates, resamples.independent)
    assert not any("p_delong" in each for each in compared)


def test_a_single_model_is_not_compared() -> None:
    labels, scores = models(100)
    alone = {"good": scores["good"]}
    resamples = intervals.draw(100, None, 100, seed=0)
    estimates = intervals.estimate(labels, alone, resamples, lambda done, total: None)
    assert comparisons.compare(labels, CHESTMNIST, alone, estimates, True) == []


def test_a_difference_that_no_resample_changes_has_no_p() -> None:
    comparison = comparisons.paired(0.1, np.full(50, 0.1))
    assert (comparison["difference"], comparison["ci"], comparison["p"]) == (0.1, None, None)
    y, scores = np.array([1, 1, 0, 0]), np.array([[4.0, 3, 2, 1], [1.0, 2, 3, 4]])
    assert comparisons.delong_p(y, scores) is None
