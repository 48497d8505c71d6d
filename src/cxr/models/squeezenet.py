"""SqueezeNet 1.1 with a linear head: transfer learning from ImageNet.

Iandola et al., "SqueezeNet", 2016; the features are torchvision's. torchvision's own head is
conv -> ReLU -> mean, and with binary cross-entropy on rare labels its ReLU pins every logit at
zero, where the gradient is zero too. Here the head is linear in the mean of the feature map, so a
frozen backbone is needed once an image and not once an epoch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

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
LEAST_SIZE = 17  # pixels; below it one of the poolings has nothing left

# torchvision's ImageNet preprocessing, which its weights were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Hyper(ModelParams):
    weights: Annotated[str, Field(min_length=1)]
    freeze: bool
    image_size: Annotated[int, Field(ge=LEAST_SIZE, le=1024)]

    @model_validator(mode="after")
    def _frozen_features_are_computed_once(self) -> "Hyper":
        if self.freeze and not self.augment.is_hflip_only:
            raise ValueError(
                "with freeze: true the features are computed once, so that augment can only "
                "hflip; set translate, degrees, scale and contrast to 0, or freeze: false"
            )
        return self


class SqueezeNet(Network):
    """(N, 3, H, W) -> (N, L); 224 px end in a map of 13x13, 28 px in one of 1x1."""

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
        raise CxrError(f"squeezenet takes 3 channels, as its ImageNet weights do, not {channels}")
    if image_size < LEAST_SIZE:
        raise CxrError(f"squeezenet needs images of at least {LEAST_SIZE} px, not {image_size}")
    return SqueezeNet(n_labels, hyper.freeze)


def input_spec(hyper: Hyper, data_size: int, statistics: Statistics) -> InputSpec:
    return InputSpec(data_size, "bicubic", hyper.image_size, 3, IMAGENET_MEAN, IMAGENET_STD)


def backbone(weights: str, root: Path) -> nn.Module:
    """The features with the asked-for weights.

    Parameters
    ----------
    weights : `imagenet` (torchvision's download and cache), `none` (from torch's global random
        state), or a file: a state dict of the features or of a whole SqueezeNet 1.1.
    root : folder that a relative file starts from.
    """
    network = Backbone()
    path = weights_file(weights, root)
    if path is not None:
        fill(network, without_classifier(read_weights(path)), str(path))
    elif weights == "imagenet":
        fill(network, without_classifier(_imagenet_state()), "torchvision")
    return network.features


def without_classifier(state: object) -> object:
    """The state without the 1000-class head that a whole SqueezeNet's file holds, too."""
    if not isinstance(state, Mapping):
        return state
    return {k: v for k, v in state.items() if not str(k).startswith("classifier.")}


def weights_file(weights: str, root: Path) -> Path | None:
    """The user's own file that `weights` names, if it names one."""
    if weights in ("imagenet", "none"):
        return None
    try:
        return named_file("train.squeezenet.weights", weights, root)
    except CxrError as error:
        raise CxrError(f"{error}; `imagenet` and `none` need no file") from None


class Backbone(nn.Module):
    """The features under torchvision's key names."""

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
            f"the ImageNet weights could not be had from {weights.url}: {error}; try again, or "
            "give a file with train.squeezenet.weights=FILE, or random weights with "
            "train.squeezenet.weights=none"
        ) from None
    return state
