"""Grad-CAM equals its closed form, and is alive where a class token would kill it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cxr import cam, models, params
from cxr.models import Network

PARAMS = params.load(Path(__file__).parents[1] / "params.yaml")
SIZES = {"cnn": (1, 28), "squeezenet": (3, 64), "vit": (1, 28)}


def network(name: str) -> Network:
    torch.manual_seed(0)
    hyper = models.hyper_parameters(name, PARAMS.train.block(name))
    channels, size = SIZES[name]
    return models.build(name, hyper, size, channels, 14).eval()


def images(name: str, n: int = 3) -> torch.Tensor:
    channels, size = SIZES[name]
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["cnn", "squeezenet"])
def test_closed_form_where_logits_are_linear_in_the_mean(name: str) -> None:
    """Evidence = sum over channels of w A / (h w); its sum and the bias are the logit."""
    net, x = network(name), images(name)
    made = cam.grad_cam(net, x)
    with torch.no_grad():
        feature_map = net.feature_map(x)
        h, w = feature_map.shape[2:]
        expected = torch.einsum("ld,ndhw->nlhw", net.head().weight, feature_map) / (h * w)
        logits = expected.sum(dim=(2, 3)) + net.head().bias
    np.testing.assert_allclose(made.evidence, expected.numpy(), atol=1e-6)
    np.testing.assert_allclose(made.logits, logits.numpy(), atol=1e-5)


@pytest.mark.parametrize("name", SIZES)
def test_equal_to_a_hook_and_a_backward_pass_for_each_map(name: str) -> None:
    net, x = network(name), images(name, 2)
    made = cam.grad_cam(net, x)
    for i in range(2):
        for label in (0, 7, 13):
            activations = net.feature_map(x[i : i + 1]).detach().requires_grad_()
            net.classify(activations)[0, label].backward()
            weights = activations.grad.mean(dim=(2, 3))[0]
            expected = torch.einsum("d,dhw->hw", weights, activations[0]).detach().numpy()
            np.testing.assert_allclose(made.evidence[i, label], expected, atol=1e-6)
            np.testing.assert_allclose(made.maps[i, label], np.maximum(made.evidence[i, label], 0))


@pytest.mark.parametrize("name", SIZES)
def test_every_map_is_alive_and_its_labels_own(name: str) -> None:
    evidence = cam.grad_cam(network(name), images(name)).evidence
    flat = evidence.reshape(3, 14, -1)
    assert (np.abs(flat).max(axis=2) > 1e-6).all()
    for image in flat:
        assert len(np.unique(image.round(9), axis=0)) == 14
