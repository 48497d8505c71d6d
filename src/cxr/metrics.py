"""How good a model is, label by label, beside what a model that has learnt nothing scores."""

from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from sklearn.metrics import (
    average_precision_score,
    roc_auc_score,
    roc_curve,
)

from cxr.labels import LABELS

Floats = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]
Rule = Literal["youden", "f1"]

ONE_CLASS = "has images of one class only"


def auroc(labels: Labels, scores: Floats) -> npt.NDArray[np.float64]:
    """Area under the ROC curve of every label, NaN where only one class is there.

    Parameters
    ----------
    labels : (N, L) of 0 and 1.
    scores : (N, L), higher for positive; any monotone scale.
    """
    return _by_label(roc_auc_score, labels, scores)


def average_precision(labels: Labels, scores: Floats) -> npt.NDArray[np.float64]:
    """Average precision of every label, NaN where only one class is there; chance is prevalence."""
    return _by_label(average_precision_score, labels, scores)


def macro(values: npt.NDArray[np.float64]) -> float:
    """Mean over the labels where the value is defined; NaN where it is defined for none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def thresholds(labels: Labels, probs: Floats, rule: Rule) -> npt.NDArray[np.float64]:
    """The probability of each label from which on it counts as positive, NaN with one class.

    `youden` takes the largest sensitivity + specificity - 1 (Youden, "Index for rating diagnostic
    tests", 1950), `f1` the largest F1; of equal ones the highest threshold.
    """
    choose = {"youden": _youden, "f1": _best_f1}[rule]
    return _by_label(choose, labels, probs)


def sigmoid(logits: Floats) -> npt.NDArray[np.float64]:
    """Probabilities of logits, in double precision."""
    x = logits.astype(np.float64)
    return cast(npt.NDArray[np.float64], np.exp(-np.logaddexp(0, -x)))


def describe(labels: Labels, probs: Floats, cut: npt.NDArray[np.float64]) -> dict[str, Any]:
    """One split of one model in the shape of `reports/metrics.json`.

    Parameters
    ----------
    labels : (N, L) of 0 and 1.
    probs : (N, L) probabilities.
    cut : (L,) thresholds chosen on another split; NaN where there is none.

    Returns
    -------
    A mapping that JSON can hold. What is undefined is None, and `undefined` says why.
    """
    areas, precisions = auroc(labels, probs), average_precision(labels, probs)
    right = (probs >= 0.5) == labels
    square_error = (probs - labels) ** 2
    undefined: list[dict[str, str]] = []
    by_label: dict[str, Any] = {}
    for i, name in enumerate(LABELS):
        y = labels[:, i] == 1
        if np.isnan(areas[i]):
            undefined.append({"label": name, "what": "auroc, ap", "why": ONE_CLASS})
        if np.isnan(cut[i]):
            undefined.append(
                {"label": name, "what": "threshold", "why": f"the validation split {ONE_CLASS}"}
            )
        by_label[name] = {
            "n_positive": int(y.sum()),
            "prevalence": float(y.mean()),
            "auroc": _or_none(areas[i]),
            "ap": _or_none(precisions[i]),
            "accuracy": float(right[:, i].mean()),
            "accuracy_all_negative": float(1 - y.mean()),
            "brier": float(square_error[:, i].mean()),
            "threshold": _or_none(cut[i]),
            **_at_threshold(y, probs[:, i], cut[i]),
        }
    return {
        "n": len(labels),
        "n_labels": int((~np.isnan(areas)).sum()),
        "macro_auroc": _or_none(macro(areas)),
        "macro_ap": _or_none(macro(precisions)),
        "accuracy": float(right.mean()),
        "accuracy_gain": float(right.mean() - all_negative(labels)["accuracy"]),
        "brier": float(square_error.mean()),
        "labels": by_label,
        "undefined": undefined,
    }


def all_negative(labels: Labels) -> dict[str, float]:
    """What "no" for every label of every image scores: nothing is learnt, and accuracy is high."""
    return {
        "accuracy": float((labels == 0).mean()),
        "macro_auroc": 0.5,
        "brier": float((labels == 1).mean()),
    }


def _by_label(measure: Any, labels: Labels, scores: Floats) -> npt.NDArray[np.float64]:
    values = np.full(labels.shape[1], np.nan)
    for i, (y, s) in enumerate(zip(labels.T, scores.T, strict=True)):
        if 0 < y.sum() < len(y):
            values[i] = measure(y, s)
    return values


def _youden(y: Labels, probs: Floats) -> float:
    cut, true_positives, false_positives = _at_every_cut(y, probs)
    # Times both class sizes, so that equal values are equal to the last bit.
    j = true_positives * int((y == 0).sum()) - false_positives * int(y.sum())
    return float(cut[np.argmax(j)])


def _best_f1(y: Labels, probs: Floats) -> float:
    cut, true_positives, false_positives = _at_every_cut(y, probs)
    f1 = 2 * true_positives / (true_positives + false_positives + int(y.sum()))
    return float(cut[np.argmax(f1)])


def _at_every_cut(y: Labels, probs: Floats) -> tuple[Floats, Counts, Counts]:
    """Every distinct probability from the highest down, with the positives called by it."""
    false_rate, true_rate, cut = roc_curve(y, probs, drop_intermediate=False)
    n_positive = int(y.sum())
    true_positives = np.rint(true_rate[1:] * n_positive).astype(np.int64)
    false_positives = np.rint(false_rate[1:] * (len(y) - n_positive)).astype(np.int64)
    return cut[1:], true_positives, false_positives


def _at_threshold(y: npt.NDArray[np.bool_], probs: Floats, cut: float) -> dict[str, float | None]:
    called = probs >= cut
    n_positive, n_negative = int(y.sum()), int((~y).sum())
    known = not np.isnan(cut)
    return {
        "sensitivity": float((called & y).sum() / n_positive) if known and n_positive else None,
        "specificity": float((~called & ~y).sum() / n_negative) if known and n_negative else None,
    }


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
