"""Images that MLflow shows as the steps of a slider, as `MlflowClient.log_image` stores them."""

import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable
from pathlib import Path

from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES
from PIL import Image

FOLDER = "images"  # the artifact folder in which MLflow looks for slider images
NAME = re.compile(r"(.+)\+step\+(\d+)\+timestamp\+.+\.png")
THUMBNAIL = (256, 256)  # pixels, of the copies that MLflow shows in a grid


def of_run(client: MlflowClient, run_id: str) -> set[tuple[str, int]]:
    """Key and step of every slider image of a run."""
    names = [Path(each.path).name for each in client.list_artifacts(run_id, FOLDER)]
    matches = [NAME.fullmatch(name) for name in names]
    return {(match[1].replace("~", "/"), int(match[2])) for match in matches if match}


def log(
    client: MlflowClient, run_id: str, pictures: Iterable[tuple[Path, str, int]], timestamp: int
) -> None:
    """Log PNG files as slider images, each with its key and step.

    `log_image` would decode and encode every picture again, and log each in a call of its own.
    """
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, FOLDER)
        folder.mkdir()
        for file, key, step in pictures:
            # A slash would make a folder.
            name = f"{key.replace('/', '~')}+step+{step}+timestamp+{timestamp}+{uuid.uuid4()}"
            shutil.copyfile(file, folder / f"{name}.png")
            with Image.open(file) as picture:
                picture.thumbnail(THUMBNAIL)
                picture.save(folder / f"{name}+compressed.webp", method=0)
        client.log_artifacts(run_id, root)
    client.set_tag(run_id, MLFLOW_LOGGED_IMAGES, True)
