"""A registered model as MLflow loads it: image files in, probabilities out.

`MLmodel` names this module, and MLflow calls `_load_pyfunc` with the folder of `MLmodel`. It reads
weights and operating point without pickle.
"""

import base64
import logging
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INTERNAL_ERROR

from cxr.data.images import files
from cxr.data.images.picture import Picture
from cxr.errors import CxrError
from cxr.inference import predict
from cxr.inference.predict import BATCH, Model, Prediction
from cxr.tracking import saved_models
from cxr.tracking.mlmodel import ASSUMED, COLUMN, WARNINGS

MAX_IMAGES = 256  # per request; SqueezeNet takes some seconds for them
log = logging.getLogger(__name__)


class RequestError(MlflowException):
    """A request that can't be answered; MLflow's server sends status and message to the client."""

    def __init__(self, message: str, code: int = BAD_REQUEST) -> None:
        self._message = message
        super().__init__(message, error_code=code)

    @property
    def message(self) -> str:
        return self._message

    @message.setter
    def message(self, text: str) -> None:
        """Ignored: MLflow's server would prepend a copy of the request."""


class ServedModel:
    """The interface that MLflow expects of a model."""

    def __init__(self, model: Model) -> None:
        self._model = model
        # One batch at a time: a forward pass uses all of torch's threads, and reading images
        # silences Python's warnings for all threads. Other requests run between batches.
        self._lock = Lock()

    def predict(self, table: pd.DataFrame) -> pd.DataFrame:
        """One row per image: calibrated probabilities, what was assumed, and warnings.

        Parameters
        ----------
        table : with a column `image` of base64-encoded bitmap or DICOM files.

        Raises
        ------
        RequestError : if an image can't be used; the message names the image and the reason.
        """
        try:
            predictions = list(self._predictions(_texts(table)))
        except CxrError as error:
            raise RequestError(str(error)) from None
        except Exception as error:
            log.exception("a request failed")
            message = "the model failed on this request; see the server's log for the cause"
            raise RequestError(message, INTERNAL_ERROR) from error
        probs = np.stack([each.probs for each in predictions])
        result = pd.DataFrame(probs, index=table.index, columns=list(self._model.saved.labels))
        result[ASSUMED] = [each.assumed_as_text() for each in predictions]
        result[WARNINGS] = ["; ".join(each.warnings) for each in predictions]
        return result

    def _predictions(self, texts: list[object]) -> Iterator[Prediction]:
        for start in range(0, len(texts), BATCH):
            with self._lock:
                batch = enumerate(texts[start : start + BATCH], start)
                pictures = [_picture(text, f"image {row}") for row, text in batch]
                yield from predict.predict_pictures(self._model, pictures, {})


def load(folder: Path) -> ServedModel:
    """Load the model in the folder of a registered model."""
    return ServedModel(predict.load(str(saved_models.inside(folder, str(folder))), None))


def _load_pyfunc(path: str) -> ServedModel:
    return load(Path(path))


def _texts(table: pd.DataFrame) -> list[object]:
    if COLUMN not in table:
        raise CxrError(f"the table has no column `{COLUMN}`; add one of base64-encoded files")
    texts: list[object] = table[COLUMN].tolist()
    if not 0 < len(texts) <= MAX_IMAGES:
        raise CxrError(f"the request has {len(texts):,} images; send 1 to {MAX_IMAGES} per request")
    return texts


def _picture(text: object, name: str) -> Picture:
    try:
        if not isinstance(text, str):  # JSON's null arrives as NaN
            raise ValueError("not a string")
        content = base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        raise CxrError(
            f"{name} is not valid base64; send the file's bytes base64-encoded"
        ) from None
    return files.decode(content, Path(name))
