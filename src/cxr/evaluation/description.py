"""Metrics of one model on one split, by label and overall, and those of trivial baselines."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cxr.arrays import Doubles, Floats, Labels
from cxr.evaluation import metrics
from cxr.evaluation.calibration import brier, brier_of_prevalence, prevalence, reliability
from cxr.evaluation.decisions import CHOSEN_ON, OperatingPoint
from cxr.evaluation.intervals import LEVEL, Estimate, Resamples, delong, delong_interval, interval
from cxr.evaluation.metrics import has_both_classes, known

TRIVIAL = ALL_NEGATIVE, PREVALENCE = "all-negative", "prevalence"
ATTRIBUTES_ONLY = "attributes-only"  # where the images have attributes
BASELINES = (ATTRIBUTES_ONLY, *TRIVIAL)

TOO_NARROW = (
    "the data has no patient ids, so images are treated as independent and intervals are too narrow"
)
NO_DELONG = (
    "some patients have several images, so DeLong's intervals are not valid and are left out"
)

# Units per class. In a simulation with fewer, intervals missed the true value too often, and equal
# models were found different too often (docs/evaluation.md).
MIN_UNITS = 20

ONE_CLASS = "images of one class only"
NONE_KNOWN = "no image with a known value"
FEW = "too few images of a class for an interval"
PERFECT = "AUROC is exactly 0 or 1, so resampling gives no interval"
AT_THRESHOLD = {
    "sensitivity": "no positive image",
    "specificity": "no negative image",
    "ppv": "no image is predicted positive",
    "npv": "no image is predicted negative",
}


@dataclass(frozen=True)
class Predicted:
    """A model's predictions on a split, and its thresholds.

    Parameters
    ----------
    scores : (N, L), the scores that rank the images, higher for positive.
    probs : (N, L) probabilities.
    thresholds : (L,) chosen on other images; NaN if missing.
    no_threshold_reason : why a threshold is missing.
    uncalibrated : (N, L) probabilities before calibration; None without calibration.
    """

    scores: Floats
    probs: Floats
    thresholds: Doubles
    no_threshold_reason: str
    uncalibrated: Floats | None = None

    @classmethod
    def from_logits(cls, operating_point: OperatingPoint, logits: Floats) -> "Predicted":
        """Predictions at an operating point, from logits (N, L)."""
        calibration = operating_point.calibration
        return cls(
            scores=logits,
            probs=calibration.probs(logits),
            thresholds=operating_point.thresholds,
            no_threshold_reason=f"{CHOSEN_ON} has {ONE_CLASS}",
            uncalibrated=None if calibration.method == "none" else metrics.sigmoid(logits),
        )

    def take(self, columns: list[int]) -> "Predicted":
        """The predictions of these labels, in this order."""
        return replace(
            self,
            scores=np.ascontiguousarray(self.scores[:, columns]),
            probs=np.ascontiguousarray(self.probs[:, columns]),
            thresholds=self.thresholds[columns],
            uncalibrated=None
            if self.uncalibrated is None
            else np.ascontiguousarray(self.uncalibrated[:, columns]),
        )


def describe(
    labels: Labels,
    names: tuple[str, ...],
    model: Predicted,
    estimates: dict[str, Estimate],
    resamples: Resamples,
) -> dict[str, Any]:
    """Metrics of one model on one split, as in `reports/metrics.json`.

    Every metric uses the images whose label is known.

    Parameters
    ----------
    labels : (N, L) of 0, 1 and UNKNOWN.
    names : (L,), of the labels.
    estimates : `auroc` and `ap` on `resamples`.

    Returns
    -------
    A JSON-serialisable mapping. Undefined values are None, and `undefined` gives the reasons.
    """
    auroc, ap = estimates["auroc"], estimates["ap"]
    undefined: list[dict[str, str]] = []
    by_label = {}
    for i, name in enumerate(names):
        y, probs, scores = known(labels[:, i], model.probs[:, i], model.scores[:, i])
        numbers = {
            "n": len(y),
            "n_positive": int(y.sum()),
            "prevalence": float(prevalence(y)),
            **_ranking(y, scores, auroc, ap, resamples.independent, i),
            **_probabilities(y, probs),
            **_at_threshold(y, probs, float(model.thresholds[i])),
        }
        by_label[name] = {key: _or_none(value) for key, value in numbers.items()}
        undefined += _reasons(name, by_label[name], model.no_threshold_reason)
    ranking = {
        "macro_auroc": auroc.macro,
        "macro_auroc_ci": interval(auroc.macro, auroc.macro_resampled),
        "macro_ap": ap.macro,
        "macro_ap_ci": interval(ap.macro, ap.macro_resampled),
    }
    summary_metrics = {
        **{key: _or_none(value) for key, value in ranking.items()},
        **_summary_metrics(labels, model.probs),
    }
    if missing := [key for key, value in summary_metrics.items() if value is None]:
        macro_auroc = summary_metrics["macro_auroc"]
        why = ONE_CLASS if macro_auroc is None else PERFECT if macro_auroc in (0, 1) else FEW
        why = NONE_KNOWN if summary_metrics["accuracy"] is None else why
        undefined.append({"label": "all", "what": ", ".join(missing), "why": why})
    result = {
        "n": len(labels),
        "n_known": int((labels >= 0).sum()),
        "n_labels": int((~np.isnan(auroc.values)).sum()),
        **summary_metrics,
        "intervals": _interval_info(labels, names, resamples),
        "labels": by_label,
        "undefined": undefined,
    }
    if model.uncalibrated is not None:
        result["uncalibrated"] = _of_probabilities(labels, model.uncalibrated)
    return result


def baselines(labels: Labels) -> dict[str, dict[str, Any]]:
    """Metrics of the trivial baselines: all-negative, and each label's prevalence for all images.

    The prevalence is taken from these same images, so it is the best constant in hindsight.
    """
    best = prevalence(labels)
    chance = metrics.macro(np.where(has_both_classes(labels), best, np.nan))
    result = {}
    for name, probs in ((ALL_NEGATIVE, np.zeros(len(best))), (PREVALENCE, best)):
        constant = np.broadcast_to(probs, labels.shape)
        result[name] = {
            "n": len(labels),
            "n_labels": int(has_both_classes(labels).sum()),
            "macro_auroc": 0.5 if has_both_classes(labels).any() else None,
            "macro_ap": _or_none(chance),
            **_summary_metrics(labels, constant),
        }
    return result


def _ranking(
    y: Labels, scores: Floats, auroc: Estimate, ap: Estimate, independent: bool, i: int
) -> dict[str, Any]:
    """Ranking metrics of label `i`, with intervals, from images of known label."""
    result = {
        "auroc": float(auroc.values[i]),
        "auroc_ci": interval(auroc.values[i], auroc.resampled[:, i]),
        "ap": float(ap.values[i]),
        "ap_ci": interval(ap.values[i], ap.resampled[:, i]),
        "resamples_left_out": int(np.isnan(auroc.resampled[:, i]).sum()),
    }
    if independent:
        result["auroc_delong_ci"] = (np.nan, np.nan)
        if has_both_classes(y):
            value, variance = delong(y, scores[None])
            result["auroc_delong_ci"] = delong_interval(float(value[0]), float(variance[0, 0]))
    return result


def _probabilities(y: Labels, probs: Floats) -> dict[str, Any]:
    """Accuracy, Brier score and calibration of a label's probabilities."""
    accuracy, all_negative = _accuracy(y, probs), 1 - float(prevalence(y))
    score, reference = float(brier(y, probs)), float(brier_of_prevalence(y))
    curve = reliability(y, probs)
    return {
        "accuracy": accuracy,
        "accuracy_all_negative": all_negative,
        "accuracy_gain": accuracy - all_negative,
        "brier": score,
        "brier_skill": _ratio(reference - score, reference),
        "ece": curve.error,
        "ece_by_chance": curve.error_by_chance,
        "reliability": {
            "n": curve.n.tolist(),
            "mean_prob": curve.mean_prob.tolist(),
            "share_positive": curve.share_positive.tolist(),
        },
    }


