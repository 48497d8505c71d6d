"""A model's operating point: calibration and thresholds, chosen on the validation split.

It is stored in `decisions/<model>.json` and applied whenever the model is used, together with a
reference for out-of-distribution images.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.metrics import roc_curve

from cxr.arrays import Doubles, Floats, Labels
from cxr.data.ood import OodReference
from cxr.documents import read_output
from cxr.evaluation.metrics import has_both_classes, known, sigmoid

Rule = Literal["youden", "f1", "sensitivity"]
Method = Literal["none", "temperature", "platt"]
Counts = npt.NDArray[np.int64]

# Above zero: a negative slope would reverse the model's ranking.
SLOPES = (0.01, 100.0)
CHOSEN_ON = "val"


@dataclass(frozen=True)
class Calibration:
    """Probability = sigmoid(slope · logit + intercept), by label.

    `temperature` is one slope for all labels (Guo et al., "On calibration of modern neural
    networks", 2017), `platt` a slope and an intercept per label (Platt, "Probabilistic outputs for
    support vector machines", 1999).
    """

    method: Method
    slopes: Doubles  # (L,)
    intercepts: Doubles  # (L,)

    def probs(self, logits: Floats) -> Doubles:
        """Probabilities (N, L) of logits (N, L)."""
        return sigmoid(logits.astype(np.float64) * self.slopes + self.intercepts)


@dataclass(frozen=True)
class OperatingPoint:
    """Calibration, thresholds and out-of-distribution reference of a model.

    A probability at or above the threshold is positive; NaN means that a label has no threshold.
    """

    model: str
    labels: tuple[str, ...]  # (L,)
    calibration: Calibration
    rule: Rule
    thresholds: Doubles  # (L,)
    ood: OodReference

    def as_json(self) -> dict[str, Any]:
        """The content of `decisions/<model>.json`; a missing threshold is None."""
        return {
            "model": self.model,
            "chosen_on": CHOSEN_ON,
            "calibration": {
                "method": self.calibration.method,
                "slope": self._named(self.calibration.slopes),
                "intercept": self._named(self.calibration.intercepts),
            },
            "rule": self.rule,
            "thresholds": self._named(self.thresholds),
            "ood": self.ood.as_json(),
        }

    def _named(self, values: Doubles) -> dict[str, float | None]:
        return {
            label: None if np.isnan(value) else float(value)
            for label, value in zip(self.labels, values, strict=True)
        }


def read(path: Path) -> OperatingPoint:
    """The operating point in a file; CxrError if it can't be read."""
    return read_output(path, _parse)


def decide(
    model: str,
    labels: Labels,
    names: tuple[str, ...],
    logits: Floats,
    method: Method,
    rule: Rule,
    sensitivity: float,
    ood: OodReference,
) -> OperatingPoint:
    """Fit a calibration, and choose thresholds on the calibrated probabilities.

    Parameters
    ----------
    labels : (N, L) of 0, 1 and UNKNOWN, of the validation split.
    names : (L,), of the labels.
    logits : (N, L).
    sensitivity : the minimum for the rule `sensitivity`.
    ood : the out-of-distribution reference of the training data.
    """
    calibration = calibrate(labels, logits, method)
    cuts = thresholds(labels, calibration.probs(logits), rule, sensitivity)
    return OperatingPoint(model, names, calibration, rule, cuts, ood)


def calibrate(labels: Labels, logits: Floats, method: Method) -> Calibration:
    """The calibration with the smallest cross-entropy on these images.

    Labels with one class only can't be calibrated: `temperature` is fitted without them, `platt`
    leaves them unchanged.

    Parameters
    ----------
    labels : (N, L) of 0, 1 and UNKNOWN, which is left out.
    logits : (N, L).
    """
    n_labels = labels.shape[1]
    slopes, intercepts = np.ones(n_labels), np.zeros(n_labels)
    fitted = np.flatnonzero(has_both_classes(labels))
    if method == "temperature" and len(fitted):
        y, x = known(labels[:, fitted].ravel(), logits[:, fitted].ravel())
        slopes[:] = _fit(x, y, with_intercept=False)[0]
    elif method == "platt":
        for i in fitted:
            y, x = known(labels[:, i], logits[:, i])
            slopes[i], intercepts[i] = _fit(x, _smoothed(y))
    return Calibration(method, slopes, intercepts)


def thresholds(labels: Labels, probs: Floats, rule: Rule, sensitivity: float) -> Doubles:
    """The probability from which on each label counts as positive; NaN if it has one class only.

    `youden` maximises sensitivity + specificity - 1 (Youden, "Index for rating diagnostic tests",
    1950), `f1` maximises F1; both take the highest of equally good thresholds. `sensitivity` takes
    the highest threshold that reaches the given sensitivity.

    Parameters
    ----------
    labels : (N, L) of 0, 1 and UNKNOWN, which is left out.
    probs : (N, L).
    """
    cuts = np.full(labels.shape[1], np.nan)
    for i in np.flatnonzero(has_both_classes(labels)):
        cut, true, false = _at_every_cut(*known(labels[:, i], probs[:, i]))
        n_positive = int(true[-1])
        if rule == "youden":
            # Multiplied by both class sizes, so that ties are exact integers.
            best = np.argmax(true * int(false[-1]) - false * n_positive)
        elif rule == "f1":
            best = np.argmax(2 * true / (true + false + n_positive))
        else:
            best = np.argmax(true >= sensitivity * n_positive - 1e-9)  # 0.55 * 100 > 55
        cuts[i] = cut[best]
    return cuts


def _fit(logits: Floats, target: npt.NDArray[Any], with_intercept: bool = True) -> Doubles:
    """Slope and intercept with the smallest cross-entropy, which has one minimum."""
    x = logits.astype(np.float64)

    def loss(parameters: Doubles) -> tuple[float, Doubles]:
        z = parameters[0] * x + parameters[1]
        error = expit(z) - target
        value = float(np.mean(np.logaddexp(0, z) - target * z))
        return value, np.array([np.mean(error * x), np.mean(error)])

    bounds = [SLOPES, (None, None) if with_intercept else (0.0, 0.0)]
    options = {"ftol": 1e-14, "gtol": 1e-9, "maxiter": 1000}
    start = np.array([1.0, 0.0])
    fitted = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    parameters: Doubles = fitted.x
    return parameters


def _smoothed(y: Labels) -> Doubles:
    """Platt's smoothed targets, against overconfidence on labels with few positives."""
    n_positive = int(y.sum())
    n_negative = len(y) - n_positive
    return np.where(y == 1, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))


