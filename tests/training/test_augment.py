"""Normalisation of batches, and augmentation within its limits."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from cxr.models.inputs import InputSpec, normalise
from cxr.params import Augment
from cxr.training.augment import augment
from cxr.training.feed import FeatureBatches, ImageBatches

GREY = InputSpec(28, "bicubic", 28, 1, (0.4,), (0.2,))
RGB = InputSpec(28, "bicubic", 28, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
ALL = {"hflip": True, "translate": 0.1, "degrees": 20.0, "scale": 0.2, "contrast": 0.3}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # results are not bit-identical across numbers of threads


def limits(**changes: float) -> Augment:
    off = {"hflip": False, "translate": 0.0, "degrees": 0.0, "scale": 0.0, "contrast": 0.0}
    return Augment.model_validate(off | changes)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(n: int, size: int = 28) -> Tensor:
    return torch.rand(n, 1, size, size, generator=seeded(9))


def fix_random_draws(
    monkeypatch: pytest.MonkeyPatch, turn: float, zoom: float, translate: tuple[float, float]
) -> None:
    """Make the random draws return these fractions of the limits for every image."""
    single = iter([turn, zoom])

    def uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        if len(shape) == 2:
            return torch.tensor([translate]).expand(shape)
        return torch.full(shape, next(single))

    monkeypatch.setattr("cxr.training.augment._uniform", uniform)


@pytest.mark.parametrize("spec", [GREY, RGB], ids=["grey", "rgb"])
def test_normalise_subtracts_the_mean_and_divides_by_the_std_per_channel(spec: InputSpec) -> None:
    grey = noise(3)
    out = normalise(grey, spec)
    assert out.shape == (3, spec.channels, 28, 28) and out.dtype == torch.float32
    for channel, (mean, std) in enumerate(zip(spec.mean, spec.std, strict=True)):
        assert np.allclose(out[:, channel], (grey[:, 0].numpy() - mean) / std, atol=1e-6)


@pytest.mark.parametrize("size", [64, 224])
def test_normalise_resizes_bilinearly(size: int) -> None:
    spec = InputSpec(28, "bicubic", size, 1, (0.4,), (0.2,))
    resized = F.interpolate(noise(2), size=(size, size), mode="bilinear", align_corners=False)
    assert torch.allclose(normalise(noise(2), spec), (resized - 0.4) / 0.2, atol=1e-5)


@pytest.mark.parametrize("size", [28, 33, 50])
def test_normalise_shrinks_as_pillow_does(size: int) -> None:
    """Pillow's filter widens with the scale, so that every pixel of the larger image counts."""
    spec = InputSpec(64, "bicubic", size, 1, (0.4,), (0.2,))
    for grey, out in zip(noise(2, 64), normalise(noise(2, 64), spec), strict=True):
        shrunk = Image.fromarray(grey[0].numpy()).resize((size, size), Image.Resampling.BILINEAR)
        assert np.allclose(out[0], (np.asarray(shrunk) - 0.4) / 0.2, atol=1e-5)


def test_normalise_aligns_pixel_centres() -> None:
    spec = InputSpec(2, "bicubic", 4, 1, (0.0,), (1.0,))
    out = normalise(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]), spec)
    assert out[0, 0].tolist() == [[0.0, 0.25, 0.75, 1.0]] * 4


@pytest.mark.parametrize("with_augment", [True, False])
def test_batch_is_the_images_at_the_index_as_network_inputs(with_augment: bool) -> None:
    """Without a generator or without augmentation settings, images are not augmented."""
    images = torch.randint(0, 256, (6, 28, 28), dtype=torch.uint8, generator=seeded())
    before = images.clone()
    batches = ImageBatches(images, GREY, limits(**ALL) if with_augment else None)
    index = torch.tensor([4, 0, 4])
    out = batches.batch(index, None if with_augment else seeded())
    expected = (images.numpy()[[4, 0, 4]] / 255 - 0.4) / 0.2
    assert len(batches) == 6
    assert np.allclose(out[:, 0], expected, atol=1e-6)
    assert torch.equal(images, before)


def test_generator_turns_augmentation_on() -> None:
    images = torch.randint(0, 256, (8, 28, 28), dtype=torch.uint8, generator=seeded())
    batches = ImageBatches(images, GREY, limits(**ALL))
    plain = batches.batch(torch.arange(8), None)
    changed = batches.batch(torch.arange(8), seeded())
    assert ((plain - changed).abs().amax(dim=(1, 2, 3)) > 0.1).all()


