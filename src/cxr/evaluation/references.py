"""Other readers as a second reference standard: agreement with the labels, and models against both.

A reading, such as "nodule or mass", is any of one or several labels. Labels and models are compared
with it on the images where both the reading and the labels are known.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxr.arrays import Doubles, Labels
from cxr.data.references import Reading, any_of
from cxr.data.splits import Split
from cxr.evaluation import intervals
from cxr.evaluation.comparisons import paired
from cxr.evaluation.description import Predicted, labels_with_few
from cxr.evaluation.intervals import Estimate, Resamples, interval
from cxr.labels import UNKNOWN

EVALUATED = "test"


def describe(
    readings: Sequence[Reading],
    data: Mapping[str, Split],
    models: Mapping[str, Predicted],
    n_resamples: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Agreement of labels and readers, and models against both: `references` in metrics.json.

    Parameters
    ----------
    data : by split; the labels of all splits are compared with the readings.
    models : predictions of the split EVALUATED.

    Returns
    -------
    By reference and reading, a JSON-serialisable mapping. Undefined values are None.
    """
    patients = {split: each.patients for split, each in data.items() if each.patients is not None}
    of_all = _Compared.of(
        readings,
        np.concatenate([each.labels for each in data.values()]),
        lambda each: np.concatenate([each.values[split] for split in data]),
    )
    units = np.concatenate(list(patients.values())) if len(patients) == len(data) else None
    agreed = _agreement(of_all, intervals.draw(len(of_all.labels), units, n_resamples, seed))
    test = data[EVALUATED]
    of_test = _Compared.of(readings, test.labels, lambda each: each.values[EVALUATED])
    measured = _against_both(
        of_test, models, intervals.draw(len(test.labels), test.patients, n_resamples, seed)
    )
    report: dict[str, dict[str, Any]] = {}
    for reading, agreement, of_models in zip(readings, agreed, measured, strict=True):
        report.setdefault(reading.reference, {})[reading.name] = {
            "labels": [test.names[i] for i in reading.labels],
            "agreement": agreement,
            EVALUATED: of_models,
        }
    return report


@dataclass(frozen=True)
class _Compared:
    """Labels and readings of the same images, each (N, R), unknown where either is."""

    readings: Sequence[Reading]
    labels: Labels
    values: Labels

    @classmethod
    def of(
        cls, readings: Sequence[Reading], labels: Labels, values: Callable[[Reading], Labels]
    ) -> "_Compared":
        by_labels = np.stack([any_of(labels[:, list(each.labels)]) for each in readings], axis=1)
        by_readers = np.stack([values(each) for each in readings], axis=1)
        is_known = (by_labels != UNKNOWN) & (by_readers != UNKNOWN)
        unknown = np.int8(UNKNOWN)
        return cls(
            readings,
            np.where(is_known, by_labels, unknown),
            np.where(is_known, by_readers, unknown),
        )

    def counts(self, resamples: Resamples) -> list[dict[str, Any]]:
        """Images of each reading, positives by readers and by labels, and whether these are few."""
        names = tuple(f"{each.reference}: {each.name}" for each in self.readings)
        few = labels_with_few(self.values, names, resamples)
        few += labels_with_few(self.labels, names, resamples)
        return [
            {
                "n": int((read != UNKNOWN).sum()),
                "n_positive": int((read == 1).sum()),
                "n_positive_labels": int((label == 1).sum()),
                "unsure": name in few,
            }
            for name, read, label in zip(names, self.values.T, self.labels.T, strict=True)
        ]


def _agreement(compared: _Compared, resamples: Resamples) -> list[dict[str, Any]]:
    """How well the labels agree with each reading, which is taken as the truth.

    Sensitivity and PPV of the labels, and Cohen's kappa ("A coefficient of agreement for nominal
    scales", 1960), with intervals.
    """
    is_known = compared.values != UNKNOWN
    by_labels, by_readers = compared.labels == 1, compared.values == 1
    shares = {
        "sensitivity": (by_labels & by_readers, by_readers),
        "ppv": (by_labels & by_readers, by_labels),
        "same": ((compared.labels == compared.values) & is_known, is_known),
        "by_labels": (by_labels, is_known),
        "by_readers": (by_readers, is_known),
    }
    estimates = intervals.estimate_shares(shares, resamples)
    parts = [estimates[key] for key in ("same", "by_labels", "by_readers")]
    kappa = Estimate(
        _kappa(*(each.values for each in parts)), _kappa(*(each.resampled for each in parts))
    )
    report = []
    for i, counts in enumerate(compared.counts(resamples)):
        tested = paired(float(kappa.values[i]), kappa.resampled[:, i])
        report.append(
            counts
            | _with_interval("sensitivity", estimates["sensitivity"], i)
            | _with_interval("ppv", estimates["ppv"], i)
            | {"kappa": tested["difference"], "kappa_ci": tested["ci"]}
        )
    return report


def _against_both(
    compared: _Compared, models: Mapping[str, Predicted], resamples: Resamples
) -> list[dict[str, Any]]:
    """Each model's AUROC against each reading and against the labels, on the same images."""
    columns = np.hstack([compared.values, compared.labels])
    scores = {name: np.tile(_scores(compared.readings, each), 2) for name, each in models.items()}
    estimates = intervals.estimate(columns, scores, resamples, lambda done, total: None)
    n = len(compared.readings)
    report: list[dict[str, Any]] = [
        counts | {"models": {}} for counts in compared.counts(resamples)
    ]
    for name, measured in estimates.items():
        auroc = measured["auroc"]
        for i in range(n):
            tested = paired(
                float(auroc.values[i] - auroc.values[n + i]),
                auroc.resampled[:, i] - auroc.resampled[:, n + i],
            )
            report[i]["models"][name] = {
                **_with_interval("auroc", auroc, i),
                **_with_interval("auroc_labels", auroc, n + i),
                "difference": tested["difference"],
                "difference_ci": tested["ci"],
            }
    return report


def _scores(readings: Sequence[Reading], model: Predicted) -> Doubles:
    """The probability of each reading, (N, R): 1 - prod(1 - p), as if labels were independent."""
    none = [np.prod(1 - model.probs[:, list(each.labels)], axis=1) for each in readings]
    return np.asarray(1 - np.stack(none, axis=1), np.float64)


def _with_interval(key: str, estimate: Estimate, i: int) -> dict[str, Any]:
    value = float(estimate.values[i])
    low, high = interval(value, estimate.resampled[:, i])
    return {
        key: None if np.isnan(value) else value,
        f"{key}_ci": None if np.isnan(low) else [low, high],
    }


def _kappa(same: Doubles, by_labels: Doubles, by_readers: Doubles) -> Doubles:
    """Agreement beyond chance, from shares of images; NaN if chance alone would agree on all."""
    by_chance = by_labels * by_readers + (1 - by_labels) * (1 - by_readers)
    with np.errstate(invalid="ignore", divide="ignore"):
        kappa = (same - by_chance) / (1 - by_chance)
    return np.where(by_chance < 1, kappa, np.nan)
