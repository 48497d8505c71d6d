"""Hard examples: the images of highest loss, among them those with wrong labels."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr.arrays import Doubles, Floats, Labels

SMALLEST = 1e-12  # bounds the loss of a probability of 0


@dataclass(frozen=True)
class HardExamples:
    """Images in descending order of loss: (K,)."""

    index: npt.NDArray[np.int64]
    loss: Doubles  # cross-entropy, summed over labels and averaged over models
    label: npt.NDArray[np.int64]  # the one of highest loss


def find_hard_examples(labels: Labels, probs: list[Floats], n: int) -> HardExamples:
    """The `n` images of highest loss; ties in image order.

    The loss is the mean over models: an image that is hard for all of them is less likely due to
    one model's error.

    Parameters
    ----------
    labels : (N, L) of 0, 1 and UNKNOWN, which has no loss.
    probs : one (N, L) per model.
    """
    losses = np.mean([cross_entropy(labels, each) for each in probs], axis=0)
    of_image = losses.sum(axis=1)
    order = np.argsort(-of_image, kind="stable")
    index = order[(labels[order] >= 0).any(axis=1)][:n]
    return HardExamples(index, of_image[index], losses[index].argmax(axis=1))


def cross_entropy(labels: Labels, probs: Floats) -> Doubles:
    """Loss of each label of each image: (N, L)."""
    of_truth = np.where(labels == 1, probs, 1 - probs).astype(np.float64)
    of_truth[labels < 0] = 1
    return np.asarray(-np.log(np.maximum(of_truth, SMALLEST)), np.float64)
