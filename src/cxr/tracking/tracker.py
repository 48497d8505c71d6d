"""Runs written to one experiment of one MLflow store."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LifecycleStage,
    Metric,
    Param,
    Run,
    RunTag,
)
from PIL import Image

from cxr.lineage.records import ATTEMPT_TAG, DESCRIPTION_TAG, FAILURE_TAG, ORIGINAL_TAG
from cxr.lineage.run_log import RunLog
from cxr.tracking import database, processes, slides
from cxr.tracking.errors import reported
from cxr.tracking.format import FINISHED, RUNNING, artifact_place, shown_metrics, shown_params
from cxr.tracking.registry import Registry

BATCH = 900  # MLflow takes at most 1000 metrics a call
PARAMS_BATCH = 100


class Tracker:
    """Writes runs to one experiment of one store."""

    def __init__(self, root: Path, experiment: str) -> None:
        self._uri = database.store_uri(root)
        self._lock = database.lock_of(root)
        with reported(self._uri, "opened"), self._lock:
            database.create(self._uri)
            self._client = database.connect(self._uri)
            self._experiment_id = self._find_or_create(experiment, root)
        self._registry = Registry(self._client, experiment)
        self._told: dict[str, set[tuple[str, int]]] = {}  # by run: points of an earlier try

    def start(self, log: RunLog) -> None:
        """Open a run with its tags and data sets, or the one of an earlier try again.

        Its id goes into `log`. Runs of processes that are known to have ended are closed first.
        """
        # Locked, so that no other stage closes a run between its reading and its reopening.
        with reported(self._uri, "written"), self._lock:
            processes.close_runs_of_dead(self._client)
            earlier = self._of_earlier_try(log)
            if earlier is None:
                run = self._client.create_run(
                    self._experiment_id, run_name=log.name, tags=log.tags, start_time=_now()
                )
                log.run_id = run.info.run_id
            else:
                log.run_id = earlier.info.run_id
                self._reopen(earlier, log)
            self._log_params(log, log.run_id)
            self._log_datasets(log, log.run_id)

    def log_epoch(self, log: RunLog, values: dict[str, float]) -> None:
        """One point of every curve; `values` has an `epoch`, which is the step."""
        step, told = int(values["epoch"]), self._told.get(log.run_id, set())
        metrics = [
            Metric(name, float(value), _now(), step)
            for name, value in values.items()
            if name != "epoch" and (name, step) not in told
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
                self._clear_failure(there)
                self._client.set_terminated(run_id, FINISHED, at)
        if log.registration is not None:
            with reported(self._uri, "told of a model"), self._lock:
                self._registry.add(log.registration, run_id, file)

    def abandon(self, log: RunLog, status: str, reason: str, printed: Path) -> None:
        """Close a run that has no result, with the reason where people look for it.

        Parameters
        ----------
        printed : file of what the stage has said; the run keeps it.
        """
        with reported(self._uri, "written"):
            self._client.set_tag(log.run_id, FAILURE_TAG, reason)
            if printed.exists():
                self._client.log_artifact(log.run_id, str(printed))
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

    def _of_earlier_try(self, log: RunLog) -> Run | None:
        if ATTEMPT_TAG not in log.tags:
            return None
        found = self._client.search_runs(
            [self._experiment_id],
            f"tags.`{ATTEMPT_TAG}` = '{log.tags[ATTEMPT_TAG]}' "
            f"AND attributes.run_name = '{log.name}'",
        )
        return found[0] if found else None

    def _reopen(self, run: Run, log: RunLog) -> None:
        """Go on with a run whose process is gone; the new one's name first, so that it lives."""
        run_id = run.info.run_id
        self._client.log_batch(run_id, tags=[RunTag(*item) for item in log.tags.items()])
        self._client.update_run(run_id, status=RUNNING)
        self._clear_failure(run)
        self._told[run_id] = {
            (name, point.step)
            for name in run.data.metrics
            for point in self._client.get_metric_history(run_id, name)
        }

    def _clear_failure(self, run: Run) -> None:
        if FAILURE_TAG in run.data.tags:
            self._client.delete_tag(run.info.run_id, FAILURE_TAG)

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
        there = slides.of_run(self._client, run_id) if log.slides else set()
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
        own = database.uses_own_store()
        place = database.artifacts_folder(root, name).as_uri() if own else None
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


def _now() -> int:
    return int(time.time() * 1000)
