"""The seam to MLflow: the only module that imports it.

Files come first and MLflow second: whatever it is told stands in a record too.
"""

import logging
import os
import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from filelock import FileLock

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it looks a server up on import
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # seconds instead of minutes

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LifecycleStage,
    Metric,
    Param,
    Run,
    RunTag,
    ViewType,
)
from PIL import Image

from cxr.lineage import Registration, RunLog
from cxr.records import DESCRIPTION_TAG, ORIGINAL_TAG
from cxr.tracking.failure import TrackingError, reported
from cxr.tracking.registry import FOLDER as MODEL_FOLDER
from cxr.tracking.registry import Registry

FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"

STORE_FILE = "mlflow.db"
ARTIFACTS_FOLDER = "mlruns"
PARAM_LENGTH = 6000  # MLflow refuses longer values
BATCH = 900  # MLflow takes at most 1000 metrics a call
PARAMS_BATCH = 100
MOST_RUNS = 50_000  # of one search
SQLITE = "sqlite:///"
# Where MLflow's database has addresses of artifacts.
ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
SLIDES = "images"  # the folder of artifacts where MLflow's pages look for sliders
MODEL_ADDRESS = re.compile(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))|runs:/(\w+)(?:/model)?")
SLIDE_NAME = re.compile(r"(.+)\+step\+(\d+)\+timestamp\+.+\.png")  # as `log_image` names them
WAIT = 2.0  # seconds for a database that is locked


