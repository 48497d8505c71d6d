"""Stored features: the head on stored features gives the same result as the whole network."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from cxr import models, params
from cxr.data import splits
from cxr.labels import CHESTMNIST
from cxr.models import SavedModel, squeezenet
from cxr.models.inputs import InputSpec, normalise
from cxr.models.weights import fill
from cxr.training import features
from cxr.training.feed import FeatureStore, ImageBatches, open_feed, open_store, predict

PARAMS = params.load(Path(__file__).parents[2] / "params.yaml")
CPU = torch.device("cpu")
SPEC = InputSpec(28, "bicubic", 40, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
N = 20  # two full batches of 8 and a smaller one


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # results are not bit-identical across numbers of threads


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (N, 28, 28), dtype=np.uint8)


@pytest.fixture
def model() -> SavedModel:
    hyper = models.hyper_parameters("squeezenet", PARAMS.train.block("squeezenet"))
    torch.manual_seed(0)
    network = models.build("squeezenet", hyper, SPEC.image_size, SPEC.channels, len(CHESTMNIST))
    return SavedModel("squeezenet", network, SPEC, CHESTMNIST, {})


def computed(model: SavedModel, images: np.ndarray, hflip: bool = False) -> np.ndarray:
    backbone = model.network.get_submodule("features")
    return features.compute(backbone, images, model.input, CPU, hflip, lambda done, of: None)


@pytest.mark.parametrize("hflip", [False, True])
def test_features_are_the_mean_of_the_feature_map(
    hflip: bool, images: np.ndarray, model: SavedModel
) -> None:
    images_or_mirrored = np.ascontiguousarray(images[:, :, ::-1]) if hflip else images
    grey = torch.from_numpy(images_or_mirrored / np.float32(255)).unsqueeze(1)
    with torch.inference_mode():
        plain = model.network.eval().feature_map(normalise(grey, SPEC)).mean(dim=(2, 3)).numpy()
    values = computed(model, images, hflip)
    assert values.shape == (N, 512) and values.dtype == np.float32
    assert np.linalg.norm(values - plain) < 1e-4 * np.linalg.norm(plain)
    assert np.allclose(values, plain, rtol=1e-4, atol=1e-5 * plain.max())


def test_features_of_mirrored_images_differ(images: np.ndarray, model: SavedModel) -> None:
    assert not np.allclose(computed(model, images), computed(model, images, True), rtol=1e-2)


def test_progress_ends_at_the_number_of_images(images: np.ndarray, model: SavedModel) -> None:
    calls: list[tuple[int, int]] = []
    backbone = model.network.get_submodule("features")
    features.compute(backbone, images, SPEC, CPU, False, lambda *done: calls.append(done))
    assert calls == [(8, N), (16, N), (N, N)]


def test_the_backbone_runs_in_evaluation_mode(images: np.ndarray) -> None:
    """In training mode the result would depend on the batch."""
    backbone = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Dropout(0.5)
    ).train()
    first = features.compute(backbone, images, SPEC, CPU, False, lambda *done: None)
    again = features.compute(backbone, images[5:], SPEC, CPU, False, lambda *done: None)
    assert np.allclose(first[5:], again, atol=1e-5)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_created_store_is_read_back(frozen: bool, tmp_path: Path, model: SavedModel) -> None:
    backbone = model.network.get_submodule("features")
    features.create_store(tmp_path / "features", "squeezenet", frozen, backbone)
    store = open_store(tmp_path / "features")
    assert store == FeatureStore(tmp_path / "features", "squeezenet", frozen)
    assert (store.model, store.frozen) == ("squeezenet", frozen)
    stored = store.backbone()
    assert stored.keys() == backbone.state_dict().keys()
    for key, value in backbone.state_dict().items():
        assert torch.equal(stored[key], value), key


@pytest.mark.parametrize("has_hflip", [True, False])
def test_store_returns_the_features_of_each_split(has_hflip: bool, tmp_path: Path) -> None:
    for i, name in enumerate(("train", "val", "test")):
        np.save(tmp_path / f"{name}.npy", np.full((i + 2, 3), i, np.float32))
    if has_hflip:
        np.save(tmp_path / "train_hflip.npy", np.full((2, 3), 9, np.float32))
    store = FeatureStore(tmp_path, "squeezenet", True)
    for i, name in enumerate(("train", "val", "test")):
        batches = store.batches(name, CPU)
        assert len(batches) == i + 2
        assert (batches.batch(torch.arange(i + 2), None) == i).all()
    index, generator = torch.zeros(100, dtype=torch.long), torch.Generator().manual_seed(0)
    drawn = store.batches("train", CPU).batch(index, generator)
    assert set(drawn.unique().tolist()) == ({0.0, 9.0} if has_hflip else {0.0})


def processed_folder(folder: Path, images: np.ndarray) -> Path:
    np.save(folder / "val_images.npy", images)
    np.save(folder / "val_labels.npy", np.zeros((len(images), len(CHESTMNIST)), np.int8))
    n = dict.fromkeys(splits.SPLITS, len(images))
    splits.write_dataset(
        splits.Dataset(splits.Origin("mine", "file"), images.shape[1], n, CHESTMNIST, (), "pad"),
        folder,
    )
    return folder


def test_head_on_stored_features_equals_the_whole_network_on_images(
    tmp_path: Path, images: np.ndarray, model: SavedModel
) -> None:
    torch.nn.init.normal_(model.network.head().weight, std=0.1)
    processed = processed_folder(tmp_path, images)
    backbone = model.network.get_submodule("features")
    features.create_store(tmp_path / "features", "squeezenet", True, backbone)
    store = open_store(tmp_path / "features")
    np.save(store.folder / "val.npy", computed(model, images))
    logits = [
        predict(*open_feed(model, "val", processed, store_or_none, CPU), CPU, batch_size=7)
        for store_or_none in (store, None)
    ]
    assert logits[0].std() > 0.01
    assert np.allclose(logits[0], logits[1], atol=1e-5)


@pytest.mark.parametrize(
    ("made_for", "frozen", "is_used"),
    [("squeezenet", True, True), ("squeezenet", False, False), ("vit", True, False)],
)
def test_stored_features_are_used_only_if_frozen_and_for_their_own_model(
    made_for: str,
    frozen: bool,
    is_used: bool,
    tmp_path: Path,
    images: np.ndarray,
    model: SavedModel,
) -> None:
    processed = processed_folder(tmp_path, images)
    np.save(tmp_path / "val.npy", np.zeros((N, 512), np.float32))
    store = FeatureStore(tmp_path, made_for, frozen)
    network, inputs = open_feed(model, "val", processed, store, CPU)
    assert len(inputs) == N
    if is_used:
        assert network is model.network.head()
        assert inputs.batch(torch.arange(2), None).shape == (2, 512)
    else:
        assert network is model.network
        assert inputs.batch(torch.arange(2), None).shape == (2, 3, 40, 40)


def test_images_are_augmented_as_requested(
    tmp_path: Path, images: np.ndarray, model: SavedModel
) -> None:
    processed = processed_folder(tmp_path, images)
    hflip = params.Augment(hflip=True, translate=0.0, degrees=0.0, scale=0.0, contrast=0.0)
    index = torch.arange(N)
    plain = ImageBatches(torch.from_numpy(images), SPEC).batch(index, None)
    for augment, n_hflip in ((None, {0}), (hflip, set(range(3, N - 2)))):
        _, inputs = open_feed(model, "val", processed, None, CPU, augment)
        out = inputs.batch(index, torch.Generator().manual_seed(0))
        assert int((out != plain).flatten(1).any(dim=1).sum()) in n_hflip


def anonymous_memory() -> int:
    """This process's memory in bytes that is not mapped from a file."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"RssAnon:\s+(\d+)", status)[1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("stored", [True, False])
