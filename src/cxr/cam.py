"""Grad-CAM (Selvaraju et al., ICCV 2017) for every label of an image from one forward pass."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cxr.models import Network


@dataclass(frozen=True)
class Cam:
    """Maps of N images and L labels on the network's own grid.

    `evidence` is the weighted sum of the feature map before Grad-CAM's ReLU: above zero it speaks
    for the label, below zero against it. A map with nothing above zero shows no positive evidence,
    and its Grad-CAM is empty.
    """

    logits: npt.NDArray[np.float32]  # (N, L)
    evidence: npt.NDArray[np.float32]  # (N, L, h, w), signed

    @property
    def maps(self) -> npt.NDArray[np.float32]:
        """Grad-CAM proper, (N, L, h, w), zero and above."""
        return np.maximum(self.evidence, 0)


def grad_cam(network: Network, inputs: Tensor) -> Cam:
    """Grad-CAM of all labels at `network.feature_map`.

    A channel's weight is the mean over the map of the logit's gradient there (equation 1 of the
    paper); the evidence is the sum of the channels by those weights (equation 2 without its ReLU).

    Parameters
    ----------
    inputs : (N, C, H, W), as the network takes them.
    """
    network.eval()
    with torch.no_grad():
        feature_map = network.feature_map(inputs)  # (N, D, h, w)
    feature_map.requires_grad_(True)
    with torch.enable_grad():
        logits = network.classify(feature_map)  # (N, L)
        evidence = [_evidence(logits[:, label], feature_map) for label in range(logits.shape[1])]
    return Cam(
        logits.detach().float().cpu().numpy(),
        torch.stack(evidence, dim=1).float().cpu().numpy(),
    )


def _evidence(logit: Tensor, feature_map: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(logit.sum(), feature_map, retain_graph=True)
    weights = gradient.mean(dim=(2, 3), keepdim=True)  # (N, D, 1, 1)
    return (weights * feature_map.detach()).sum(dim=1)  # (N, h, w)
