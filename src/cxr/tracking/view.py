"""Prepared views of MLflow's runs page: filter, sorting and columns.

MLflow stores a shared view in a tag of the experiment and refers to it in the URL. Columns that a
reader chooses are stored in the browser.
"""

import json
from dataclasses import dataclass
from urllib.parse import urlencode

from mlflow import MlflowClient
from mlflow.entities import Experiment

from cxr.lineage.records import STAGE_TAG

SHARED = "mlflow.sharedViewState."
MODELS, CURVES = "models", "curves"  # keys of the two views in their URLs
DEFAULT = "Default"  # MLflow's default experiment, which no stage uses

# Columns of the table of models from left to right, and their widths in pixels.
COLUMNS = {
    "tags.`cxr.model`": 100,
    "metrics.`val/macro_auroc`": 135,
    "metrics.`test/macro_auroc`": 135,
    "metrics.`test/macro_auroc_low`": 155,
    "metrics.`test/macro_auroc_high`": 160,
    "metrics.`test/macro_ap`": 120,
    "metrics.`test/accuracy_gain`": 150,
    "metrics.`parameters/trainable`": 155,
    "params.`seed`": 60,
    "tags.`cxr.experiment`": 120,
    "attributes.`Dataset`": 200,
}
SORT_KEY = "metrics.`val/macro_auroc`"  # not a test metric: models are chosen on validation


@dataclass(frozen=True)
class View:
    """A prepared view of one experiment."""

    experiment: str
    title: str
    path: str  # URL below the server's address


def prepare(client: MlflowClient) -> list[View]:
    """Write each experiment's views into its tags."""
    views = []
    for each in client.search_experiments():
        if each.name == DEFAULT:
            continue
        for key, state in _states().items():
            if each.tags.get(f"{SHARED}{key}") != state:
                client.set_experiment_tag(each.experiment_id, f"{SHARED}{key}", state)
        views += [
            View(each.name, "models ranked by validation AUROC", _path(each, MODELS)),
            View(each.name, "learning curves", _path(each, CURVES)),
        ]
    return views


def _states() -> dict[str, str]:
    models = {
        "searchFilter": f"tags.`{STAGE_TAG}` = 'evaluate'",
        "orderByKey": SORT_KEY,
        "orderByAsc": False,
        "selectedColumns": list(COLUMNS),
        "columnOrder": list(COLUMNS),
        "columnWidths": COLUMNS,
    }
    curves = {"searchFilter": f"tags.`{STAGE_TAG}` LIKE 'train-%'", "orderByAsc": False}
    return {MODELS: json.dumps(models), CURVES: json.dumps(curves)}


def _path(experiment: Experiment, key: str) -> str:
    query = {"workflowType": "machine_learning", "viewStateShareKey": key}
    if key == CURVES:
        query["compareRunsMode"] = "CHART"
    return f"#/experiments/{experiment.experiment_id}/runs?{urlencode(query)}"
