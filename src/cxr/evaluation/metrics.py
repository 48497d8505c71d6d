"""Ranking metrics, used to select epochs in training and reported by evaluation."""

from typing import Any, cast

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr.arrays import Doubles, Flags, Floats, Labels


def auroc(labels: Labels, scores: Floats) -> Doubles:
    """Area under the ROC curve of every label; NaN if a label has one class only.

    Parameters
    ----------
    labels : (N, L) of 0, 1 and UNKNOWN, which is left out.
    scores : (N, L), higher for positive; any monotone scale.
    """
    return _by_label(roc_auc_score, labels, scores)


def average_precision(labels: Labels, scores: Floats) -> Doubles:
    """Average precision of every label; NaN if it has one class only. Chance is prevalence."""
    return _by_label(average_precision_score, labels, scores)


def macro(values: Doubles) -> float:
    """Mean over the labels with a defined value; NaN if there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def has_both_classes(labels: Labels) -> Flags:
    """Which labels (L,) have both positive and negative images; the others can't be ranked."""
    return np.asarray((labels == 1).any(axis=0) & (labels == 0).any(axis=0), np.bool_)


def known(y: Labels, *values: Floats) -> tuple[Any, ...]:
    """A label (N,) and values of the same images (..., N), without images of unknown label."""
    is_known = y >= 0
    return y[is_known], *(each[..., is_known] for each in values)


def sigmoid(logits: Floats) -> Doubles:
    """Probabilities from logits, in double precision."""
    x = logits.astype(np.float64)
    return cast(Doubles, np.exp(-np.logaddexp(0, -x)))


def _by_label(measure: Any, labels: Labels, scores: Floats) -> Doubles:
    values = np.full(labels.shape[1], np.nan)
    for i in np.flatnonzero(has_both_classes(labels)):
        y, s = known(labels[:, i], scores[:, i])
        values[i] = measure(y, s)
    return values
