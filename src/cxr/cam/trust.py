"""How far a model's maps can be trusted, in numbers beside their baselines."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cxr.arrays import Doubles
from cxr.cam import Cam, Method, explain
from cxr.cam.faithfulness import by_attribution, by_chance, curves, from_centre
from cxr.cam.ground_truth import Indices, Truth
from cxr.cam.localisation import Maps, describe, locate, mean_interval
from cxr.cam.sanity import randomised, similarity, stability
from cxr.data.phantom import LOCAL_SIGNS
from cxr.labels import LABELS
from cxr.models import Network
from cxr.models.inputs import InputSpec, to_network_input
from cxr.training.feed import ImageBatches, predict

BATCH = 64


@dataclass(frozen=True)
class Forward:
    """A network's pass over N images: what its head reads, (N, D), and logits, (N, L)."""

    pooled: Doubles
    logits: npt.NDArray[np.float32]


@dataclass(frozen=True)
class CamTarget:
    """A network whose maps are looked at, and the images of a split."""

    network: Network
    method: Method
    images: Tensor  # uint8 (N, H, W), on the device
    spec: InputSpec

    def explain(self, index: Indices) -> Cam:
        """Maps of the images at `index`, a batch at a time."""
        parts = [explain(self.network, self.inputs(part), self.method) for part in _batches(index)]
        return Cam(
            np.concatenate([part.logits for part in parts]),
            np.concatenate([part.attribution for part in parts]),
        )

    def forward(self, index: Indices) -> Forward:
        """Pooled features and logits of the images at `index`, without maps."""
        head = self.network.head()
        pooled = np.empty((len(index), head.in_features))
        done = 0

        def keep(_: nn.Module, inputs: tuple[Tensor]) -> None:
            nonlocal done
            pooled[done : done + len(inputs[0])] = inputs[0].double().cpu().numpy()
            done += len(inputs[0])

        batches = ImageBatches(self._images(index), self.spec)
        with head.register_forward_pre_hook(keep):
            logits = predict(self.network, batches, self.images.device, BATCH)
        return Forward(pooled, logits)

    def explain_pairs(self, image: Indices, label: Indices) -> Maps:
        """The map of each pair of image and label: (K, h, w)."""
        index, place = np.unique(image, return_inverse=True)
        maps: list[Maps] = []
        pairs: list[Indices] = []
        for part in _batches(np.arange(len(index))):
            mine = np.flatnonzero(np.isin(place, part))
            # Of all labels' maps only those that are asked for are kept: at 224 px these are large.
            maps.append(self.explain(index[part]).attribution[place[mine] - part[:1], label[mine]])
            pairs.append(mine)
        return np.concatenate(maps)[np.argsort(np.concatenate(pairs))]

    def inputs(self, index: Indices) -> Tensor:
        """The images at `index` as the network takes them."""
        return to_network_input(self._images(index), self.spec)

    def _images(self, index: Indices) -> Tensor:
        return self.images[torch.from_numpy(index).to(self.images.device)]


def localisation(attribution: Maps, truth: Truth, seed: int) -> dict[str, Any]:
    """Pointing game and energy inside, by label and pooled over findings with a local sign.

    A phantom's cardiomegaly is the whole heart, its emphysema both lungs and its edema everywhere:
    to point there is no feat, so these stand by themselves.

    Parameters
    ----------
    attribution : (K, h, w), the map of each pair of the truth.
    """
    located = locate(attribution, truth.cover(attribution.shape[1:]))
    share = truth.cover((1, 1))[:, 0, 0]
    by_label = {}
    for i, label in enumerate(LABELS):
        mine = truth.label == i
        median = float(np.median(share[mine])) if mine.any() else None
        by_label[label] = {"median_share_of_image": median, **describe(located.only(mine), seed)}
    local = [LABELS.index(label) for label in LOCAL_SIGNS]
    pooled = np.isin(truth.label, local) if truth.source == "phantom" else truth.label >= 0
    return {
        "truth": truth.source,
        "pooled_labels": [
            label for i, label in enumerate(LABELS) if (truth.label[pooled] == i).any()
        ],
        "pooled": describe(located.only(pooled), seed),
        "labels": by_label,
    }


def faithfulness(target: CamTarget, image: Indices, label: Indices, seed: int) -> dict[str, Any]:
    """Deletion and insertion by the map, at random and from the centre, of pairs image, label."""
    told: dict[str, Any] = {"n": len(image), "deletion": {}, "insertion": {}}
    if not len(image):
        return told
    attribution = target.explain_pairs(image, label)
    grid = attribution.shape[1:]
    orders = {
        "map": by_attribution(attribution),
        "random": by_chance(len(image), grid, seed),
        "centre": from_centre(len(image), grid),
    }
    for name, order in orders.items():
        found = curves(target.network, target.inputs(image), label, order, grid)
        told["deletion"][name] = _mean(found.deletion, seed)
        told["insertion"][name] = _mean(found.insertion, seed)
    return told


def sanity(target: CamTarget, image: Indices, label: Indices, seed: int) -> dict[str, Any]:
    """How like a map stays once layers are random, and once the image has moved by a pixel."""
    told: dict[str, Any] = {"n": len(image), "randomised": [], "shifted": None}
    if not len(image):
        return told
    before = target.explain_pairs(image, label)
    for step in randomised(target.network, target.inputs(image), target.method, seed):
        alike = similarity(before, _of_pairs(step.attribution, label))
        told["randomised"].append({"down_to": step.layer, **_mean(alike, seed)})
    moved = stability(
        target.network,
        target.images[torch.from_numpy(image)],
        partial(to_network_input, spec=target.spec),
        target.method,
    )
    told["shifted"] = _mean(_of_pairs(moved, label), seed)
    return told


def _batches(index: Indices) -> list[Indices]:
    return np.split(index, range(BATCH, len(index), BATCH))


def _of_pairs(values: Any, label: Indices) -> Any:
    """Of (K, L, ...), each row's own label: (K, ...)."""
    return values[np.arange(len(label)), label]


def _mean(values: Doubles, seed: int) -> dict[str, Any]:
    """Mean and interval of what is defined."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        return {"mean": None, "ci": None}
    return {"mean": float(defined.mean()), "ci": mean_interval(defined, seed)}
