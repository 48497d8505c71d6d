"""Images that MLflow shows as the steps of a slider."""

import re
from pathlib import Path

from mlflow import MlflowClient

FOLDER = "images"  # the artifact folder in which MLflow looks for slider images
NAME = re.compile(r"(.+)\+step\+(\d+)\+timestamp\+.+\.png")  # as `log_image` names them


def of_run(client: MlflowClient, run_id: str) -> set[tuple[str, int]]:
    """Key and step of every slider image of a run."""
    names = [Path(each.path).name for each in client.list_artifacts(run_id, FOLDER)]
    matches = [NAME.fullmatch(name) for name in names]
    # `log_image` replaces a slash, which would make a folder, by a tilde.
    return {(match[1].replace("~", "/"), int(match[2])) for match in matches if match}
