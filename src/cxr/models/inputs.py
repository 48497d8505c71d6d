"""Conversion of greyscale images to network inputs."""

from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from cxr.params import Fit

# Training keeps every layer's output: about 1 kB per pixel for the three models here.
PIXELS_PER_MICRO_BATCH = 2**18
IMAGE_SIZES = range(1, 1025)  # allowed sizes in pixels
RESAMPLINGS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")  # Pillow's


@dataclass(frozen=True)
class InputSpec:
    """How a greyscale uint8 image is converted to the network's input."""

    data_size: int  # size of the stored images in pixels; external images are resized to it first
    resampling: str  # filter for resizing external images to data_size
    image_size: int  # size of the network's input in pixels; bilinear from data_size if it differs
    channels: int  # the greyscale image is repeated
    mean: tuple[float, ...]  # per channel, on the scale 0..1
    std: tuple[float, ...]
    fit: Fit = "pad"  # how external images become square; models of older versions don't state it


def micro_batch_size(image_size: int) -> int:
    """Number of images of a size per forward pass, which bounds the memory.

    Hundreds at 28 px; 5 at 224 px, where a batch of 128 would take 5 GB.
    """
    return max(1, PIXELS_PER_MICRO_BATCH // image_size**2)


def micro_batches(inputs: Tensor) -> tuple[Tensor, ...]:
    """Split inputs (N, C, S, S) into micro-batches for one forward pass each."""
    return torch.split(inputs, micro_batch_size(inputs.shape[-1]))


def _input_spec(
    data_size: int,
    resampling: str,
    image_size: int,
    channels: int,
    mean: Any,
    std: Any,
    fit: Fit = "pad",
) -> InputSpec:
    """The input that `model.json` describes; ValueError if it is invalid."""
    mean, std = (tuple(map(float, each)) for each in (mean, std))
    spec = InputSpec(data_size, resampling, image_size, channels, mean, std, fit)
    sizes = (spec.data_size, spec.image_size)
    if any(type(size) is not int or size not in IMAGE_SIZES for size in sizes):
        raise ValueError("data_size and image_size must be integers from 1 to 1024")
    if spec.channels not in (1, 3) or {len(spec.mean), len(spec.std)} != {spec.channels}:
        raise ValueError("channels must be 1 or 3, with one mean and one std per channel")
    if spec.resampling not in RESAMPLINGS or min(spec.std) <= 0:
        raise ValueError("resampling must be a known filter and every std > 0")
    if spec.fit not in get_args(Fit):
        raise ValueError(f"fit must be one of {', '.join(get_args(Fit))}")
    return spec


def to_network_input(images: Tensor, spec: InputSpec) -> Tensor:
    """Convert images uint8 (B, H, W) to network inputs (B, C, S, S)."""
    return normalise(on_unit_scale(images), spec)


def on_unit_scale(images: Tensor) -> Tensor:
    """Convert images uint8 (B, H, W) to (B, 1, H, W) on the scale 0..1."""
    return images.unsqueeze(1).float().div_(255)


def normalise(grey: Tensor, spec: InputSpec) -> Tensor:
    """Convert images (B, 1, H, W) on the scale 0..1 to network inputs (B, C, S, S)."""
    size = spec.image_size
    if grey.shape[-1] != size:
        # Without antialias a downscaled image would sample single pixels instead of averaging.
        grey = F.interpolate(
            grey, (size, size), mode="bilinear", align_corners=False,
            antialias=size < grey.shape[-1],
        )  # fmt: skip
    # Plain floats: tensors would have to be copied to the GPU for every batch.
    channels = [(grey - mean) / std for mean, std in zip(spec.mean, spec.std, strict=True)]
    return torch.cat(channels, dim=1)
