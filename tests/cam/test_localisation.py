"""The pointing game and the energy inside the sign, checked by hand and on a fine grid."""

import numpy as np
import pytest
from scipy.stats import norm

from cxr.cam.localisation import (
    cover_of_boxes,
    cover_of_masks,
    describe,
    locate,
    mean_interval,
    share_interval,
)


def test_cover_of_a_mask_on_a_grid_that_divides_it() -> None:
    mask = np.zeros((1, 4, 4), bool)
    mask[0, 0, 0] = mask[0, 3, 2] = mask[0, 3, 3] = True
    np.testing.assert_allclose(cover_of_masks(mask, (2, 2)), [[[0.25, 0], [0, 0.5]]])


@pytest.mark.parametrize("grid", [(7, 7), (13, 13), (3, 5), (28, 28), (1, 1)])
def test_cover_of_a_mask_equals_counts_on_a_fine_grid(grid: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((3, 28, 28)) < 0.1
    fine = masks.repeat(grid[0] * 2, axis=1).repeat(grid[1] * 2, axis=2)  # divisible by both grids
    expected = fine.reshape(3, grid[0], 56, grid[1], 56).mean(axis=(2, 4))
    np.testing.assert_allclose(cover_of_masks(masks, grid), expected, atol=1e-12)


def test_cover_of_a_box_equals_that_of_its_mask() -> None:
    boxes = np.array([[100.0, 300.0, 60.0, 20.0], [0.0, 0.0, 1024.0, 1024.0]])
    masks = np.zeros((2, 1024, 1024), bool)
    masks[0, 300:320, 100:160] = True
    masks[1] = True
    for grid in ((7, 7), (13, 13)):
        np.testing.assert_allclose(
            cover_of_boxes(boxes, 1024, grid), cover_of_masks(masks, grid), atol=1e-12
        )


def test_a_box_is_clipped_to_the_image() -> None:
    cover = cover_of_boxes(np.array([[512.0, -10.0, 1000.0, 522.0]]), 1024, (2, 2))
    np.testing.assert_allclose(cover, [[[0, 1], [0, 0]]])


def three_maps() -> tuple[np.ndarray, np.ndarray]:
    """A hit with half of its energy inside, a miss, and a map without positive attribution."""
    attribution = np.zeros((3, 3, 3), np.float32)
    attribution[0] = [[4, 2, 0], [2, 0, -9], [0, 0, 0]]
    attribution[1, 2, 2] = 1
    attribution[2] = -1
    cover = np.zeros((3, 3, 3))
    cover[:, 0, 0] = 1
    cover[:, 1, 1] = [0.0, 0.5, 0.5]
    return attribution, cover


def test_scores_of_three_maps_by_hand() -> None:
    scores = locate(*three_maps())
    assert scores.hit.tolist() == [True, False, False]
    assert scores.energy.tolist() == [0.5, 0, 0]
    assert scores.empty.tolist() == [False, False, True]
    assert scores.centre_hit.tolist() == [False, True, True]
    np.testing.assert_allclose(scores.chance_hit, [1 / 9, 2 / 9, 2 / 9])
    np.testing.assert_allclose(scores.chance_energy, [1 / 9, 1.5 / 9, 1.5 / 9])


def test_a_rounding_error_does_not_count_as_a_hit() -> None:
    cover = np.full((1, 2, 2), 1e-16)
    assert not locate(np.ones((1, 2, 2), np.float32), cover).hit.any()


def test_a_hit_counts_if_the_sign_touches_the_cell_anywhere() -> None:
    attribution = np.zeros((1, 7, 7), np.float32)
    attribution[0, 6, 6] = 1
    mask = np.zeros((1, 28, 28), bool)
    mask[0, 24, 24] = True  # one of the 16 pixels of the last cell
    assert locate(attribution, cover_of_masks(mask, (7, 7))).hit.all()
    mask = np.roll(mask, -1, axis=1)  # one pixel up is in another cell
    assert not locate(attribution, cover_of_masks(mask, (7, 7))).hit.any()


def test_description_has_intervals_and_baselines() -> None:
    described = describe(locate(*three_maps()), seed=0)
    assert described["n"] == 3 and described["empty"] == 1
    assert described["pointing"] == pytest.approx(1 / 3)
    assert described["pointing_centre"] == pytest.approx(2 / 3)
    assert described["energy"] == pytest.approx(0.5 / 3)
    low, high = described["pointing_ci"]
    assert low < 1 / 3 < high


def test_description_without_images_has_none_for_every_value() -> None:
    empty = locate(np.zeros((0, 3, 3), np.float32), np.zeros((0, 3, 3)))
    described = describe(empty, seed=0)
    assert described["n"] == 0 and described["pointing"] is None and described["energy_ci"] is None
    assert set(described) == set(describe(locate(*three_maps()), seed=0))


def test_the_interval_of_a_proportion_is_wilsons() -> None:
    """Equation 4 of Newcombe, 1998, and its example of 81 out of 263."""
    hits = np.array([True] * 81 + [False] * 182)
    z, p, n = norm.ppf(0.975), 81 / 263, 263
    centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = [(centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)]
    assert share_interval(hits) == pytest.approx(expected)
    assert share_interval(hits) == pytest.approx([0.2553, 0.3662], abs=1e-4)  # as printed


def test_the_interval_of_a_mean_is_close_to_the_normal_approximation() -> None:
    values = np.random.default_rng(0).normal(3, 1, 400)
    low, high = mean_interval(values, seed=0)
    assert (low, high) == pytest.approx((values.mean() - 0.098, values.mean() + 0.098), abs=0.02)
    assert mean_interval(values[:1], seed=0) is None
