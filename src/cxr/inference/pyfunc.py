"""A registered model as MLflow loads it: a table of image files in, one of probabilities out.

`MLmodel` names this module, and MLflow calls `_load_pyfunc` with the folder that it stands in: code
that reads weights and decision, and no pickle.
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
from cxr.labels import LABELS
from cxr.tracking.mlmodel import ASSUMED, COLUMN

MOST_IMAGES = 256  # of one request; SqueezeNet takes some seconds for so many
log = logging.getLogger(__name__)


class Refused(MlflowException):
    """A request without an answer; MLflow's server sends status and sentence to who asked."""

    def __init__(self, sentence: str, code: int = BAD_REQUEST) -> None:
        self._sentence = sentence
        super().__init__(sentence, error_code=code)

    @property
    def message(self) -> str:
        return self._sentence

    @message.setter
    def message(self, text: str) -> None:
        """MLflow's server would set a copy of the request before it."""


class ServedModel:
    """What MLflow asks of a model."""

    def __init__(self, model: Model) -> None:
        self._model = model
        # One at a time: a pass through the network uses every thread that torch has, and who
        # reads images silences Python's warnings for all threads. A long request lets others in.
        self._turn = Lock()

    def predict(self, table: pd.DataFrame) -> pd.DataFrame:
        """A row per image: the calibrated probability of each label, and what was assumed.

        Parameters
        ----------
        table : with a column `image`, each a bitmap or DICOM file in base64.

        Raises
        ------
        Refused : one of them can't be used, and which and why.
        """
        try:
            done = list(self._predictions(_texts(table)))
        except CxrError as error:
            raise Refused(str(error)) from None
        except Exception as error:
            log.exception("a request failed")
            reason = "the model failed on this request; the server's log says why"
            raise Refused(reason, INTERNAL_ERROR) from error
        probs = np.stack([each.probs for each in done])
        answer = pd.DataFrame(probs, index=table.index, columns=list(LABELS))
        answer[ASSUMED] = [each.assumed_as_text() for each in done]
        return answer

    def _predictions(self, texts: list[object]) -> Iterator[Prediction]:
        for start in range(0, len(texts), BATCH):
            with self._turn:
                part = enumerate(texts[start : start + BATCH], start)
                pictures = [_picture(text, f"image {row}") for row, text in part]
                yield from predict.predict_pictures(self._model, pictures, {})


def load(folder: Path) -> ServedModel:
    """The model in the folder of a registered one."""
    return ServedModel(predict.load(str(predict.folder_of(folder, str(folder))), None))


def _load_pyfunc(path: str) -> ServedModel:
    return load(Path(path))


def _texts(table: pd.DataFrame) -> list[object]:
    if COLUMN not in table:
        raise CxrError(f"the table has no column `{COLUMN}`")
    texts: list[object] = table[COLUMN].tolist()
    if not 0 < len(texts) <= MOST_IMAGES:
        raise CxrError(f"there are {len(texts):,} images; one request takes 1 to {MOST_IMAGES}")
    return texts


def _picture(text: object, name: str) -> Picture:
    try:
        if not isinstance(text, str):  # JSON's null comes as a NaN
            raise ValueError("no text")
        content = base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        raise CxrError(
            f"{name} is not valid base64; send the file's bytes base64-encoded"
        ) from None
    return files.decode(content, Path(name))
