"""The model that a training starts from: `train.<model>.init` in params.yaml."""

import hashlib
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from cxr.errors import CxrError
from cxr.params import named_file
from cxr.paths import MODELS
from cxr.pipeline import scratch
from cxr.tracking.saved_models import FILES, MLFLOW_SCHEMES, find


def find_initial_model(init: str, key: str, project: Path) -> Path:
    """The folder of the model that the parameter `key` names.

    A model from MLflow is kept in `.scratch/models/`, so that a replay finds it without the store.

    Parameters
    ----------
    init : a folder, relative to `project`, or an MLflow URI.

    Raises
    ------
    CxrError
        If there is no such model, or the name is an alias or an output of this pipeline.
    """
    if not init.startswith(MLFLOW_SCHEMES):
        if os.path.normpath(project / init / "..") == os.path.normpath(project / MODELS):
            raise CxrError(
                f"{key}: {init} is an output of this pipeline, which DVC deletes before training; "
                "name a registered model, such as models:/NAME/VERSION, or a copy of the folder"
            )
        folder = named_file(key, f"{init}/{FILES[0]}", project).parent
        named_file(key, f"{init}/{FILES[1]}", project)
        return folder
    if "@" in init:
        raise CxrError(
            f"{key}: the alias in {init} can move to another model; write models:/NAME/VERSION "
            "(`cxr ui` shows the versions)"
        )
    models = scratch.folder_of(project) / MODELS
    kept = models / hashlib.sha256(init.encode()).hexdigest()[:16]
    if not kept.exists():
        found = find(init, project)
        models.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=models) as temporary:
            part = Path(temporary, "model")
            part.mkdir()
            for name in FILES:
                shutil.copyfile(found / name, part / name)
            with suppress(OSError):  # another training has just kept it
                part.rename(kept)
    return kept
