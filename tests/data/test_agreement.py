"""What one expert's boxes score against another's, by hand and against masks of pixels."""

from pathlib import Path

import numpy as np
import pytest

from cxr.data import agreement, boxes
from cxr.data.boxes import SIDE, Box
from cxr.data.splits import Split
from cxr.labels import CHESTMNIST
from cxr.params import Boxes as Settings

ANNOTATIONS = Path(__file__).parents[3] / "shared/data/annotations"
NIH, RSNA = ANNOTATIONS / "BBox_List_2017.csv.gz", ANNOTATIONS / "nih_rsna.csv"


def box(image: str, labels: str, *corners: float) -> Box:
    return Box(image, tuple(labels.split()), np.array(corners, np.float64))


# All boxes are 100 pixels high or wide, so that lengths can be compared instead of areas.
A = [
    box("one", "mass", 0, 0, 100, 100),
    box("two", "mass", 0, 0, 100, 100),
    box("two", "mass", 200, 0, 100, 100),
    box("two", "edema", 0, 500, 100, 100),
    box("only a", "mass", 0, 0, 100, 100),
]
B = [
    box("one", "nodule mass", 40, 0, 100, 100),  # 60 of 140 columns in common; centre 90, 50
    box("two", "mass", 60, 0, 180, 100),  # 80 of 300 columns in common
    box("two", "hernia", 0, 480, 100, 100),
    box("only b", "mass", 0, 0, 100, 100),
]


def test_shares_and_overlap_by_hand() -> None:
    (pair,) = agreement.compare({"x": A, "y": B}, seed=0)
    assert (pair["a"], pair["b"]) == ("x", "y")
    anything = pair["any_finding"]
    assert anything["images"] == 2
    # Centres of A: 50 in 40..140; 50 not in 60..240, 250 not; 550 in 480..580.
    assert (anything["a_in_b"]["boxes"], anything["a_in_b"]["share"]) == (4, 2 / 4)
    # Centres of B: 90 in 0..100; 150 between the two boxes; 530 in 500..600.
    assert (anything["b_in_a"]["boxes"], anything["b_in_a"]["share"]) == (3, 2 / 3)
    # On image two, 40 + 40 columns and 80 rows are in both; 300 columns and 120 rows in either.
    assert anything["median_iou"] == pytest.approx(np.median([60 / 140, 160 / 420]))


def test_boxes_of_the_same_finding_leave_out_the_others() -> None:
    same = agreement.compare({"x": A, "y": B}, seed=0)[0]["same_finding"]
    assert same["images"] == 2
    assert (same["a_in_b"]["boxes"], same["a_in_b"]["share"]) == (3, 1 / 3)
    assert (same["b_in_a"]["boxes"], same["b_in_a"]["share"]) == (2, 1 / 2)
    assert same["median_iou"] == pytest.approx(np.median([60 / 140, 80 / 300]))


def test_a_centre_inside_a_box_of_another_finding_only_counts_for_any_finding() -> None:
    a = [box("i", "mass", 0, 0, 10, 10), box("i", "edema", 500, 0, 10, 10)]
    b = [box("i", "edema", 0, 0, 10, 10), box("i", "mass", 500, 0, 10, 10)]
    (pair,) = agreement.compare({"a": a, "b": b}, seed=0)
    assert pair["any_finding"]["a_in_b"]["share"] == pair["any_finding"]["b_in_a"]["share"] == 1
    assert pair["same_finding"]["a_in_b"] == {"boxes": 2, "share": 0, "share_ci": None}
    assert pair["same_finding"]["b_in_a"] == {"boxes": 2, "share": 0, "share_ci": None}
    assert pair["same_finding"]["median_iou"] == 1  # of the regions of all these boxes


def test_a_box_above_or_beside_another_is_not_inside() -> None:
    middle = [box("i", "mass", 100, 100, 100, 100)]
    for x, y in ((0, 100), (200, 100), (100, 0), (100, 200)):
        (pair,) = agreement.compare({"a": middle, "b": [box("i", "mass", x, y, 100, 100)]}, 0)
        assert pair["any_finding"]["a_in_b"]["share"] == 0
        assert pair["any_finding"]["median_iou"] == 0


def test_images_without_the_same_finding_and_the_mean_do_not_count() -> None:
    moved = {"i": 0, "j": 0, "k": 50, "l": 200}
    a = [box(image, "mass", 0, 0, 100, 100) for image in moved]
    b = [box(image, "mass", x, 0, 100, 100) for image, x in moved.items()]
    a.append(box("m", "mass", 0, 0, 100, 100))
    b.append(box("m", "edema", 0, 0, 100, 100))
    (pair,) = agreement.compare({"a": a, "b": b}, seed=0)
    assert pair["any_finding"]["images"] == 5 and pair["any_finding"]["median_iou"] == 1
    assert pair["same_finding"]["images"] == 4
    assert pair["same_finding"]["median_iou"] == pytest.approx((1 + 1 / 3) / 2)


def test_experts_without_an_image_in_common() -> None:
    (pair,) = agreement.compare({"a": A[:1], "b": B[-1:]}, seed=0)
    nothing = {"boxes": 0, "share": None, "share_ci": None}
    expected = {"images": 0, "a_in_b": nothing, "b_in_a": nothing, "median_iou": None}
    assert pair["any_finding"] == pair["same_finding"] == expected