def store_uri(root: Path) -> str:
    """`MLFLOW_TRACKING_URI`, else the project's own sqlite file; a relative one starts at its root.

    MLflow itself would start at the working directory, which changes from command to command.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{STORE_FILE}"
    return f"{SQLITE}{root.resolve() / uri[len(SQLITE) :]}" if uri.startswith(SQLITE) else uri


@dataclass(frozen=True)
class StoredRun:
    """A run as MLflow has it."""

    run_id: str
    original_id: str  # of the run that this one was rebuilt from; its own where it was not
    status: str
    deleted: bool  # in MLflow's trash
    experiment: str
    params: dict[str, str]
    metrics: dict[str, float]  # the last value of each
    tags: dict[str, str]
    datasets: dict[str, str]  # name -> digest
    artifacts: Path | None  # folder; None where a server keeps them


class Store:
    """All runs of one MLflow store, to be read."""

    def __init__(self, uri: str) -> None:
        _quiet()
        self._uri = uri
        with reported(uri, "read"):
            self._client = _client(uri)
            experiments = self._client.search_experiments(view_type=ViewType.ALL)
        self._names = {each.experiment_id: each.name for each in experiments}
        self._places = [(each.name, each.artifact_location) for each in experiments]

    def strays(self, root: Path) -> bool:
        """Whether our own store looks for artifacts elsewhere: its folder was moved or copied."""
        return uses_own_store() and any(_strays(name, place, root) for name, place in self._places)

    @classmethod
    def open(cls, root: Path) -> "Store | None":
        """The project's store, or None where its database is not there."""
        uri = store_uri(root)
        file = _sqlite_file(uri)
        if file is not None:
            if not file.exists():
                return None
            _check_sqlite(file, uri)
        return cls(uri)

    def find(self, run_id: str) -> StoredRun | None:
        """The run of an id, or the one that was rebuilt from it."""
        own = self._search(f"attributes.run_id = '{run_id}'")
        found = own or self._search(f"tags.`{ORIGINAL_TAG}` = '{run_id}'")
        return min(found, key=lambda run: (run.deleted, run.status != FINISHED), default=None)

    def starting_with(self, prefix: str) -> list[StoredRun]:
        """The runs whose id, or the id of the run they were rebuilt from, starts so."""
        own = self._search(f"attributes.run_id LIKE '{prefix}%'")
        return own + self._search(f"tags.`{ORIGINAL_TAG}` LIKE '{prefix}%'")

    def history(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """Every point of a metric: step and value, in the order of the steps."""
        with reported(self._uri, "read"):
            points = self._client.get_metric_history(run_id, metric)
        return sorted((point.step, point.value) for point in points)

    def slides(self, run_id: str) -> set[tuple[str, int]]:
        """Key and step of every picture in a run's sliders."""
        with reported(self._uri, "read"):
            return _slides(self._client, run_id)

    def registers(self, model: Registration, run: StoredRun) -> bool:
        """Whether a run's model is registered, with its files."""
        with reported(self._uri, "read"):
            registry = Registry(self._client, run.experiment)
            return registry.holds(model, run.run_id, run.artifacts)

    def fetch_model(self, address: str) -> Path:
        """The folder of a model, by MLflow's address of it."""
        found = MODEL_ADDRESS.fullmatch(address)
        if found is None:
            raise TrackingError(
                f"{address} is no model's address; write models:/NAME@ALIAS, models:/NAME/VERSION "
                "or runs:/RUN_ID/model"
            )
        name, alias, version, run_id = found.groups()
        with reported(self._uri, f"searched for {address}"):
            if run_id:
                run = self.find(run_id)
                source = f"runs:/{run.run_id if run else run_id}/{MODEL_FOLDER}"
            else:
                if alias:
                    version = self._client.get_model_version_by_alias(name, alias).version
                source = self._client.get_model_version_download_uri(name, version)
            return Path(download_artifacts(artifact_uri=source, tracking_uri=self._uri))

    def _search(self, query: str) -> list[StoredRun]:
        with reported(self._uri, "read"):
            found = self._client.search_runs(
                list(self._names), query, run_view_type=ViewType.ALL, max_results=MOST_RUNS
            )
        return [_stored(run, self._names[run.info.experiment_id]) for run in found]


class Tracker:
    """Writes runs to one experiment of one store."""

    def __init__(self, root: Path, experiment: str) -> None:
        _quiet()
        self._uri = store_uri(root)
        # Processes that create the same sqlite file at once can break it for good.
        self._lock = FileLock(root / f"{STORE_FILE}.lock")
        with reported(self._uri, "opened"), self._lock:
            self._client = _client(self._uri)
            self._experiment_id = self._find_or_create(experiment, root)
        self._registry = Registry(self._client, experiment)

    def start(self, log: RunLog) -> None:
        """Open a run with its tags and data sets; its id goes into `log`."""
        with reported(self._uri, "written"):
            run = self._client.create_run(
                self._experiment_id, run_name=log.name, tags=log.tags, start_time=_now()
            )
            log.run_id = run.info.run_id
            self._log_params(log, log.run_id)
            self._log_datasets(log, log.run_id)

    def log_epoch(self, log: RunLog, values: dict[str, float]) -> None:
        """One point of every curve; `values` has an `epoch`, which is the step."""
        step = int(values["epoch"])
        metrics = [
            Metric(name, float(value), _now(), step)
            for name, value in values.items()
            if name != "epoch"
        ]
        with reported(self._uri, "written"):
            self._client.log_batch(log.run_id, metrics=metrics)

    def finish(
        self,
        log: RunLog,
        tags: dict[str, str],
        file: Callable[[str], Path | None],
        run_id: str | None = None,
        at: int | None = None,
    ) -> None:
        """Tell all that the run does not show yet, and close it.

        Parameters
        ----------
        file : finds an artifact by its path in `log`; None where it is gone.
        run_id : of a run that stands for the log's own.
        at : when it ended, in milliseconds since 1970; now, unless told.
        """
        run_id, at = run_id or log.run_id, at or _now()
        with reported(self._uri, "written"):
            self._log_params(log, run_id)
            self._log_missing_metrics(log, run_id, at)
            there = self._client.get_run(run_id)
            # A description that a person has edited stays.
            tags = {
                k: v for k, v in tags.items() if k != DESCRIPTION_TAG or k not in there.data.tags
            }
            named = [RunTag(key, value) for key, value in (log.tags | tags).items()]
            self._client.log_batch(run_id, tags=named)
            self._log_datasets(log, run_id)
            for path in log.artifacts:
                place, folder = file(path), Path(artifact_place(path)).parent.as_posix()
                if place is not None:
                    inside = None if folder == "." else folder
                    self._client.log_artifact(run_id, str(place), inside)
            self._log_missing_slides(log, run_id, file, at)
            if there.info.status != FINISHED:
                self._client.set_terminated(run_id, FINISHED, at)
        if log.registration is not None:
            with reported(self._uri, "told of a model"), self._lock:
                self._registry.add(log.registration, run_id, file)

    def abandon(self, log: RunLog, status: str, reason: str) -> None:
        """Close a run that has no result, with the reason where people look for it."""
        with reported(self._uri, "written"):
            self._client.set_tag(log.run_id, "cxr.failure", reason)
            self._client.set_terminated(log.run_id, status)

    def rebuild(self, log: RunLog, at: int) -> str:
        """Open a new run for a result whose own is gone; returns its id, and `finish` fills it."""
        with reported(self._uri, "written"):
            run = self._client.create_run(
                self._experiment_id,
                run_name=log.name,
                tags={**log.tags, ORIGINAL_TAG: log.run_id},
                start_time=at,
            )
        return str(run.info.run_id)

    def restore(self, run_id: str) -> None:
        """Take a run out of MLflow's trash."""
        with reported(self._uri, "written"):
            self._client.restore_run(run_id)

    def _log_params(self, log: RunLog, run_id: str) -> None:
        """The parameters by now; MLflow takes one again as long as its value is the same."""
        params = [Param(key, value) for key, value in shown_params(log).items()]
        for start in range(0, len(params), PARAMS_BATCH):
            self._client.log_batch(run_id, params=params[start : start + PARAMS_BATCH])

    def _log_missing_metrics(self, log: RunLog, run_id: str, at: int) -> None:
        """The points that MLflow lacks: its history only grows, so none is told twice."""
        there = self._client.get_run(run_id).data.metrics
        missing = []
        for name, points in shown_metrics(log).items():
            history = self._client.get_metric_history(run_id, name) if name in there else []
            steps = {point.step for point in history}
            missing += [
                Metric(name, value, at, step) for step, value in points if step not in steps
            ]
        for start in range(0, len(missing), BATCH):
            self._client.log_batch(run_id, metrics=missing[start : start + BATCH])

    def _log_missing_slides(
        self, log: RunLog, run_id: str, file: Callable[[str], Path | None], at: int
    ) -> None:
        """MLflow names each picture anew, so one that it has would be there twice."""
        there = _slides(self._client, run_id) if log.slides else set()
        for slide in log.slides:
            place = file(slide.path)
            if place is not None and (slide.key, slide.step) not in there:
                with Image.open(place) as picture:
                    self._client.log_image(
                        run_id, picture, key=slide.key, step=slide.step, timestamp=at
                    )
                there.add((slide.key, slide.step))

    def _log_datasets(self, log: RunLog, run_id: str) -> None:
        """MLflow takes a data set again without doubling it."""
        if log.datasets:
            self._client.log_inputs(run_id, [_dataset(entry) for entry in log.datasets])

    def _find_or_create(self, name: str, root: Path) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage == LifecycleStage.DELETED:
                self._client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)
        # A store of ours keeps its artifacts beside it; a server knows where its own go.
        place = None if not uses_own_store() else _artifacts(root, name).as_uri()
        return str(self._client.create_experiment(name, artifact_location=place))


