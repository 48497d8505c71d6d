"""Batches made on the device: uint8 images in, normalised and augmented tensors out.

A batch is an index into one uint8 tensor of the whole split, after Keller Jordan's airbench (2023);
there is no loader process to wait for. On a GPU the tensor lies in its memory. On a CPU it is a map
of the file, so that memory does not grow with the data.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from cxr.models import InputSpec, at_once
from cxr.params import Augment


class Batches(Protocol):
    """Inputs of one split, by index."""

    def __len__(self) -> int: ...

    @property
    def at_once(self) -> int:
        """How many go through a network in one pass."""
        ...

    def batch(self, index: Tensor, generator: torch.Generator | None) -> Tensor:
        """The inputs at `index`; a generator asks for random changes, None for none."""
        ...


class ImageBatches:
    """Images of one split as a network takes them."""

    def __init__(self, images: Tensor, spec: InputSpec, augment: Augment | None = None) -> None:
        self._images = images  # uint8 (N, H, W), on the device
        self._spec = spec
        self._augment = augment

    def __len__(self) -> int:
        return len(self._images)

    @property
    def at_once(self) -> int:
        return at_once(self._spec.image_size)

    def batch(self, index: Tensor, generator: torch.Generator | None) -> Tensor:
        grey = on_unit_scale(self._images[index])
        if generator is not None and self._augment is not None:
            grey = change(grey, self._augment, generator)
        return normalise(grey, self._spec)


class FeatureBatches:
    """Pooled features (N, D) of a frozen backbone, and those of the mirrored images."""

    def __init__(self, features: Tensor, mirrored: Tensor | None = None) -> None:
        self._features = features
        self._mirrored = mirrored

    def __len__(self) -> int:
        return len(self._features)

    @property
    def at_once(self) -> int:
        return len(self)

    def batch(self, index: Tensor, generator: torch.Generator | None) -> Tensor:
        features = self._features[index]
        if generator is None or self._mirrored is None:
            return features
        return torch.where(
            _coin(len(index), generator).unsqueeze(1), self._mirrored[index], features
        )


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


def change(grey: Tensor, augment: Augment, generator: torch.Generator) -> Tensor:
    """Each image mirrored, moved, turned, scaled and stretched in contrast by chance.

    Parameters
    ----------
    grey : (B, 1, H, W) on the scale 0..1.
    augment : `mirror` with probability a half; `shift` in image widths, `rotate` in degrees,
        `scale` and `contrast` as fractions: each uniform between minus and plus that.
    """
    n = len(grey)
    if augment.shift or augment.rotate or augment.scale:
        theta = _affine(n, augment, generator)
        grid = F.affine_grid(theta, list(grey.shape), align_corners=False)
        grey = F.grid_sample(grey, grid, padding_mode="zeros", align_corners=False)
    elif augment.mirror:
        grey = torch.where(_coin(n, generator).view(n, 1, 1, 1), grey.flip(3), grey)
    if augment.contrast:
        factor = 1 + augment.contrast * _uniform((n, 1, 1, 1), generator)
        mean = grey.mean(dim=(2, 3), keepdim=True)
        grey = mean + (grey - mean) * factor
    return grey


def _affine(n: int, augment: Augment, generator: torch.Generator) -> Tensor:
    """(n, 2, 3) maps from the place in the new image to that in the old one."""
    angle = torch.deg2rad(augment.rotate * _uniform((n,), generator))
    zoom = 1 + augment.scale * _uniform((n,), generator)
    # Coordinates run from -1 to 1, so an image is 2 wide.
    shift = 2 * augment.shift * _uniform((n, 2), generator)
    side = torch.ones_like(zoom)
    if augment.mirror:
        side = torch.where(_coin(n, generator), -side, side)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    return torch.stack(
        [
            torch.stack([cos * side, -sin, shift[:, 0]], dim=1),
            torch.stack([sin * side, cos, shift[:, 1]], dim=1),
        ],
        dim=1,
    )


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device) * 2 - 1


def _coin(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator, device=generator.device) < 0.5
