"""One model's results as flat metrics, for MLflow: `test/macro_auroc` and so on."""

from collections.abc import Mapping
from typing import Any

from cxr.labels import path_names

SUMMARY = (
    "macro_auroc", "macro_ap", "accuracy", "accuracy_all_negative", "accuracy_gain", "brier",
    "brier_skill", "ece", "n_labels",
)  # fmt: skip
OF_GROUP = ("auroc", "ap", "sensitivity", "specificity", "calibration")
OF_READING = ("auroc", "auroc_labels")

Values = dict[str, float | None]


def flat_metrics(
    model: str,
    of_split: Mapping[str, Mapping[str, Any]],
    subgroups: Mapping[str, Any] | None,
    references: Mapping[str, Any],
) -> dict[str, float]:
    """One model's defined metrics by their names in MLflow.

    Parameters
    ----------
    of_split : the model's metrics by split.
    subgroups, references : of all models on the test split, as in reports/metrics.json.
    """
    values = _of_splits(of_split) | _of_groups(subgroups, model) | _of_readings(references, model)
    return {key: value for key, value in values.items() if value is not None}


def _of_splits(of_split: Mapping[str, Mapping[str, Any]]) -> Values:
    values: Values = {}
    for split, metrics in of_split.items():
        values |= {f"{split}/{key}": metrics[key] for key in SUMMARY}
        for key in ("macro_auroc", "macro_ap"):
            low, high = metrics.get(f"{key}_ci") or (None, None)
            values |= {f"{split}/{key}_low": low, f"{split}/{key}_high": high}
    by_label = of_split["test"].get("labels", {})
    for path, numbers in zip(path_names(tuple(by_label)), by_label.values(), strict=True):
        values |= {f"test_{key}/{path}": numbers[key] for key in ("auroc", "ap")}
    return values


def _of_groups(subgroups: Mapping[str, Any] | None, model: str) -> Values:
    """The macro metrics by group, in a section per attribute."""
    values = {}
    for attribute, report in ({} if subgroups is None else subgroups["attributes"]).items():
        groups = report["models"].get(model, {})
        for path, metrics in zip(path_names(tuple(groups)), groups.values(), strict=True):
            for key in OF_GROUP:
                values[f"test_by_{attribute}/{path}/macro_{key}"] = metrics[f"macro_{key}"]
    return values


def _of_readings(references: Mapping[str, Any], model: str) -> Values:
    """AUROC by other readers, and by the labels on the same images."""
    values = {}
    for reference, readings in references.items():
        for path, compared in zip(path_names(tuple(readings)), readings.values(), strict=True):
            if measured := compared["test"]["models"].get(model):
                for key in OF_READING:
                    values[f"test_{reference}/{path}/{key}"] = measured[key]
    return values
