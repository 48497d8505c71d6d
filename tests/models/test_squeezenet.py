"""SqueezeNet: torchvision's features, a linear head, and the sources of its weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import squeezenet1_1

from cxr import models, params
from cxr.errors import CxrError
from cxr.models import squeezenet
from cxr.models.squeezenet import SqueezeNet

PROJECT = Path(__file__).parents[2]
PARAMS = params.load(PROJECT / "params.yaml")
WEIGHTS = PROJECT.parent / "shared" / "weights" / "squeezenet1_1_imagenet_features.pt"


def build(freeze: bool = True) -> SqueezeNet:
    hyper = models.hyper_parameters("squeezenet", PARAMS.train.block("squeezenet"))
    network = models.build(
        "squeezenet", hyper.model_copy(update={"freeze": freeze}), hyper.image_size, 3, 14
    )
    assert isinstance(network, SqueezeNet)
    return network


def features_state(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    state = squeezenet1_1().state_dict()
    return {key: value for key, value in state.items() if key.startswith("features.")}


def assert_features_equal(features: nn.Module, state: dict[str, Tensor]) -> None:
    own = features.state_dict()
    assert len(own) == len(state) == 50
    for key, value in own.items():
        assert torch.equal(value, state[f"features.{key}"]), key


@pytest.mark.parametrize(("freeze", "trainable"), [(True, 7_182), (False, 729_678)])
def test_parameter_counts_are_the_published_ones(freeze: bool, trainable: int) -> None:
    network = build(freeze)
    assert models.n_parameters(network.features)["total"] == 722_496
    assert models.n_parameters(network.head())["total"] == 512 * 14 + 14 == 7_182
    assert models.n_parameters(network) == {"total": 729_678, "trainable": trainable}


@pytest.mark.parametrize("size", [28, 64])
def test_features_equal_torchvisions(size: int) -> None:
    network = build().eval()
    peer = squeezenet1_1().eval().to(memory_format=torch.channels_last)
    network.features.load_state_dict(peer.features.state_dict())
    x = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        assert torch.equal(network.feature_map(x), peer.features(x))


def test_logits_equal_torchvisions_head_without_its_relu() -> None:
    network, peer = build().eval(), squeezenet1_1(num_classes=14).eval()
    network.features.load_state_dict(peer.features.state_dict())
    convolution = peer.classifier[1]
    nn.init.normal_(convolution.weight, std=0.1)
    network.head().load_state_dict(
        {"weight": convolution.weight.flatten(1), "bias": convolution.bias}
    )
    x = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        logits, before_relu = network(x), convolution(peer.features(x)).mean(dim=(2, 3))
    assert torch.allclose(logits, before_relu, atol=1e-5)
    assert (logits < 0).any()


def test_min_size_is_the_smallest_that_torchvision_accepts() -> None:
    features = squeezenet1_1().features.eval()
    with torch.inference_mode():
        assert features(torch.zeros(1, 3, squeezenet.MIN_SIZE, squeezenet.MIN_SIZE)).numel()
        with pytest.raises(RuntimeError):
            features(torch.zeros(1, 3, squeezenet.MIN_SIZE - 1, squeezenet.MIN_SIZE - 1))


def test_input_equals_the_preprocessing_of_torchvisions_weights() -> None:
    hyper = models.hyper_parameters("squeezenet", PARAMS.train.block("squeezenet"))
    preset = squeezenet.SqueezeNet1_1_Weights.IMAGENET1K_V1.transforms()
    spec = models.input_spec("squeezenet", hyper, 28, None)
    assert (list(spec.mean), list(spec.std)) == (preset.mean, preset.std)
    assert (spec.data_size, spec.image_size, spec.channels) == (28, hyper.image_size, 3)


@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"{WEIGHTS} does not exist")
@pytest.mark.parametrize("path", [str(WEIGHTS), f"../shared/weights/{WEIGHTS.name}"])
def test_real_imagenet_weights_are_loaded_bit_for_bit(path: str) -> None:
    features = squeezenet.backbone(path, PROJECT)
    assert_features_equal(features, torch.load(WEIGHTS, weights_only=True))
    assert models.n_parameters(features)["total"] == 722_496


def test_file_may_contain_a_whole_squeezenet(tmp_path: Path) -> None:
    torch.manual_seed(5)
    whole = squeezenet1_1().state_dict()
    torch.save(whole, tmp_path / "whole.pt")
    features = squeezenet.backbone("whole.pt", tmp_path)
    assert_features_equal(features, {k: v for k, v in whole.items() if k.startswith("features.")})


def test_weights_none_gives_random_weights_from_torchs_global_state(tmp_path: Path) -> None:
    state = features_state(7)
    torch.manual_seed(7)
    assert_features_equal(squeezenet.backbone("none", tmp_path), state)


def test_imagenet_weights_come_from_torchvision_with_their_hash_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state, request = features_state(8), {}

    def download(url: str, **options: object) -> dict[str, Tensor]:
        request.update(options, url=url)
        return {**state, "classifier.1.weight": torch.zeros(1000, 512, 1, 1)}

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    assert_features_equal(squeezenet.backbone("imagenet", tmp_path), state)
    assert request["url"] == squeezenet.SqueezeNet1_1_Weights.IMAGENET1K_V1.url
    assert request["check_hash"] and request["weights_only"]


def test_failed_download_is_reported_with_its_cause_and_fixes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(url: str, **options: object) -> dict[str, Tensor]:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(CxrError, match=r"no route to host.*weights=FILE.*weights=none"):
        squeezenet.backbone("imagenet", tmp_path)


def test_missing_weights_file_is_reported_with_its_full_path(tmp_path: Path) -> None:
    with pytest.raises(CxrError, match=rf"{tmp_path}/nowhere\.pt does not exist"):
        squeezenet.backbone("nowhere.pt", tmp_path)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    state = features_state(0)
    state["features.3.squeeze.weight"] = torch.zeros(8, 64, 1, 1)
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(CxrError, match=r"`features\.3\.squeeze\.weight` is \(8, 64, 1, 1\)"):
        squeezenet.backbone("other.pt", tmp_path)


def test_surplus_tensor_is_named_even_in_a_file_with_a_classifier(tmp_path: Path) -> None:
    state = {"classifier.1.weight": torch.zeros(1), **features_state(0), "extra": torch.zeros(1)}
    torch.save(state, tmp_path / "extra.pt")
    with pytest.raises(CxrError, match="`extra` is not part of this network"):
        squeezenet.backbone("extra.pt", tmp_path)


@pytest.mark.parametrize("key", ["translate", "degrees", "scale", "contrast"])
def test_frozen_backbone_refuses_augmentation_other_than_hflip(key: str) -> None:
    block = PARAMS.train.block("squeezenet")
    augment = block.augment.model_copy(update={key: 0.1, "hflip": True})
    with pytest.raises(CxrError, match="freeze: true"):
        models.hyper_parameters("squeezenet", block.model_copy(update={"augment": augment}))
    unfrozen = block.model_copy(update={"augment": augment, "freeze": False})
    assert not models.hyper_parameters("squeezenet", unfrozen).freeze
