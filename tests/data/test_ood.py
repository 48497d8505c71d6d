"""The out-of-distribution check, against scikit-learn and on images that it must tell apart."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.covariance import empirical_covariance

from cxr.data import phantom
from cxr.data.ood import RIDGE, OodReference

SHARED = Path(__file__).parents[3] / "shared" / "data"
Images = np.ndarray


def chests(split: str, n: int = 300, size: int = 28) -> Images:
    return phantom.render(0, split, 0, n, size).images


def flagged(reference: OodReference, images: Images) -> float:
    """The share of images with a warning."""
    return float(np.mean([bool(each.warnings) for each in reference.check(images)]))


def in_black_frame(images: Images) -> Images:
    """Images shrunk to 20 x 20, within 4 black pixels."""
    small = [
        np.asarray(Image.fromarray(x).resize((20, 20), Image.Resampling.BICUBIC)) for x in images
    ]
    return np.pad(np.stack(small), ((0, 0), (4, 4), (4, 4)))


def standardised_cells(images: Images) -> np.ndarray:
    """7 x 7 cells of images of 28 x 28 without a border, by a loop."""
    cells = np.array(
        [
            [x[i : i + 4, j : j + 4].mean() for i in range(0, 28, 4) for j in range(0, 28, 4)]
            for x in images
        ]
    )
    return (cells - cells.mean(axis=1, keepdims=True)) / cells.std(axis=1, keepdims=True)


def test_shape_is_the_mahalanobis_distance_of_standardised_cells() -> None:
    rng = np.random.default_rng(0)
    train, val, test = (rng.integers(60, 256, (n, 28, 28), np.uint8) for n in (200, 50, 5))
    reference = OodReference.of(train, val)
    cells = standardised_cells(train)
    precision = np.linalg.inv(empirical_covariance(cells) + RIDGE * np.eye(49))

    def distance(images: Images) -> np.ndarray:
        d = standardised_cells(images) - cells.mean(axis=0)
        return np.sqrt(np.einsum("ni,ij,nj->n", d, precision, d))

    np.testing.assert_allclose([each.shape for each in reference.check(test)], distance(test))
    assert reference.max_shape == pytest.approx(2 * np.median(distance(val)))


def test_brightness_and_contrast_are_those_of_the_exposed_field() -> None:
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, 7:21, :14], image[0, 7:21, 14:] = 200, 100  # black above and below
    (found,) = OodReference.of(chests("train"), chests("val")).check(image)
    # Of 7 columns of cells, three are 200, three 100 and the middle one half of each.
    cells = np.repeat([200, 200, 200, 150, 100, 100, 100], 7)
    assert found.brightness == pytest.approx(np.median(cells))
    assert found.contrast == pytest.approx(np.std(cells))


def test_larger_images_are_described_like_small_ones() -> None:
    reference = OodReference.of(chests("train"), chests("val"))
    small = chests("test", 20)
    large = small.repeat(8, axis=1).repeat(8, axis=2)
    for a, b in zip(reference.check(small), reference.check(large), strict=True):
        assert (a.shape, a.brightness, a.contrast) == pytest.approx(
            (b.shape, b.brightness, b.contrast)
        )


UNLIKE: dict[str, Callable[[Images], Images]] = {
    "inverted": lambda x: 255 - x,
    "upside down": lambda x: x[:, ::-1],
    "16 times darker": lambda x: x // 16,
    "far too bright": lambda x: 255 - (255 - x) // 16,
    "noise": lambda x: np.random.default_rng(0).integers(0, 256, x.shape, np.uint8),
    "constant": lambda x: np.full_like(x, 90),
    "black": np.zeros_like,
}


@pytest.mark.parametrize("change", UNLIKE.values(), ids=UNLIKE)
def test_images_unlike_chests_are_flagged(change: Callable[[Images], Images]) -> None:
    reference = OodReference.of(chests("train"), chests("val"))
    assert flagged(reference, change(chests("test"))) >= 0.95


def test_unchanged_and_framed_images_are_not_flagged() -> None:
    reference = OodReference.of(chests("train"), chests("val"))
    test = chests("test")
    assert flagged(reference, test) <= 0.05
    assert flagged(reference, in_black_frame(test)) <= 0.05
    assert reference.check(np.empty((0, 28, 28), np.uint8)) == []


def test_few_training_images_are_enough() -> None:
    reference = OodReference.of(chests("train", 60), chests("val", 20))
    assert flagged(reference, chests("test")) <= 0.1
    OodReference.of(np.zeros((1, 28, 28), np.uint8), np.zeros((1, 28, 28), np.uint8))


def test_a_reference_survives_json() -> None:
    reference = OodReference.of(chests("train", 50), chests("val", 20))
    again = OodReference.from_json(json.loads(json.dumps(reference.as_json())))
    assert again.check(chests("test", 20)) == reference.check(chests("test", 20))


@pytest.fixture(scope="module")
def of_nih() -> tuple[OodReference, Images]:
    """A reference of real X-rays, and their test images."""
    path = SHARED / "nih_real_28.npz"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    with np.load(path) as images:
        reference = OodReference.of(images["train_images"], images["val_images"])
        return reference, images["test_images"]


OF_REAL: dict[str, tuple[Callable[[Images], Images], float, float]] = {
    "unchanged": (lambda x: x, 0, 0.03),
    "in a black frame": (in_black_frame, 0, 0.05),
    "inverted": (lambda x: 255 - x, 0.95, 1),
    "16 times darker": (lambda x: x // 16, 0.95, 1),
    "4 times brighter": (lambda x: np.minimum(4.0 * x, 255).astype(np.uint8), 0.95, 1),
}


@pytest.mark.parametrize(("change", "least", "most"), OF_REAL.values(), ids=OF_REAL)
def test_real_xrays_are_flagged_if_changed(
    of_nih: tuple[OodReference, Images],
    change: Callable[[Images], Images],
    least: float,
    most: float,
) -> None:
    reference, test = of_nih
    assert least <= flagged(reference, change(test)) <= most


OTHERS = {
    "shenzhen": ("external_28", 0, 0.05),
    "kermany_test": ("external_28", 0, 0.05),
    **dict.fromkeys(
        ("hand", "headct", "abdomenct", "chestct", "breastmri"), ("not_chest_28", 0.95, 1)
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_hospitals_are_not_flagged_and_other_images_are(
    of_nih: tuple[OodReference, Images], name: str
) -> None:
    file, least, most = OTHERS[name]
    with np.load(SHARED / "external" / f"{file}.npz") as images:
        assert least <= flagged(of_nih[0], images[f"{name}_images"]) <= most