def _at_threshold(y: Labels, probs: Floats, threshold: float) -> dict[str, float]:
    """Metrics of a label's binary predictions; positive from the threshold on."""
    if np.isnan(threshold):
        return dict.fromkeys(("threshold", *AT_THRESHOLD), np.nan)
    predicted_positive, is_positive = probs >= threshold, y == 1
    correct = predicted_positive == is_positive
    return {
        "threshold": threshold,
        "sensitivity": _ratio(int((correct & is_positive).sum()), int(is_positive.sum())),
        "specificity": _ratio(int((correct & ~is_positive).sum()), int((~is_positive).sum())),
        "ppv": _ratio(int((correct & predicted_positive).sum()), int(predicted_positive.sum())),
        "npv": _ratio(int((correct & ~predicted_positive).sum()), int((~predicted_positive).sum())),
    }


def _accuracy(labels: Labels, probs: Floats) -> float:
    # A prediction, 0 or 1, never equals an unknown label, -1.
    return _ratio(int(((probs >= 0.5) == labels).sum()), int((labels >= 0).sum()))


def _summary_metrics(labels: Labels, probs: Floats) -> dict[str, Any]:
    """Accuracy over all known values, and metrics of the probabilities."""
    accuracy = _accuracy(labels, probs)
    all_negative = _ratio(int((labels == 0).sum()), int((labels >= 0).sum()))
    of_decisions = {
        "accuracy": accuracy,
        "accuracy_all_negative": all_negative,
        "accuracy_gain": accuracy - all_negative,
    }
    return {key: _or_none(value) for key, value in of_decisions.items()} | _of_probabilities(
        labels, probs
    )


