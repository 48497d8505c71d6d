"""Sanity checks: whether maps depend on the learnt weights and are stable under small shifts.

Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018: a map that stays the same with
random weights shows edges of the image, not what the network used.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional as F

from cxr.arrays import Doubles
from cxr.cam import explain
from cxr.cam.localisation import Maps
from cxr.models import Network
from cxr.params import Method

SHIFTS = ((0, 1), (0, -1), (1, 0), (-1, 0))  # pixels down and right


@dataclass(frozen=True)
class Randomised:
    """Maps after a layer and all layers above it were randomised."""

    layer: str
    attribution: Maps  # (N, L, h, w)


def randomised(network: Network, inputs: Tensor, method: Method, seed: int) -> Iterator[Randomised]:
    """Maps while layers are randomised one by one from the head down, in a copy of the network."""
    network = copy.deepcopy(network)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, layer in reversed(list(network.named_modules())):
            if _reinitialise(layer):
                yield Randomised(
                    name or type(layer).__name__, explain(network, inputs, method).attribution
                )


def untrained(network: Network, seed: int) -> Network:
    """A copy of the network with all layers reinitialised."""
    network = copy.deepcopy(network)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in network.modules():
            _reinitialise(layer)
    return network


def similarity(a: Maps, b: Maps) -> Doubles:
    """Spearman's rank correlation of the cells of two maps: (..., h, w) -> (...,).

    NaN if a map is constant.
    """
    ranks = [rankdata(each.reshape(*each.shape[:-2], -1), axis=-1) for each in (a, b)]
    first, second = (each - each.mean(axis=-1, keepdims=True) for each in ranks)
    norm = np.sqrt((first**2).sum(axis=-1) * (second**2).sum(axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((first * second).sum(axis=-1) / norm, np.float64)


def stability(
    network: Network,
    images: Tensor,
    before: Maps,
    prepare: Callable[[Tensor], Tensor],
    method: Method,
) -> Doubles:
    """Pearson's correlation of maps with those of the image shifted by one pixel: (N, L).

    Maps are resized to the image and shifted back before they are compared.

    Parameters
    ----------
    images : uint8 (N, H, W).
    before : maps of the images, (N, L, h, w).
    prepare : converts images to network inputs.
    """
    size = images.shape[1:]
    inner = (..., slice(1, -1), slice(1, -1))  # without the edge that the shift filled
    shifted = torch.cat([_shifted(images, *shift) for shift in SHIFTS])
    maps = explain(network, prepare(shifted), method).attribution
    correlations = []
    for (down, right), after in zip(SHIFTS, np.split(maps, len(SHIFTS)), strict=True):
        of_shift = []
        for original, moved in zip(_per_image(before), _per_image(after), strict=True):
            back = torch.roll(_resized(moved, size), (-down, -right), dims=(-2, -1))
            of_shift.append(_correlation(_resized(original, size)[inner], back[inner]))
        correlations.append(np.concatenate(of_shift))
    return np.asarray(np.mean(correlations, axis=0), np.float64)


def _reinitialise(layer: nn.Module) -> bool:
    """Initialise a layer as torch does; return whether it has weights of its own."""
    reset = getattr(layer, "reset_parameters", None)
    if reset is None:
        return False
    reset()
    return True


def _shifted(images: Tensor, down: int, right: int) -> Tensor:
    """Images (N, H, W) shifted by a pixel; the new edge repeats its neighbour."""
    padded = F.pad(images[:, None].float(), (1, 1, 1, 1), mode="replicate")[:, 0]
    height, width = images.shape[1:]
    return padded[:, 1 - down : 1 - down + height, 1 - right : 1 - right + width].to(images.dtype)


def _per_image(maps: Maps) -> list[Maps]:
    """The maps of one image at a time, because at 224 px they take 6 MB per image."""
    return np.split(maps, len(maps))


def _resized(attribution: Maps, size: torch.Size) -> Tensor:
    maps = torch.from_numpy(attribution).double()
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


def _correlation(a: Tensor, b: Tensor) -> Doubles:
    """Pearson's correlation of each pair of maps: (N, L, H, W) -> (N, L)."""
    first, second = (each - each.mean(dim=(-2, -1), keepdim=True) for each in (a, b))
    norm = ((first**2).sum(dim=(-2, -1)) * (second**2).sum(dim=(-2, -1))).sqrt()
    correlation: Doubles = ((first * second).sum(dim=(-2, -1)) / norm).numpy()
    return correlation
