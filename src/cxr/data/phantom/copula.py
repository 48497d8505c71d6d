"""Draw labels with the prevalence and co-occurrence of the real data.

A Gaussian copula: one standard normal per label, correlated as the labels are with one another and
with view, sex and age; a label is present if its normal falls below the quantile of its
prevalence.
"""

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from cxr.labels import CHESTMNIST

# Positives per label among the 78,468 training images of ChestMNIST, that is ChestX-ray14 (Wang et
# al., ChestX-ray8, CVPR 2017) in the split of MedMNIST.
_TRAIN_IMAGES = 78_468
_TRAIN_POSITIVES = (
    7996, 1950, 9261, 13914, 3988, 4375, 978, 3705, 3263, 1690, 1799, 1158, 2279, 144,
)  # fmt: skip

# Tetrachoric correlations (in 1/100, lower triangle without the diagonal) of the same labels: each
# is the correlation of two standard normals whose joint tail probability equals the frequency of
# both labels together. Fitted pair by pair; the matrix is positive definite (smallest eigenvalue
# 0.27).
_TETRACHORIC = (
    (7,),
    (36, 38),
    (21, 7, 25),
    (6, -6, 20, 5),
    (-3, -6, 7, 11, 29),
    (16, -2, 13, 29, -3, -5),
    (10, -18, 15, 0, 11, 3, -12),
    (29, 9, 28, 13, 26, 12, 15, 3),
    (-1, 14, 23, 32, 1, 0, 56, -20, 9),
    (15, -3, 6, -1, 10, -7, -5, 51, 1, -7),
    (7, 7, -2, 4, 7, 12, -5, 2, 3, -18, -1),
    (9, 8, 25, 7, 25, 19, 3, 13, 13, -3, 15, 25),
    (9, -7, -11, -3, 13, -4, 1, 0, -6, 0, -20, 8, 5),
)

# Correlations (in 1/100) of each label's normal with those of an AP view, of female sex and of age,
# in NIH's table of ChestX-ray14: tetrachoric, and biserial for age.
_ATTRIBUTES = (
    (15, -5, 13), (4, 10, 1), (16, 1, 10), (22, -2, -3), (-2, -6, 5), (-8, -2, 8), (16, -2, -5),
    (-5, 6, -1), (32, -1, -1), (53, 4, -4), (1, -8, 9), (-27, 2, 14), (-14, -4, 10), (-23, 11, 31),
)  # fmt: skip
# Share of a label's variance, given the attributes, that the images of a patient have in common.
# In NIH's table the labels of consecutive images of a patient correlate with 0.4 to 0.7.
_OF_PATIENT = 0.5

_EFFECT = np.array(_ATTRIBUTES).T / 100  # (3, 14)


def _factor() -> npt.NDArray[np.float64]:
    correlation = np.eye(len(CHESTMNIST))
    for row, values in enumerate(_TETRACHORIC, start=1):
        correlation[row, :row] = correlation[:row, row] = np.array(values) / 100
    # What the attributes don't explain; together they correlate the labels as above.
    return np.linalg.cholesky(correlation - _EFFECT.T @ _EFFECT).astype(np.float64)


_FACTOR = _factor()
_THRESHOLD = np.array([NormalDist().inv_cdf(n / _TRAIN_IMAGES) for n in _TRAIN_POSITIVES])


def draw_labels(
    rng: np.random.Generator, attributes: npt.NDArray[np.float64], first: npt.NDArray[np.intp]
) -> npt.NDArray[np.uint8]:
    """Labels of n images, 0 or 1, uint8 (n, 14).

    Parameters
    ----------
    attributes : (n, 3), the standard normals of an AP view, of female sex and of age.
    first : (n,), the first image of each image's patient.
    """
    of_image, of_patient = rng.standard_normal((2, len(first), len(CHESTMNIST)))
    mixed = np.sqrt(_OF_PATIENT) * of_patient[first] + np.sqrt(1 - _OF_PATIENT) * of_image
    latent: npt.NDArray[np.float64] = mixed @ _FACTOR.T - attributes @ _EFFECT
    return (latent < _THRESHOLD).astype(np.uint8)
