"""Ground truth of phantoms and boxes, and measures of maps that are known to be right or wrong."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import network
from torch import Tensor, nn
from torch.nn import functional

from cxr.cam import explain, ground_truth, trust
from cxr.cam.localisation import locate
from cxr.cam.trust import CamTarget
from cxr.data import phantom
from cxr.data.boxes import Box
from cxr.data.splits import Split
from cxr.errors import CxrError
from cxr.labels import CHESTMNIST
from cxr.models import Network, inputs
from cxr.models.inputs import InputSpec

N = 150


@pytest.fixture(scope="module")
def split() -> Split:
    batch = phantom.render(3, "test", 0, N, 28)
    return Split(batch.images, batch.labels, CHESTMNIST, None, None)


@pytest.fixture(scope="module")
def known(split: Split) -> ground_truth.Truth:
    return ground_truth.of_phantom(split, "test", N, seed=3)


def test_every_finding_of_the_phantom_has_a_mask(split: Split, known: ground_truth.Truth) -> None:
    masks = phantom.masks(3, "test", 0, N, 28)
    assert list(zip(known.image, known.label, strict=True)) == list(
        zip(*np.nonzero(split.labels), strict=True)
    )
    blocks = masks[known.image, known.label].reshape(-1, 7, 4, 7, 4).mean(axis=(2, 4))
    np.testing.assert_allclose(known.cover((7, 7)), blocks, atol=1e-12)
    effusions = known.select(known.label == CHESTMNIST.index("effusion"))
    assert len(effusions.image) == split.labels[:, CHESTMNIST.index("effusion")].sum()
    expected = blocks[known.label == CHESTMNIST.index("effusion")]
    np.testing.assert_allclose(effusions.cover((7, 7)), expected)


def test_an_unknown_finding_has_no_mask(split: Split, known: ground_truth.Truth) -> None:
    labels = split.labels.copy()
    labels[known.image[0], known.label[0]] = -1
    labels[0, labels[0] == 0] = -1
    fewer = ground_truth.of_phantom(replace(split, labels=labels), "test", N, seed=3)
    assert len(fewer.image) == len(known.image) - 1


def test_labels_that_the_phantom_does_not_draw_have_no_mask(
    split: Split, known: ground_truth.Truth
) -> None:
    names = ("effusion", "costs", "hernia")
    columns = [CHESTMNIST.index("effusion"), 0, CHESTMNIST.index("hernia")]
    labels = split.labels[:, columns]
    labels[:, 1] = 1
    found = ground_truth.of_phantom(replace(split, labels=labels, names=names), "test", N, seed=3)
    assert 1 not in found.label
    effusions = known.select(known.label == CHESTMNIST.index("effusion"))
    ours = found.select(found.label == 0)
    np.testing.assert_array_equal(ours.image, effusions.image)
    np.testing.assert_allclose(ours.cover((7, 7)), effusions.cover((7, 7)))


def test_only_the_first_images_are_used(split: Split) -> None:
    first = ground_truth.of_phantom(split, "test", 20, seed=3)
    assert first.image.max() < 20
    assert len(first.cover((7, 7))) == split.labels[:20].sum()


def test_a_phantom_of_another_seed_is_refused(split: Split) -> None:
    with pytest.raises(CxrError, match="data/ was not generated from seed 4; run `dvc repro`"):
        ground_truth.of_phantom(split, "test", N, seed=4)


def box(image: str, label: str, *corners: float) -> Box:
    return Box(image, (label,), np.array(corners))


def test_boxes_are_matched_with_images_and_merged_per_finding(split: Split) -> None:
    ids = np.array([f"i{row}" for row in range(N)])
    with_ids = Split(split.images, split.labels, CHESTMNIST, ids, None)
    truth = ground_truth.of_boxes(
        with_ids,
        [
            box("i7", "mass", 0, 0, 512, 512),
            box("i7", "mass", 512, 512, 512, 512),
            box("i7", "mass", 0, 0, 512, 256),  # inside another
            box("i3", "nodule", 256, 0, 256, 1024),
            box("elsewhere", "mass", 0, 0, 9, 9),
        ],
    )
    assert truth.image.tolist() == [3, 7]
    assert [CHESTMNIST[i] for i in truth.label] == ["nodule", "mass"]
    np.testing.assert_allclose(truth.cover((2, 2)), [[[0.5, 0], [0.5, 0]], [[1, 0], [0, 1]]])
    assert len(ground_truth.of_boxes(with_ids, []).cover((7, 7))) == 0


@pytest.mark.parametrize("name", ["i{}.png", "images/i{}.dcm", "a\\i{}.nii.gz"])
def test_folder_and_file_type_of_ids_are_ignored(split: Split, name: str) -> None:
    with_ids = Split(
        split.images, split.labels, CHESTMNIST, np.array([name.format(r) for r in range(N)]), None
    )
    assert ground_truth.of_boxes(with_ids, [box("i7", "mass", 0, 0, 9, 9)]).image.tolist() == [7]


def test_a_box_of_any_of_several_labels_counts_for_those_that_are_positive(split: Split) -> None:
    ids = np.array([f"i{row}" for row in range(N)])
    labels = np.zeros_like(split.labels)
    mass, nodule, edema = (CHESTMNIST.index(name) for name in ("mass", "nodule", "edema"))
    labels[7, [mass, nodule]] = 1
    labels[8, mass], labels[8, nodule] = -1, 1
    known = Split(split.images, labels, CHESTMNIST, ids, None)
    several = ("nodule", "mass", "edema", "not of the data")
    corners = (np.array([0.0, 0, 512, 1024]), np.array([0.0, 0, 1024, 512]))
    if_positive = [
        Box(image, several, each, if_positive=True)
        for image in ("i7", "i8", "i9")
        for each in corners
    ]
    truth = ground_truth.of_boxes(known, if_positive)
    assert list(zip(truth.image, truth.label, strict=True)) == [(7, mass), (7, nodule), (8, nodule)]
    np.testing.assert_allclose(truth.cover((1, 1)), np.full((3, 1, 1), 0.75))  # of both boxes
    always = [replace(each, if_positive=False) for each in if_positive]
    assert len(ground_truth.of_boxes(known, always).image) == 9
    assert edema in ground_truth.of_boxes(known, always).label


def test_boxes_of_other_images_have_no_truth_and_no_scores(split: Split) -> None:
    with_ids = Split(
        split.images, split.labels, CHESTMNIST, np.array([f"i{row}" for row in range(N)]), None
    )
    truth = ground_truth.of_boxes(with_ids, [box("j7", "mass", 0, 0, 9, 9)])
    assert truth.cover((7, 7)).shape == (0, 7, 7)
    report = trust.localisation(np.empty((0, 7, 7), np.float32), truth, CHESTMNIST, seed=0)
    assert report["truth"] == "boxes"
    assert report["pooled"]["n"] == 0 and report["pooled"]["pointing"] is None


def test_boxes_with_ambiguous_image_names_are_refused(split: Split) -> None:
    ids = np.array([f"patient{row}/frontal.jpg" for row in range(N)])
    with pytest.raises(CxrError, match="several image ids end in frontal"):
        ground_truth.of_boxes(Split(split.images, split.labels, CHESTMNIST, ids, None), [])


def test_boxes_need_ids(split: Split) -> None:
    with pytest.raises(CxrError, match="the data has no image ids"):
        ground_truth.of_boxes(split, [])


def test_a_map_equal_to_the_truth_hits_every_sign_and_its_inverse_hits_none(
    known: ground_truth.Truth,
) -> None:
    cover = known.cover((7, 7)).astype(np.float32)
    right = trust.localisation(cover, known, CHESTMNIST, seed=0)
    wrong = trust.localisation((cover == 0).astype(np.float32), known, CHESTMNIST, seed=0)
    assert right["truth"] == "phantom"
    assert right["pooled"]["pointing"] == 1 and wrong["pooled"]["pointing"] == 0
    assert wrong["pooled"]["energy"] == 0 < right["pooled"]["energy"]
    assert right["pooled"]["pointing_centre"] == wrong["pooled"]["pointing_centre"] < 0.3


def test_signs_that_cover_large_areas_are_not_pooled(known: ground_truth.Truth) -> None:
    report = trust.localisation(known.cover((7, 7)).astype(np.float32), known, CHESTMNIST, seed=0)
    assert not {"cardiomegaly", "edema", "emphysema"} & set(report["pooled_labels"])
    present = [label for label in CHESTMNIST if report["labels"][label]["n"]]
    assert sum(report["labels"][label]["n"] for label in present) == len(known.image)
    pooled = sum(report["labels"][label]["n"] for label in report["pooled_labels"])
    assert report["pooled"]["n"] == pooled < len(known.image)
    assert report["labels"]["effusion"]["median_share_of_image"] < 0.08


def test_each_label_is_scored_on_its_own_pairs(known: ground_truth.Truth) -> None:
    attribution = np.random.default_rng(0).normal(size=(len(known.image), 7, 7)).astype(np.float32)
    report = trust.localisation(attribution, known, CHESTMNIST, seed=0)
    has_label = known.label == CHESTMNIST.index("infiltration")
    scores = locate(attribution[has_label], known.cover((7, 7))[has_label])
    assert report["labels"]["infiltration"]["n"] == has_label.sum()
    assert report["labels"]["infiltration"]["pointing"] == scores.hit.mean()
    assert report["labels"]["infiltration"]["energy"] == pytest.approx(scores.energy.mean())


def target(n: int = 5) -> CamTarget:
    """A CNN and noise on the scale 0..1."""
    images = np.random.default_rng(0).integers(0, 256, (n, 28, 28), np.uint8)
    spec = InputSpec(28, "bicubic", 28, 1, (0.0,), (1.0,))
    return CamTarget(network("cnn"), "gradcam", torch.from_numpy(images), spec)


def test_pairs_get_the_map_of_their_image_and_label() -> None:
    cam_target = target()
    image, label = np.array([4, 1, 4, 0]), np.array([0, 5, 13, 5])
    maps = cam_target.explain_pairs(image, label)
    x = cam_target.inputs(np.arange(5))
    all_maps = explain(cam_target.network, x).attribution
    np.testing.assert_allclose(maps, all_maps[image, label], atol=1e-5)
    with torch.no_grad():
        expected = cam_target.network.eval()(x).numpy()
    np.testing.assert_allclose(cam_target.forward(np.arange(5)).logits, expected, atol=1e-5)


def test_pooled_features_are_the_inputs_of_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    cam_target = target()
    monkeypatch.setattr(trust, "BATCH", 2)
    forward = cam_target.forward(np.arange(5))
    with torch.no_grad():
        logits = cam_target.network.head()(torch.from_numpy(forward.pooled).float()).numpy()
    assert forward.pooled.shape == (5, cam_target.network.head().in_features)
    np.testing.assert_allclose(logits, forward.logits, atol=1e-5)
    assert not cam_target.network.head()._forward_pre_hooks


def test_many_images_are_explained_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    cam_target = target()
    whole = cam_target.explain(np.arange(5)).attribution
    monkeypatch.setattr(trust, "BATCH", 2)
    np.testing.assert_allclose(cam_target.explain(np.arange(5)).attribution, whole, atol=1e-5)
    image, label = np.array([3, 0, 4, 3, 1, 0]), np.array([2, 5, 13, 0, 2, 5])
    np.testing.assert_allclose(
        cam_target.explain_pairs(image, label), whole[image, label], atol=1e-5
    )


def test_micro_batches_of_one_image_give_the_same_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cam_target, pairs = target(), (np.array([0, 1, 2, 4]), np.array([3, 3, 9, 0]))

    def results() -> list[np.ndarray]:
        faithful = trust.faithfulness(cam_target, *pairs, seed=0)
        sane = trust.sanity(cam_target, *pairs, seed=0)
        return [
            cam_target.explain(np.arange(5)).attribution,
            cam_target.forward(np.arange(5)).logits,
            np.array([faithful["deletion"]["map"]["mean"], faithful["insertion"]["map"]["mean"]]),
            np.array([step["mean"] for step in sane["randomised"]] + [sane["shifted"]["mean"]]),
        ]

    whole = results()
    sizes: list[int] = []
    cam_target.network.features.register_forward_pre_hook(
        lambda _, given: sizes.append(len(given[0]))
    )
    monkeypatch.setattr(inputs, "PIXELS_PER_MICRO_BATCH", 28**2)
    for single, batched in zip(results(), whole, strict=True):
        np.testing.assert_allclose(single, batched, atol=1e-4)
    assert set(sizes) == {1}


def test_results_without_pairs_are_empty() -> None:
    empty = np.array([], np.int64)
    report = trust.faithfulness(target(), empty, empty, seed=0)
    assert report == {"n": 0, "deletion": {}, "insertion": {}}
    report = trust.sanity(target(), empty, empty, seed=0)
    assert report == {"n": 0, "randomised": [], "shifted": None}
    assert target().explain_pairs(empty, empty).shape == (0, 7, 7)


class Additive(Network):
    """Each logit is a weighted sum of the image's 49 cells, so its map is exact."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(1, 14)
        nn.init.normal_(self.classifier.weight, generator=torch.Generator().manual_seed(0))

    def feature_map(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, 4)

    def classify(self, feature_map: Tensor) -> Tensor:
        logits: Tensor = self.classifier(feature_map.sum(dim=(2, 3)))
        return logits

    def head(self) -> nn.Linear:
        return self.classifier


def test_exact_maps_are_faithful() -> None:
    cam_target = replace(target(20), network=Additive())
    logits = cam_target.forward(np.arange(20)).logits
    image, label = np.nonzero(logits > np.quantile(logits, 0.9))
    report = trust.faithfulness(cam_target, image, label, seed=0)
    assert report["n"] == len(image)
    assert report["deletion"]["map"]["mean"] < report["deletion"]["random"]["mean"]
    assert report["insertion"]["map"]["mean"] > report["insertion"]["random"]["mean"]
    low, high = report["deletion"]["map"]["ci"]
    assert low < report["deletion"]["map"]["mean"] < high


def test_sanity_lists_the_layers_from_the_head_down() -> None:
    report = trust.sanity(target(), np.array([0, 1, 2]), np.array([3, 3, 9]), seed=0)
    assert report["randomised"][0]["down_to"] == "classifier"
    assert len(report["randomised"]) == 7
    assert all(-1 <= step["mean"] <= 1 for step in report["randomised"])
    assert report["shifted"]["mean"] > report["randomised"][-1]["mean"]
