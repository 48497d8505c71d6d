"""OodReference examples, chosen by hand."""

import numpy as np

from cxr.cam.examples import SHOWN, choose, most_typical


def test_the_most_typical_are_nearest_to_the_mean_of_their_group() -> None:
    pooled = np.array([[0.0, 0], [100, 100], [2, 0], [1, 0], [9, 0]])
    members = np.array([True, False, True, True, True])  # their mean is (3, 0)
    assert most_typical(pooled, members).tolist() == [2, 3, 0, 4]


def test_equally_typical_ones_come_as_they_lie_and_few_are_shown() -> None:
    pooled = np.tile([[1.0, 0], [-1, 0]], (5, 1))
    assert most_typical(pooled, np.ones(10, bool)).tolist() == [0, 1, 2, 3]
    assert SHOWN == 4


def test_nothing_stands_for_an_empty_group() -> None:
    assert most_typical(np.ones((3, 2)), np.zeros(3, bool)).tolist() == []


def test_groups_are_what_is_found_invented_and_missed() -> None:
    labels = np.array([1, 1, 0, 0, 1, 0], bool)
    predicted_positive = np.array([1, 0, 1, 0, 1, 1], bool)
    chosen = choose(np.arange(6.0)[:, None] ** 2, labels, predicted_positive)
    assert sorted(chosen.true_positives) == [0, 4]
    assert sorted(chosen.false_positives) == [2, 5]
    assert chosen.misses.tolist() == [1]
