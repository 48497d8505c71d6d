"""One model on one split, label by label and summed up, and what the unlearned baselines score."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from cxr.arrays import Doubles, Floats, Labels
from cxr.evaluation import metrics
from cxr.evaluation.calibration import brier, brier_of_prevalence, reliability
from cxr.evaluation.decisions import CHOSEN_ON, OperatingPoint, has_both_classes
from cxr.evaluation.intervals import LEVEL, Estimate, Resamples, delong, delong_interval, interval
from cxr.labels import LABELS

BASELINES = ALL_NEGATIVE, PREVALENCE = "all-negative", "prevalence"

TOO_NARROW = (
    "the data names no patients: images are taken as independent, and the intervals are too narrow"
)
NO_DELONG = "patients have several images, so DeLong's intervals do not hold and are left out"

# Units of a class; with fewer, a simulation finds, intervals miss too often and equal models
# are called different too often (docs/evaluation.md).
FEWEST = 20

ONE_CLASS = "images of one class only"
FEW = "too few images of a class for an interval"
PERFECT = (
    "ranked without a mistake, or with nothing but: no resample tells how far from that it may be"
)
AT_THRESHOLD = {
    "sensitivity": "no positive image",
    "specificity": "no negative image",
    "ppv": "no image is called positive",
    "npv": "no image is called negative",
}


@dataclass(frozen=True)
class Predicted:
    """What a model says of a split's images, and how it was made to say yes or no.

    Parameters
    ----------
    scores : (N, L), what it ranks by, higher for positive.
    probs : (N, L) probabilities.
    thresholds : (L,) chosen on other images, NaN where there is none.
    why_none : why a threshold is not there.
    uncalibrated : (N, L) probabilities before calibration, where there was one.
    """

    scores: Floats
    probs: Floats
    thresholds: Doubles
    why_none: str
    uncalibrated: Floats | None = None

    @classmethod
    def by(cls, decision: OperatingPoint, logits: Floats) -> "Predicted":
        """What a model says by its decision, of logits (N, L)."""
        calibration = decision.calibration
        return cls(
            scores=logits,
            probs=calibration.probs(logits),
            thresholds=decision.thresholds,
            why_none=f"{CHOSEN_ON} has {ONE_CLASS}",
            uncalibrated=None if calibration.method == "none" else metrics.sigmoid(logits),
        )


def describe(
    labels: Labels, model: Predicted, estimates: dict[str, Estimate], resamples: Resamples
) -> dict[str, Any]:
    """One split of one model in the shape of `reports/metrics.json`.

    Parameters
    ----------
    labels : (N, L) of 0 and 1.
    estimates : `auroc` and `ap` on `resamples`.

    Returns
    -------
    A mapping that JSON can hold. What is undefined is None, and `undefined` says why.
    """
    areas, precisions = estimates["auroc"], estimates["ap"]
    undefined: list[dict[str, str]] = []
    by_label = {}
    for i, name in enumerate(LABELS):
        y, probs = labels[:, i], model.probs[:, i]
        numbers = {
            "n_positive": int(y.sum()),
            "prevalence": float(y.mean()),
            **_ranking(y, model.scores[:, i], areas, precisions, resamples.independent, i),
            **_probabilities(y, probs),
            **_at_threshold(y, probs, float(model.thresholds[i])),
        }
        by_label[name] = {key: _or_none(value) for key, value in numbers.items()}
        undefined += _reasons(name, by_label[name], model.why_none)
    ranking = {
        "macro_auroc": areas.macro,
        "macro_auroc_ci": interval(areas.macro, areas.macro_resampled),
        "macro_ap": precisions.macro,
        "macro_ap_ci": interval(precisions.macro, precisions.macro_resampled),
    }
    accuracy, all_negative = _accuracy(labels, model.probs), float((labels == 0).mean())
    sums = {
        **{key: _or_none(value) for key, value in ranking.items()},
        "accuracy": accuracy,
        "accuracy_all_negative": all_negative,
        "accuracy_gain": accuracy - all_negative,
        **_sums(labels, model.probs),
    }
    if missing := [key for key, value in sums.items() if value is None]:
        area = sums["macro_auroc"]
        why = ONE_CLASS if area is None else PERFECT if area in (0, 1) else FEW
        undefined.append({"label": "all", "what": ", ".join(missing), "why": why})
    told = {
        "n": len(labels),
        "n_labels": int((~np.isnan(areas.values)).sum()),
        **sums,
        "intervals": _about(labels, resamples),
        "labels": by_label,
        "undefined": undefined,
    }
    if model.uncalibrated is not None:
        told["uncalibrated"] = _sums(labels, model.uncalibrated)
    return told


def baselines(labels: Labels) -> dict[str, dict[str, Any]]:
    """What "no" for everything scores, and each label's prevalence in these images for everyone.

    Nothing is learnt by either; the second is the best of all constants, in hindsight.
    """
    prevalence = labels.mean(axis=0)
    chance = metrics.macro(np.where(has_both_classes(labels), prevalence, np.nan))
    all_negative = float((labels == 0).mean())
    told = {}
    for name, probs in ((ALL_NEGATIVE, np.zeros(len(prevalence))), (PREVALENCE, prevalence)):
        everyone = np.broadcast_to(probs, labels.shape)
        accuracy = _accuracy(labels, everyone)
        told[name] = {
            "n": len(labels),
            "n_labels": int(has_both_classes(labels).sum()),
            "macro_auroc": 0.5 if has_both_classes(labels).any() else None,
            "macro_ap": _or_none(chance),
            "accuracy": accuracy,
            "accuracy_all_negative": all_negative,
            "accuracy_gain": accuracy - all_negative,
            **_sums(labels, everyone),
        }
    return told


def _ranking(
    y: Labels, scores: Floats, areas: Estimate, precisions: Estimate, independent: bool, i: int
) -> dict[str, Any]:
    """How well a label's images are ranked, and how sure that is."""
    told = {
        "auroc": float(areas.values[i]),
        "auroc_ci": interval(areas.values[i], areas.resampled[:, i]),
        "ap": float(precisions.values[i]),
        "ap_ci": interval(precisions.values[i], precisions.resampled[:, i]),
        "resamples_left_out": int(np.isnan(areas.resampled[:, i]).sum()),
    }
    if independent:
        told["auroc_delong_ci"] = (np.nan, np.nan)
        if 0 < y.sum() < len(y):
            area, variance = delong(y, scores[None])
            told["auroc_delong_ci"] = delong_interval(float(area[0]), float(variance[0, 0]))
    return told


