"""Read access to all runs of one MLflow store."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

from mlflow.artifacts import download_artifacts
from mlflow.entities import LifecycleStage, Run, ViewType
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from cxr.lineage.records import ORIGINAL_TAG
from cxr.lineage.run_log import Registration
from cxr.tracking import database, slides, view
from cxr.tracking.errors import TrackingError, reported
from cxr.tracking.format import FINISHED
from cxr.tracking.registry import FOLDER as MODEL_FOLDER
from cxr.tracking.registry import Registry
from cxr.tracking.view import View

MOST_RUNS = 50_000  # per search
LOST_MODEL = "`cxr sync` restores lost models and moved files, `cxr ui` lists the models"
MODEL_ADDRESS = re.compile(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))|runs:/(\w+)(?:/model)?")


@dataclass(frozen=True)
class StoredRun:
    """A run in MLflow."""

    run_id: str
    original_id: str  # id of the run that this one replaces, else its own
    status: str
    deleted: bool  # marked as deleted in MLflow
    experiment: str
    params: dict[str, str]
    metrics: dict[str, float]  # the last value of each
    tags: dict[str, str]
    datasets: dict[str, str]  # name -> digest
    artifacts: Path | None  # folder; None if a server stores them


class Store:
    """Reads the runs and models of one MLflow store."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        with reported(uri, "read"):
            self._client = database.connect(uri)
            experiments = self._client.search_experiments(view_type=ViewType.ALL)
        self._names = {each.experiment_id: each.name for each in experiments}
        self._locations = [(each.name, each.artifact_location) for each in experiments]

    @classmethod
    def open(cls, root: Path) -> "Store | None":
        """The project's store, or None if its database does not exist."""
        uri = database.store_uri(root)
        file = database.sqlite_file(uri)
        if file is None:
            return cls(uri)
        if not file.exists():
            return None
        database.check_sqlite(file, uri)
        return cls(uri)

    def is_stale_location(self, root: Path) -> bool:
        """Whether the project's own store was moved or copied and has old artifact URIs."""
        return database.uses_own_store() and any(
            database.is_stale_location(name, location, root) for name, location in self._locations
        )

    def views(self) -> list[View]:
        """Useful views of MLflow's runs page; none if the store is read-only."""
        try:
            return view.prepare(self._client)
        except (MlflowException, SQLAlchemyError):
            return []

    def find(self, run_id: str) -> StoredRun | None:
        """The run with this id, or the run that replaces it."""
        own = self._search(f"attributes.run_id = '{run_id}'")
        runs = own or self._search(f"tags.`{ORIGINAL_TAG}` = '{run_id}'")
        return min(runs, key=lambda run: (run.deleted, run.status != FINISHED), default=None)

    def starting_with(self, prefix: str) -> list[StoredRun]:
        """The runs whose id, or the id of the run that they replace, starts with `prefix`."""
        own = self._search(f"attributes.run_id LIKE '{prefix}%'")
        return own + self._search(f"tags.`{ORIGINAL_TAG}` LIKE '{prefix}%'")

    def history(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """Step and value of every point of a metric, sorted by step."""
        with reported(self._uri, "read"):
            points = self._client.get_metric_history(run_id, metric)
        return sorted((point.step, point.value) for point in points)

    def slides(self, run_id: str) -> set[tuple[str, int]]:
        """Key and step of every slider image of a run."""
        with reported(self._uri, "read"):
            return slides.of_run(self._client, run_id)

    def registers(self, model: Registration, run: StoredRun) -> bool:
        """Whether a run's model is registered, with its files."""
        with reported(self._uri, "read"):
            registry = Registry(self._client, run.experiment)
            return registry.holds(model, run.run_id, run.artifacts)

    def fetch_model(self, address: str) -> Path:
        """Fetch a model by its MLflow URI; returns its folder."""
        name, _, _, run_id = _parts(address)
        version = self.version_of(address)
        with reported(self._uri, f"searched for {address}", LOST_MODEL):
            if version is None:
                run = self.find(run_id)
                source = f"runs:/{run.run_id if run else run_id}/{MODEL_FOLDER}"
            else:
                source = self._client.get_model_version_download_uri(name, version)
            return Path(download_artifacts(artifact_uri=source, tracking_uri=self._uri))

    def version_of(self, address: str) -> str | None:
        """The version that a model URI currently refers to; None for the model of a run."""
        name, alias, version, _ = _parts(address)
        if alias:
            with reported(self._uri, f"searched for {address}", LOST_MODEL):
                return str(self._client.get_model_version_by_alias(name, alias).version)
        return version or None

    def _search(self, query: str) -> list[StoredRun]:
        with reported(self._uri, "read"):
            runs = self._client.search_runs(
                list(self._names), query, run_view_type=ViewType.ALL, max_results=MOST_RUNS
            )
        return [_stored(run, self._names[run.info.experiment_id]) for run in runs]


def fetch_model(address: str, root: Path) -> Path:
    """Fetch a registered model, or the model of an evaluation run; returns its folder.

    Parameters
    ----------
    address : `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `runs:/RUN_ID/model`.

    Raises
    ------
    TrackingError
        If there is no store, it can't be read, or it has no such model.
    """
    return open_for(address, root).fetch_model(address)


def open_for(address: str, root: Path) -> Store:
    """Open the project's store to search for a model; TrackingError if there is none."""
    store = Store.open(root)
    if store is None:
        raise TrackingError(
            f"{root} has no MLflow store to search for {address}; run `cxr sync` to rebuild it"
        )
    return store


def _parts(address: str) -> tuple[str, str, str, str]:
    """Name, alias, version and run id of a model URI; missing parts are empty."""
    match = MODEL_ADDRESS.fullmatch(address)
    if match is None:
        raise TrackingError(
            f"{address} is not a model URI; write models:/NAME@ALIAS, models:/NAME/VERSION "
            "or runs:/RUN_ID/model"
        )
    name, alias, version, run_id = match.groups("")
    return name, alias, version, run_id


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