def shown_params(log: RunLog) -> dict[str, str]:
    """A run's parameters as MLflow keeps them."""
    return {key: str(value)[:PARAM_LENGTH] for key, value in log.params.items()}


def shown_metrics(log: RunLog) -> dict[str, list[tuple[int, float]]]:
    """Step and value of every point of a run's metrics: its curves, and its final numbers."""
    points: dict[str, list[tuple[int, float]]] = {}
    for values in log.history:
        for name, value in values.items():
            if name != "epoch":
                points.setdefault(name, []).append((int(values["epoch"]), float(value)))
    for name, value in log.metrics.items():
        points.setdefault(name, []).append((0, float(value)))
    return points


def fetch_model(address: str, root: Path) -> Path:
    """The folder of a registered model, or of the one that a run evaluated.

    Parameters
    ----------
    address : `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `runs:/RUN_ID/model`.

    Raises
    ------
    TrackingError : there is no store, it can't be read, or it has no such model.
    """
    store = Store.open(root)
    if store is None:
        raise TrackingError(f"{root} has no MLflow store to search for {address}")
    return store.fetch_model(address)


def relocate_artifacts(root: Path) -> int:
    """Let our own store look for its artifacts where it now stands; how many runs that moved.

    MLflow writes absolute addresses into its database and has no call to change them.
    """
    file = _sqlite_file(store_uri(root))
    if file is None or not file.exists() or not uses_own_store():
        return 0
    moved = 0
    with (
        reported(store_uri(root), "written"),
        closing(sqlite3.connect(file, timeout=WAIT)) as base,
        base,
    ):
        places = base.execute("SELECT name, artifact_location FROM experiments").fetchall()
        for name, place in places:
            if _strays(name, place, root):
                moved += _redirect(base, place, _artifacts(root, name).as_uri())
    return moved