def test_every_pair_of_experts_is_compared_once() -> None:
    compared = agreement.compare({"a": A, "b": B, "c": A}, seed=0)
    assert [(pair["a"], pair["b"]) for pair in compared] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert compared[1]["any_finding"]["median_iou"] == 1
    assert agreement.compare({"a": A}, seed=0) == agreement.compare({}, seed=0) == []


def mask(corners: np.ndarray) -> np.ndarray:
    pixels = np.zeros((int(SIDE), int(SIDE)), bool)
    for x, y, width, height in corners.astype(int):
        pixels[y : y + height, x : x + width] = True
    return pixels


def random_boxes(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.column_stack([rng.integers(0, 800, (n, 2)), rng.integers(1, 224, (n, 2))]) * 1.0


@pytest.mark.parametrize("n", [(1, 1), (1, 3), (4, 2), (9, 9)])
def test_the_overlap_equals_that_of_masks_of_pixels(n: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(n))
    for _ in range(5):
        a, b = (random_boxes(rng, each) for each in n)
        in_a, in_b = mask(a), mask(b)
        expected = (in_a & in_b).sum() / (in_a | in_b).sum()
        assert agreement.overlap(a, b) == pytest.approx(expected)
        assert agreement.overlap(b, a) == pytest.approx(expected)


def test_the_shares_equal_those_of_masks_of_pixels() -> None:
    rng = np.random.default_rng(0)
    experts = {
        name: [Box(f"i{i}", ("mass",), each) for i in range(30) for each in random_boxes(rng, n)]
        for name, n in (("a", 4), ("b", 6))
    }
    compared = agreement.compare(experts, seed=0)[0]["any_finding"]
    for key, (inner, outer) in {"a_in_b": ("a", "b"), "b_in_a": ("b", "a")}.items():
        hits = []
        for each in experts[inner]:
            region = mask(np.array([o.corners for o in experts[outer] if o.image == each.image]))
            x, y = (each.corners[:2] + each.corners[2:] / 2).astype(int)
            hits.append(region[y, x])
        assert compared[key]["boxes"] == len(hits)
        assert compared[key]["share"] == pytest.approx(np.mean(hits))
        assert 0.05 < np.mean(hits) < 0.95


def test_the_interval_is_over_images_not_boxes() -> None:
    """Ten boxes of an image that all hit or all miss say as much as one."""
    rng = np.random.default_rng(0)
    hits = rng.random(60) < 0.7
    widths = []
    for n in (1, 10):
        share = agreement._share(hits * float(n), np.full(60, float(n)), 0)
        assert share["boxes"] == 60 * n and share["share"] == pytest.approx(hits.mean())
        low, high = share["share_ci"]
        assert low < share["share"] < high
        widths.append(high - low)
    assert widths[0] == pytest.approx(widths[1])
    normal = 2 * 1.96 * np.sqrt(hits.mean() * (1 - hits.mean()) / 60)
    assert widths[0] == pytest.approx(normal, rel=0.1)


def test_the_interval_counts_every_box() -> None:
    """Of 20 images, half have one box, which hits, and half have nine, which miss."""
    hits, n_boxes = np.array([1.0, 0.0] * 10), np.array([1.0, 9.0] * 10)
    share = agreement._share(hits, n_boxes, 0)
    low, high = share["share_ci"]
    assert share["share"] == 0.1 and low < 0.1 < high < 0.3


def test_the_interval_depends_on_the_seed_alone() -> None:
    hits, n_boxes = np.random.default_rng(0).integers(0, 100, 300) / 1.0, np.full(300, 100.0)
    first, again, other = (agreement._share(hits, n_boxes, seed) for seed in (0, 0, 1))
    assert first == again != other


def test_resamples_that_are_all_alike_give_no_interval() -> None:
    assert agreement._share(np.array([2.0]), np.array([3.0]), 0)["share_ci"] is None
    assert agreement._share(np.ones(9), np.ones(9), 0)["share_ci"] is None
    assert agreement._share(np.array([1.0, 0.0]), np.ones(2), 0)["share_ci"] == [0, 1]


@pytest.mark.skipif(not NIH.exists(), reason=f"{NIH} does not exist")
def test_nih_and_rsna_have_both_boxed_127_images() -> None:
    labels = {"Lung Opacity": ["Infiltration", "Pneumonia", "Consolidation"]}
    settings = {"nih": Settings(path=str(NIH)), "rsna": Settings(path=str(RSNA), labels=labels)}
    ids = np.array(["00000181_061", "00000013_009"])  # images that are not in the data count, too
    split = Split(np.zeros((2, 9, 9), np.uint8), np.zeros((2, 14), np.int8), CHESTMNIST, ids, None)
    found = boxes.read(settings, boxes.files(settings, Path("/")), {"train": split})
    assert len({b.image for b in found["nih"]} & {b.image for b in found["rsna"]}) == 127
    (pair,) = agreement.compare(found, seed=0)
    whole, same = pair["any_finding"], pair["same_finding"]
    assert whole["images"] == 127 and same["images"] == 63
    assert (whole["a_in_b"]["share"], whole["b_in_a"]["share"]) == (91 / 147, 98 / 187)
    assert (same["a_in_b"]["share"], same["b_in_a"]["share"]) == (53 / 64, 64 / 97)
    assert whole["median_iou"] == pytest.approx(0.257, abs=5e-4)
    assert same["median_iou"] == pytest.approx(0.384, abs=5e-4)
