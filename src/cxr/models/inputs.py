"""From a grey image to what a network takes."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# A pass through a network keeps every layer's output: 1 kB a pixel of the three models here.
PIXELS_AT_ONCE = 2**18
SIDES = range(1, 1025)  # pixels that an image is brought to
RESAMPLINGS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")  # Pillow's


@dataclass(frozen=True)
class InputSpec:
    """How a grey uint8 image becomes what the network takes."""

    data_size: int  # pixels of the stored images, to which a foreign image is brought first
    resampling: str  # filter that brings a foreign image to data_size
    image_size: int  # pixels at the network's input; bilinear from data_size where they differ
    channels: int  # a grey image is repeated
    mean: tuple[float, ...]  # per channel, on the scale 0..1
    std: tuple[float, ...]


def micro_batch_size(image_size: int) -> int:
    """How many images of a size go through a network in one pass, for memory's sake.

    Hundreds at 28 px; 5 at 224 px, where a batch of 128 would take 5 GB.
    """
    return max(1, PIXELS_AT_ONCE // image_size**2)


def micro_batches(inputs: Tensor) -> tuple[Tensor, ...]:
    """Inputs (N, C, S, S) in parts that go through a network at once."""
    return torch.split(inputs, micro_batch_size(inputs.shape[-1]))


def _input_spec(
    data_size: int, resampling: str, image_size: int, channels: int, mean: Any, std: Any
) -> InputSpec:
    """As `model.json` holds it; ValueError where no network takes such an input."""
    spec = InputSpec(
        data_size, resampling, image_size, channels, tuple(map(float, mean)), tuple(map(float, std))
    )
    sizes = (spec.data_size, spec.image_size)
    if any(type(size) is not int or size not in SIDES for size in sizes):
        raise ValueError("a size that no image has")
    if spec.channels not in (1, 3) or {len(spec.mean), len(spec.std)} != {spec.channels}:
        raise ValueError("other channels than mean and std")
    if spec.resampling not in RESAMPLINGS or min(spec.std) <= 0:
        raise ValueError("no such filter, or no deviation")
    return spec


def to_network_input(images: Tensor, spec: InputSpec) -> Tensor:
    """Images uint8 (B, H, W) as the network takes them: (B, C, S, S)."""
    return normalise(on_unit_scale(images), spec)


def on_unit_scale(images: Tensor) -> Tensor:
    """Images uint8 (B, H, W) as (B, 1, H, W) on the scale 0..1."""
    return images.unsqueeze(1).float().div_(255)


def normalise(grey: Tensor, spec: InputSpec) -> Tensor:
    """Grey images (B, 1, H, W) on the scale 0..1 as the network's input (B, C, S, S)."""
    side = spec.image_size
    if grey.shape[-1] != side:
        # Without antialias a smaller image keeps a few pixels of the larger one, not their mean.
        grey = F.interpolate(
            grey, (side, side), mode="bilinear", align_corners=False,
            antialias=side < grey.shape[-1],
        )  # fmt: skip
    # By plain numbers: tensors of them would have to be brought to a GPU for every batch.
    channels = [(grey - mean) / std for mean, std in zip(spec.mean, spec.std, strict=True)]
    return torch.cat(channels, dim=1)
