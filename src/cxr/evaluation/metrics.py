"""Ranking metrics, used to select epochs in training and reported by evaluation."""

from typing import Any, cast

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr.arrays import Doubles, Floats, Labels


def auroc(labels: Labels, scores: Floats) -> Doubles:
    """Area under the ROC curve of every label; NaN if a label has one class only.

    Parameters
    ----------
    labels : (N, L) of 0 and 1.
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


def sigmoid(logits: Floats) -> Doubles:
    """Probabilities from logits, in double precision."""
    x = logits.astype(np.float64)
    return cast(Doubles, np.exp(-np.logaddexp(0, -x)))


def _by_label(measure: Any, labels: Labels, scores: Floats) -> Doubles:
    values = np.full(labels.shape[1], np.nan)
    for i, (y, s) in enumerate(zip(labels.T, scores.T, strict=True)):
        if 0 < y.sum() < len(y):
            values[i] = measure(y, s)
    return values