def _redirect(base: sqlite3.Connection, there: str, here: str) -> int:
    """Rewrite an experiment's address and those of all its runs; how many runs."""
    n_runs = 0
    for table, column in ADDRESSES:
        done = base.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608 - ours
            f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
            (here, len(there) + 1, there, len(there) + 1, f"{there}/"),
        )
        n_runs += done.rowcount if table == "runs" else 0
    return n_runs


def _strays(name: str, place: str, root: Path) -> bool:
    """Whether artifacts that our own store laid down are here, and looked for elsewhere."""
    address, here = urlparse(place), _artifacts(root, name)
    there = Path(unquote(address.path))
    ours = address.scheme in ("", "file") and there.parts[-2:] == here.parts[-2:]
    return ours and there != here and here.is_dir()


def _artifacts(root: Path, experiment: str) -> Path:
    return root.resolve() / ARTIFACTS_FOLDER / experiment


def uses_own_store() -> bool:
    """Whether the store is the project's own, not one that the environment names."""
    return not os.environ.get("MLFLOW_TRACKING_URI")


def artifact_place(path: str) -> str:
    """Where an output stands among a run's artifacts: its own folders below `reports/`."""
    return path.removeprefix("reports/")


def _quiet() -> None:
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)


def _sqlite_file(uri: str) -> Path | None:
    return Path(uri.removeprefix(SQLITE).split("?")[0]) if uri.startswith(SQLITE) else None


def _check_sqlite(file: Path, uri: str) -> None:
    """Find a locked or damaged database at once; MLflow itself would try for long."""
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=WAIT)) as base:
            base.execute("SELECT count(*) FROM runs").fetchone()
    except sqlite3.OperationalError as error:
        what = "another program has locked it; wait for it or end it"
        if "locked" not in str(error):
            what = f"{error}; move it away and run `cxr sync`, which rebuilds it"
        raise TrackingError(f"MLflow's store {uri} can't be read: {what}") from None
    except sqlite3.DatabaseError as error:
        raise TrackingError(
            f"MLflow's store {uri} is damaged ({error}); move it away and run `cxr sync`, "
            "which rebuilds it"
        ) from None


def _stored(run: Run, experiment: str) -> StoredRun:
    uri = urlparse(run.info.artifact_uri)
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return StoredRun(
        run_id=run.info.run_id,
        original_id=run.data.tags.get(ORIGINAL_TAG, run.info.run_id),
        status=run.info.status,
        deleted=run.info.lifecycle_stage == LifecycleStage.DELETED,
        experiment=experiment,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=dict(run.data.tags),
        datasets={each.dataset.name: each.dataset.digest for each in inputs},
        artifacts=Path(unquote(uri.path)) if uri.scheme in ("", "file") else None,
    )


def _client(uri: str) -> MlflowClient:
    """Runs and registered models in one store."""
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _slides(client: MlflowClient, run_id: str) -> set[tuple[str, int]]:
    names = [Path(each.path).name for each in client.list_artifacts(run_id, SLIDES)]
    found = [SLIDE_NAME.fullmatch(name) for name in names]
    # A slash would make a folder, so `log_image` writes a tilde.
    return {(match[1].replace("~", "/"), int(match[2])) for match in found if match}


def _dataset(entry: dict[str, str]) -> DatasetInput:
    """A data set under the DVC md5 of its files, which MLflow shows and searches as its digest."""
    dataset: Any = Dataset(
        name=entry["name"],
        digest=entry["digest"],
        source_type="dvc",
        source=entry["source"],
    )
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", entry["context"])])


def _now() -> int:
    return int(time.time() * 1000)