def _at_every_cut(y: Labels, probs: Floats) -> tuple[Floats, Counts, Counts]:
    """Distinct probabilities, highest first, with true and false positives at each."""
    false_rate, true_rate, cut = roc_curve(y, probs, drop_intermediate=False)
    n_positive = int(y.sum())
    true_positives = np.rint(true_rate[1:] * n_positive).astype(np.int64)
    false_positives = np.rint(false_rate[1:] * (len(y) - n_positive)).astype(np.int64)
    return cut[1:], true_positives, false_positives


def _parse(content: Any) -> OperatingPoint:
    calibration = content["calibration"]
    if calibration["method"] not in get_args(Method) or content["rule"] not in get_args(Rule):
        raise ValueError("unknown calibration method or threshold rule")
    if not content["thresholds"]:
        raise ValueError("no labels")
    labels = tuple(map(str, content["thresholds"]))
    return OperatingPoint(
        model=str(content["model"]),
        labels=labels,
        calibration=Calibration(
            calibration["method"],
            _in_order(calibration["slope"], labels),
            _in_order(calibration["intercept"], labels),
        ),
        rule=content["rule"],
        thresholds=_in_order(content["thresholds"], labels),
        ood=OodReference.from_json(content["ood"]),
    )


def _in_order(values: dict[str, float | None], labels: tuple[str, ...]) -> Doubles:
    ordered = [np.nan if values[label] is None else values[label] for label in labels]
    return np.array(ordered, np.float64)
