"""Faithfulness of maps to the network: deletion and insertion curves.

Petsiuk, Das and Saenko, "RISE", BMVC 2018: cells of the image are blanked in order of decreasing
attribution, and the probability should fall fast; or revealed in that order, and it should rise
fast.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from cxr.arrays import Doubles
from cxr.cam.localisation import Maps
from cxr.models import Network
from cxr.models.inputs import micro_batch_size

STEPS = 10

Order = npt.NDArray[np.int64]  # (N, h * w), the cells of each map, first to last


@dataclass(frozen=True)
class Curves:
    """Area under the curve of probability against the fraction of cells, per image: (N,)."""

    deletion: Doubles  # lower is better
    insertion: Doubles  # higher is better


def attribution_order(attribution: Maps) -> Order:
    """Cells of maps (N, h, w) in order of decreasing attribution; ties in row-major order."""
    return np.argsort(-attribution.reshape(len(attribution), -1), axis=1, kind="stable")


def random_order(n: int, grid: tuple[int, int], seed: int) -> Order:
    """Cells in random order."""
    cells = np.tile(np.arange(grid[0] * grid[1]), (n, 1))
    return np.random.default_rng(seed).permuted(cells, axis=1)


def centre_order(n: int, grid: tuple[int, int]) -> Order:
    """Cells from the centre outwards, because most signs are near the centre of the image."""
    rows, columns = (np.arange(cells) - (cells - 1) / 2 for cells in grid)
    distance = np.add.outer(rows**2, columns**2).ravel()
    return np.tile(np.argsort(distance, kind="stable"), (n, 1))


@torch.no_grad()
def curves(
    network: Network, inputs: Tensor, labels: Order, order: Order, grid: tuple[int, int]
) -> Curves:
    """Delete and insert cells in the given order.

    A blanked cell is 0 at the network's input, which is the mean used for normalisation.

    Parameters
    ----------
    inputs : network inputs (N, C, H, W).
    labels : (N,), the label of each image whose probability is measured.
    order : (N, h * w) cells.
    """
    network.eval()
    # The steps of a small grid are uneven, so the curves are integrated over the share of cells.
    steps = np.unique(np.linspace(0, order.shape[1], STEPS + 1).round().astype(np.int64))
    rank = torch.from_numpy(np.argsort(order, axis=1)).to(inputs.device)
    rank = rank.view(-1, 1, *grid).float()
    rank = F.interpolate(rank, inputs.shape[2:], mode="nearest-exact")
    images = torch.arange(len(inputs), device=inputs.device)
    label = torch.from_numpy(labels).to(inputs.device)

    def probs(masked: Callable[[Tensor, Tensor], Tensor], cells: npt.NDArray[np.int64]) -> Doubles:
        """Probabilities (len(cells), N): every image with every number of masked cells."""
        n = torch.from_numpy(cells).to(inputs.device).repeat_interleave(len(images))
        image = images.repeat(len(cells))
        # All steps share the batches: small images fit into one, and few calls are faster.
        size = micro_batch_size(inputs.shape[-1])
        logits = [
            network(masked(rows, count.view(-1, 1, 1, 1))).gather(1, label[rows, None])
            for rows, count in zip(torch.split(image, size), torch.split(n, size), strict=True)
        ]
        return torch.cat(logits).double().sigmoid().view(len(cells), len(images)).cpu().numpy()

    def deleted(rows: Tensor, n: Tensor) -> Tensor:
        return inputs[rows] * (rank[rows] >= n)

    def inserted(rows: Tensor, n: Tensor) -> Tensor:
        return inputs[rows] * (rank[rows] < n)

    def area(curve: list[Doubles]) -> Doubles:
        share = steps / order.shape[1]
        return np.asarray(np.trapezoid(np.concatenate(curve), share, axis=0), np.float64)

    whole, blank = probs(deleted, steps[:1]), probs(inserted, steps[:1])
    return Curves(
        deletion=area([whole, probs(deleted, steps[1:-1]), blank]),
        insertion=area([blank, probs(inserted, steps[1:-1]), whole]),
    )
