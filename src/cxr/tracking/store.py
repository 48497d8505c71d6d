"""All runs of one MLflow store, to be read."""

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

MOST_RUNS = 50_000  # of one search
LOST_MODEL = "`cxr sync` registers models again and finds moved files, `cxr ui` lists the models"
MODEL_ADDRESS = re.compile(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))|runs:/(\w+)(?:/model)?")


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
        self._uri = uri
        with reported(uri, "read"):
            self._client = database.connect(uri)
            experiments = self._client.search_experiments(view_type=ViewType.ALL)
        self._names = {each.experiment_id: each.name for each in experiments}
        self._places = [(each.name, each.artifact_location) for each in experiments]

    @classmethod
    def open(cls, root: Path) -> "Store | None":
        """The project's store, or None where its database is not there."""
        uri = database.store_uri(root)
        file = database.sqlite_file(uri)
        if file is None:
            return cls(uri)
        if not file.exists():
            return None
        database.check_sqlite(file, uri)
        return cls(uri)

    def is_stale_location(self, root: Path) -> bool:
        """Whether our own store looks for artifacts elsewhere: its folder was moved or copied."""
        return database.uses_own_store() and any(
            database.is_stale_location(name, place, root) for name, place in self._places
        )

    def views(self) -> list[View]:
        """Addresses of MLflow's page that open with what people look for; none if it can't be told.

        A store that is only to be read is shown as MLflow shows it.
        """
        try:
            return view.prepare(self._client)
        except (MlflowException, SQLAlchemyError):
            return []

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
            return slides.of_run(self._client, run_id)

    def registers(self, model: Registration, run: StoredRun) -> bool:
        """Whether a run's model is registered, with its files."""
        with reported(self._uri, "read"):
            registry = Registry(self._client, run.experiment)
            return registry.holds(model, run.run_id, run.artifacts)

    def fetch_model(self, address: str) -> Path:
        """The folder of a model, by MLflow's address of it."""
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
        """The version that a model's address leads to now; None of a run's model."""
        name, alias, version, _ = _parts(address)
        if alias:
            with reported(self._uri, f"searched for {address}", LOST_MODEL):
                return str(self._client.get_model_version_by_alias(name, alias).version)
        return version or None

    def _search(self, query: str) -> list[StoredRun]:
        with reported(self._uri, "read"):
            found = self._client.search_runs(
                list(self._names), query, run_view_type=ViewType.ALL, max_results=MOST_RUNS
            )
        return [_stored(run, self._names[run.info.experiment_id]) for run in found]


def fetch_model(address: str, root: Path) -> Path:
    """The folder of a registered model, or of the one that a run evaluated.

    Parameters
    ----------
    address : `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `runs:/RUN_ID/model`.

    Raises
    ------
    TrackingError : there is no store, it can't be read, or it has no such model.
    """
    return open_for(address, root).fetch_model(address)


def open_for(address: str, root: Path) -> Store:
    """The project's store, to search for a model; TrackingError where there is none."""
    store = Store.open(root)
    if store is None:
        raise TrackingError(
            f"{root} has no MLflow store to search for {address}; `cxr sync` rebuilds it"
        )
    return store


def _parts(address: str) -> tuple[str, str, str, str]:
    """Name, alias, version and run id of a model's address; what it does not tell is empty."""
    found = MODEL_ADDRESS.fullmatch(address)
    if found is None:
        raise TrackingError(
            f"{address} is no model's address; write models:/NAME@ALIAS, models:/NAME/VERSION "
            "or runs:/RUN_ID/model"
        )
    name, alias, version, run_id = found.groups("")
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
