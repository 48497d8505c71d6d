"""Similarity to the mean training image, compared with numpy."""

import numpy as np
import pytest

from cxr.data import phantom
from cxr.data.ood import OodReference


def chests(split: str, n: int = 300, size: int = 28) -> np.ndarray:
    return phantom.render(0, split, 0, n, size).images


def test_similarity_is_pearsons_with_the_mean_image() -> None:
    train, val, test = (chests(split) for split in ("train", "val", "test"))
    ood = OodReference.of(train, val)
    mean = train.astype(float).mean(axis=0)
    np.testing.assert_allclose(ood.mean_image, mean)
    expected = [np.corrcoef(image.ravel(), mean.ravel())[0, 1] for image in test]
    np.testing.assert_allclose(ood.similarity(test), expected)
    of_val = [np.corrcoef(image.ravel(), mean.ravel())[0, 1] for image in val]
    assert ood.threshold == pytest.approx(np.quantile(of_val, 0.01))


def test_larger_images_are_downsampled_by_area_averaging() -> None:
    train = chests("train", 50, 56)
    ood = OodReference.of(train, train)
    small = train.reshape(50, 28, 2, 28, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(ood.mean_image, small.mean(axis=0))


def test_images_that_are_not_chests_score_below_the_threshold() -> None:
    ood = OodReference.of(chests("train"), chests("val"))
    test = chests("test")
    assert (ood.similarity(test) >= ood.threshold).mean() > 0.95
    rng = np.random.default_rng(0)
    for not_chests in (255 - test, test[:, ::-1], rng.integers(0, 256, test.shape, np.uint8)):
        assert (ood.similarity(not_chests) < ood.threshold).mean() > 0.95


def test_a_constant_image_has_similarity_0() -> None:
    ood = OodReference.of(chests("train", 20), chests("val", 20))
    assert ood.similarity(np.full((2, 28, 28), 90, np.uint8)).tolist() == [0, 0]
    assert ood.similarity(np.empty((0, 28, 28), np.uint8)).shape == (0,)
