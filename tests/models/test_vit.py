"""The Vision Transformer, compared to torch's own encoder layers with the same weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxr import models, params
from cxr.errors import CxrError
from cxr.models.vit import Block, VisionTransformer

PARAMS = params.load(Path(__file__).parents[2] / "params.yaml")


def vit(image_size: int = 28, channels: int = 1) -> VisionTransformer:
    hyper = models.hyper_parameters("vit", PARAMS.train.block("vit"))
    network = models.build("vit", hyper, image_size, channels, 14)
    assert isinstance(network, VisionTransformer)
    return network


def randomised(network: VisionTransformer) -> VisionTransformer:
    """Set all weights to values other than zero and one, so that a missing weight is detected."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network


def peer_block(block: Block, width: int, heads: int, mlp: int) -> nn.TransformerEncoderLayer:
    peer = nn.TransformerEncoderLayer(
        width, heads, mlp, dropout=0, activation="gelu", batch_first=True, norm_first=True
    )
    own = block.state_dict()
    names = {
        "self_attn.in_proj_": "attention.qkv.",
        "self_attn.out_proj.": "attention.projection.",
        "norm1.": "attention_norm.",
        "norm2.": "mlp_norm.",
        "linear1.": "mlp.0.",
        "linear2.": "mlp.2.",
    }
    peer.load_state_dict(
        {f"{a}{kind}": own[f"{b}{kind}"] for a, b in names.items() for kind in ("weight", "bias")}
    )
    return peer


def peer_logits(network: VisionTransformer, x: Tensor, patch: int, heads: int) -> Tensor:
    """The paper's network built from torch: unfold, encoder layers, layer norm, mean, head."""
    own = network.state_dict()
    pixels = F.unfold(x, patch, stride=patch).transpose(1, 2)  # (N, T, C * patch * patch)
    tokens = F.linear(pixels, own["patches.weight"].flatten(1), own["patches.bias"])
    tokens = tokens + own["positions"]
    width = tokens.shape[2]
    for block in network.blocks:
        tokens = peer_block(block, width, heads, block.mlp[0].out_features)(tokens)
    tokens = F.layer_norm(tokens, (width,), own["norm.weight"], own["norm.bias"])
    return F.linear(tokens.mean(dim=1), own["classifier.weight"], own["classifier.bias"])


def test_parameter_count_is_the_published_one() -> None:
    # Patches 64 * 16 + 64, positions 49 * 64, six blocks of 33,472, norm 128, head 64 * 14 + 14.
    total = 1_088 + 3_136 + 6 * 33_472 + 128 + 910
    assert total == 206_094
    assert models.n_parameters(vit()) == {"total": total, "trainable": total}


@pytest.mark.parametrize(("image_size", "channels"), [(28, 1), (28, 3), (64, 1)])
def test_output_equals_torchs_own_encoder_layers(image_size: int, channels: int) -> None:
    network = randomised(vit(image_size, channels))
    hyper = models.hyper_parameters("vit", PARAMS.train.block("vit"))
    x = torch.randn(3, channels, image_size, image_size)
    for mode in (True, False):
        network.train(mode)
        with torch.no_grad():
            own, peer = network(x), peer_logits(network, x, hyper.patch, hyper.heads)
        assert own.std() > 0.1
        assert torch.allclose(own, peer, atol=1e-5, rtol=1e-5)


def test_gradients_equal_those_of_torchs_own_layer() -> None:
    torch.manual_seed(0)
    block = Block(width=12, heads=3, mlp=20)
    peer = peer_block(block, 12, 3, 20)
    x = torch.randn(2, 5, 12)
    block(x).square().sum().backward()
    peer(x).square().sum().backward()
    gradient = peer.self_attn.in_proj_weight.grad
    assert gradient.abs().max() > 0.1
    assert torch.allclose(block.attention.qkv.weight.grad, gradient, atol=1e-4)


def test_feature_map_is_the_grid_of_tokens_in_the_order_of_the_image() -> None:
    network = randomised(vit()).eval()
    network.blocks = nn.Sequential()  # without blocks a token depends only on its own patch
    with torch.no_grad():
        network.positions.zero_()
        x = torch.zeros(1, 1, 28, 28)
        dark = network.feature_map(x)
        x[0, 0, 4 * 2 : 4 * 3, 4 * 5 : 4 * 6] = 1  # the patch in row 2, column 5
        changed = (network.feature_map(x) - dark).abs().sum(dim=1)[0] > 1e-6
    assert changed.nonzero().tolist() == [[2, 5]]


def test_position_embeddings_distinguish_equal_patches() -> None:
    network = vit().eval()
    with torch.inference_mode():
        grid = network.feature_map(torch.zeros(1, 1, 28, 28))[0].flatten(1)
    assert len(torch.unique(grid, dim=1)[0]) == 49


@pytest.mark.parametrize(("image_size", "patch"), [(30, 4), (28, 5), (28, 56)])
def test_patch_must_divide_the_image_size(image_size: int, patch: int) -> None:
    hyper = models.hyper_parameters("vit", PARAMS.train.block("vit"))
    with pytest.raises(CxrError, match=rf"\({patch}\) must divide the image size \({image_size} "):
        models.build("vit", hyper.model_copy(update={"patch": patch}), image_size, 1, 14)


def test_heads_must_divide_the_width() -> None:
    block = PARAMS.train.block("vit").model_copy(update={"heads": 5})
    with pytest.raises(CxrError, match=r"heads \(5\) must divide width \(64\)"):
        models.hyper_parameters("vit", block)
