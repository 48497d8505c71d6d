"""Random changes of the training images."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cxr.params import Augment


def augment(grey: Tensor, by: Augment, generator: torch.Generator) -> Tensor:
    """Each image mirrored, moved, turned, scaled and stretched in contrast by chance.

    Parameters
    ----------
    grey : (B, 1, H, W) on the scale 0..1.
    by : `hflip` with probability a half; `translate` in image widths, `degrees` in degrees,
        `scale` and `contrast` as fractions: each uniform between minus and plus that.
    """
    n = len(grey)
    if by.translate or by.degrees or by.scale:
        theta = _affine(n, by, generator)
        grid = F.affine_grid(theta, list(grey.shape), align_corners=False)
        grey = F.grid_sample(grey, grid, padding_mode="zeros", align_corners=False)
    elif by.hflip:
        grey = torch.where(coin(n, generator).view(n, 1, 1, 1), grey.flip(3), grey)
    if by.contrast:
        factor = 1 + by.contrast * _uniform((n, 1, 1, 1), generator)
        mean = grey.mean(dim=(2, 3), keepdim=True)
        grey = mean + (grey - mean) * factor
    return grey


def _affine(n: int, by: Augment, generator: torch.Generator) -> Tensor:
    """(n, 2, 3) maps from the place in the new image to that in the old one."""
    angle = torch.deg2rad(by.degrees * _uniform((n,), generator))
    zoom = 1 + by.scale * _uniform((n,), generator)
    # Coordinates run from -1 to 1, so an image is 2 wide.
    offset = 2 * by.translate * _uniform((n, 2), generator)
    side = torch.ones_like(zoom)
    if by.hflip:
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
    """(n,) of True and False, each with probability a half."""
    return torch.rand(n, generator=generator, device=generator.device) < 0.5
