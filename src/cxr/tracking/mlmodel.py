"""What makes a registered model one that MLflow itself loads and serves: an MLmodel beside it."""

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
from cxr.labels import LABELS

COLUMN = "image"  # in the table that a served model is asked with
ASSUMED = "assumed"  # in its answer, beside the labels
FILE = "MLmodel"  # where it is, MLflow takes the folder for a model
LOADER = "cxr.inference.pyfunc"  # it reads weights and decision as `cxr predict` does: no pickle
# What that module and all below it import; a test holds it to exactly these.
PACKAGES = (
    "imagecodecs", "mlflow", "numpy", "pandas", "pillow", "pydantic", "pydicom", "ruamel.yaml",
    "safetensors", "scikit-learn", "scipy", "torch", "torchvision",
)  # fmt: skip


def write(folder: Path, made: datetime, n_bytes: int) -> None:
    """Signature, example, requirements and code of a model, whose weights come from elsewhere.

    The same for every model, so that a rebuilt registry has the same bytes.

    Parameters
    ----------
    folder : a new one.
    made : when the model was evaluated, UTC.
    n_bytes : of weights and decision.
    """
    model = Model(utc_time_created=made.replace(tzinfo=None), model_uuid=None)
    mlflow.pyfunc.save_model(
        folder,
        loader_module=LOADER,
        # A copy of the package: it is on no index, so a fresh environment could not install it, and
        # a model that is fetched years later still has the code that knows its files.
        code_paths=[str(Path(cxr.__file__).parent)],
        mlflow_model=model,
        signature=signature(),
        input_example=example(),
        pip_requirements=requirements(),
    )
    model.model_size_bytes = n_bytes  # MLflow has measured the folder without the weights
    model.save(folder / FILE)


def signature() -> ModelSignature:
    """One file per row; the probability of each label, and what was assumed to read the file."""
    return ModelSignature(
        inputs=Schema([ColSpec("string", COLUMN)]),
        outputs=Schema(
            [*(ColSpec("double", label) for label in LABELS), ColSpec("string", ASSUMED)]
        ),
    )


def example() -> pd.DataFrame:
    """A phantom's chest as a PNG of 28 pixels."""
    file = io.BytesIO()
    Image.fromarray(phantom.render(0, "test", 0, 1, 28).images[0]).save(file, "PNG")
    return pd.DataFrame({COLUMN: [base64.b64encode(file.getvalue()).decode()]})


def requirements() -> list[str]:
    """The versions that are installed."""
    # Of torch's the part behind the +, such as cpu, names a build that no public index has.
    return [f"{name}=={metadata.version(name).split('+')[0]}" for name in PACKAGES]
