"""How well probabilities are calibrated: reliability, calibration error, Brier score."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from cxr.arrays import Doubles, Floats, Labels

N_BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Non-empty bins of one label, in order of probability: (K,)."""

    n: npt.NDArray[np.int64]
    mean_prob: Doubles
    share_positive: Doubles

    @property
    def error(self) -> float:
        """Expected calibration error, weighted by images.

        The mean distance of predicted probability and observed frequency.
        """
        distance = self.n @ np.abs(self.mean_prob - self.share_positive)
        return float(_ratio(distance, self.n.sum()))

    @property
    def error_by_chance(self) -> float:
        """The expected error of perfectly calibrated probabilities on as many images.

        The mean absolute deviation of a binomial by de Moivre's formula (Diaconis and Zabell,
        "Closed form summation for classical distributions", 1991), with a bin's mean as the
        probability of all its images.
        """
        v = np.floor(self.n * self.mean_prob) + 1
        deviations = 2 * v * (1 - self.mean_prob) * binom.pmf(v, self.n, self.mean_prob)
        return float(_ratio(deviations.sum(), self.n.sum()))


def reliability(y: Labels, probs: Floats) -> Reliability:
    """Reliability of one label, in bins of equally many images.

    Bins of equal width would put nearly all images of a rare label into the first bin (Nixon et
    al., "Measuring calibration in deep learning", 2019). Equal probabilities share a bin.

    Parameters
    ----------
    y : (N,) of 0 and 1.
    probs : (N,).
    """
    edges = np.quantile(probs, np.linspace(0, 1, N_BINS + 1)) if len(y) else np.zeros(N_BINS + 1)
    bin_of_image = np.searchsorted(edges[1:-1], probs)
    n = np.bincount(bin_of_image, minlength=N_BINS)
    is_filled = n > 0
    n = n[is_filled]
    return Reliability(
        n=n,
        mean_prob=np.bincount(bin_of_image, probs, minlength=N_BINS)[is_filled] / n,
        share_positive=np.bincount(bin_of_image, y, minlength=N_BINS)[is_filled] / n,
    )


def brier(labels: Labels, probs: Floats) -> Doubles:
    """Mean squared error of each label's probabilities: (L,) (Brier, 1950).

    Over the images of known label; NaN if there are none.
    """
    error = np.where(labels >= 0, (probs - labels) ** 2, 0)
    return np.asarray(_ratio(error.sum(axis=0), (labels >= 0).sum(axis=0)), np.float64)


def brier_of_prevalence(labels: Labels) -> Doubles:
    """Brier score of the best constant, each label's prevalence in these images: (L,)."""
    share = prevalence(labels)
    return np.asarray(share * (1 - share), np.float64)


def prevalence(labels: Labels) -> Doubles:
    """Share of positive images among those of known label: (L,), NaN if there are none."""
    return _ratio((labels == 1).sum(axis=0), (labels >= 0).sum(axis=0))


def _ratio(part: Any, whole: Any) -> Doubles:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.true_divide(part, whole), np.float64)
