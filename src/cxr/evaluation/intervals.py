"""Confidence intervals: bootstrap and DeLong's variance.

A resample draws units with replacement: patients if they are known, since the images of one
patient are similar, otherwise images. All models and labels are evaluated on the same resamples,
so that differences are paired.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

from cxr.arrays import Doubles, Floats, Labels
from cxr.evaluation import metrics

LEVEL = 0.95
QUANTILE = float(norm.ppf((1 + LEVEL) / 2))
BLOCK = 256  # resamples per block, small enough for a processor's cache

MEASURES = ("auroc", "ap")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Resamples:
    """Draws with replacement of patients, or of images if no patients are known."""

    unit: Literal["image", "patient"]
    unit_of_image: npt.NDArray[np.int64]  # (N,) from 0 to n_units - 1
    n_units: int
    n: int
    seed: int

    @property
    def independent(self) -> bool:
        """Whether no two images are known to be of one patient."""
        return self.n_units == len(self.unit_of_image)

    def blocks(self) -> Iterator[npt.NDArray[np.uint16]]:
        """How often each image is in each resample, (N, BLOCK) at a time; the same on each call."""
        rng = np.random.default_rng(self.seed)
        for start in range(0, self.n, BLOCK):
            drawn = np.empty((self.n_units, min(BLOCK, self.n - start)), np.uint16)
            for column in drawn.T:
                units = rng.integers(0, self.n_units, self.n_units)
                column[:] = np.bincount(units, minlength=self.n_units)
            yield drawn[self.unit_of_image]


@dataclass(frozen=True)
class Estimate:
    """One measure of every label on the images themselves, (L,), and on resamples, (B, L)."""

    values: Doubles
    resampled: Doubles

    @property
    def macro(self) -> float:
        """Mean over the labels for which the measure is defined."""
        return metrics.macro(self.values)

    @property
    def macro_resampled(self) -> Doubles:
        """That mean on every resample: (B,), NaN if no label is defined.

        If a label is undefined on a resample, the mean difference of the other labels from their
        full values replaces its own: otherwise losing an easy or a hard label would shift the mean.
        """
        defined = ~np.isnan(self.values)
        differences = self.resampled[:, defined] - self.values[defined]
        n_defined = (~np.isnan(differences)).sum(axis=1)
        with np.errstate(invalid="ignore"):
            return cast(Doubles, self.macro + np.nansum(differences, axis=1) / n_defined)

    def minus(self, other: "Estimate") -> "Estimate":
        """The paired difference to another estimate on the same resamples."""
        return Estimate(self.values - other.values, self.resampled - other.resampled)


def draw(
    n_images: int, patients: npt.NDArray[Any] | None, n_resamples: int, seed: int
) -> Resamples:
    """Resamples of images, by patient if `patients` (N,) is given."""
    if patients is None:
        return Resamples("image", np.arange(n_images), n_images, n_resamples, seed)
    units, unit_of_image = np.unique(patients, return_inverse=True)
    return Resamples("patient", unit_of_image, len(units), n_resamples, seed)


def estimate(
    labels: Labels, scores: Mapping[str, Floats], resamples: Resamples, progress: Progress
) -> dict[str, dict[str, Estimate]]:
    """`auroc` and `ap` of every label of every model, on the images and on every resample.

    Equal to sklearn's `roc_auc_score` and `average_precision_score` with the counts as weights,
    including ties, in seconds instead of minutes: each label is sorted once, and between two
    adjacent positives only the number of negatives matters, which a sparse product counts for all
    resamples.

    Parameters
    ----------
    labels : (N, L) of 0, 1 and UNKNOWN, which is left out.
    scores : by model, (N, L).
    progress : called with the numbers of finished and of all resamples.
    """
    counters = {
        name: [_Counter.of(y, s) for y, s in zip(labels.T, model.T, strict=True)]
        for name, model in scores.items()
    }
    is_positive, is_negative = ((labels == value).T.astype(np.float32) for value in (1, 0))

    def measured(counts: Floats) -> dict[str, dict[str, Doubles]]:
        """By model and measure, (B, L), for counts (N, B) of each image."""
        positive, negative = is_positive @ counts, is_negative @ counts
        found = {}
        for name, of_label in counters.items():
            both = np.full((2, counts.shape[1], len(of_label)), np.nan)
            for label, counter in enumerate(of_label):
                if counter is not None:
                    both[:, :, label] = counter.measure(counts, positive[label], negative[label])
            found[name] = dict(zip(MEASURES, both, strict=True))
        return found

    shape = (resamples.n, labels.shape[1])
    of_images = measured(np.ones((len(labels), 1), np.float32))
    estimates = {
        name: {
            measure: Estimate(values[0], np.full(shape, np.nan))
            for measure, values in by_measure.items()
        }
        for name, by_measure in of_images.items()
    }
    if resamples.n_units < 2:  # all resamples are the same
        return estimates
    done = 0
    for block in resamples.blocks():
        rows = slice(done, done + block.shape[1])
        for name, by_measure in measured(block.astype(np.float32)).items():
            for measure, values in by_measure.items():
                estimates[name][measure].resampled[rows] = values
        done = rows.stop
        progress(done, resamples.n)
    return estimates


def estimate_shares(
    shares: Mapping[str, tuple[Floats, Floats]], resamples: Resamples
) -> dict[str, Estimate]:
    """Means of columns over chosen images, on the images and on every resample.

    Parameters
    ----------
    shares : by name, values (N, C), 0 for images that are not chosen, and the choice (N, C).
    """
    estimates, factors = {}, {}
    with np.errstate(invalid="ignore"):  # a mean over no image is NaN
        for name, (values, chosen) in shares.items():
            of_images = values.sum(axis=0, dtype=np.float64) / chosen.sum(axis=0)
            estimates[name] = Estimate(of_images, np.full((resamples.n, len(of_images)), np.nan))
            factors[name] = values.astype(np.float32), chosen.astype(np.float32)
        if resamples.n_units < 2:  # all resamples are the same
            return estimates
        done = 0
        for block in resamples.blocks():
            counts = block.T.astype(np.float32)
            rows = slice(done, done + len(counts))
            for name, (values, chosen) in factors.items():
                estimates[name].resampled[rows] = (counts @ values) / (counts @ chosen)
            done = rows.stop
    return estimates


@dataclass(frozen=True)
class _Counter:
    """Counts the images at each distinct score of a positive, and the negatives just above."""

    n: int  # distinct scores of positives
    matrix: Any  # sparse (3 n, N): positives at, negatives at, negatives above each score

    @classmethod
    def of(cls, y: Labels, scores: Floats) -> "_Counter | None":
        if not metrics.has_both_classes(y):
            return None
        # Negated, so that rank 0 is the highest score of a positive.
        levels = np.unique(-scores[y == 1].astype(np.float64))
        first = np.searchsorted(levels, -scores, side="left")
        tied = (first < len(levels)) & (levels[np.minimum(first, len(levels) - 1)] == -scores)
        row = np.where(y == 1, first, np.where(tied, first + len(levels), first + 2 * len(levels)))
        counted = (first < len(levels)) & (y >= 0)  # negatives below all positives do not matter
        columns = np.flatnonzero(counted)
        ones = np.ones(len(columns), np.float32)
        shape = (3 * len(levels), len(y))
        return cls(len(levels), sparse.csr_matrix((ones, (row[counted], columns)), shape=shape))

    def measure(
        self, counts: Floats, positive: Floats, negative: Floats
    ) -> tuple[Doubles, Doubles]:
        """AUROC and average precision of each resample; NaN if it lacks a class."""
        positives, ties, above = np.asarray(self.matrix @ counts).reshape(3, self.n, -1)
        # Counts are integers below 2 ** 24, so single precision is exact.
        before = np.cumsum(ties + above, axis=0) - ties
        true = np.cumsum(positives, axis=0)
        predicted_positive = true + before + ties
        with np.errstate(invalid="ignore", divide="ignore"):
            lost = np.einsum("kb,kb->b", positives, before + ties / 2, dtype=np.float64)
            aurocs = 1 - lost / (positive.astype(np.float64) * negative)
            precision = np.zeros(true.shape)
            np.divide(
                true,
                predicted_positive,
                out=precision,
                where=predicted_positive > 0,
                dtype=np.float64,
            )
            aps = np.einsum("kb,kb->b", positives, precision, dtype=np.float64) / positive
        undefined = (positive == 0) | (negative == 0)
        aurocs[undefined] = aps[undefined] = np.nan
        return aurocs, aps


def interval(value: float, resampled: Doubles) -> tuple[float, float]:
    """Interval of an area under a curve, from its resamples' standard error on the logit scale.

    On that scale the resamples are nearly normal; percentile intervals miss a high area too often
    if positives are few (docs/evaluation.md has the coverage of both). If some resamples are 0 or
    1, where the logit is infinite, percentiles are used. An area of 0 or 1 has no interval.
    """
    defined = resampled[~np.isnan(resampled)]
    if len(defined) < 2 or np.isnan(value) or not 0 < value < 1:
        return float("nan"), float("nan")
    if defined.min() <= 0 or defined.max() >= 1:
        low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)
    return _around(value, float(np.std(logit(defined), ddof=1)))


def delong(y: Labels, scores: Floats) -> tuple[Doubles, Doubles]:
    """AUROC of each model on one label, and their covariance.

    DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated receiver
    operating characteristic curves", 1988, by midranks as in Sun and Xu, 2014. Images must be
    independent.

    Parameters
    ----------
    y : (N,) of 0 and 1, with both classes.
    scores : (M, N), one row per model.

    Returns
    -------
    (M,) AUROC and (M, M) covariance; NaN if a class has fewer than two images.
    """
    positive, negative = scores[:, y == 1], scores[:, y == 0]
    m, n = positive.shape[1], negative.shape[1]
    ranks = rankdata(np.hstack([positive, negative]), axis=1)
    # The share of negatives below each positive, and of positives above each negative.
    by_positive = (ranks[:, :m] - rankdata(positive, axis=1)) / n
    by_negative = 1 - (ranks[:, m:] - rankdata(negative, axis=1)) / m
    aurocs = by_positive.mean(axis=1)
    if min(m, n) < 2:
        return aurocs, np.full((len(scores), len(scores)), np.nan)
    covariance = np.atleast_2d(np.cov(by_positive)) / m + np.atleast_2d(np.cov(by_negative)) / n
    return aurocs, cast(Doubles, covariance)


def delong_interval(area: float, variance: float) -> tuple[float, float]:
    """Interval from DeLong's variance on the logit scale, by the delta method."""
    if np.isnan(variance) or not 0 < area < 1:
        return float("nan"), float("nan")
    return _around(area, float(np.sqrt(variance)) / (area * (1 - area)))


def _around(area: float, error: float) -> tuple[float, float]:
    """A normal interval on the logit scale, where `error` is the standard error."""
    half = QUANTILE * error
    low, high = expit(logit(area) + np.array([-half, half]))
    return float(low), float(high)
