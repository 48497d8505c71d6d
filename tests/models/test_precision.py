"""bf16 as on a GPU, tested with a CPU's bf16: only the feature map may be computed in it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cxr import cam, models, params
from cxr.cam.trust import CamTarget
from cxr.data import phantom
from cxr.data.images.picture import Picture
from cxr.data.ood import OodReference
from cxr.data.splits import Statistics
from cxr.evaluation import decisions, metrics
from cxr.inference import predict as inference
from cxr.labels import CHESTMNIST
from cxr.models import Network, SavedModel
from cxr.training import features
from cxr.training.feed import FeatureBatches, ImageBatches, predict

CPU = torch.device("cpu")
N = 600


@pytest.fixture
def bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `autocast` behave as on a GPU."""
    monkeypatch.setattr(
        models, "autocast", lambda device: torch.autocast("cpu", dtype=torch.bfloat16)
    )


@pytest.fixture(scope="module")
def chests() -> np.ndarray:
    return phantom.render(0, "test", 0, N, 28).images


def model_of(name: str, image_size: int = 28) -> SavedModel:
    """A network whose logits vary as much as those of a trained network."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings = params.load(Path(__file__).parents[2] / "params.yaml")
    hyper = models.hyper_parameters(name, settings.train.block(name))
    if name == "squeezenet":
        hyper = hyper.model_copy(update={"image_size": 64})
    spec = models.input_spec(name, hyper, 28, Statistics(0.5, 0.25))
    network = models.build(name, hyper, spec.image_size, spec.channels, len(CHESTMNIST)).eval()
    nn.init.normal_(network.head().weight, std=0.3)
    return SavedModel(name, network, spec, CHESTMNIST, {})


def logits_of_evaluation(model: SavedModel, images: np.ndarray) -> np.ndarray:
    inputs = ImageBatches(torch.from_numpy(images), model.input)
    return predict(model.network, inputs, CPU, 256)


@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_different_images_get_different_logits_in_bf16(
    name: str, bf16: None, chests: np.ndarray
) -> None:
    """A head in bf16 gave 73 to 467 distinct values of 3,000 and changed AUROCs by up to 0.0068."""
    logits = logits_of_evaluation(model_of(name), chests)
    assert logits.dtype == np.float32
    distinct = [len(np.unique(logits[:, i])) for i in range(len(CHESTMNIST))]
    assert min(distinct) > 0.98 * N


def test_a_head_on_stored_features_uses_float32(bf16: None) -> None:
    head, x = nn.Linear(512, 14), torch.randn(300, 512)
    logits = predict(head, FeatureBatches(x), CPU, 64)
    exact = F.linear(x.double(), head.weight.double(), head.bias.double()).detach().numpy()
    np.testing.assert_allclose(logits, exact, atol=1e-5)


@pytest.mark.parametrize("name", ["cnn", "squeezenet", "vit"])
@pytest.mark.parametrize("half", [False, True])
def test_evaluation_maps_and_predictions_agree_on_one_device(
    name: str, half: bool, chests: np.ndarray, request: pytest.FixtureRequest
) -> None:
    if half:
        request.getfixturevalue("bf16")
    model, few = model_of(name), chests[:12]
    expected = logits_of_evaluation(model, few)
    target = CamTarget(model.network, "gradcam", torch.from_numpy(few), model.input)
    index = np.arange(len(few))
    np.testing.assert_allclose(target.forward(index).logits, expected, atol=1e-6)
    np.testing.assert_allclose(target.explain(index).logits, expected, atol=1e-6)
    maps = cam.explain(model.network, target.inputs(index), "hirescam")
    np.testing.assert_allclose(maps.logits, expected, atol=1e-6)
    operating_point = decisions.decide(
        name,
        np.eye(12, 14, dtype=np.int8),
        CHESTMNIST,
        expected,
        "none",
        "youden",
        0.9,
        OodReference.of(few, few),
    )
    pictures = [Picture(Path(f"{i}.png"), grey) for i, grey in enumerate(few)]
    done = inference.predict_pictures(inference.Model(model, operating_point), pictures, {})
    np.testing.assert_allclose(
        [each.probs for each in done], metrics.sigmoid(expected.astype(np.float64)), atol=1e-6
    )


@pytest.mark.parametrize("name", ["cnn", "squeezenet", "vit"])
def test_probabilities_in_bf16_differ_by_less_than_a_hundredth(
    name: str, monkeypatch: pytest.MonkeyPatch, chests: np.ndarray
) -> None:
    model, few = model_of(name), chests[:60]
    nn.init.normal_(model.network.head().weight, std=0.05)
    whole = metrics.sigmoid(logits_of_evaluation(model, few))
    monkeypatch.setattr(
        models, "autocast", lambda device: torch.autocast("cpu", dtype=torch.bfloat16)
    )
    half = metrics.sigmoid(logits_of_evaluation(model, few))
    assert 0 < np.abs(half - whole).max() < 0.01


def test_stored_features_give_the_same_logits_as_the_network(
    bf16: None, chests: np.ndarray
) -> None:
    model, few = model_of("squeezenet"), chests[:16]
    backbone = model.network.get_submodule("features")
    stored = features.compute(backbone, few, model.input, CPU, False, lambda done, total: None)
    by_head = predict(model.network.head(), FeatureBatches(torch.from_numpy(stored)), CPU, 16)
    np.testing.assert_allclose(by_head, logits_of_evaluation(model, few), atol=1e-6)


def test_logits_and_feature_map_are_float32(bf16: None) -> None:
    network: Network = model_of("cnn").network
    assert network(torch.randn(2, 1, 28, 28)).dtype == torch.float32
    assert network.encode(torch.randn(2, 1, 28, 28)).dtype == torch.float32
