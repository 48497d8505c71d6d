"""Write runs to one experiment of one MLflow store."""

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

from cxr.lineage.records import (
    ATTEMPT_TAG,
    DESCRIPTION_TAG,
    EXPERIMENT_TAG,
    FAILURE_TAG,
    ORIGINAL_TAG,
    RECORD_TAG,
)
from cxr.lineage.run_log import RunLog
from cxr.tracking import database, processes, slides
from cxr.tracking.errors import reported
from cxr.tracking.format import (
    FINISHED,
    RUNNING,
    artifact_place,
    shown_metrics,
    shown_name,
    shown_params,
    with_experiment,
)
from cxr.tracking.registry import Registry

BATCH = 900  # MLflow accepts at most 1000 metrics per call
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
        self._logged: dict[str, set[tuple[str, int]]] = {}  # by run: points of an earlier attempt

    def start(self, log: RunLog) -> None:
        """Create a run with its tags and data sets, or reopen that of an earlier attempt.

        Its id is stored in `log`. Runs of processes that are known to have ended are closed first.
        """
        # Locked, so that no other stage closes a run between its reading and its reopening.
        with reported(self._uri, "written"), self._lock:
            processes.close_runs_of_dead(self._client)
            earlier = self._earlier_attempt(log)
            if earlier is None:
                run = self._client.create_run(
                    self._experiment_id, _now(), log.tags, shown_name(log)
                )
                log.run_id = run.info.run_id
            else:
                log.run_id = earlier.info.run_id
                self._reopen(earlier, log)
            self._log_params(log, log.run_id)
            self._log_datasets(log, log.run_id)

    def log_epoch(self, log: RunLog, values: dict[str, float]) -> None:
        """Log one point of every curve; `values["epoch"]` is the step."""
        step, logged = int(values["epoch"]), self._logged.get(log.run_id, set())
        metrics = [
            Metric(name, float(value), _now(), step)
            for name, value in values.items()
            if name != "epoch" and (name, step) not in logged
        ]
        with reported(self._uri, "written"):
            self._client.log_batch(log.run_id, metrics=metrics)

    def finish(
        self,
        log: RunLog,
        tags: dict[str, str],
        locate: Callable[[str], Path | None],
        run_id: str | None = None,
        end_time: int | None = None,
    ) -> None:
        """Log everything that the run lacks, and close it.

        Locked, because two experiments may finish a run that they share.

        Parameters
        ----------
        locate : returns the file of an artifact by its path in `log`, None if it is missing.
        run_id : id of a run that replaces the log's own.
        end_time : milliseconds since 1970 (default: now).
        """
        end_time = end_time or _now()
        with reported(self._uri, "written"), self._lock:
            if run_id is None:
                run_id = self._find_or_rebuild(log, end_time) if log.shared else log.run_id
            self._log_params(log, run_id)
            self._log_missing_metrics(log, run_id, end_time)
            run = self._client.get_run(run_id)
            # A person may have edited the description. A shared run keeps its first record.
            kept = {DESCRIPTION_TAG, RECORD_TAG} if log.shared else {DESCRIPTION_TAG}
            tags = {k: v for k, v in tags.items() if k not in kept & run.data.tags.keys()}
            if log.shared:
                tags[EXPERIMENT_TAG] = with_experiment(run.data.tags, tags[EXPERIMENT_TAG])
            run_tags = [RunTag(key, value) for key, value in (log.tags | tags).items()]
            self._client.log_batch(run_id, tags=run_tags)
            self._log_datasets(log, run_id)
            for path in log.artifacts:
                file, folder = locate(path), Path(artifact_place(path)).parent.as_posix()
                if file is not None:
                    artifact_path = None if folder == "." else folder
                    self._client.log_artifact(run_id, str(file), artifact_path)
            self._log_missing_slides(log, run_id, locate, end_time)
            if run.info.status != FINISHED:
                self._clear_failure(run)
                self._client.set_terminated(run_id, FINISHED, end_time)
        if log.registration is not None:
            with reported(self._uri, "used to register a model"), self._lock:
                self._registry.add(log.registration, run_id, end_time, locate)

    def abandon(self, log: RunLog, status: str, reason: str, printed: Path) -> None:
        """Close a run that has no result, with the reason in a tag.

        Parameters
        ----------
        printed : file with the stage's output, which becomes an artifact.
        """
        with reported(self._uri, "written"):
            self._client.set_tag(log.run_id, FAILURE_TAG, reason)
            if printed.exists():
                self._client.log_artifact(log.run_id, str(printed))
            self._client.set_terminated(log.run_id, status)

    def rebuild(self, log: RunLog, start_time: int) -> str:
        """Create a run for a result whose run is lost; returns its id, and `finish` fills it."""
        with reported(self._uri, "written"):
            run = self._client.create_run(
                self._experiment_id,
                run_name=shown_name(log),
                tags={**log.tags, ORIGINAL_TAG: log.run_id},
                start_time=start_time,
            )
        return str(run.info.run_id)

    def restore(self, run_id: str) -> None:
        """Restore a deleted run."""
        with reported(self._uri, "written"):
            self._client.restore_run(run_id)

    def _find_or_rebuild(self, log: RunLog, start_time: int) -> str:
        """The run that has a shared log's content, or a new one."""
        query = f"tags.`{ORIGINAL_TAG}` = '{log.run_id}'"
        runs = self._client.search_runs([self._experiment_id], query)
        return str(runs[0].info.run_id) if runs else self.rebuild(log, start_time)

    def _earlier_attempt(self, log: RunLog) -> Run | None:
        if ATTEMPT_TAG not in log.tags:
            return None
        runs = self._client.search_runs(
            [self._experiment_id], f"tags.`{ATTEMPT_TAG}` = '{log.tags[ATTEMPT_TAG]}'"
        )
        return runs[0] if runs else None

    def _reopen(self, run: Run, log: RunLog) -> None:
        """Reopen a dead process's run; set its process tag first, or another stage may close it."""
        run_id = run.info.run_id
        self._client.log_batch(run_id, tags=[RunTag(*item) for item in log.tags.items()])
        self._client.update_run(run_id, status=RUNNING)
        self._clear_failure(run)
        self._logged[run_id] = {
            (name, point.step)
            for name in run.data.metrics
            for point in self._client.get_metric_history(run_id, name)
        }

    def _clear_failure(self, run: Run) -> None:
        if FAILURE_TAG in run.data.tags:
            self._client.delete_tag(run.info.run_id, FAILURE_TAG)

    def _log_params(self, log: RunLog, run_id: str) -> None:
        """Log the current parameters; MLflow accepts repeated ones with an unchanged value."""
        params = [Param(key, value) for key, value in shown_params(log).items()]
        for start in range(0, len(params), PARAMS_BATCH):
            self._client.log_batch(run_id, params=params[start : start + PARAMS_BATCH])

    def _log_missing_metrics(self, log: RunLog, run_id: str, timestamp: int) -> None:
        """Log only the points that MLflow lacks, because it keeps duplicates."""
        logged = self._client.get_run(run_id).data.metrics
        missing = []
        for name, points in shown_metrics(log).items():
            history = self._client.get_metric_history(run_id, name) if name in logged else []
            steps = {point.step for point in history}
            missing += [
                Metric(name, value, timestamp, step) for step, value in points if step not in steps
            ]
        for start in range(0, len(missing), BATCH):
            self._client.log_batch(run_id, metrics=missing[start : start + BATCH])

    def _log_missing_slides(
        self, log: RunLog, run_id: str, locate: Callable[[str], Path | None], timestamp: int
    ) -> None:
        """Log only the slider images that MLflow lacks, because it keeps duplicates."""
        if not log.slides:
            return
        logged = slides.of_run(self._client, run_id)
        missing = [
            (file, slide.key, slide.step)
            for slide in log.slides
            if (slide.key, slide.step) not in logged and (file := locate(slide.path)) is not None
        ]
        if missing:
            slides.log(self._client, run_id, missing, timestamp)

    def _log_datasets(self, log: RunLog, run_id: str) -> None:
        """Log the data sets; MLflow does not duplicate repeated ones."""
        if log.datasets:
            self._client.log_inputs(run_id, [_dataset(entry) for entry in log.datasets])

    def _find_or_create(self, name: str, root: Path) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            if experiment.lifecycle_stage == LifecycleStage.DELETED:
                self._client.restore_experiment(experiment.experiment_id)
            return str(experiment.experiment_id)
        # The project's own store has its artifacts next to it; a server chooses their location.
        own = database.uses_own_store()
        location = database.artifacts_folder(root, name).as_uri() if own else None
        return str(self._client.create_experiment(name, artifact_location=location))


def _dataset(entry: dict[str, str]) -> DatasetInput:
    """A data set whose digest in MLflow is the DVC md5 of its files."""
    dataset: Any = Dataset(
        name=entry["name"],
        digest=entry["digest"],
        source_type="dvc",
        source=entry["source"],
    )
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", entry["context"])])


def _now() -> int:
    return int(time.time() * 1000)