def _probabilities(y: Labels, probs: Floats) -> dict[str, Any]:
    """What a label's probabilities are worth."""
    prevalence, accuracy = float(y.mean()), _accuracy(y, probs)
    score, reference = float(brier(y, probs)), float(brier_of_prevalence(y))
    curve = reliability(y, probs)
    return {
        "accuracy": accuracy,
        "accuracy_all_negative": 1 - prevalence,
        "accuracy_gain": accuracy - (1 - prevalence),
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
    """What yes and no are worth; a probability at the threshold is a yes."""
    if np.isnan(threshold):
        return dict.fromkeys(("threshold", *AT_THRESHOLD), np.nan)
    predicted_positive, there = probs >= threshold, y == 1
    right = predicted_positive == there
    return {
        "threshold": threshold,
        "sensitivity": _ratio(int((right & there).sum()), int(there.sum())),
        "specificity": _ratio(int((right & ~there).sum()), int((~there).sum())),
        "ppv": _ratio(int((right & predicted_positive).sum()), int(predicted_positive.sum())),
        "npv": _ratio(int((right & ~predicted_positive).sum()), int((~predicted_positive).sum())),
    }


def _accuracy(labels: Labels, probs: Floats) -> float:
    return float(((probs >= 0.5) == labels).mean())


def _sums(labels: Labels, probs: Floats) -> dict[str, Any]:
    """The labels' probabilities together: errors are means, the skill that of the mean errors."""
    score = float(brier(labels, probs).mean())
    reference = float(brier_of_prevalence(labels).mean())
    curves = [reliability(y, p) for y, p in zip(labels.T, probs.T, strict=True)]
    return {
        "brier": score,
        "brier_skill": _or_none(_ratio(reference - score, reference)),
        "ece": float(np.mean([curve.error for curve in curves])),
    }


def _reasons(label: str, numbers: dict[str, Any], why_none: str) -> list[dict[str, str]]:
    """Why each number of a label that is None is so; numbers with one reason stand together."""
    keys_of: dict[str, list[str]] = {}
    for key, value in numbers.items():
        if value is not None:
            continue
        if key == "threshold" or (key in AT_THRESHOLD and numbers["threshold"] is None):
            why = why_none
        elif key in AT_THRESHOLD:
            why = AT_THRESHOLD[key]
        else:
            area = numbers["auroc"]
            why = ONE_CLASS if area is None else PERFECT if area in (0, 1) else FEW
        keys_of.setdefault(why, []).append(key)
    return [{"label": label, "what": ", ".join(keys), "why": why} for why, keys in keys_of.items()]


def _about(labels: Labels, resamples: Resamples) -> dict[str, Any]:
    """What the intervals are made of, and the labels for which that is too little."""
    unsure = []
    for y, name in zip(labels.T, LABELS, strict=True):
        n_units = [len(np.unique(resamples.unit_of_image[y == value])) for value in (0, 1)]
        if 0 < min(n_units) < FEWEST:
            unsure.append(name)
    told: dict[str, Any] = {
        "level": LEVEL,
        "unit": resamples.unit,
        "n_units": resamples.n_units,
        "n_resamples": resamples.n,
        "unsure": unsure,
    }
    if resamples.unit == "image":
        told["note"] = TOO_NARROW
    elif not resamples.independent:
        told["note"] = NO_DELONG
    return told


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _or_none(value: Any) -> Any:
    """NaN as None, an interval as a list."""
    if isinstance(value, tuple):
        return None if np.isnan(value[0]) else list(value)
    return None if isinstance(value, float) and np.isnan(value) else value
