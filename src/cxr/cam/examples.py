"""Typical true positives, false positives and false negatives of a network."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr.arrays import Doubles, Flags, Labels

Indices = npt.NDArray[np.int64]

EXAMPLES_PER_GROUP = 4


@dataclass(frozen=True)
class Examples:
    """For one label: rows of the most typical images of each group."""

    true_positives: Indices
    false_positives: Indices
    false_negatives: Indices


def choose(pooled: Doubles, y: Labels, predicted_positive: Flags) -> Examples:
    """The most typical true positives, false positives and false negatives of one label.

    Parameters
    ----------
    pooled : (N, D), the head's input for each image.
    y : (N,), the true label; images where it is unknown are in no group.
    predicted_positive : (N,).
    """
    return Examples(
        true_positives=most_typical(pooled, (y == 1) & predicted_positive),
        false_positives=most_typical(pooled, (y == 0) & predicted_positive),
        false_negatives=most_typical(pooled, (y == 1) & ~predicted_positive),
    )


def most_typical(pooled: Doubles, members: Flags) -> Indices:
    """The members whose head input is nearest to the members' mean, the nearest first."""
    rows = np.flatnonzero(members)
    if not len(rows):
        return rows
    distance = np.linalg.norm(pooled[rows] - pooled[rows].mean(axis=0), axis=1)
    return rows[np.argsort(distance, kind="stable")[:EXAMPLES_PER_GROUP]]
