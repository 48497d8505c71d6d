"""Errors of MLflow and its store as one-line messages."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from cxr.errors import CxrError, one_line


class TrackingError(CxrError):
    """MLflow's store can't be reached or written."""


@contextmanager
def reported(uri: str, verb: str, fix: str = "") -> Iterator[None]:
    """Turn any error of the store at `uri` into a TrackingError.

    Parameters
    ----------
    verb : what failed, as in "can't be read".
    fix : what to do if the store is reachable but cannot serve the call.
    """
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        cause = _cause(error) or _first_sentence(error) + (f"; {fix}" if fix else "")
        raise TrackingError(f"MLflow's store {uri} can't be {verb}: {cause}") from None


OTHER_URI = "set MLFLOW_TRACKING_URI to sqlite:///FILE or the URL of a server, or unset it"
SERVER = "start the server, or correct or unset MLFLOW_TRACKING_URI"
# Parts of the long messages of MLflow, requests and urllib3: what they mean, and the fix.
CAUSES = {
    "filesystem tracking backend": f"MLflow no longer accepts a folder; {OTHER_URI}",
    "out-of-date database schema": (
        "its schema is that of another MLflow version; copy it and run `mlflow db upgrade URI`, "
        "or move it away and run `cxr sync`, which rebuilds it"
    ),
    "unsupported URI": f"MLflow does not support this kind of URI; {OTHER_URI}",
    "Connection refused": f"no server answers there; {SERVER}",
    "timed out": f"the server does not answer in time; {SERVER}",
    "NameResolutionError": f"its host name can't be resolved; {SERVER}",
    "Failed to resolve": f"its host name can't be resolved; {SERVER}",
    "Max retries exceeded": f"no connection to the server; {SERVER}",
}


def _cause(error: Exception) -> str | None:
    return next((cause for text, cause in CAUSES.items() if text in str(error)), None)


def _first_sentence(error: Exception) -> str:
    return one_line(error).split(". ")[0].rstrip(".")
