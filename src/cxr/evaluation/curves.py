"""ROC and precision-recall curves with few enough points to draw."""

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from cxr.arrays import Doubles, Floats, Labels

MAX_POINTS = 200


@dataclass(frozen=True)
class Curve:
    """Points of one label's curve in drawing order: (K,)."""

    x: Doubles
    y: Doubles


def roc(y: Labels, scores: Floats) -> Curve:
    """False positive rate and sensitivity of a label (N,) that has both classes."""
    false_rate, true_rate, _ = roc_curve(y, scores)
    return _thinned(false_rate, true_rate)


def precision_recall(y: Labels, scores: Floats) -> Curve:
    """Recall and precision of a label (N,) that has both classes."""
    precision, recall, _ = precision_recall_curve(y, scores, drop_intermediate=True)
    # The last point, precision 1 at recall 0, is added by sklearn and has no threshold.
    return _thinned(recall[-2::-1], precision[-2::-1])


def _thinned(x: Doubles, y: Doubles) -> Curve:
    index = np.unique(np.linspace(0, len(x) - 1, MAX_POINTS).round().astype(np.int64))
    return Curve(x[index], y[index])
