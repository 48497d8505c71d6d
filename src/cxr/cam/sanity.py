"""Whether maps come from what the network has learnt, and whether they hold still.

Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018: a map that stays the same when the
weights are random shows edges of the image and not the network's reasons.
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
from cxr.cam import Method, explain
from cxr.cam.localisation import Maps
from cxr.models import Network

SHIFTS = ((0, 1), (0, -1), (1, 0), (-1, 0))  # pixels down and right


@dataclass(frozen=True)
class Randomised:
    """Maps once a layer and all above it are random."""

    layer: str
    attribution: Maps  # (N, L, h, w)


def randomised(network: Network, inputs: Tensor, method: Method, seed: int) -> Iterator[Randomised]:
    """Maps as layer by layer, from the head down, weights are drawn anew; the network stays."""
    broken = copy.deepcopy(network)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, layer in reversed(list(broken.named_modules())):
            if _draw_anew(layer):
                yield Randomised(
                    name or type(layer).__name__, explain(broken, inputs, method).attribution
                )


def untrained(network: Network, seed: int) -> Network:
    """The same network with all its layers drawn anew."""
    fresh = copy.deepcopy(network)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in fresh.modules():
            _draw_anew(layer)
    return fresh


def similarity(a: Maps, b: Maps) -> Doubles:
    """Spearman's correlation of each map's cells with the other's: (..., h, w) -> (...,).

    NaN where a map has one value only.
    """
    ranks = [rankdata(each.reshape(*each.shape[:-2], -1), axis=-1) for each in (a, b)]
    first, second = (each - each.mean(axis=-1, keepdims=True) for each in ranks)
    norm = np.sqrt((first**2).sum(axis=-1) * (second**2).sum(axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((first * second).sum(axis=-1) / norm, np.float64)


def stability(
    network: Network, images: Tensor, prepare: Callable[[Tensor], Tensor], method: Method
) -> Doubles:
    """Pearson's correlation of maps with those of the image shifted by one pixel: (N, L).

    Maps are enlarged to the image and shifted back before they are compared.

    Parameters
    ----------
    images : uint8 (N, H, W).
    prepare : makes the network's inputs of images.
    """
    size = images.shape[1:]
    inner = (..., slice(1, -1), slice(1, -1))  # what the shift brought in is left out
    before = explain(network, prepare(images), method).attribution
    found = []
    for down, right in SHIFTS:
        moved = _shifted(images, down, right)
        after = explain(network, prepare(moved), method).attribution
        alike = []
        for there, here in zip(_each(before), _each(after), strict=True):
            back = torch.roll(_enlarged(here, size), (-down, -right), dims=(-2, -1))
            alike.append(_correlation(_enlarged(there, size)[inner], back[inner]))
        found.append(np.concatenate(alike))
    return np.asarray(np.mean(found, axis=0), np.float64)


def _draw_anew(layer: nn.Module) -> bool:
    """Initialise a layer as torch does; whether it has weights of its own."""
    reset = getattr(layer, "reset_parameters", None)
    if reset is None:
        return False
    reset()
    return True


def _shifted(images: Tensor, down: int, right: int) -> Tensor:
    """Images (N, H, W) moved by a pixel; the edge that comes in repeats its neighbour."""
    padded = F.pad(images[:, None].float(), (1, 1, 1, 1), mode="replicate")[:, 0]
    height, width = images.shape[1:]
    return padded[:, 1 - down : 1 - down + height, 1 - right : 1 - right + width].to(images.dtype)


def _each(maps: Maps) -> list[Maps]:
    """One image's at a time: enlarged to 224 px those of an image take 6 MB."""
    return np.split(maps, len(maps))


def _enlarged(attribution: Maps, size: torch.Size) -> Tensor:
    maps = torch.from_numpy(attribution).double()
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


def _correlation(a: Tensor, b: Tensor) -> Doubles:
    """Pearson's, of each map: (N, L, H, W) -> (N, L)."""
    first, second = (each - each.mean(dim=(-2, -1), keepdim=True) for each in (a, b))
    norm = ((first**2).sum(dim=(-2, -1)) * (second**2).sum(dim=(-2, -1))).sqrt()
    found: Doubles = ((first * second).sum(dim=(-2, -1)) / norm).numpy()
    return found
