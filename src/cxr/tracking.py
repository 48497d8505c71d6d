"""The seam to MLflow: the only module that imports it.

Files come first and MLflow second: whatever it is told stands in a record too.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it looks a server up on import

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from cxr.errors import CxrError
from cxr.lineage import RunLog

FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"

STORE_FILE = "mlflow.db"
ARTIFACTS_FOLDER = "mlruns"
PARAM_LENGTH = 6000  # MLflow refuses longer values
BATCH = 900  # MLflow takes at most 1000 metrics a call
PARAMS_BATCH = 100


def store_uri(root: Path) -> str:
    """`MLFLOW_TRACKING_URI`, else the sqlite file in the project's root, as an absolute address."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / STORE_FILE}"


class TrackingError(CxrError):
    """MLflow's store can't be reached or written."""


class Tracker:
    """Writes runs to one experiment of one store."""

    def __init__(self, root: Path, experiment: str) -> None:
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self._uri = store_uri(root)
        # Processes that create the same sqlite file at once can break it for good.
        with self._reported("opened"), FileLock(root / f"{STORE_FILE}.lock"):
            self._client = MlflowClient(tracking_uri=self._uri)
            self._experiment_id = self._find_or_create(experiment, root)

    def start(self, log: RunLog) -> None:
        """Open a run with its tags and data sets; its id goes into `log`."""
        with self._reported("written"):
            run = self._client.create_run(
                self._experiment_id, run_name=log.name, tags=log.tags, start_time=_now()
            )
            log.run_id = run.info.run_id
            self._log_params(log)
            if log.datasets:
                self._client.log_inputs(log.run_id, [_dataset(entry) for entry in log.datasets])

    def log_epoch(self, log: RunLog, values: dict[str, float]) -> None:
        """One point of every curve; `values` has an `epoch`, which is the step."""
        step = int(values["epoch"])
        metrics = [
            Metric(name, float(value), _now(), step)
            for name, value in values.items()
            if name != "epoch"
        ]
        with self._reported("written"):
            self._client.log_batch(log.run_id, metrics=metrics)

    def finish(self, log: RunLog, root: Path) -> None:
        """Tell the final numbers and pictures, and close the run."""
        metrics = [Metric(name, float(value), _now(), 0) for name, value in log.metrics.items()]
        with self._reported("written"):
            self._log_params(log)
            for start in range(0, len(metrics), BATCH):
                self._client.log_batch(log.run_id, metrics=metrics[start : start + BATCH])
            for path in log.artifacts:
                self._client.log_artifact(log.run_id, str(root / path), _artifact_folder(path))
            self._client.set_terminated(log.run_id, FINISHED)

    def abandon(self, log: RunLog, status: str, reason: str) -> None:
        """Close a run that has no result, with the reason where people look for it."""
        with self._reported("written"):
            self._client.set_tag(log.run_id, "cxr.failure", reason)
            self._client.set_terminated(log.run_id, status)

    def _log_params(self, log: RunLog) -> None:
        """The parameters by now; MLflow takes one again as long as its value is the same."""
        params = [Param(key, str(value)[:PARAM_LENGTH]) for key, value in log.params.items()]
        for start in range(0, len(params), PARAMS_BATCH):
            self._client.log_batch(log.run_id, params=params[start : start + PARAMS_BATCH])

    @contextmanager
    def _reported(self, verb: str) -> Iterator[None]:
        try:
            yield
        except (MlflowException, SQLAlchemyError, OSError) as error:
            raise TrackingError(
                f"MLflow's store {self._uri} can't be {verb}: {_first_line(error)}"
            ) from None

    def _find_or_create(self, name: str, root: Path) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        # A store of ours keeps its artifacts beside it; a server knows where its own go.
        place = (
            None
            if os.environ.get("MLFLOW_TRACKING_URI")
            else (root.resolve() / ARTIFACTS_FOLDER / name).as_uri()
        )
        return str(self._client.create_experiment(name, artifact_location=place))


def _dataset(entry: dict[str, str]) -> DatasetInput:
    """A data set under the DVC md5 of its files, which MLflow shows and searches as its digest."""
    dataset: Any = Dataset(
        name=entry["name"],
        digest=entry["digest"],
        source_type="dvc",
        source=entry["source"],
    )
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", entry["context"])])


def _artifact_folder(path: str) -> str | None:
    """Where an output stands among a run's artifacts: its own folders below `reports/`."""
    parent = Path(path).parent.as_posix().removeprefix("reports").strip("/")
    return parent or None


def _now() -> int:
    return int(time.time() * 1000)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
