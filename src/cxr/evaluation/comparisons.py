"""Test whether one model ranks the same images better than another."""

from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from cxr.arrays import Doubles, Floats, Labels
from cxr.evaluation.intervals import QUANTILE, Estimate, delong
from cxr.evaluation.metrics import known


def compare(
    labels: Labels,
    names: tuple[str, ...],
    scores: dict[str, Floats],
    estimates: dict[str, dict[str, Estimate]],
    independent: bool,
) -> list[dict[str, Any]]:
    """Compare each pair of models, by macro average and by label: `comparisons` of the report.

    A difference is `a` minus `b`. `p` is two-sided; `p_holm` is corrected for the number of
    comparisons of the same metric. If images are independent, the comparison of a label's AUROC
    also has DeLong's p.

    Parameters
    ----------
    labels : (N, L) of 0, 1 and UNKNOWN, which is left out.
    names : (L,), of the labels.
    scores : by model, (N, L).
    estimates : by model and measure, on the same resamples.
    independent : whether no two images are known to be of one patient.
    """
    comparisons: list[dict[str, Any]] = []
    for a, b in combinations(scores, 2):
        for measure in estimates[a]:
            difference = estimates[a][measure].minus(estimates[b][measure])
            who = {"a": a, "b": b, "metric": f"macro_{measure}"}
            comparisons.append(who | paired(difference.macro, difference.macro_resampled))
            for i, label in enumerate(names):
                who = {"a": a, "b": b, "metric": measure, "label": label}
                comparisons.append(who | paired(difference.values[i], difference.resampled[:, i]))
                if measure == "auroc" and independent:
                    both = np.stack([scores[a][:, i], scores[b][:, i]])
                    comparisons[-1]["p_delong"] = delong_p(*known(labels[:, i], both))
    for metric in {each["metric"] for each in comparisons}:
        family = [each for each in comparisons if each["metric"] == metric]
        for each, p in zip(family, holm([each["p"] for each in family]), strict=True):
            each["p_holm"] = p
    return sorted(comparisons, key=lambda each: "label" in each)


def paired(difference: float, resampled: Doubles) -> dict[str, Any]:
    """A difference with its interval and p, from the standard deviation of its resamples (B,).

    Interval and p are None if there are too few resamples or none changes the difference. Two
    models that rank alike on every resample have p = 1.
    """
    defined = resampled[~np.isnan(resampled)]
    if len(defined) < 2 or np.isnan(difference):
        value = None if np.isnan(difference) else float(difference)
        return {"difference": value, "ci": None, "p": None}
    # The computed standard deviation of equal numbers is about 1e-17, not 0.
    error = float(np.std(defined, ddof=1)) if np.ptp(defined) > 0 else 0.0
    if error == 0 and difference != 0:
        return {"difference": float(difference), "ci": None, "p": None}
    return {
        "difference": float(difference),
        "ci": [float(difference - QUANTILE * error), float(difference + QUANTILE * error)],
        "p": _two_sided(float(difference), error),
    }


def delong_p(y: Labels, scores: Floats) -> float | None:
    """Two-sided p of the difference of two models' AUROC on one label; None if undefined.

    Parameters
    ----------
    y : (N,) of 0 and 1.
    scores : (2, N).
    """
    if min(int(y.sum()), int((1 - y).sum())) < 2:
        return None
    aurocs, covariance = delong(y, scores)
    contrast = np.array([1.0, -1.0])
    variance = float(contrast @ covariance @ contrast)
    difference, error = float(contrast @ aurocs), float(np.sqrt(max(variance, 0)))
    return None if error == 0 and difference != 0 else _two_sided(difference, error)


def holm(p: list[float | None]) -> list[float | None]:
    """P values corrected for their number; None stays None and is not counted.

    Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    values = np.array([np.nan if each is None else each for each in p])
    order: npt.NDArray[np.int64] = np.argsort(values, kind="stable")  # NaN last
    order = order[: int((~np.isnan(values)).sum())]
    steps = values[order] * np.arange(len(order), 0, -1)
    values[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return [None if np.isnan(value) else float(value) for value in values]


def _two_sided(difference: float, error: float) -> float:
    if error == 0:  # the models rank alike
        return 1.0
    return float(2 * norm.sf(abs(difference) / error))
