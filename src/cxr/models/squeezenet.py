"""SqueezeNet 1.1 with a linear head: transfer learning from ImageNet.

Iandola et al., "SqueezeNet", 2016; the features are torchvision's. torchvision's own head is
conv -> ReLU -> mean; with binary cross-entropy on rare labels its ReLU holds every logit at zero,
where the gradient is also zero. Here the head is linear in the mean of the feature map, so a
frozen backbone runs once per image instead of once per epoch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

from cxr.data.splits import Statistics
from cxr.errors import CxrError
from cxr.models import Network
from cxr.models.inputs import InputSpec
from cxr.models.weights import fill, read_weights
from cxr.params import ModelParams, named_file

N_FEATURES = 512
MIN_SIZE = 17  # pixels; below this, one of the poolings has no input left

# The ImageNet preprocessing that torchvision's weights were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Hyper(ModelParams):
    weights: Annotated[str, Field(min_length=1)]
    freeze: bool
    image_size: Annotated[int, Field(ge=MIN_SIZE, le=1024)]

    @model_validator(mode="after")
    def _frozen_features_are_computed_once(self) -> "Hyper":
        if self.freeze and not self.augment.is_hflip_only:
            raise ValueError(
                "freeze: true computes the features once, so augment supports only hflip; "
                "set translate, degrees, scale and contrast to 0, or freeze: false"
            )
        return self


class SqueezeNet(Network):
    """(N, 3, H, W) -> (N, L); the feature map is 13x13 at 224 px and 1x1 at 28 px."""

    def __init__(self, n_labels: int, freeze: bool) -> None:
        super().__init__()
        self.features: nn.Module = squeezenet1_1().features
        self.classifier = nn.Linear(N_FEATURES, n_labels)
        self.features.requires_grad_(not freeze)

    def feature_map(self, x: Tensor) -> Tensor:  # (N, 3, H, W) -> (N, 512, h, w)
        features: Tensor = self.features(x)
        return features

    def classify(self, feature_map: Tensor) -> Tensor:  # (N, 512, h, w) -> (N, L)
        logits: Tensor = self.classifier(feature_map.mean(dim=(2, 3)))
        return logits

    def head(self) -> nn.Linear:
        return self.classifier


def build(hyper: Hyper, image_size: int, channels: int, n_labels: int) -> SqueezeNet:
    if channels != 3:
        raise CxrError(f"squeezenet requires 3 channels, as ImageNet weights do; got {channels}")
    if image_size < MIN_SIZE:
        raise CxrError(f"squeezenet requires images of at least {MIN_SIZE} px; got {image_size} px")
    network = SqueezeNet(n_labels, hyper.freeze)
    # As in cnn.py: a forward pass on a CPU takes half the time.
    return network.to(memory_format=torch.channels_last)


def input_spec(hyper: Hyper, data_size: int, statistics: Statistics) -> InputSpec:
    return InputSpec(data_size, "bicubic", hyper.image_size, 3, IMAGENET_MEAN, IMAGENET_STD)


def backbone(weights: str, root: Path) -> nn.Module:
    """The feature layers with the given weights.

    Parameters
    ----------
    weights : `imagenet` (torchvision's download and cache), `none` (random, from torch's global
        random state), or a file: the state dict of the features or of a whole SqueezeNet 1.1.
    root : folder that a relative path starts from.
    """
    network = Backbone()
    path = weights_file(weights, root)
    if path is not None:
        fill(network, without_classifier(read_weights(path)), str(path))
    elif weights == "imagenet":
        fill(network, without_classifier(_imagenet_state()), "torchvision")
    return network.features


def without_classifier(state: object) -> object:
    """The state without the 1000-class head that the file of a whole SqueezeNet also contains."""
    if not isinstance(state, Mapping):
        return state
    return {k: v for k, v in state.items() if not str(k).startswith("classifier.")}


def weights_file(weights: str, root: Path) -> Path | None:
    """The file that `weights` names, or None if it is `imagenet` or `none`."""
    if weights in ("imagenet", "none"):
        return None
    try:
        return named_file("train.squeezenet.weights", weights, root)
    except CxrError as error:
        raise CxrError(f"{error}; expected a file, `imagenet` or `none`") from None


class Backbone(nn.Module):
    """The feature layers under torchvision's key names."""

    def __init__(self) -> None:
        super().__init__()
        self.features: nn.Module = squeezenet1_1().features


def _imagenet_state() -> Mapping[str, Tensor]:
    weights = SqueezeNet1_1_Weights.IMAGENET1K_V1
    try:
        state: Mapping[str, Tensor] = weights.get_state_dict(
            progress=True, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise CxrError(
            f"could not download the ImageNet weights from {weights.url}: {error}; try again, or "
            "set train.squeezenet.weights=FILE to read a file, or "
            "train.squeezenet.weights=none for random weights"
        ) from None
    return state
