"""Draw splits by patient, with the same share of every label in each as far as patients allow."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

STREAM = 21  # of the seed's random numbers


def draw(
    patients: npt.NDArray[np.int64],
    positive: npt.NDArray[np.bool_],
    shares: Mapping[str, float],
    seed: int,
) -> npt.NDArray[np.str_]:
    """The split of each image, (N,).

    Iterative stratification (Sechidis et al., "On the stratification of multi-label data", 2011)
    of patients instead of images: the rarest label that is left goes first, and each patient who
    has it goes to the split that lacks most images of it.

    Parameters
    ----------
    patients : (N,), numbered from 0.
    positive : (N, L), which labels each image has.
    shares : of the images in each split, with the sum 1; there must be as many patients.
    """
    # An image without a positive label counts as one with a label of its own.
    kinds = np.column_stack([positive, ~positive.any(axis=1)]).astype(np.int64)
    n_patients = int(patients.max()) + 1
    counts = np.zeros((n_patients, kinds.shape[1]), np.int64)
    np.add.at(counts, patients, kinds)
    sizes = np.bincount(patients)
    share = np.array(list(shares.values()))
    lacking = share[:, None] * counts.sum(axis=0)  # images of each kind, (S, K)
    room = share * len(patients)  # images
    order = np.random.default_rng([seed, STREAM]).permutation(n_patients)
    order = order[np.argsort(-sizes[order], kind="stable")]  # large ones while there is room
    assigned = np.full(n_patients, -1)
    left = counts.sum(axis=0)
    while left.any():
        kind = int(np.argmin(np.where(left > 0, left, np.iinfo(np.int64).max)))
        for patient in order[(counts[order, kind] > 0) & (assigned[order] < 0)]:
            split = np.lexsort((-room, -lacking[:, kind]))[0]
            assigned[patient] = split
            lacking[split] -= counts[patient]
            room[split] -= sizes[patient]
            left -= counts[patient]
    _fill_empty(assigned, sizes, len(share))
    return np.asarray(np.array(list(shares))[assigned[patients]], str)


def _fill_empty(
    assigned: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], n_splits: int
) -> None:
    """Give each empty split the smallest patient of the split with most patients."""
    for split in range(n_splits):
        if not (assigned == split).any():
            largest = np.bincount(assigned, minlength=n_splits).argmax()
            candidates = np.flatnonzero(assigned == largest)
            assigned[candidates[sizes[candidates].argmin()]] = split
