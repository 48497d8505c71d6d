"""Reliability of a model's maps: localisation, faithfulness and sanity, next to baselines."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cxr.arrays import Doubles
from cxr.cam import Cam, explain
from cxr.cam.faithfulness import attribution_order, centre_order, curves, random_order
from cxr.cam.ground_truth import Indices, Truth
from cxr.cam.localisation import Maps, describe, locate, mean_interval
from cxr.cam.sanity import randomised, similarity, stability
from cxr.data.phantom import LOCAL_SIGNS
from cxr.models import Network
from cxr.models.inputs import InputSpec, to_network_input
from cxr.params import Method
from cxr.training.feed import ImageBatches, predict

BATCH = 64


@dataclass(frozen=True)
class Forward:
    """A forward pass over N images: the head's inputs (N, D) and the logits (N, L)."""

    pooled: Doubles
    logits: npt.NDArray[np.float32]


@dataclass(frozen=True)
class CamTarget:
    """A network whose maps are assessed, and the images of a split."""

    network: Network
    method: Method
    images: Tensor  # uint8 (N, H, W), on the device
    spec: InputSpec
    pooled: Tensor | None = None  # the head's inputs (N, D), if a frozen backbone has stored them

    def explain(self, index: Indices) -> Cam:
        """Maps of the images at `index`, computed in batches."""
        parts = [explain(self.network, self.inputs(rows), self.method) for rows in _batches(index)]
        return Cam(
            np.concatenate([part.logits for part in parts]),
            np.concatenate([part.attribution for part in parts]),
        )

    def forward(self, index: Indices) -> Forward:
        """Pooled features and logits of the images at `index`."""
        head = self.network.head()
        if self.pooled is not None:
            stored = self.pooled[torch.from_numpy(index).to(self.pooled.device)]
            logits = head(stored).detach().cpu().numpy()
            return Forward(stored.double().cpu().numpy(), logits)
        pooled = np.empty((len(index), head.in_features))
        done = 0

        def store(_: nn.Module, inputs: tuple[Tensor]) -> None:
            nonlocal done
            pooled[done : done + len(inputs[0])] = inputs[0].double().cpu().numpy()
            done += len(inputs[0])

        batches = ImageBatches(self._images(index), self.spec)
        with head.register_forward_pre_hook(store):
            logits = predict(self.network, batches, self.images.device, BATCH)
        return Forward(pooled, logits)

    def explain_pairs(self, image: Indices, label: Indices) -> Maps:
        """The map of each pair of image and label: (K, h, w)."""
        index, row = np.unique(image, return_inverse=True)
        maps: list[Maps] = []
        pairs: list[Indices] = []
        for rows in _batches(np.arange(len(index))):
            of_batch = np.flatnonzero(np.isin(row, rows))
            # Keep only the maps of the requested labels: at 224 px maps are large.
            attribution = self.explain(index[rows]).attribution
            maps.append(attribution[row[of_batch] - rows[:1], label[of_batch]])
            pairs.append(of_batch)
        return np.concatenate(maps)[np.argsort(np.concatenate(pairs))]

    def inputs(self, index: Indices) -> Tensor:
        """The network inputs of the images at `index`."""
        return to_network_input(self._images(index), self.spec)

    def _images(self, index: Indices) -> Tensor:
        return self.images[torch.from_numpy(index).to(self.images.device)]


def localisation(
    attribution: Maps, truth: Truth, names: tuple[str, ...], seed: int
) -> dict[str, Any]:
    """Pointing game and energy inside the sign, by label and pooled over labels with local signs.

    In the phantom, cardiomegaly covers the heart, emphysema both lungs and edema everything.
    Pointing there is trivial, so these labels are not pooled.

    Parameters
    ----------
    attribution : (K, h, w), the map of each pair of the truth.
    names : (L,), of the labels.
    """
    scores = locate(attribution, truth.cover(attribution.shape[1:]))
    share = truth.cover((1, 1))[:, 0, 0]
    by_label = {}
    for i, label in enumerate(names):
        has_label = truth.label == i
        median = float(np.median(share[has_label])) if has_label.any() else None
        of_label = describe(scores.select(has_label), seed)
        by_label[label] = {"median_share_of_image": median, **of_label}
    local = [i for i, label in enumerate(names) if label in LOCAL_SIGNS]
    pooled = np.isin(truth.label, local) if truth.source == "phantom" else truth.label >= 0
    return {
        "truth": truth.source,
        "pooled_labels": [
            label for i, label in enumerate(names) if (truth.label[pooled] == i).any()
        ],
        "pooled": describe(scores.select(pooled), seed),
        "labels": by_label,
    }


def faithfulness(target: CamTarget, image: Indices, label: Indices, seed: int) -> dict[str, Any]:
    """Deletion and insertion by map, random and centre order, for pairs of image and label."""
    results: dict[str, Any] = {"n": len(image), "deletion": {}, "insertion": {}}
    if not len(image):
        return results
    attribution = target.explain_pairs(image, label)
    grid = attribution.shape[1:]
    orders = {
        "map": attribution_order(attribution),
        "random": random_order(len(image), grid, seed),
        "centre": centre_order(len(image), grid),
    }
    for name, order in orders.items():
        areas = curves(target.network, target.inputs(image), label, order, grid)
        results["deletion"][name] = _mean(areas.deletion, seed)
        results["insertion"][name] = _mean(areas.insertion, seed)
    return results


def sanity(target: CamTarget, image: Indices, label: Indices, seed: int) -> dict[str, Any]:
    """Similarity of maps after layers are randomised and after the image is shifted by a pixel."""
    results: dict[str, Any] = {"n": len(image), "randomised": [], "shifted": None}
    if not len(image):
        return results
    index, row = np.unique(image, return_inverse=True)  # an image may have several findings
    before = target.explain(index).attribution
    for step in randomised(target.network, target.inputs(index), target.method, seed):
        similarities = similarity(before[row, label], step.attribution[row, label])
        results["randomised"].append({"down_to": step.layer, **_mean(similarities, seed)})
    correlations = stability(
        target.network,
        target.images[torch.from_numpy(index)],
        before,
        partial(to_network_input, spec=target.spec),
        target.method,
    )
    results["shifted"] = _mean(correlations[row, label], seed)
    return results


def _batches(index: Indices) -> list[Indices]:
    return np.split(index, range(BATCH, len(index), BATCH))


def _mean(values: Doubles, seed: int) -> dict[str, Any]:
    """Mean and confidence interval of the values that are not NaN."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        return {"mean": None, "ci": None}
    return {"mean": float(defined.mean()), "ci": mean_interval(defined, seed)}
