"""Evaluate models on one split: metrics with intervals, comparisons, trivial baselines."""

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from cxr.arrays import Labels
from cxr.evaluation import intervals, subgroups
from cxr.evaluation.comparisons import compare
from cxr.evaluation.description import BASELINES, Predicted, baselines, describe
from cxr.evaluation.subgroups import Grouped


@dataclass(frozen=True)
class Evaluation:
    """Metrics of models and baselines as in reports/metrics.json, and pairwise comparisons."""

    models: dict[str, dict[str, Any]]
    comparisons: list[dict[str, Any]]
    subgroups: dict[str, Any] | None


def evaluate(
    labels: Labels,
    names: tuple[str, ...],
    models: dict[str, Predicted],
    patients: npt.NDArray[Any] | None,
    n_resamples: int,
    seed: int,
    progress: intervals.Progress,
    grouped: Grouped | None = None,
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
    grouped : groups of the images; None for no subgroups.

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
    compared = compare(labels, names, scores, estimates, resamples.independent)
    of_groups = None
    if grouped is not None:
        in_groups = {name: model for name, model in models.items() if name not in BASELINES}
        of_groups = subgroups.describe(labels, names, in_groups, grouped, resamples, progress)
    return Evaluation(described | baselines(labels), compared, of_groups)
