"""Which images stand for what a network finds, invents and misses."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr.arrays import Doubles

Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

SHOWN = 4  # of each group


@dataclass(frozen=True)
class Examples:
    """Of one label: rows of the images that are most typical of each group."""

    true_positives: Indices
    false_positives: Indices
    misses: Indices  # false negatives


def choose(pooled: Doubles, labels: Flags, predicted_positive: Flags) -> Examples:
    """The most typical true positives, false positives and misses of one label.

    Parameters
    ----------
    pooled : (N, D), what the head reads of each image.
    labels, predicted_positive : (N,), the data's word and the model's.
    """
    return Examples(
        true_positives=most_typical(pooled, labels & predicted_positive),
        false_positives=most_typical(pooled, ~labels & predicted_positive),
        misses=most_typical(pooled, labels & ~predicted_positive),
    )


def most_typical(pooled: Doubles, members: Flags) -> Indices:
    """The members nearest to their mean in what the head reads, the nearest first."""
    rows = np.flatnonzero(members)
    if not len(rows):
        return rows
    distance = np.linalg.norm(pooled[rows] - pooled[rows].mean(axis=0), axis=1)
    return rows[np.argsort(distance, kind="stable")[:SHOWN]]
