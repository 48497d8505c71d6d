"""A small convolutional network: three convolutions, log-sum-exp pooling, one linear layer.

A sign may cover a hundredth of the image, so mean pooling would dilute it. Log-sum-exp pooling lies
between mean and maximum (Pinheiro and Collobert, CVPR 2015; Wang et al., "ChestX-ray8", CVPR 2017)
and rewards a strong response in one position, which also makes the heat maps more precise.
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from cxr.data.splits import Statistics
from cxr.errors import CxrError
from cxr.models import Network
from cxr.models.inputs import InputSpec
from cxr.params import Count, Fraction, WithInit

R = 5.0  # sharpness of log-sum-exp pooling: near 0 it is the mean, for large r the maximum


class Hyper(WithInit):
    channels: Annotated[tuple[Count, Count, Count], Field(strict=False)]
    dropout: Fraction


class Cnn(Network):
    """Three 3x3 convolutions with batch norm; two poolings reduce 28 px to a 7x7 feature map.

    Pooling precedes the ReLU, which then processes a quarter of the cells. Max pooling and ReLU
    are both monotone, so the result is the same.
    """

    def __init__(
        self, channels: int, widths: tuple[int, int, int], dropout: float, n_labels: int
    ) -> None:
        super().__init__()
        first, second, third = widths
        self.features = nn.Sequential(
            *_convolution(channels, first),
            nn.MaxPool2d(2),
            nn.ReLU(),
            *_convolution(first, second),
            nn.MaxPool2d(2),
            nn.ReLU(),
            *_convolution(second, third),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(third, n_labels)

    def feature_map(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, D, H/4, W/4)
        features: Tensor = self.features(x)
        return features

    def classify(self, feature_map: Tensor) -> Tensor:  # (N, D, h, w) -> (N, L)
        logits: Tensor = self.classifier(self.dropout(lse_pool(feature_map)))
        return logits

    def head(self) -> nn.Linear:
        return self.classifier


def lse_pool(feature_map: Tensor) -> Tensor:  # (N, D, h, w) -> (N, D)
    """log(mean(exp(r x))) / r over all positions, with sharpness r."""
    cells = feature_map.flatten(2).float()
    return (torch.logsumexp(R * cells, dim=2) - math.log(cells.shape[2])) / R


def build(hyper: Hyper, image_size: int, channels: int, n_labels: int) -> Cnn:
    if image_size < 4:
        raise CxrError(f"cnn requires images of at least 4 px; got {image_size} px")
    network = Cnn(channels, hyper.channels, hyper.dropout, n_labels)
    # Same results; a training step on a CPU takes three quarters of the time.
    return network.to(memory_format=torch.channels_last)


def input_spec(hyper: Hyper, data_size: int, statistics: Statistics) -> InputSpec:
    return InputSpec(data_size, "bicubic", data_size, 1, (statistics.mean,), (statistics.std,))


def _convolution(n_in: int, n_out: int) -> list[nn.Module]:
    # Batch norm adds its own bias, so the convolution needs none.
    return [
        nn.Conv2d(n_in, n_out, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(n_out),
    ]
