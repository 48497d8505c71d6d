"""Bootstrap and DeLong intervals, checked against sklearn, loops and direct sums."""

import itertools

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr.evaluation import intervals


def counts_of(resamples: intervals.Resamples) -> np.ndarray:
    return np.hstack(list(resamples.blocks()))


def silent(done: int, total: int) -> None:
    pass


def example(n: int = 400, decimals: int = 1, seed: int = 0):
    """Three labels of different prevalence and two models, with many ties."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 3)) < [0.5, 0.1, 0.02]).astype(np.uint8)
    scores = {name: np.round(rng.normal(size=(n, 3)) + labels, decimals) for name in "ab"}
    return labels, scores


@pytest.mark.parametrize("decimals", [0, 1, 6])
@pytest.mark.parametrize("by_patient", [False, True])
def test_metrics_of_every_resample_equal_sklearns(decimals: int, by_patient: bool) -> None:
    labels, scores = example(decimals=decimals)
    patients = np.arange(400) // 3 if by_patient else None
    resamples = intervals.draw(400, patients, 300, seed=1)  # more than one block
    estimates = intervals.estimate(labels, scores, resamples, silent)
    counts = counts_of(resamples)
    for name, model in scores.items():
        of_model = estimates[name]
        for b, label in itertools.product((0, 1, 255, 256, 299), range(3)):
            weights, y = counts[:, b], labels[:, label]
            if (weights @ y) == 0:
                assert np.isnan(of_model["auroc"].resampled[b, label])
                continue
            expected = roc_auc_score(y, model[:, label], sample_weight=weights)
            assert of_model["auroc"].resampled[b, label] == pytest.approx(expected, abs=1e-12)
            expected = average_precision_score(y, model[:, label], sample_weight=weights)
            assert of_model["ap"].resampled[b, label] == pytest.approx(expected, abs=1e-12)


def test_all_images_of_a_patient_are_drawn_together() -> None:
    patients = np.array([7, 7, 3, 9, 9, 9])
    resamples = intervals.draw(6, patients, 500, seed=0)
    counts = counts_of(resamples).astype(int)
    assert resamples.unit == "patient"
    assert (counts[0] == counts[1]).all()
    assert (counts[3] == counts[4]).all()
    assert (counts[3] == counts[5]).all()
    assert (counts[0] + counts[2] + counts[3] == 3).all()  # three patients drawn each time
    assert counts.mean() == pytest.approx(1, abs=0.1)


def test_resamples_keep_the_number_of_images_and_depend_on_the_seed() -> None:
    first = intervals.draw(50, None, 20, seed=3)
    assert first.unit == "image"
    assert (counts_of(first).sum(axis=0) == 50).all()
    assert (counts_of(first) == counts_of(intervals.draw(50, None, 20, seed=3))).all()
    assert (counts_of(first) != counts_of(intervals.draw(50, None, 20, seed=4))).any()


def measured(labels: np.ndarray, scores: np.ndarray, resamples: intervals.Resamples):
    return intervals.estimate(labels, {"a": scores}, resamples, silent)["a"]


def test_a_resample_without_positives_is_undefined() -> None:
    labels = np.zeros((30, 1), np.uint8)
    labels[0] = 1
    resamples = intervals.draw(30, None, 400, seed=0)
    estimate = measured(labels, np.arange(30.0)[:, None], resamples)
    without = counts_of(resamples)[0] == 0
    assert 0.2 < without.mean() < 0.5  # (1 - 1/30) ** 30 = 0.36
    assert (np.isnan(estimate["auroc"].resampled[:, 0]) == without).all()
    assert (np.isnan(estimate["ap"].resampled[:, 0]) == without).all()


@pytest.mark.parametrize("value", [0, 1])
def test_a_label_of_one_class_is_undefined(value: int) -> None:
    labels = np.full((20, 1), value, np.uint8)
    resamples = intervals.draw(20, None, 10, seed=0)
    estimate = measured(labels, np.ones((20, 1)), resamples)
    for each in estimate.values():
        assert np.isnan(each.resampled).all()
        assert np.isnan(each.values).all()
        assert np.isnan(each.macro)


def test_one_image_is_undefined() -> None:
    resamples = intervals.draw(1, None, 5, seed=0)
    assert (counts_of(resamples) == 1).all()
    estimate = measured(np.ones((1, 1), np.uint8), np.ones((1, 1)), resamples)
    assert np.isnan(estimate["auroc"].resampled).all()


def test_constant_scores_have_the_metrics_of_chance() -> None:
    labels, _ = example()
    resamples = intervals.draw(400, None, 20, seed=0)
    estimate = measured(labels[:, :1], np.full((400, 1), 0.3), resamples)
    prevalence = (counts_of(resamples).T @ labels[:, 0].astype(int)) / 400
    np.testing.assert_allclose(estimate["auroc"].resampled[:, 0], 0.5)
    np.testing.assert_allclose(estimate["ap"].resampled[:, 0], prevalence)


def estimate_by_hand(values: list[float], resampled: list[list[float]]) -> intervals.Estimate:
    return intervals.Estimate(np.array(values), np.array(resampled))


def test_the_macro_of_a_resample_is_the_mean_over_its_labels() -> None:
    estimate = estimate_by_hand([0.9, 0.5], [[0.8, 0.5], [0.9, 0.7]])
    assert estimate.macro == pytest.approx(0.7)
    np.testing.assert_allclose(estimate.macro_resampled, [0.65, 0.8])


def test_a_label_that_a_resample_lacks_does_not_move_its_macro() -> None:
    """The other label rises by 0.1, which replaces the change of the missing one."""
    estimate = estimate_by_hand([0.9, 0.5, np.nan], [[np.nan, 0.6, np.nan], [np.nan] * 3])
    np.testing.assert_allclose(estimate.macro_resampled, [0.7 + 0.1, np.nan])


def test_a_difference_is_paired() -> None:
    a, b = estimate_by_hand([0.9, 0.5], [[0.8, 0.5]]), estimate_by_hand([0.6, 0.6], [[0.7, 0.1]])
    difference = a.minus(b)
    np.testing.assert_allclose(difference.values, [0.3, -0.1])
    np.testing.assert_allclose(difference.resampled, [[0.1, 0.4]])
    assert difference.macro == pytest.approx(a.macro - b.macro)


def test_an_interval_is_normal_on_the_logit_scale() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(1.0, 0.2, 200_000)
    low, high = intervals.interval(1 / (1 + np.exp(-1.0)), 1 / (1 + np.exp(-logits)))
    z = norm.ppf(0.975)
    assert low == pytest.approx(1 / (1 + np.exp(-(1 - z * 0.2))), abs=1e-3)
    assert high == pytest.approx(1 / (1 + np.exp(-(1 + z * 0.2))), abs=1e-3)


@pytest.mark.parametrize("resampled", [[], [0.7], [np.nan, np.nan, 0.7]])
def test_too_few_resamples_give_no_interval(resampled: list[float]) -> None:
    assert all(np.isnan(intervals.interval(0.7, np.array(resampled))))


def test_an_undefined_value_has_no_interval() -> None:
    assert all(np.isnan(intervals.interval(np.nan, np.array([0.5, 0.6]))))


def direct_delong(y: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equations 4 to 7 of the 1988 paper, pair by pair."""
    positive, negative = scores[:, y == 1], scores[:, y == 0]
    psi = (positive[:, :, None] > negative[:, None, :]) + 0.5 * (
        positive[:, :, None] == negative[:, None, :]
    )
    aurocs = psi.mean(axis=(1, 2))
    v10, v01 = psi.mean(axis=2), psi.mean(axis=1)
    m, n = v10.shape[1], v01.shape[1]
    s10 = (v10 - aurocs[:, None]) @ (v10 - aurocs[:, None]).T / (m - 1)
    s01 = (v01 - aurocs[:, None]) @ (v01 - aurocs[:, None]).T / (n - 1)
    return aurocs, s10 / m + s01 / n


