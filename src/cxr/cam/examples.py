"""Typical true positives, false positives and false negatives of a network."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr.arrays import Doubles

Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

EXAMPLES_PER_GROUP = 4


@dataclass(frozen=True)
class Examples:
    """For one label: rows of the most typical images of each group."""

    true_positives: Indices
    false_positives: Indices
    false_negatives: Indices


def choose(pooled: Doubles, labels: Flags, predicted_positive: Flags) -> Examples:
    """The most typical true positives, false positives and false negatives of one label.

    Parameters
    ----------
    pooled : (N, D), the head's input for each image.
    labels, predicted_positive : (N,), the true and the predicted label.
    """
    return Examples(
        true_positives=most_typical(pooled, labels & predicted_positive),
        false_positives=most_typical(pooled, ~labels & predicted_positive),
        false_negatives=most_typical(pooled, labels & ~predicted_positive),
    )


def most_typical(pooled: Doubles, members: Flags) -> Indices:
    """The members whose head input is nearest to the members' mean, the nearest first."""
    rows = np.flatnonzero(members)
    if not len(rows):
        return rows
    distance = np.linalg.norm(pooled[rows] - pooled[rows].mean(axis=0), axis=1)
    return rows[np.argsort(distance, kind="stable")[:EXAMPLES_PER_GROUP]]
