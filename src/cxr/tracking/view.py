"""Prepared views of MLflow's runs page: filter, sorting and columns.

MLflow stores a shared view in a tag of the experiment and refers to it in the URL. Columns that a
reader chooses are stored in the browser.
"""

import json
from dataclasses import dataclass
from urllib.parse import urlencode

from mlflow import MlflowClient
from mlflow.entities import Experiment

from cxr.lineage.records import MODEL_TAG, STAGE_TAG

SHARED = "mlflow.sharedViewState."
MODELS, CURVES = "models", "curves"  # keys of the two views in their URLs
DEFAULT = "Default"  # MLflow's default experiment, which no stage uses

# Columns of the table of models, with their widths in pixels. Those of ABOUT and of the parameters
# that differ fit on a laptop's screen, together with the AUROCs.
ABOUT = {"tags.`cxr.model`": 95, "tags.`cxr.experiment`": 150, "params.`seed`": 55}
DIFFERENCES, DIFFERENCE_WIDTH = 3, 120  # the most columns of parameters that differ
METRICS = {
    "metrics.`val/macro_auroc`": 125,
    "metrics.`test/macro_auroc`": 125,
    "metrics.`test/macro_auroc_low`": 155,
    "metrics.`test/macro_auroc_high`": 160,
    "metrics.`test/macro_ap`": 120,
    "metrics.`test/accuracy_gain`": 150,
    "metrics.`parameters/trainable`": 155,
    "attributes.`Dataset`": 200,
}
# The runs of models in evaluations; the evaluation's own run has no model.
MODELS_FILTER = f"tags.`{STAGE_TAG}` = 'evaluate' AND tags.`{MODEL_TAG}` LIKE '_%'"
MOST_RUNS = 5000
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
        for key, state in _states(_differing(client, each)).items():
            if each.tags.get(f"{SHARED}{key}") != state:
                client.set_experiment_tag(each.experiment_id, f"{SHARED}{key}", state)
        views += [
            View(each.name, "models ranked by validation AUROC", _path(each, MODELS)),
            View(each.name, "learning curves", _path(each, CURVES)),
        ]
    return views


def _differing(client: MlflowClient, experiment: Experiment) -> list[str]:
    """The parameters that differ between runs of the same model, those with most values first."""
    values: dict[tuple[str, str], set[str]] = {}
    for run in client.search_runs([experiment.experiment_id], MODELS_FILTER, max_results=MOST_RUNS):
        for name, value in run.data.params.items():
            values.setdefault((run.data.tags[MODEL_TAG], name), set()).add(value)
    n_values: dict[str, int] = {}
    for (_, name), found in values.items():
        if name != "seed":
            n_values[name] = max(len(found), n_values.get(name, 1))
    differing = [name for name, n in n_values.items() if n > 1]
    return sorted(differing, key=lambda name: (-n_values[name], name))[:DIFFERENCES]


def _states(differing: list[str]) -> dict[str, str]:
    parameters = {f"params.`{name}`": DIFFERENCE_WIDTH for name in differing}
    columns = {**ABOUT, **parameters, **METRICS}
    models = {
        "searchFilter": MODELS_FILTER,
        "orderByKey": SORT_KEY,
        "orderByAsc": False,
        "selectedColumns": list(columns),
        "columnOrder": list(columns),
        "columnWidths": columns,
    }
    curves = {"searchFilter": f"tags.`{STAGE_TAG}` LIKE 'train-%'", "orderByAsc": False}
    return {MODELS: json.dumps(models), CURVES: json.dumps(curves)}


def _path(experiment: Experiment, key: str) -> str:
    query = {"workflowType": "machine_learning", "viewStateShareKey": key}
    if key == CURVES:
        query["compareRunsMode"] = "CHART"
    return f"#/experiments/{experiment.experiment_id}/runs?{urlencode(query)}"
