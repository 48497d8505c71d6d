"""Small networks without zero weights, for the tests of maps."""

from pathlib import Path

import torch
from torch import Tensor, nn

from cxr import models, params
from cxr.labels import CHESTMNIST
from cxr.models import Network

PARAMS = params.load(Path(__file__).parents[2] / "params.yaml")
INPUTS = {"cnn": (1, 28), "squeezenet": (3, 64), "vit": (1, 28)}  # channels and pixels
GRIDS = {"cnn": (7, 7), "squeezenet": (3, 3), "vit": (7, 7)}
NAMES = sorted(INPUTS)


def network(name: str) -> Network:
    """A network, deliberately in training mode."""
    channels, size = INPUTS[name]
    hyper = models.hyper_parameters(name, PARAMS.train.block(name))
    torch.manual_seed(0)
    net = models.build(name, hyper, size, channels, len(CHESTMNIST))
    nn.init.normal_(net.head().weight, std=0.5)
    nn.init.normal_(net.head().bias)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
    return net.train()


def images(name: str, n: int = 4) -> Tensor:
    channels, size = INPUTS[name]
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))