def test_augmentation_with_all_limits_zero_changes_nothing() -> None:
    assert torch.equal(augment(noise(5), limits(), seeded()), noise(5))


def test_resampling_with_nearly_zero_limits_changes_nothing() -> None:
    tiny = limits(translate=1e-9, degrees=1e-7, scale=1e-9)
    assert torch.allclose(augment(noise(5), tiny, seeded()), noise(5), atol=1e-5)


def assert_half_are_flipped(changed: Tensor, images: Tensor, atol: float) -> None:
    """Every image is flipped or unchanged, half of them flipped within 4 standard deviations."""
    mirrored = (changed - images.flip(3)).abs().amax(dim=(1, 2, 3)) <= atol
    unchanged = (changed - images).abs().amax(dim=(1, 2, 3)) <= atol
    assert (mirrored ^ unchanged).all()
    n = len(images)
    assert abs(int(mirrored.sum()) - n / 2) < 4 * np.sqrt(n / 4)


def test_hflip_alone_flips_half_of_the_images_exactly() -> None:
    images = noise(2000, 8)
    assert_half_are_flipped(augment(images, limits(hflip=True), seeded()), images, atol=0)


@pytest.mark.parametrize("other", ["translate", "degrees", "scale"])
def test_hflip_flips_half_of_the_images_with_other_augmentations(other: str) -> None:
    images = noise(2000, 8)
    both = limits(hflip=True, **{other: 1e-6})
    assert_half_are_flipped(augment(images, both, seeded()), images, atol=1e-4)


def test_hflip_flips_half_of_the_images_with_contrast() -> None:
    images = noise(2000, 8)
    changed = augment(images, limits(hflip=True, contrast=1e-6), seeded())
    assert_half_are_flipped(changed, images, atol=1e-4)