@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_delong_equals_the_direct_sum(label: int, decimals: int) -> None:
    labels, scores = example(decimals=decimals)
    both = np.stack([model[:, label] for model in scores.values()])
    aurocs, covariance = intervals.delong(labels[:, label], both)
    expected_aurocs, expected = direct_delong(labels[:, label], both)
    np.testing.assert_allclose(aurocs, expected_aurocs, rtol=1e-12)
    np.testing.assert_allclose(covariance, expected, rtol=1e-9)
    assert aurocs[0] == pytest.approx(roc_auc_score(labels[:, label], both[0]))


def test_delong_with_one_positive_has_an_auroc_but_no_variance() -> None:
    aurocs, covariance = intervals.delong(np.array([1, 0, 0]), np.array([[0.5, 0.1, 0.7]]))
    assert aurocs[0] == 0.5
    assert np.isnan(covariance).all()
    assert all(np.isnan(intervals.delong_interval(0.5, float(covariance[0, 0]))))


def test_bootstrap_and_delong_agree_if_images_are_independent() -> None:
    labels, scores = example(n=2000, decimals=6)
    resamples = intervals.draw(2000, None, 2000, seed=0)
    estimate = measured(labels, scores["a"], resamples)
    for label in range(2):
        aurocs, covariance = intervals.delong(labels[:, label], scores["a"][:, label][None])
        delong = intervals.delong_interval(float(aurocs[0]), float(covariance[0, 0]))
        bootstrap = intervals.interval(float(aurocs[0]), estimate["auroc"].resampled[:, label])
        assert bootstrap == pytest.approx(delong, abs=0.1 * (delong[1] - delong[0]))


def test_a_perfect_auroc_has_no_interval() -> None:
    assert all(np.isnan(intervals.interval(1.0, np.ones(100))))
    assert all(np.isnan(intervals.delong_interval(1.0, 0.0)))


def test_if_resamples_are_perfect_percentiles_are_used() -> None:
    """The logit of 1 is infinite."""
    resampled = np.array([1.0] * 60 + [0.99] * 40)
    assert intervals.interval(0.996, resampled) == (0.99, 1.0)


def test_one_patient_gives_no_resamples() -> None:
    labels, scores = example()
    resamples = intervals.draw(400, np.zeros(400), 50, seed=0)
    estimate = measured(labels, scores["a"], resamples)
    assert np.isnan(estimate["auroc"].resampled).all()
    assert not np.isnan(estimate["auroc"].values).any()
