"""The phantom: reproducible chests, findings in plausible positions, published statistics."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from cxr.data import phantom
from cxr.data.phantom.draws import Draws, draw
from cxr.data.splits import SPLITS
from cxr.errors import CxrError
from cxr.labels import CHESTMNIST

# Counts in the 78,468 training images of ChestMNIST (ChestX-ray14: Wang et al., ChestX-ray8, CVPR
# 2017, in the split of MedMNIST): images per label, images per pair of labels, share of images
# without a label.
PUBLISHED_IMAGES = 78_468
PUBLISHED_POSITIVES = {
    "atelectasis": 7996,
    "cardiomegaly": 1950,
    "effusion": 9261,
    "infiltration": 13914,
    "mass": 3988,
    "nodule": 4375,
    "pneumonia": 978,
    "pneumothorax": 3705,
    "consolidation": 3263,
    "edema": 1690,
    "emphysema": 1799,
    "fibrosis": 1158,
    "pleural": 2279,
    "hernia": 144,
}
PUBLISHED_PAIRS = {
    ("atelectasis", "effusion"): 2226,
    ("effusion", "infiltration"): 2801,
    ("cardiomegaly", "effusion"): 741,
    ("mass", "nodule"): 605,
    ("pneumonia", "edema"): 246,
    ("pneumothorax", "emphysema"): 539,
    ("effusion", "pleural"): 594,
    ("cardiomegaly", "pneumothorax"): 32,
    ("edema", "pneumothorax"): 24,
    ("nodule", "atelectasis"): 405,
}
PUBLISHED_NO_FINDING = 0.5404
BLOCKS = 320  # 81,920 images' labels


@pytest.fixture(scope="module")
def many_labels() -> np.ndarray:
    drawn = [draw(7, "train", block).labels for block in range(BLOCKS)]
    return np.concatenate(drawn).astype(int)


@pytest.fixture(scope="module")
def train() -> phantom.Batch:
    return phantom.render(0, "train", 0, 2048, 28)


@pytest.fixture(scope="module")
def train_masks() -> np.ndarray:
    return phantom.masks(0, "train", 0, 2048, 28)


def render_without(label: str, patch: pytest.MonkeyPatch) -> np.ndarray:
    """The images of `train` without one finding, otherwise unchanged."""

    def draw_without(seed: int, split: str, block: int) -> Draws:
        return draw(seed, split, block).without(label)

    patch.setattr(phantom, "draw", draw_without)
    return phantom.render(0, "train", 0, 2048, 28).images


def test_a_batch_has_the_requested_shape(train: phantom.Batch) -> None:
    assert train.images.shape == (2048, 28, 28) and train.images.dtype == np.uint8
    assert train.labels.shape == (2048, 14) and train.labels.dtype == np.int8
    assert set(np.unique(train.labels)) == {0, 1}
    empty = phantom.render(0, "val", 5, 5, 64)
    assert empty.images.shape == (0, 64, 64) and empty.labels.shape == (0, 14)


def test_grey_values_are_distributed_as_in_chestmnist(train: phantom.Batch) -> None:
    grey = train.images / 255
    assert 0.42 < grey.mean() < 0.58
    assert 0.20 < grey.std() < 0.30
    assert train.images.min() < 10 and train.images.max() > 245


@pytest.mark.parametrize("size", [28, 100])
def test_images_do_not_depend_on_how_the_range_is_split(size: int) -> None:
    whole = phantom.render(3, "train", 0, 300, size)
    cuts = [(0, 37), (37, 129), (129, 130), (130, 300)]
    parts = [phantom.render(3, "train", *cut, size) for cut in cuts]
    np.testing.assert_array_equal(whole.images, np.concatenate([p.images for p in parts]))
    np.testing.assert_array_equal(whole.labels, np.concatenate([p.labels for p in parts]))


def test_masks_do_not_depend_on_how_the_range_is_split() -> None:
    whole = phantom.masks(3, "val", 240, 280, 28)
    parts = [phantom.masks(3, "val", *cut, 28) for cut in ((240, 259), (259, 280))]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_seed_split_and_index_each_give_different_chests() -> None:
    first = phantom.render(0, "train", 0, 64, 28)
    again = phantom.render(0, "train", 0, 64, 28)
    np.testing.assert_array_equal(first.images, again.images)
    others = [
        phantom.render(1, "train", 0, 64, 28),
        phantom.render(0, "val", 0, 64, 28),
        phantom.render(0, "test", 0, 64, 28),
        phantom.render(0, "train", 256, 320, 28),
    ]
    # Labels, because different pixel noise alone would make the images differ.
    assert len({batch.labels.tobytes() for batch in [first, *others]}) == 5


@pytest.mark.parametrize("size", [56, 112, 224])
def test_an_index_is_the_same_chest_at_every_size(size: int) -> None:
    small, large = (phantom.render(0, "test", 30, 46, s) for s in (28, size))
    np.testing.assert_array_equal(small.labels, large.labels)
    k = size // 28
    shrunk = large.images.reshape(16, 28, k, 28, k).mean(axis=(2, 4)).reshape(16, -1)
    match = np.corrcoef(small.images.reshape(16, -1), shrunk)[:16, 16:]
    assert np.diag(match).min() > 0.94
    np.testing.assert_array_equal(match.argmax(axis=1), np.arange(16))


def test_rendered_labels_equal_the_drawn_ones(train: phantom.Batch) -> None:
    drawn = np.concatenate([draw(0, "train", block).labels for block in range(8)])
    np.testing.assert_array_equal(train.labels, drawn)


@pytest.mark.parametrize("label", CHESTMNIST)
def test_prevalence_matches_the_published_one(label: str, many_labels: np.ndarray) -> None:
    prevalence = PUBLISHED_POSITIVES[label] / PUBLISHED_IMAGES
    sampling_sd = np.sqrt(prevalence * (1 - prevalence) / len(many_labels))
    assert abs(many_labels[:, CHESTMNIST.index(label)].mean() - prevalence) < 4 * sampling_sd


@pytest.mark.parametrize("pair", PUBLISHED_PAIRS)
def test_pairs_occur_together_as_published(pair: tuple[str, str], many_labels: np.ndarray) -> None:
    a, b = (many_labels[:, CHESTMNIST.index(label)] for label in pair)
    expected = PUBLISHED_PAIRS[pair] / PUBLISHED_IMAGES * len(many_labels)
    # The correlations are rounded to 0.01, which changes a count by up to about 5 %.
    assert abs((a & b).sum() - expected) < 4 * np.sqrt(expected) + 0.05 * expected


def test_share_without_finding_is_near_the_published_one(many_labels: np.ndarray) -> None:
    assert abs((many_labels.sum(axis=1) == 0).mean() - PUBLISHED_NO_FINDING) < 0.012


def test_a_mask_is_empty_exactly_where_the_label_is_absent(
    train: phantom.Batch, train_masks: np.ndarray
) -> None:
    np.testing.assert_array_equal(train_masks.any(axis=(2, 3)), train.labels.astype(bool))


def test_local_signs_are_small(train: phantom.Batch, train_masks: np.ndarray) -> None:
    local = [CHESTMNIST.index(label) for label in phantom.LOCAL_SIGNS]
    areas = train_masks[:, local].mean(axis=(2, 3))[train.labels[:, local] > 0]
    assert np.median(areas) <= 0.08
    diffuse = train_masks[:, CHESTMNIST.index("emphysema")].mean(axis=(1, 2))
    assert np.median(diffuse[diffuse > 0]) > 0.15


@pytest.mark.parametrize("label", CHESTMNIST)
def test_a_finding_changes_the_image_inside_its_mask(
    label: str, train: phantom.Batch, train_masks: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    k = CHESTMNIST.index(label)
    change = np.abs(train.images.astype(int) - render_without(label, monkeypatch))
    positive = train.labels[:, k] > 0
    assert positive.any() and not change[~positive].any()
    inside, change = train_masks[positive, k], change[positive]
    local = label in phantom.LOCAL_SIGNS
    assert change[inside].mean() > (40 if local else 10) * change[~inside].mean()
    assert change[inside].mean() > 8  # grey levels of 255


def test_cardiomegaly_is_a_heart_wider_than_half_the_thorax() -> None:
    size = 128
    draws = draw(0, "train", 0)
    rows = np.flatnonzero(draws.labels[:, CHESTMNIST.index("cardiomegaly")])
    assert rows.size >= 3
    for row in rows:
        heart = phantom.masks(0, "train", row, row + 1, size)[0, CHESTMNIST.index("cardiomegaly")]
        a = draws.anatomy
        thorax_pixels = (a["thorax"] * a["zoom"])[row].item() * size
        assert heart.any(axis=0).sum() / thorax_pixels > 0.48  # minus a pixel at each border


def test_effusion_brightens_a_costophrenic_angle(
    train: phantom.Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = train.images.astype(int) - render_without("effusion", monkeypatch)
    change = change[train.labels[:, CHESTMNIST.index("effusion")] > 0]
    brightened = change.clip(min=0).sum(axis=0)
    rows, columns = np.indices((28, 28))
    assert brightened.sum() > 20 * (-change.clip(max=0)).sum()
    assert (brightened * rows).sum() / brightened.sum() > 15
    lateral = np.abs(columns - 13.5) > 5
    assert brightened[lateral].sum() > 0.6 * brightened.sum()


@pytest.mark.parametrize("split", SPLITS)
def test_mean_brightness_does_not_reveal_local_findings(split: str) -> None:
    batch = phantom.render(5, split, 0, 3072, 28)
    brightness = batch.images.mean(axis=(1, 2))
    for label in ("atelectasis", "effusion", "infiltration", "mass", "nodule", "pneumothorax"):
        positive = batch.labels[:, CHESTMNIST.index(label)] > 0
        gap = brightness[positive].mean() - brightness[~positive].mean()
        assert abs(gap) < 0.35 * brightness.std(), label


@pytest.mark.parametrize(
    ("seed", "split", "start", "stop", "size", "words"),
    [
        (0, "train", 0, 1, 27, "size 27 is outside 28..224"),
        (0, "train", 0, 1, 225, "size 225 is outside 28..224"),
        (0, "dev", 0, 1, 28, "split 'dev' is not one of train, val, test"),
        (0, "train", 3, 2, 28, "range 3..2"),
        (0, "train", -1, 2, 28, "range -1..2"),
        (0, "train", 0, 1, -28, "size -28 is outside 28..224"),
        (-4, "train", 0, 1, 28, "seed -4 is negative"),
    ],
)
def test_arguments_out_of_range_are_refused(
    seed: int, split: str, start: int, stop: int, size: int, words: str
) -> None:
    for call in (phantom.render, phantom.masks):
        with pytest.raises(CxrError, match=words):
            call(seed, split, start, stop, size)


@pytest.fixture(scope="module")
def many() -> list[Draws]:
    return [draw(7, "train", block) for block in range(BLOCKS)]


# Correlations of NIH's table (Data_Entry_2017_v2020.csv) between a finding and an AP view, female
# sex and age: tetrachoric, and biserial for age.
@pytest.mark.parametrize(
    ("label", "view", "sex", "age"),
    [("edema", 0.53, 0.04, -0.04), ("fibrosis", -0.27, 0.02, 0.14), ("hernia", -0.23, 0.11, 0.31)],
)
def test_findings_go_with_view_sex_and_age_as_in_nihs_table(
    many: list[Draws], label: str, view: float, sex: float, age: float
) -> None:
    y = np.concatenate([each.labels for each in many])[:, CHESTMNIST.index(label)].astype(bool)
    share = PUBLISHED_POSITIVES[label] / PUBLISHED_IMAGES
    threshold = norm.ppf(share)
    for correlation, attribute, of_all in (
        (view, np.concatenate([each.is_ap for each in many]), 0.4),
        (sex, np.concatenate([each.is_female for each in many]), 0.45),
    ):
        covariance = [[1, correlation], [correlation, 1]]
        both = multivariate_normal.cdf([threshold, norm.ppf(of_all)], cov=covariance)
        error = 4 * np.sqrt(both / len(y)) * 1.5  # images of a patient are not independent
        assert (y & attribute).mean() == pytest.approx(both, abs=error)
    ages = np.concatenate([each.age for each in many])
    expected = 17 * age * norm.pdf(threshold) / share  # the mean of a normal beyond a threshold
    error = 4 * 17 / np.sqrt(y.sum()) * 1.5
    assert ages[y].mean() - ages.mean() == pytest.approx(expected, abs=error)


def test_a_patient_has_one_to_several_images_of_one_body(many: list[Draws]) -> None:
    n_images, n_patients = 0, 0
    for each in many[:20]:
        n_images, n_patients = n_images + len(each.patient), n_patients + each.patient[-1] + 1
        for number in range(each.patient[-1] + 1):
            rows = np.flatnonzero(each.patient == number)
            assert len(np.unique(each.is_female[rows])) == 1
            assert len(np.unique(each.anatomy["thorax"][rows])) == 1
            assert (np.diff(each.age[rows]) >= 0).all()
            assert len(np.unique(each.anatomy["noise"][rows])) == len(rows)  # other films
    assert n_images / n_patients == pytest.approx(2, abs=0.1)  # 1 / NEW_PATIENT


def test_labels_of_a_patients_images_are_alike(many: list[Draws]) -> None:
    """Half of a finding's variance that the attributes leave is the patient's, and sex and age."""
    column = CHESTMNIST.index("effusion")
    before, after = [], []
    for each in many:
        same = np.flatnonzero(np.diff(each.patient) == 0)
        before.append(each.labels[same, column])
        after.append(each.labels[same + 1, column])
    x, y = np.concatenate(before), np.concatenate(after)
    correlation = 0.5 * (1 - 0.16**2 - 0.01**2 - 0.10**2) + 0.01**2 + 0.10**2
    share = PUBLISHED_POSITIVES["effusion"] / PUBLISHED_IMAGES
    covariance = [[1, correlation], [correlation, 1]]
    both = multivariate_normal.cdf([norm.ppf(share)] * 2, cov=covariance)
    assert (x & y).mean() == pytest.approx(both, abs=4 * np.sqrt(both / len(x)) * 1.5)


def test_a_batch_names_patients_and_attributes(train: phantom.Batch) -> None:
    drawn = draw(0, "train", 1)
    rows = slice(256, 512)  # the second block
    assert phantom.ATTRIBUTES == ("sex", "age", "view")
    assert train.patients[rows].tolist() == [f"train-1-{n}" for n in drawn.patient.tolist()]
    assert (train.attributes[rows, 0] == "F").tolist() == drawn.is_female.tolist()
    assert train.attributes[rows, 1].tolist() == [str(age) for age in drawn.age.tolist()]
    assert (train.attributes[rows, 2] == "AP").tolist() == drawn.is_ap.tolist()
    again = phantom.render(0, "train", 200, 300, 28)
    assert again.patients.tolist() == train.patients[200:300].tolist()
    assert again.attributes.tolist() == train.attributes[200:300].tolist()


def test_sex_and_age_show_in_the_image(train: phantom.Batch) -> None:
    """Breasts brighten the lower lungs, and the aortic knob of the old the upper mediastinum."""
    grey = train.images.astype(float)
    female = train.attributes[:, 0] == "F"
    lower = grey[:, 15:19, 5:23].mean(axis=(1, 2))
    assert lower[female].mean() - lower[~female].mean() > 3
    age = train.attributes[:, 1].astype(int)
    knob = grey[:, 9:12, 15:17].mean(axis=(1, 2)) - grey[:, 9:12, 11:13].mean(axis=(1, 2))
    assert knob[age > 65].mean() - knob[age < 30].mean() > 3


def test_a_share_of_the_labels_is_uncertain_on_request(train: phantom.Batch) -> None:
    doubtful = phantom.render(0, "train", 0, 2048, 28, uncertain=0.3)
    unknown = doubtful.labels == -1
    assert unknown.mean() == pytest.approx(0.3, abs=0.02)
    assert (doubtful.labels[~unknown] == train.labels[~unknown]).all()
    assert (doubtful.images == train.images).all()  # what is uncertain is still there
