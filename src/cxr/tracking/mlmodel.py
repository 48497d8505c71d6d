"""The MLmodel files with which MLflow itself can load and serve a registered model."""

import base64
import io
from datetime import datetime
from importlib import metadata
from pathlib import Path

import mlflow.pyfunc
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import ColSpec, Schema
from PIL import Image

import cxr
from cxr.data import phantom

COLUMN = "image"  # of the input table
ASSUMED, WARNINGS = "assumed", "warnings"  # columns of the output table, after the labels
FILE = "MLmodel"  # its presence makes a folder an MLflow model
LOADER = "cxr.inference.pyfunc"  # reads the same files as `cxr predict`; no pickle
# The imports of that module and its dependencies; a test checks that the list is exact.
PACKAGES = (
    "imagecodecs", "mlflow", "numpy", "pandas", "pillow", "pydantic", "pydicom", "ruamel.yaml",
    "safetensors", "scikit-learn", "scipy", "torch", "torchvision",
)  # fmt: skip


def write(folder: Path, labels: tuple[str, ...], evaluated: datetime, n_bytes: int) -> None:
    """Write a model's signature, example, requirements and code, but not its weights.

    They are the same for every model of these labels, so a rebuilt registry is bit-identical.

    Parameters
    ----------
    folder : must not exist yet.
    labels : of the model, in the order of its output.
    evaluated : when the model was evaluated, UTC.
    n_bytes : size of the weights and the operating point.
    """
    model = Model(utc_time_created=evaluated.replace(tzinfo=None), model_uuid=None)
    mlflow.pyfunc.save_model(
        folder,
        loader_module=LOADER,
        # A copy of the package, because it is on no package index, and so that a model that is
        # fetched years later still has the code that can read its files.
        code_paths=[str(Path(cxr.__file__).parent)],
        mlflow_model=model,
        signature=signature(labels),
        input_example=example(),
        pip_requirements=requirements(),
    )
    model.model_size_bytes = n_bytes  # MLflow's own number lacks the weights
    model.save(folder / FILE)


def signature(labels: tuple[str, ...]) -> ModelSignature:
    """Input: one file per row. Output: each label's probability, and assumptions about the file."""
    return ModelSignature(
        inputs=Schema([ColSpec("string", COLUMN)]),
        outputs=Schema(
            [
                *(ColSpec("double", label) for label in labels),
                *(ColSpec("string", name) for name in (ASSUMED, WARNINGS)),
            ]
        ),
    )


def example() -> pd.DataFrame:
    """A phantom image as a PNG of 28 by 28 pixels."""
    file = io.BytesIO()
    Image.fromarray(phantom.render(0, "test", 0, 1, 28).images[0]).save(file, "PNG")
    return pd.DataFrame({COLUMN: [base64.b64encode(file.getvalue()).decode()]})


def requirements() -> list[str]:
    """The installed versions of the packages."""
    # Drop a local version such as torch's +cpu, which is not on PyPI.
    return [f"{name}=={metadata.version(name).split('+')[0]}" for name in PACKAGES]
