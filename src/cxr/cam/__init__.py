"""Heat maps for every label, and measures of their reliability."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cxr.errors import CxrError
from cxr.models import Network
from cxr.models.inputs import micro_batches
from cxr.params import Method

Attribution = Callable[
    [Tensor, Tensor], Tensor
]  # feature map, its gradient: (N, D, h, w) -> (N, h, w)


@dataclass(frozen=True)
class Cam:
    """Maps of N images and L labels on the grid of the feature map.

    `attribution` is the result of a method before its ReLU: positive values support the label,
    negative values oppose it. A map without positive values is called empty.
    """

    logits: npt.NDArray[np.float32]  # (N, L)
    attribution: npt.NDArray[np.float32]  # (N, L, h, w), signed

    @property
    def maps(self) -> npt.NDArray[np.float32]:
        """The positive part of the attribution, (N, L, h, w)."""
        return np.maximum(self.attribution, 0)


@runtime_checkable
class Attentive(Protocol):
    """A network whose tokens attend to each other."""

    def attentions(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, depth, T, T)
        """The attention of each block between all pairs of tokens, averaged over its heads."""
        ...


def explain(network: Network, inputs: Tensor, method: Method = "gradcam") -> Cam:
    """Maps of all labels from the feature map of `network.encode`, by one of four methods.

    - `gradcam`: channels weighted by the mean of the logit's gradient over the map (Selvaraju et
      al., ICCV 2017, equations 1 and 2, without the ReLU).
    - `gradcam++`: channels weighted by positive gradients (Chattopadhay et al., WACV 2018).
    - `hirescam`: each cell weighted by its own gradient, not the mean (Draelos and Carin, 2020).
    - `rollout`: how much of each token reaches the output through all blocks (Abnar and Zuidema,
      ACL 2020); it does not depend on the label, so all labels share one map.

    Parameters
    ----------
    inputs : network inputs (N, C, H, W).

    Raises
    ------
    CxrError
        If the method is `rollout` and the network has no attention.
    """
    network.eval()
    compute = _rollout if method == "rollout" else partial(_by_gradient, method=method)
    parts = [compute(network, batch) for batch in micro_batches(inputs)]
    return Cam(
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.attribution for part in parts]),
    )


def _by_gradient(network: Network, inputs: Tensor, method: Method) -> Cam:
    with torch.no_grad():
        feature_map = network.encode(inputs)  # (N, D, h, w)
    feature_map.requires_grad_(True)
    attribution = []
    with torch.enable_grad():
        logits = network.classify(feature_map)  # (N, L)
        for logit in logits.unbind(dim=1):
            (gradient,) = torch.autograd.grad(logit.sum(), feature_map, retain_graph=True)
            attribution.append(ATTRIBUTION[method](feature_map.detach(), gradient))
    return _cam(logits.detach(), torch.stack(attribution, dim=1))


def _grad_cam(feature_map: Tensor, gradient: Tensor) -> Tensor:
    weights = gradient.mean(dim=(2, 3), keepdim=True)  # (N, D, 1, 1)
    return (weights * feature_map).sum(dim=1)


def _grad_cam_plus_plus(feature_map: Tensor, gradient: Tensor) -> Tensor:
    """Equation 19 of the paper, with the exponential of the logit as the score."""
    total = feature_map.sum(dim=(2, 3), keepdim=True)
    share = gradient**2 / (2 * gradient**2 + total * gradient**3 + 1e-6)
    share = torch.where(gradient == 0, 0, share)
    weights = (share * gradient.clamp(min=0)).sum(dim=(2, 3), keepdim=True)
    return (weights * feature_map).sum(dim=1)


def _hirescam(feature_map: Tensor, gradient: Tensor) -> Tensor:
    return (gradient * feature_map).sum(dim=1)


ATTRIBUTION: dict[Method, Attribution] = {
    "gradcam": _grad_cam,
    "gradcam++": _grad_cam_plus_plus,
    "hirescam": _hirescam,
}


@torch.no_grad()
def _rollout(network: Network, inputs: Tensor) -> Cam:
    if not isinstance(network, Attentive):
        raise CxrError(
            f"rollout requires a network with attention, and {type(network).__name__} has none; "
            f"choose one of {', '.join(ATTRIBUTION)}"
        )
    feature_map = network.encode(inputs)
    logits = network.classify(feature_map)
    attentions = network.attentions(inputs)
    identity = torch.eye(attentions.shape[-1], device=attentions.device)
    rollout = identity
    for attention in attentions.unbind(dim=1):
        rollout = (attention + identity) / 2 @ rollout  # the identity is the residual connection
    # The output is the mean of the tokens, so the map is the mean over output tokens.
    grid = rollout.mean(dim=1).view(len(inputs), *feature_map.shape[2:])
    return _cam(logits, grid.unsqueeze(1).expand(-1, logits.shape[1], -1, -1))


def _cam(logits: Tensor, attribution: Tensor) -> Cam:
    return Cam(logits.cpu().numpy(), attribution.cpu().numpy())
