"""Maps equal those of captum and pytorch-grad-cam before their ReLU and resizing."""

from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from networks import GRIDS, NAMES, images, network
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, HiResCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from cxr import cam
from cxr.errors import CxrError
from cxr.params import Method

PEERS = {"gradcam": GradCAM, "gradcam++": GradCAMPlusPlus, "hirescam": HiResCAM}
CHESTMNIST = (0, 5, 13)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def last_map(net: Any, name: str) -> nn.Module:
    """The layer whose output is the feature map; for a ViT, a sequence of tokens."""
    layer: nn.Module = net.norm if name == "vit" else net.features
    return layer


def as_grid(tokens: Tensor) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, GRIDS["vit"])


def of_peer(name: str, method: str, x: Tensor, label: int) -> np.ndarray:
    """The result of pytorch-grad-cam before its ReLU."""
    net = network(name).eval().requires_grad_(True)
    peer = PEERS[method](net, [last_map(net, name)], as_grid if name == "vit" else None)
    maps = []
    original = peer.get_cam_image

    def store(*arguments: Any, **named: Any) -> np.ndarray:
        maps.append(original(*arguments, **named))
        return maps[-1]

    peer.get_cam_image = store
    peer(input_tensor=x, targets=[ClassifierOutputTarget(label)] * len(x))
    return maps[0]


@pytest.mark.parametrize("method", PEERS)
@pytest.mark.parametrize("name", NAMES)
def test_maps_equal_those_of_pytorch_grad_cam(name: str, method: Method) -> None:
    x = images(name)
    ours = cam.explain(network(name), x, method).attribution
    for label in CHESTMNIST:
        theirs = of_peer(name, method, x, label)
        np.testing.assert_allclose(
            ours[:, label], theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max()
        )


@pytest.mark.parametrize("name", ["cnn", "squeezenet"])
def test_maps_equal_those_of_captum(name: str) -> None:
    """captum expects channels first, so it does not support a ViT's tokens."""
    x, net = images(name), network(name).eval()
    ours = cam.explain(net, x).attribution
    peer = LayerGradCam(net, last_map(net, name))
    for label in CHESTMNIST:
        theirs = peer.attribute(x, target=label, relu_attributions=False)[:, 0].detach().numpy()
        np.testing.assert_allclose(
            ours[:, label], theirs, rtol=1e-3, atol=1e-5 * np.abs(theirs).max()
        )


@pytest.mark.parametrize("name", ["squeezenet", "vit"])
def test_gradcam_equals_hirescam_for_a_head_that_is_linear_in_the_mean(name: str) -> None:
    """All gradients of a channel are equal, so each equals their mean."""
    x = images(name)
    maps = {method: cam.explain(network(name), x, method).attribution for method in PEERS}
    np.testing.assert_allclose(maps["gradcam"], maps["hirescam"], rtol=1e-4, atol=1e-6)
    assert np.abs(maps["gradcam"] - maps["gradcam++"]).max() > 0.01


def test_hirescam_differs_from_gradcam_where_gradients_differ() -> None:
    """A head that weights each position differently."""
    net = network("cnn")
    position_weights = torch.linspace(-1, 1, 49).view(1, 1, 7, 7)
    head = net.head()
    net.classify = lambda feature_map: head((feature_map * position_weights).mean(dim=(2, 3)))
    x = images("cnn")
    with torch.no_grad():
        feature_map = net.eval().feature_map(x).numpy()
    weight = head.weight.detach().numpy()
    exact = np.einsum("ld,ndhw->nlhw", weight, feature_map * position_weights.numpy()) / 49
    np.testing.assert_allclose(cam.explain(net, x, "hirescam").attribution, exact, atol=1e-5)
    assert np.abs(cam.explain(net, x, "gradcam").attribution - exact).max() > 0.01


def test_attention_equals_that_of_torchs_multihead_attention() -> None:
    net, x = network("vit").eval(), images("vit")
    block: Any = net.blocks[0]
    tokens = block.attention_norm(net._tokens(x))
    width, heads = tokens.shape[2], block.attention.heads
    peer = nn.MultiheadAttention(width, heads, batch_first=True)
    with torch.no_grad():
        peer.in_proj_weight.copy_(block.attention.qkv.weight)
        peer.in_proj_bias.copy_(block.attention.qkv.bias)
        _, expected = peer(tokens, tokens, tokens)
        attentions = net.attentions(x)
    assert attentions.shape == (4, len(net.blocks), 49, 49)
    torch.testing.assert_close(attentions[:, 0], expected, atol=1e-5, rtol=1e-4)


def test_rollout_is_the_product_of_the_blocks_attention() -> None:
    net, x = network("vit"), images("vit", 2)
    maps = cam.explain(net, x, "rollout")
    with torch.no_grad():
        attentions = net.attentions(x).numpy()
    for i in range(2):
        product = np.eye(49)
        for attention in attentions[i]:
            mixed = attention + np.eye(49)
            product = mixed / mixed.sum(axis=1, keepdims=True) @ product
        expected = product.mean(axis=0).reshape(7, 7)
        for label in range(14):
            np.testing.assert_allclose(maps.attribution[i, label], expected, rtol=1e-4)
    np.testing.assert_allclose(maps.attribution.sum(axis=(2, 3)), 1, rtol=1e-5)
    with torch.no_grad():
        np.testing.assert_allclose(maps.logits, net(x), atol=1e-5)


@pytest.mark.parametrize("name", ["cnn", "squeezenet"])
def test_rollout_of_a_network_without_attention_is_refused(name: str) -> None:
    message = r"rollout requires a network with attention, and \w+ has none; choose one of"
    with pytest.raises(CxrError, match=message):
        cam.explain(network(name), images(name), "rollout")
