"""How sure a number is: bootstrap intervals and DeLong's variance.

A resample draws units with replacement: patients where they are known, since the images of one
patient are alike, and images where they are not. Every model and label is measured on the same
resamples, so that differences are paired.
"""

from collections.abc import Callable, Iterator
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
BLOCK = 256  # resamples at once: what stays in a processor's cache beside the images

MEASURES = {"auroc": metrics.auroc, "ap": metrics.average_precision}

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Resamples:
    """Draws with replacement of patients, or of images where no patients are known."""

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
        """How often each image stands in each resample, (N, BLOCK) at a time; always the same."""
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
        """Mean over the labels where it is defined."""
        return metrics.macro(self.values)

    @property
    def macro_resampled(self) -> Doubles:
        """That mean on every resample: (B,), NaN where no label is defined.

        Where a resample lacks a label, the others' mean deviation stands for it: without that the
        mean would jump for having lost an easy or a hard label.
        """
        defined = ~np.isnan(self.values)
        deviations = self.resampled[:, defined] - self.values[defined]
        n_there = (~np.isnan(deviations)).sum(axis=1)
        with np.errstate(invalid="ignore"):
            return cast(Doubles, self.macro + np.nansum(deviations, axis=1) / n_there)

    def minus(self, other: "Estimate") -> "Estimate":
        """The paired difference to another on the same resamples."""
        return Estimate(self.values - other.values, self.resampled - other.resampled)


def draw(
    n_images: int, patients: npt.NDArray[Any] | None, n_resamples: int, seed: int
) -> Resamples:
    """Resamples of images, by patient where `patients` (N,) names them."""
    if patients is None:
        return Resamples("image", np.arange(n_images), n_images, n_resamples, seed)
    known, unit_of_image = np.unique(patients, return_inverse=True)
    return Resamples("patient", unit_of_image, len(known), n_resamples, seed)


def estimate(
    labels: Labels, scores: dict[str, Floats], resamples: Resamples, progress: Progress
) -> dict[str, dict[str, Estimate]]:
    """`auroc` and `ap` of every label of every model, on the images and on every resample.

    Equal to sklearn's `roc_auc_score` and `average_precision_score` with the counts as weights,
    ties included, in seconds instead of minutes: a label is sorted once, and between two
    neighbouring positives only the number of negatives matters, which a sparse product counts for
    all resamples.

    Parameters
    ----------
    labels : (N, L) of 0 and 1.
    scores : of each model, (N, L).
    progress : told how many of how many resamples are done.
    """
    shape = (resamples.n, labels.shape[1])
    counters = {
        name: [_Counter.of(y, s) for y, s in zip(labels.T, model.T, strict=True)]
        for name, model in scores.items()
    }
    estimates = {
        name: {
            measure: Estimate(of_images(labels, model), np.full(shape, np.nan))
            for measure, of_images in MEASURES.items()
        }
        for name, model in scores.items()
    }
    if resamples.n_units < 2:  # all resamples are the same
        return estimates
    done = 0
    for block in resamples.blocks():
        counts = block.astype(np.float32)
        rows = slice(done, done + counts.shape[1])
        positive = labels.T.astype(np.float32) @ counts
        negative = counts.sum(axis=0) - positive
        for name, of_label in counters.items():
            for label, counter in enumerate(of_label):
                if counter is not None:
                    areas, precisions = counter.measure(counts, positive[label], negative[label])
                    estimates[name]["auroc"].resampled[rows, label] = areas
                    estimates[name]["ap"].resampled[rows, label] = precisions
        done = rows.stop
        progress(done, resamples.n)
    return estimates


