"""The images whose labels the models find hardest to believe: wrong labels are among them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr.arrays import Doubles, Floats, Labels

SMALLEST = 1e-12  # a probability of 0 costs no more than this


@dataclass(frozen=True)
class Surprises:
    """Images in falling order of loss: (K,)."""

    index: npt.NDArray[np.int64]
    loss: Doubles  # cross-entropy, summed over labels, mean of the models
    label: npt.NDArray[np.int64]  # the one that costs most


def most_surprising(labels: Labels, probs: list[Floats], n: int) -> Surprises:
    """The `n` images of highest loss, of the first ones where losses are equal.

    The mean of several models is taken, since an image that is hard for all of them is
    less likely the fault of one.

    Parameters
    ----------
    labels : (N, L) of 0 and 1.
    probs : of each model, (N, L).
    """
    losses = np.mean([cross_entropy(labels, each) for each in probs], axis=0)
    of_image = losses.sum(axis=1)
    index = np.argsort(-of_image, kind="stable")[:n]
    return Surprises(index, of_image[index], losses[index].argmax(axis=1))


def cross_entropy(labels: Labels, probs: Floats) -> Doubles:
    """What each label of each image costs: (N, L)."""
    of_truth = np.where(labels == 1, probs, 1 - probs).astype(np.float64)
    return np.asarray(-np.log(np.maximum(of_truth, SMALLEST)), np.float64)
