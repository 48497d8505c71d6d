"""Find a saved model by its name, its folder or its MLflow URI."""

from pathlib import Path

from cxr.errors import CxrError
from cxr.paths import MODELS

MLFLOW_SCHEMES = ("models:/", "runs:/")
FILES = ("model.json", "weights.safetensors")


def find(name: str, project: Path) -> Path:
    """The folder of a model: its name in the project, the path of its folder, or its MLflow URI."""
    if name.startswith(MLFLOW_SCHEMES):
        # MLflow takes two seconds to import; a model in a folder does not need it.
        from cxr.tracking.store import fetch_model

        return inside(fetch_model(name, project), name)
    in_project = project / MODELS / name
    for folder in (Path(name), in_project):
        if (folder / "model.json").is_file():
            return folder
    available = sorted(path.parent.name for path in in_project.parent.glob("*/model.json"))
    raise CxrError(
        f"model {name} does not exist; "
        + (f"available: {', '.join(available)}" if available else "run `dvc repro` to train models")
    )


def inside(registered: Path, name: str) -> Path:
    """The folder of the weights inside a registered model's; `name` is for the message."""
    folders = [path.parent for path in registered.glob(f"{MODELS}/*/model.json")]
    if len(folders) != 1:
        raise CxrError(f"{name} is not a model of this pipeline; run `cxr ui` to see the models")
    return folders[0]