def _of_probabilities(labels: Labels, probs: Floats) -> dict[str, Any]:
    """Means over the labels with known values, and the skill of the mean Brier score."""
    score = metrics.macro(brier(labels, probs))
    reference = metrics.macro(brier_of_prevalence(labels))
    pairs = (known(y, p) for y, p in zip(labels.T, probs.T, strict=True))
    errors = np.array([reliability(y, p).error for y, p in pairs])
    values = {
        "brier": score,
        "brier_skill": _ratio(reference - score, reference),
        "ece": metrics.macro(errors),
    }
    return {key: _or_none(value) for key, value in values.items()}


def _reasons(label: str, numbers: dict[str, Any], no_threshold_reason: str) -> list[dict[str, str]]:
    """Why metrics of a label are None, grouped by reason."""
    keys_of: dict[str, list[str]] = {}
    for key, value in numbers.items():
        if value is not None:
            continue
        if not numbers["n"]:
            why = NONE_KNOWN
        elif key == "threshold" or (key in AT_THRESHOLD and numbers["threshold"] is None):
            why = no_threshold_reason
        elif key in AT_THRESHOLD:
            why = AT_THRESHOLD[key]
        else:
            auroc = numbers["auroc"]
            why = ONE_CLASS if auroc is None else PERFECT if auroc in (0, 1) else FEW
        keys_of.setdefault(why, []).append(key)
    return [{"label": label, "what": ", ".join(keys), "why": why} for why, keys in keys_of.items()]


def _interval_info(labels: Labels, names: tuple[str, ...], resamples: Resamples) -> dict[str, Any]:
    """How the intervals were made, and the labels with too few units for reliable ones."""
    info: dict[str, Any] = {
        "level": LEVEL,
        "unit": resamples.unit,
        "n_units": resamples.n_units,
        "n_resamples": resamples.n,
        "unsure": labels_with_few(labels, names, resamples),
    }
    if resamples.unit == "image":
        info["note"] = TOO_NARROW
    elif not resamples.independent:
        info["note"] = NO_DELONG
    return info


def labels_with_few(labels: Labels, names: tuple[str, ...], resamples: Resamples) -> list[str]:
    """The labels with too few units of a class for reliable intervals, but some of both."""
    few = []
    for y, name in zip(labels.T, names, strict=True):
        n_units = [len(np.unique(resamples.unit_of_image[y == value])) for value in (0, 1)]
        if 0 < min(n_units) < MIN_UNITS:
            few.append(name)
    return few


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _or_none(value: Any) -> Any:
    """NaN as None, an interval as a list."""
    if isinstance(value, tuple):
        return None if np.isnan(value[0]) else list(value)
    return None if isinstance(value, float) and np.isnan(value) else value