@pytest.mark.parametrize(("dx", "dy"), [(2, 0), (0, 3), (-3, 1)])
def test_translation_by_whole_pixels_is_a_roll_filled_with_black(
    dx: int, dy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = noise(4, 20)
    fix_random_draws(monkeypatch, 0, 0, (-dx / 4, -dy / 4))  # maps new to old
    moved = augment(images, limits(translate=4 / 20), seeded())
    rolled = np.roll(images.numpy(), (dy, dx), axis=(2, 3))
    inside = np.zeros((20, 20), bool)
    inside[max(dy, 0) : 20 + min(dy, 0), max(dx, 0) : 20 + min(dx, 0)] = True
    assert np.allclose(moved, np.where(inside, rolled, 0), atol=1e-5)


@pytest.mark.parametrize(
    ("turn", "zoom", "translate"),
    [
        (1.0, 0.0, (0.0, 0.0)),
        (0.0, -1.0, (0.0, 0.0)),
        (0.0, 0.5, (1.0, -0.3)),
        (-0.6, 0.7, (0.2, -1.0)),
    ],
)
@pytest.mark.parametrize("mirrored", [False, True])
def test_rotation_scale_and_translation_equal_scipys_affine_transform(
    turn: float,
    zoom: float,
    translate: tuple[float, float],
    mirrored: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fix_random_draws(monkeypatch, turn, zoom, translate)
    monkeypatch.setattr(
        "cxr.training.augment.coin", lambda n, generator: torch.tensor([mirrored] * n)
    )
    image = noise(1, 21)
    out = augment(image, limits(hflip=True, degrees=30.0, scale=0.2, translate=0.1), seeded())
    angle, factor = np.deg2rad(30 * turn), 1 + 0.2 * zoom
    # From the new position (row, column) to the old one, about the centre at pixel 10.
    matrix = factor * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = np.array([10.0, 10.0])
    offset = centre - matrix @ centre + 21 * 0.1 * np.array([translate[1], translate[0]])
    peer = ndimage.affine_transform(
        image[0, 0].numpy(), matrix, offset, order=1, mode="grid-constant"
    )
    assert np.allclose(out[0, 0], peer[:, ::-1] if mirrored else peer, atol=1e-4)


def test_translation_moves_the_centre_of_mass_up_to_the_limit() -> None:
    x = torch.arange(41.0) - 20
    blob = torch.exp(-(x[:, None] ** 2 + x[None, :] ** 2) / 8).expand(500, 1, 41, 41)
    moved = augment(blob, limits(translate=0.2), seeded())[:, 0]
    total = moved.sum(dim=(1, 2))
    for axis in (1, 2):
        centre = (moved.sum(dim=axis) * x).sum(dim=1) / total
        assert centre.abs().max() <= 0.2 * 41 + 0.01
        assert centre.abs().max() > 0.95 * 0.2 * 41
        # Uniform: the mean of 500 has a standard deviation of limit / sqrt(3 * 500).
        assert abs(centre.mean()) < 4 * 0.2 * 41 / np.sqrt(3 * 500)


def test_rotation_keeps_the_centre_and_stays_within_its_limit() -> None:
    x = torch.arange(41.0) - 20
    bar = torch.exp(-(x[:, None] ** 2) / 4 - x[None, :] ** 2 / 60).expand(500, 1, 41, 41)
    turned = augment(bar, limits(degrees=30.0), seeded())[:, 0]
    total = turned.sum(dim=(1, 2))
    row, column = x[:, None], x[None, :]
    for axis in (row, column):
        assert ((turned * axis).sum(dim=(1, 2)) / total).abs().max() < 1e-3
    spread = [(turned * a * b).sum(dim=(1, 2)) for a, b in ((row, column), (column, column))]
    variance_of_rows = (turned * row * row).sum(dim=(1, 2))
    degrees = torch.rad2deg(torch.atan2(2 * spread[0], spread[1] - variance_of_rows) / 2)
    assert degrees.abs().max() < 30.1 and degrees.min() < -28 and degrees.max() > 28


def test_contrast_keeps_the_mean_and_scales_each_image_by_one_factor() -> None:
    images = noise(500, 8)
    out = augment(images, limits(contrast=0.4), seeded())
    mean = images.mean(dim=(2, 3), keepdim=True)
    assert torch.allclose(out.mean(dim=(2, 3), keepdim=True), mean, atol=1e-5)
    factor = out.std(dim=(1, 2, 3)) / images.std(dim=(1, 2, 3))
    assert torch.allclose(out, mean + (images - mean) * factor.view(-1, 1, 1, 1), atol=1e-4)
    assert 0.6 - 1e-4 < factor.min() < 0.62 and 1.38 < factor.max() < 1.4 + 1e-4


def features(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 5, generator=seeded()), torch.randn(n, 5, generator=seeded(1))


def of_images(generator: torch.Generator) -> Tensor:
    images = torch.randint(0, 256, (8, 28, 28), dtype=torch.uint8, generator=seeded())
    return ImageBatches(images, GREY, limits(**ALL)).batch(torch.arange(8), generator)


def of_features(generator: torch.Generator) -> Tensor:
    return FeatureBatches(*features(40)).batch(torch.arange(40), generator)


@pytest.mark.parametrize("batch", [of_images, of_features])
def test_same_seed_gives_the_same_batch_and_every_call_draws_anew(
    batch: Callable[[torch.Generator], Tensor],
) -> None:
    assert torch.equal(batch(seeded(5)), batch(seeded(5)))
    assert not torch.equal(batch(seeded(5)), batch(seeded(6)))
    generator = seeded(5)
    assert not torch.equal(batch(generator), batch(generator))


def test_every_image_of_a_batch_is_augmented_independently() -> None:
    same = noise(1).expand(6, 1, 28, 28)
    out = augment(same, limits(**ALL), seeded())
    assert len(torch.unique(out.flatten(1), dim=0)) == 6


def test_feature_batches_use_the_mirrored_features_half_of_the_time() -> None:
    plain, mirrored = features(2000)
    index = torch.randperm(2000, generator=seeded())
    out = FeatureBatches(plain, mirrored).batch(index, seeded())
    picked = (out == mirrored[index]).all(dim=1)
    assert ((out == plain[index]).all(dim=1) ^ picked).all()
    assert abs(int(picked.sum()) - 1000) < 4 * np.sqrt(500)


@pytest.mark.parametrize("has_hflip", [True, False])
def test_feature_batches_are_plain_without_a_generator_or_mirrored_features(
    has_hflip: bool,
) -> None:
    plain, mirrored = features(10)
    batches = FeatureBatches(plain, mirrored if has_hflip else None)
    index = torch.tensor([3, 9, 3])
    assert torch.equal(batches.batch(index, None if has_hflip else seeded()), plain[index])
    assert len(batches) == 10
