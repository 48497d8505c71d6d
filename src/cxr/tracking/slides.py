"""Pictures that MLflow shows as the steps of a slider."""

import re
from pathlib import Path

from mlflow import MlflowClient

FOLDER = "images"  # of artifacts, where MLflow's pages look for sliders
NAME = re.compile(r"(.+)\+step\+(\d+)\+timestamp\+.+\.png")  # as `log_image` names them


def of_run(client: MlflowClient, run_id: str) -> set[tuple[str, int]]:
    """Key and step of every picture in a run's sliders."""
    names = [Path(each.path).name for each in client.list_artifacts(run_id, FOLDER)]
    found = [NAME.fullmatch(name) for name in names]
    # A slash would make a folder, so `log_image` writes a tilde.
    return {(match[1].replace("~", "/"), int(match[2])) for match in found if match}