def test_reading_batches_does_not_load_the_data_into_memory(
    stored: bool, tmp_path: Path, model: SavedModel
) -> None:
    n = 2000  # 100 MB of images, or 200 MB of features
    processed = processed_folder(tmp_path, np.ones((n, 224, 224), np.uint8))
    np.save(tmp_path / "val.npy", np.ones((25_000, 1000), np.float32))
    store = FeatureStore(tmp_path, "squeezenet", frozen=True) if stored else None
    before = anonymous_memory()
    _, inputs = open_feed(model, "val", processed, store, CPU)
    for index in torch.randperm(n).split(50):
        inputs.batch(index, None)
    assert anonymous_memory() - before < 40e6


def test_stored_backbone_is_loaded_into_a_network(tmp_path: Path, model: SavedModel) -> None:
    """As stages/train.py does to fine-tune the backbone."""
    torch.manual_seed(1)
    backbone = squeezenet.backbone("none", tmp_path)
    features.create_store(tmp_path / "features", "squeezenet", False, backbone)
    store = open_store(tmp_path / "features")
    fill(model.network.get_submodule("features"), store.backbone(), "store")
    x = torch.randn(1, 3, 40, 40)
    with torch.inference_mode():
        expected = backbone.eval().to(memory_format=torch.channels_last)(x)
        assert torch.equal(model.network.eval().feature_map(x), expected)
