"""Truth of a phantom and of boxes, and what is said of maps that are known to be right or wrong."""

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
from cxr.labels import LABELS
from cxr.models import Network, inputs
from cxr.models.inputs import InputSpec

N = 150


@pytest.fixture(scope="module")
def split() -> Split:
    batch = phantom.render(3, "test", 0, N, 28)
    return Split(batch.images, batch.labels, None, None)


@pytest.fixture(scope="module")
def known(split: Split) -> ground_truth.Truth:
    return ground_truth.of_phantom(split, "test", N, seed=3)


def test_every_finding_of_the_phantom_has_its_own_mask(
    split: Split, known: ground_truth.Truth
) -> None:
    masks = phantom.masks(3, "test", 0, N, 28)
    assert list(zip(known.image, known.label, strict=True)) == list(
        zip(*np.nonzero(split.labels), strict=True)
    )
    blocks = masks[known.image, known.label].reshape(-1, 7, 4, 7, 4).mean(axis=(2, 4))
    np.testing.assert_allclose(known.cover((7, 7)), blocks, atol=1e-12)
    some = known.only(known.label == LABELS.index("effusion"))
    assert len(some.image) == split.labels[:, LABELS.index("effusion")].sum()
    np.testing.assert_allclose(some.cover((7, 7)), blocks[known.label == LABELS.index("effusion")])


def test_only_the_first_images_are_taken(split: Split) -> None:
    some = ground_truth.of_phantom(split, "test", 20, seed=3)
    assert some.image.max() < 20
    assert len(some.cover((7, 7))) == split.labels[:20].sum()


def test_another_phantom_is_refused(split: Split) -> None:
    with pytest.raises(CxrError, match="the phantom of seed 4 is not the one in data/"):
        ground_truth.of_phantom(split, "test", N, seed=4)


def box(image: str, label: str, *corners: float) -> Box:
    return Box(image, label, np.array(corners))


def test_boxes_find_their_images_and_join(split: Split) -> None:
    ids = np.array([f"i{row}" for row in range(N)])
    with_ids = Split(split.images, split.labels, ids, None)
    found = ground_truth.of_boxes(
        with_ids,
        [
            box("i7", "mass", 0, 0, 512, 512),
            box("i7", "mass", 512, 512, 512, 512),
            box("i7", "mass", 0, 0, 512, 256),  # inside another
            box("i3", "nodule", 256, 0, 256, 1024),
            box("elsewhere", "mass", 0, 0, 9, 9),
        ],
    )
    assert found.image.tolist() == [3, 7]
    assert [LABELS[i] for i in found.label] == ["nodule", "mass"]
    np.testing.assert_allclose(found.cover((2, 2)), [[[0.5, 0], [0.5, 0]], [[1, 0], [0, 1]]])
    assert len(ground_truth.of_boxes(with_ids, []).cover((7, 7))) == 0


@pytest.mark.parametrize("name", ["i{}.png", "images/i{}.dcm", "a\\i{}.nii.gz"])
def test_ids_with_folder_and_file_type_are_those_without(split: Split, name: str) -> None:
    with_ids = Split(split.images, split.labels, np.array([name.format(r) for r in range(N)]), None)
    assert ground_truth.of_boxes(with_ids, [box("i7", "mass", 0, 0, 9, 9)]).image.tolist() == [7]


def test_boxes_of_other_images_alone_are_refused(split: Split) -> None:
    with_ids = Split(split.images, split.labels, np.array([f"i{row}" for row in range(N)]), None)
    with pytest.raises(CxrError, match="none of its images, such as j7, is in this split"):
        ground_truth.of_boxes(with_ids, [box("j7", "mass", 0, 0, 9, 9)])


def test_boxes_of_a_name_that_several_images_have_are_refused(split: Split) -> None:
    ids = np.array([f"patient{row}/frontal.jpg" for row in range(N)])
    with pytest.raises(CxrError, match="several ids of the data end in frontal"):
        ground_truth.of_boxes(Split(split.images, split.labels, ids, None), [])


def test_boxes_need_ids(split: Split) -> None:
    with pytest.raises(CxrError, match="the data has no ids"):
        ground_truth.of_boxes(split, [])


def test_a_map_that_is_the_truth_points_into_it_and_its_opposite_does_not(
    known: ground_truth.Truth,
) -> None:
    cover = known.cover((7, 7)).astype(np.float32)
    right = trust.localisation(cover, known, seed=0)
    wrong = trust.localisation((cover == 0).astype(np.float32), known, seed=0)
    assert right["truth"] == "phantom"
    assert right["pooled"]["pointing"] == 1 and wrong["pooled"]["pointing"] == 0
    assert wrong["pooled"]["energy"] == 0 < right["pooled"]["energy"]
    assert right["pooled"]["pointing_centre"] == wrong["pooled"]["pointing_centre"] < 0.3


def test_signs_that_fill_the_chest_are_not_pooled(known: ground_truth.Truth) -> None:
    told = trust.localisation(known.cover((7, 7)).astype(np.float32), known, seed=0)
    assert not {"cardiomegaly", "edema", "emphysema"} & set(told["pooled_labels"])
    there = [label for label in LABELS if told["labels"][label]["n"]]
    assert sum(told["labels"][label]["n"] for label in there) == len(known.image)
    pooled = sum(told["labels"][label]["n"] for label in told["pooled_labels"])
    assert told["pooled"]["n"] == pooled < len(known.image)
    assert told["labels"]["effusion"]["median_share_of_image"] < 0.08


