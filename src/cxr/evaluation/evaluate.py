"""Evaluate models on one split: metrics with intervals, comparisons, trivial baselines."""

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from cxr.arrays import Labels
from cxr.evaluation import intervals
from cxr.evaluation.comparisons import compare
from cxr.evaluation.description import Predicted, baselines, describe


@dataclass(frozen=True)
class Evaluation:
    """Metrics of models and baselines as in reports/metrics.json, and pairwise comparisons."""

    models: dict[str, dict[str, Any]]
    comparisons: list[dict[str, Any]]


def evaluate(
    labels: Labels,
    names: tuple[str, ...],
    models: dict[str, Predicted],
    patients: npt.NDArray[Any] | None,
    n_resamples: int,
    seed: int,
    progress: intervals.Progress,
) -> Evaluation:
    """Evaluate models on the same images and the same resamples of them.

    Parameters
    ----------
    labels : (N, L) of 0, 1 and UNKNOWN, which is left out.
    names : (L,), of the labels.
    models : by name.
    patients : (N,) the patient of each image; None if unknown.
    n_resamples : of the bootstrap.
    progress : called with the numbers of finished and of all resamples.

    Returns
    -------
    JSON-serialisable mappings. Undefined values are None, and `undefined` gives the reasons.
    """
    resamples = intervals.draw(len(labels), patients, n_resamples, seed)
    scores = {name: model.scores for name, model in models.items()}
    estimates = intervals.estimate(labels, scores, resamples, progress)
    described = {
        name: describe(labels, names, model, estimates[name], resamples)
        for name, model in models.items()
    }
    return Evaluation(
        described | baselines(labels),
        compare(labels, names, scores, estimates, resamples.independent),
    )
