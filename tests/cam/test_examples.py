"""Typical examples, checked by hand."""

import numpy as np

from cxr.cam.examples import EXAMPLES_PER_GROUP, choose, most_typical


def test_the_most_typical_are_nearest_to_the_mean_of_their_group() -> None:
    pooled = np.array([[0.0, 0], [100, 100], [2, 0], [1, 0], [9, 0]])
    members = np.array([True, False, True, True, True])  # their mean is (3, 0)
    assert most_typical(pooled, members).tolist() == [2, 3, 0, 4]


def test_ties_keep_the_order_of_the_images_and_the_number_is_limited() -> None:
    pooled = np.tile([[1.0, 0], [-1, 0]], (5, 1))
    assert most_typical(pooled, np.ones(10, bool)).tolist() == [0, 1, 2, 3]
    assert EXAMPLES_PER_GROUP == 4


def test_an_empty_group_has_no_examples() -> None:
    assert most_typical(np.ones((3, 2)), np.zeros(3, bool)).tolist() == []


def test_groups_are_true_positives_false_positives_and_false_negatives() -> None:
    labels = np.array([1, 1, 0, 0, 1, 0], np.int8)
    predicted_positive = np.array([1, 0, 1, 0, 1, 1], bool)
    chosen = choose(np.arange(6.0)[:, None] ** 2, labels, predicted_positive)
    assert sorted(chosen.true_positives) == [0, 4]
    assert sorted(chosen.false_positives) == [2, 5]
    assert chosen.false_negatives.tolist() == [1]


def test_an_image_whose_label_is_unknown_is_no_example() -> None:
    y = np.array([1, -1, 0, -1, 1], np.int8)
    predicted = np.array([True, True, True, False, False])
    chosen = choose(np.arange(5.0)[:, None], y, predicted)
    groups = (chosen.true_positives, chosen.false_positives, chosen.false_negatives)
    assert [group.tolist() for group in groups] == [[0], [2], [4]]