@dataclass(frozen=True)
class _Counter:
    """Counts, for each distinct score of a positive, what stands there and just above it."""

    n: int  # distinct scores of positives
    matrix: Any  # sparse (3 n, N): positives there, negatives there, negatives above

    @classmethod
    def of(cls, y: Labels, scores: Floats) -> "_Counter | None":
        if not 0 < y.sum() < len(y):
            return None
        # From the highest score down, so that rank 0 is the best of the positives.
        levels = np.unique(-scores[y == 1].astype(np.float64))
        first = np.searchsorted(levels, -scores, side="left")
        there = (first < len(levels)) & (levels[np.minimum(first, len(levels) - 1)] == -scores)
        row = np.where(y == 1, first, np.where(there, first + len(levels), first + 2 * len(levels)))
        counted = first < len(levels)  # a negative below every positive costs nothing
        columns = np.flatnonzero(counted)
        ones = np.ones(len(columns), np.float32)
        shape = (3 * len(levels), len(y))
        return cls(len(levels), sparse.csr_matrix((ones, (row[counted], columns)), shape=shape))

    def measure(
        self, counts: Floats, positive: Floats, negative: Floats
    ) -> tuple[Doubles, Doubles]:
        """AUROC and average precision of each resample, NaN where a class is not in it."""
        found = np.asarray(self.matrix @ counts).reshape(3, self.n, -1)
        positives, ties, above = found
        # Counts stay whole and below 2 ** 24, so single precision is exact.
        before = np.cumsum(ties + above, axis=0) - ties
        true = np.cumsum(positives, axis=0)
        predicted_positive = true + before + ties
        with np.errstate(invalid="ignore", divide="ignore"):
            lost = np.einsum("kb,kb->b", positives, before + ties / 2, dtype=np.float64)
            areas = 1 - lost / (positive.astype(np.float64) * negative)
            precision = np.zeros(true.shape)
            np.divide(
                true,
                predicted_positive,
                out=precision,
                where=predicted_positive > 0,
                dtype=np.float64,
            )
            precisions = np.einsum("kb,kb->b", positives, precision, dtype=np.float64) / positive
        undefined = (positive == 0) | (negative == 0)
        areas[undefined] = precisions[undefined] = np.nan
        return areas, precisions


def interval(value: float, resampled: Doubles) -> tuple[float, float]:
    """Interval of an area under a curve, by its resamples' standard error on the logit scale.

    On that scale the resamples are nearly normal; their percentiles miss a high area too often when
    positives are few (docs/evaluation.md has the coverage of both). Where some resamples are
    perfect the scale has no end and percentiles are taken; a perfect area has no interval.
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
    y : (N,) of 0 and 1, both of them there.
    scores : (M, N), one row a model.

    Returns
    -------
    (M,) areas and (M, M) covariance, NaN with fewer than two of a class.
    """
    positive, negative = scores[:, y == 1], scores[:, y == 0]
    m, n = positive.shape[1], negative.shape[1]
    together = rankdata(np.hstack([positive, negative]), axis=1)
    # Of each positive the share of negatives below it, and of each negative of positives above it.
    by_positive = (together[:, :m] - rankdata(positive, axis=1)) / n
    by_negative = 1 - (together[:, m:] - rankdata(negative, axis=1)) / m
    areas = by_positive.mean(axis=1)
    if min(m, n) < 2:
        return areas, np.full((len(scores), len(scores)), np.nan)
    covariance = np.atleast_2d(np.cov(by_positive)) / m + np.atleast_2d(np.cov(by_negative)) / n
    return areas, cast(Doubles, covariance)


def delong_interval(area: float, variance: float) -> tuple[float, float]:
    """Interval of DeLong's variance on the logit scale, by the delta method."""
    if np.isnan(variance) or not 0 < area < 1:
        return float("nan"), float("nan")
    return _around(area, float(np.sqrt(variance)) / (area * (1 - area)))


def _around(area: float, error: float) -> tuple[float, float]:
    """The interval whose half width is a normal quantile of the error on the logit scale."""
    half = QUANTILE * error
    low, high = expit(logit(area) + np.array([-half, half]))
    return float(low), float(high)
