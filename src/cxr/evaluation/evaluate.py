"""How good models are on one split: every number with its interval, beside what chance scores."""

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from cxr.arrays import Labels
from cxr.evaluation import intervals
from cxr.evaluation.comparisons import compare
from cxr.evaluation.description import Predicted, baselines, describe


@dataclass(frozen=True)
class Evaluation:
    """Models and baselines in the shape of reports/metrics.json, and every two models compared."""

    models: dict[str, dict[str, Any]]
    comparisons: list[dict[str, Any]]


def evaluate(
    labels: Labels,
    models: dict[str, Predicted],
    patients: npt.NDArray[Any] | None,
    n_resamples: int,
    seed: int,
    progress: intervals.Progress,
) -> Evaluation:
    """Measure models on the same images and the same resamples of them.

    Parameters
    ----------
    labels : (N, L) of 0 and 1.
    models : by name.
    patients : (N,) whose image each is; None where the data doesn't tell.
    n_resamples : of the bootstrap.
    progress : told how many of how many resamples are done.

    Returns
    -------
    Mappings that JSON can hold. What is undefined is None, and `undefined` says why.
    """
    resamples = intervals.draw(len(labels), patients, n_resamples, seed)
    scores = {name: model.scores for name, model in models.items()}
    estimates = intervals.estimate(labels, scores, resamples, progress)
    told = {
        name: describe(labels, model, estimates[name], resamples) for name, model in models.items()
    }
    return Evaluation(
        told | baselines(labels), compare(labels, scores, estimates, resamples.independent)
    )
