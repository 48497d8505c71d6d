"""Grad-CAM compared to its closed form and to an implementation with one pass per label."""

import numpy as np
import pytest
import torch
from networks import GRIDS, NAMES, images, network
from torch import Tensor

from cxr import cam
from cxr.models import Network


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # results are not bit-identical across numbers of threads


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return np.allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


def hooked_attribution(net: Network, image: Tensor, label: int) -> np.ndarray:
    """The paper's method for one image and one label: one forward and one backward pass."""
    stored: dict[str, Tensor] = {}
    original = net.feature_map

    def store(x: Tensor) -> Tensor:
        stored["map"] = original(x).clone().requires_grad_(True)
        stored["map"].retain_grad()
        return stored["map"]

    net.eval()
    net.feature_map = store
    net(image[None])[0, label].backward()
    net.feature_map = original
    activations, gradient = stored["map"].detach()[0].numpy(), stored["map"].grad[0].numpy()
    attribution = np.zeros(activations.shape[1:])
    for channel, slope in zip(activations, gradient, strict=True):
        attribution += slope.sum() / slope.size * channel
    return attribution


@pytest.mark.parametrize("name", NAMES)
def test_attribution_equals_one_backward_pass_per_image_and_label(name: str) -> None:
    net, x = network(name), images(name, 2)
    maps = cam.explain(net, x)
    assert maps.attribution.shape == (2, 14, *GRIDS[name])
    for i in range(2):
        for label in range(14):
            assert close(maps.attribution[i, label], hooked_attribution(net, x[i], label)), (
                i,
                label,
            )


@pytest.mark.parametrize("name", NAMES)
def test_attribution_of_a_linear_head_is_its_weights_over_the_feature_map(name: str) -> None:
    net, x = network(name), images(name)
    maps = cam.explain(net, x)
    with torch.no_grad():
        feature_map = net.eval().feature_map(x).numpy()
    weight, bias = (p.detach().numpy() for p in (net.head().weight, net.head().bias))
    h, w = GRIDS[name]
    assert close(maps.attribution, np.einsum("ld,ndhw->nlhw", weight, feature_map) / (h * w))
    if name != "cnn":  # its head does not use the mean
        assert np.allclose(maps.attribution.sum(axis=(2, 3)) + bias, maps.logits, atol=1e-4)


def test_hirescam_weights_positions_by_the_softmax_of_log_sum_exp_pooling() -> None:
    """The gradient of log-sum-exp is a softmax over positions."""
    net, x = network("cnn"), images("cnn")
    with torch.no_grad():
        feature_map = net.eval().feature_map(x).double().numpy()
    weight = net.head().weight.detach().double().numpy()
    share = np.exp(5 * feature_map)
    share /= share.sum(axis=(2, 3), keepdims=True)
    expected = np.einsum("ld,ndhw,ndhw->nlhw", weight, share, feature_map)
    assert close(cam.explain(net, x, "hirescam").attribution, expected)


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_those_of_the_network_in_evaluation_mode(name: str) -> None:
    net, x = network(name), images(name)
    logits = cam.explain(net, x).logits
    with torch.no_grad():
        assert np.allclose(logits, net.eval()(x), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_label_has_a_different_map(name: str) -> None:
    attribution = cam.explain(network(name), images(name)).attribution
    assert (np.abs(attribution).max(axis=(2, 3)) > 1e-6).all()
    for i in range(len(attribution)):
        shapes = attribution[i].reshape(14, -1)
        shapes = shapes / np.linalg.norm(shapes, axis=1, keepdims=True)
        cosines = shapes @ shapes.T - np.eye(14)
        assert cosines.max() < 1 - 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_the_positive_attribution(name: str) -> None:
    maps = cam.explain(network(name), images(name))
    assert maps.attribution.min() < 0 < maps.attribution.max()
    assert maps.maps.min() == 0
    assert np.array_equal(maps.maps, np.where(maps.attribution > 0, maps.attribution, 0))


@pytest.mark.parametrize("name", NAMES)
def test_maps_do_not_depend_on_other_images_in_the_batch(name: str) -> None:
    net, x = network(name), images(name)
    together = cam.explain(net, x)
    for i in range(len(x)):
        alone = cam.explain(net, x[i : i + 1])
        assert close(alone.attribution[0], together.attribution[i])
        assert np.allclose(alone.logits[0], together.logits[i], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_explain_works_under_no_grad_and_leaves_no_gradients(name: str) -> None:
    net, x = network(name), images(name)
    frozen = [p.requires_grad for p in net.parameters()]
    with torch.no_grad():
        maps = cam.explain(net, x)
    assert np.abs(maps.attribution).max() > 0
    assert all(p.grad is None for p in net.parameters())
    assert [p.requires_grad for p in net.parameters()] == frozen
