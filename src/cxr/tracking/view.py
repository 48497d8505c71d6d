"""What MLflow's page shows first: which runs, in which columns, and in which colours.

The page keeps a reader's own columns in the browser. What it opens with stands in a tag of the
experiment that the address names, which is how MLflow itself shares a view.
"""

import colorsys
import hashlib
import json
from dataclasses import dataclass
from urllib.parse import urlencode

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run

from cxr.lineage.records import STAGE_TAG

SHARED = "mlflow.sharedViewState."
MODELS, CURVES = "models", "curves"  # the two views; the names stand in the addresses
COLOUR_TAG, MODEL_TAG = "mlflow.runColor", "cxr.model"
DEFAULT = "Default"  # MLflow's own experiment, in which no stage writes
MOST_RUNS = 5000

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
    "metrics.`speed/training_seconds`": 165,
    "params.`seed`": 60,
    "tags.`cxr.experiment`": 120,
    "attributes.`Dataset`": 200,
}
BY = "metrics.`val/macro_auroc`"  # what chooses comes first; test chooses nothing

# Hues of the models, a sixth of the circle or more apart, and how far runs of a model may stray.
HUES = {"cnn": 0.57, "squeezenet": 0.06, "vit": 0.36}
STRAY = 0.03


@dataclass(frozen=True)
class View:
    """One address of MLflow's page."""

    experiment: str
    shows: str
    place: str  # behind the server's address


def prepare(client: MlflowClient) -> list[View]:
    """Put each experiment's views into its tags, and give runs their colours."""
    views = []
    for each in client.search_experiments():
        if each.name == DEFAULT:
            continue
        for key, state in _states().items():
            if each.tags.get(f"{SHARED}{key}") != state:
                client.set_experiment_tag(each.experiment_id, f"{SHARED}{key}", state)
        _colour(client, each)
        views += [
            View(each.name, "its models, best first", _place(each, MODELS)),
            View(each.name, "their learning curves", _place(each, CURVES)),
        ]
    return views


def colour_of(model: str, run_id: str) -> str:
    """A colour as `#rrggbb`: the model's hue, and a shade of the run's own."""
    digest = hashlib.sha256(run_id.encode()).digest()
    strays, lightness = digest[0] / 255 * 2 - 1, 0.35 + digest[1] / 255 * 0.25
    hue = HUES.get(model, hashlib.sha256(model.encode()).digest()[0] / 255) + STRAY * strays
    channels = colorsys.hls_to_rgb(hue % 1, lightness, 0.75)
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in channels)


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


def _colour(client: MlflowClient, experiment: Experiment) -> None:
    runs: list[Run] = client.search_runs(
        [experiment.experiment_id], f"tags.`{MODEL_TAG}` LIKE '%'", max_results=MOST_RUNS
    )
    for run in runs:
        if COLOUR_TAG not in run.data.tags:
            colour = colour_of(run.data.tags[MODEL_TAG], run.info.run_id)
            client.set_tag(run.info.run_id, COLOUR_TAG, colour)
