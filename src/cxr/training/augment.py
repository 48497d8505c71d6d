"""Random augmentation of the training images."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cxr.params import Augment


def augment(grey: Tensor, limits: Augment, generator: torch.Generator) -> Tensor:
    """Flip, translate, rotate, scale and change the contrast of each image at random.

    Parameters
    ----------
    grey : (B, 1, H, W) on the scale 0..1.
    limits : `hflip` has probability 0.5. `translate` is in image widths, `degrees` in degrees,
        `scale` and `contrast` are fractions; each is drawn uniformly from -limit to +limit.
    """
    n = len(grey)
    if limits.translate or limits.degrees or limits.scale:
        theta = _affine(n, limits, generator)
        grid = F.affine_grid(theta, list(grey.shape), align_corners=False)
        grey = F.grid_sample(grey, grid, padding_mode="zeros", align_corners=False)
    elif limits.hflip:
        grey = torch.where(coin(n, generator).view(n, 1, 1, 1), grey.flip(3), grey)
    if limits.contrast:
        factor = 1 + limits.contrast * _uniform((n, 1, 1, 1), generator)
        mean = grey.mean(dim=(2, 3), keepdim=True)
        grey = mean + (grey - mean) * factor
    return grey


def _affine(n: int, limits: Augment, generator: torch.Generator) -> Tensor:
    """(n, 2, 3) affine maps from coordinates in the new image to those in the old one."""
    angle = torch.deg2rad(limits.degrees * _uniform((n,), generator))
    zoom = 1 + limits.scale * _uniform((n,), generator)
    # Coordinates run from -1 to 1, so an image has width 2.
    offset = 2 * limits.translate * _uniform((n, 2), generator)
    side = torch.ones_like(zoom)
    if limits.hflip:
        side = torch.where(coin(n, generator), -side, side)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    return torch.stack(
        [
            torch.stack([cos * side, -sin, offset[:, 0]], dim=1),
            torch.stack([sin * side, cos, offset[:, 1]], dim=1),
        ],
        dim=1,
    )


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device) * 2 - 1


def coin(n: int, generator: torch.Generator) -> Tensor:
    """(n,) of True or False, each with probability 0.5."""
    return torch.rand(n, generator=generator, device=generator.device) < 0.5