def test_each_label_is_described_by_its_own_pairs(known: ground_truth.Truth) -> None:
    attribution = np.random.default_rng(0).normal(size=(len(known.image), 7, 7)).astype(np.float32)
    told = trust.localisation(attribution, known, seed=0)
    mine = known.label == LABELS.index("infiltration")
    located = locate(attribution[mine], known.cover((7, 7))[mine])
    assert told["labels"]["infiltration"]["n"] == mine.sum()
    assert told["labels"]["infiltration"]["pointing"] == located.hit.mean()
    assert told["labels"]["infiltration"]["energy"] == pytest.approx(located.energy.mean())


def target(n: int = 5) -> CamTarget:
    """A CNN and noise on the scale 0..1."""
    images = np.random.default_rng(0).integers(0, 256, (n, 28, 28), np.uint8)
    spec = InputSpec(28, "bicubic", 28, 1, (0.0,), (1.0,))
    return CamTarget(network("cnn"), "gradcam", torch.from_numpy(images), spec)


def test_pairs_get_the_map_of_their_image_and_label() -> None:
    of = target()
    image, label = np.array([4, 1, 4, 0]), np.array([0, 5, 13, 5])
    found = of.explain_pairs(image, label)
    x = of.inputs(np.arange(5))
    every = explain(of.network, x).attribution
    np.testing.assert_allclose(found, every[image, label], atol=1e-5)
    with torch.no_grad():
        expected = of.network.eval()(x).numpy()
    np.testing.assert_allclose(of.forward(np.arange(5)).logits, expected, atol=1e-5)


def test_what_the_head_reads_gives_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    of = target()
    monkeypatch.setattr(trust, "BATCH", 2)
    forward = of.forward(np.arange(5))
    with torch.no_grad():
        logits = of.network.head()(torch.from_numpy(forward.pooled).float()).numpy()
    assert forward.pooled.shape == (5, of.network.head().in_features)
    np.testing.assert_allclose(logits, forward.logits, atol=1e-5)
    assert not of.network.head()._forward_pre_hooks


def test_many_images_are_explained_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    of = target()
    whole = of.explain(np.arange(5)).attribution
    monkeypatch.setattr(trust, "BATCH", 2)
    np.testing.assert_allclose(of.explain(np.arange(5)).attribution, whole, atol=1e-5)
    image, label = np.array([3, 0, 4, 3, 1, 0]), np.array([2, 5, 13, 0, 2, 5])
    np.testing.assert_allclose(of.explain_pairs(image, label), whole[image, label], atol=1e-5)


def test_large_images_go_through_the_network_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of, pairs = target(), (np.array([0, 1, 2, 4]), np.array([3, 3, 9, 0]))

    def told() -> list[np.ndarray]:
        faithful = trust.faithfulness(of, *pairs, seed=0)
        sane = trust.sanity(of, *pairs, seed=0)
        return [
            of.explain(np.arange(5)).attribution,
            of.forward(np.arange(5)).logits,
            np.array([faithful["deletion"]["map"]["mean"], faithful["insertion"]["map"]["mean"]]),
            np.array([step["mean"] for step in sane["randomised"]] + [sane["shifted"]["mean"]]),
        ]

    whole = told()
    sizes: list[int] = []
    of.network.features.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    monkeypatch.setattr(inputs, "PIXELS_PER_MICRO_BATCH", 28**2)
    for one_by_one, at_once in zip(told(), whole, strict=True):
        np.testing.assert_allclose(one_by_one, at_once, atol=1e-4)
    assert set(sizes) == {1}


def test_no_pair_is_told_as_none() -> None:
    nothing = np.array([], np.int64)
    told = trust.faithfulness(target(), nothing, nothing, seed=0)
    assert told == {"n": 0, "deletion": {}, "insertion": {}}
    told = trust.sanity(target(), nothing, nothing, seed=0)
    assert told == {"n": 0, "randomised": [], "shifted": None}
    assert target().explain_pairs(nothing, nothing).shape == (0, 7, 7)


class Additive(Network):
    """A logit is a weighted sum of the image's 49 parts, so that its map is exactly its reasons."""

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


def test_maps_that_are_the_reasons_are_faithful() -> None:
    of = replace(target(20), network=Additive())
    logits = of.forward(np.arange(20)).logits
    image, label = np.nonzero(logits > np.quantile(logits, 0.9))
    told = trust.faithfulness(of, image, label, seed=0)
    assert told["n"] == len(image)
    assert told["deletion"]["map"]["mean"] < told["deletion"]["random"]["mean"]
    assert told["insertion"]["map"]["mean"] > told["insertion"]["random"]["mean"]
    low, high = told["deletion"]["map"]["ci"]
    assert low < told["deletion"]["map"]["mean"] < high


def test_sanity_lists_the_layers_from_the_head_down() -> None:
    told = trust.sanity(target(), np.array([0, 1, 2]), np.array([3, 3, 9]), seed=0)
    assert told["randomised"][0]["down_to"] == "classifier"
    assert len(told["randomised"]) == 7
    assert all(-1 <= step["mean"] <= 1 for step in told["randomised"])
    assert told["shifted"]["mean"] > told["randomised"][-1]["mean"]
