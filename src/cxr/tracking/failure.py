"""What MLflow and its store throw, as one line for people."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from cxr.errors import CxrError


class TrackingError(CxrError):
    """MLflow's store can't be reached or written."""


@contextmanager
def reported(uri: str, verb: str) -> Iterator[None]:
    """Turn whatever goes wrong with the store at `uri` into a TrackingError."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        raise TrackingError(f"MLflow's store {uri} can't be {verb}: {_first_line(error)}") from None


# What requests and urllib3 say in the middle of a long text, and what it means.
CAUSES = {
    "Connection refused": "no server answers there",
    "timed out": "the server does not answer in time",
    "NameResolutionError": "there is no host of that name",
    "Failed to resolve": "there is no host of that name",
    "Max retries exceeded": "no connection to the server",
}


def _first_line(error: Exception) -> str:
    for text, cause in CAUSES.items():
        if text in str(error):
            return f"{cause}; `cxr doctor` looks at it"
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
