"""What MLflow's page shows first: which runs, and in which columns.

The page keeps a reader's own columns in the browser. What it opens with stands in a tag of the
experiment that the address names, which is how MLflow itself shares a view.
"""

import json
from dataclasses import dataclass
from urllib.parse import urlencode

from mlflow import MlflowClient
from mlflow.entities import Experiment

from cxr.lineage.records import STAGE_TAG

SHARED = "mlflow.sharedViewState."
MODELS, CURVES = "models", "curves"  # the two views; the names stand in the addresses
DEFAULT = "Default"  # MLflow's own experiment, in which no stage writes

# What tells models from each other at first sight, from left to right, and pixels for it.
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
BY = "metrics.`val/macro_auroc`"  # what chooses comes first; test chooses nothing


@dataclass(frozen=True)
class View:
    """One address of MLflow's page."""

    experiment: str
    shows: str
    place: str  # behind the server's address


def prepare(client: MlflowClient) -> list[View]:
    """Put each experiment's views into its tags."""
    views = []
    for each in client.search_experiments():
        if each.name == DEFAULT:
            continue
        for key, state in _states().items():
            if each.tags.get(f"{SHARED}{key}") != state:
                client.set_experiment_tag(each.experiment_id, f"{SHARED}{key}", state)
        views += [
            View(each.name, "its models, best first", _place(each, MODELS)),
            View(each.name, "their learning curves", _place(each, CURVES)),
        ]
    return views


def _states() -> dict[str, str]:
    models = {
        "searchFilter": f"tags.`{STAGE_TAG}` = 'evaluate'",
        "orderByKey": BY,
        "orderByAsc": False,
        "selectedColumns": list(COLUMNS),
        "columnOrder": list(COLUMNS),
        "columnWidths": COLUMNS,
    }
    curves = {"searchFilter": f"tags.`{STAGE_TAG}` LIKE 'train-%'", "orderByAsc": False}
    return {MODELS: json.dumps(models), CURVES: json.dumps(curves)}


def _place(experiment: Experiment, key: str) -> str:
    query = {"workflowType": "machine_learning", "viewStateShareKey": key}
    if key == CURVES:
        query["compareRunsMode"] = "CHART"
    return f"#/experiments/{experiment.experiment_id}/runs?{urlencode(query)}"
