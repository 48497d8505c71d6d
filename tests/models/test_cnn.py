"""The small convolutional network: its size, and its output computed by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from torch import nn

from cxr import models, params
from cxr.errors import CxrError
from cxr.models.cnn import Cnn

PARAMS = params.load(Path(__file__).parents[2] / "params.yaml")
MAX_PARAMETERS = 596_654  # parameters of this project's original convolutional network


def cnn(channels: int = 1) -> Cnn:
    hyper = models.hyper_parameters("cnn", PARAMS.train.block("cnn"))
    network = models.build("cnn", hyper, 28, channels, 14)
    assert isinstance(network, Cnn)
    return network


@pytest.mark.parametrize("channels", [1, 3])
def test_parameter_count_is_the_sum_of_the_layers(channels: int) -> None:
    hyper = models.hyper_parameters("cnn", PARAMS.train.block("cnn"))
    first, second, third = hyper.channels
    kernels = 9 * (channels * first + first * second + second * third)
    norms = 2 * (first + second + third)
    head = third * 14 + 14
    total = kernels + norms + head
    assert models.n_parameters(cnn(channels))["total"] == total <= MAX_PARAMETERS


def test_parameter_count_at_widths_32_64_128() -> None:
    # Kernels 288 + 18,432 + 73,728; batch norms 64 + 128 + 256; head 1,792 + 14.
    assert models.n_parameters(Cnn(1, (32, 64, 128), 0.2, 14)) == {
        "total": 94_702,
        "trainable": 94_702,
    }


def test_there_are_exactly_three_convolutions() -> None:
    assert sum(isinstance(module, nn.Conv2d) for module in cnn().modules()) == 3


def test_output_equals_a_numpy_implementation() -> None:
    torch.manual_seed(0)
    network = Cnn(1, (2, 3, 4), 0.5, 14)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(values)
            nn.init.uniform_(module.running_var, 0.5, 2)
    network.eval()
    image = np.random.default_rng(0).normal(size=(1, 8, 8))
    layers = [m for m in network.features if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    maps = image
    for number, (convolution, norm) in enumerate(zip(layers[::2], layers[1::2], strict=True)):
        if number:
            n, h, w = maps.shape
            maps = maps.reshape(n, h // 2, 2, w // 2, 2).max(axis=(2, 4))
        maps = np.maximum(_normed(_convolved(maps, convolution), norm), 0)
    pooled = np.log(np.exp(5 * maps).mean(axis=(1, 2))) / 5
    logits = network.classifier.weight.detach().numpy() @ pooled
    logits += network.classifier.bias.detach().numpy()
    with torch.inference_mode():
        x = torch.from_numpy(image[None].astype(np.float32))
        assert np.allclose(network.feature_map(x)[0].numpy(), maps, atol=1e-5)
        assert np.allclose(network(x)[0].numpy(), logits, atol=1e-5)


def test_dropout_is_applied_to_the_pooled_features_only_in_training() -> None:
    network = Cnn(1, (4, 4, 1000), 0.25, 1000)
    with torch.no_grad():
        network.classifier.weight.copy_(torch.eye(1000))  # the logits are the features
        network.classifier.bias.zero_()
    ones = torch.ones(1, 1000, 1, 1)
    torch.manual_seed(0)
    with torch.inference_mode():
        assert (network.eval().classify(ones) == 1).all()
        features = network.train().classify(ones)
    dropped = features == 0
    assert abs(int(dropped.sum()) - 250) < 4 * np.sqrt(1000 * 0.25 * 0.75)
    assert torch.allclose(features[~dropped], torch.tensor(1 / 0.75))


@pytest.mark.parametrize("channels", [[32, 64], [32, 64, 128, 256], [32, 0, 128]])
def test_channels_must_be_three_positive_numbers(channels: list[int]) -> None:
    block = PARAMS.train.block("cnn").model_copy(update={"channels": channels})
    with pytest.raises(CxrError, match=r"train\.cnn\.channels"):
        models.hyper_parameters("cnn", block)


def _convolved(maps: np.ndarray, convolution: nn.Conv2d) -> np.ndarray:
    kernels = convolution.weight.detach().numpy()
    return np.stack(
        [
            sum(correlate2d(m, k, mode="same") for m, k in zip(maps, per_input, strict=True))
            for per_input in kernels
        ]
    )


def _normed(maps: np.ndarray, norm: nn.BatchNorm2d) -> np.ndarray:
    mean, var, weight, bias = (
        values.detach().numpy()[:, None, None]
        for values in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (maps - mean) / np.sqrt(var + norm.eps) * weight + bias
