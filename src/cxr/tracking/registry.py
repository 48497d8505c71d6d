"""MLflow's registry: every evaluated model as a version, weights and decision together."""

import re
import tempfile
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from cxr.lineage.records import READ_TAG
from cxr.lineage.run_log import Registration
from cxr.paths import PROCESSED
from cxr.tracking import mlmodel

FOLDER = "model"  # among a run's artifacts
CHAMPION = "champion"
SCORE_TAG, DATA_TAG = "val_macro_auroc", READ_TAG + PROCESSED
EXISTS = "RESOURCE_ALREADY_EXISTS"


def name_of(experiment: str) -> str:
    """Of the registered model of an experiment."""
    return "cxr-" + re.sub(r"[^\w.-]", "_", experiment, flags=re.ASCII)


class Registry:
    """The registered model of one experiment."""

    def __init__(self, client: MlflowClient, experiment: str) -> None:
        self._client = client
        self.name = name_of(experiment)

    def add(self, model: Registration, run_id: str, file: Callable[[str], Path | None]) -> None:
        """Register a run's model, if it is not, and find the champion.

        Parameters
        ----------
        file : finds the model's files by their paths; a model that lacks one is left out.
        """
        found = {path: place for path in model.files if (place := file(path)) is not None}
        for path, place in found.items():
            folder = Path(FOLDER, path).parent.as_posix()
            self._client.log_artifact(run_id, str(place), folder)
        if len(found) == len(model.files):
            run = self._client.get_run(run_id)
            self._make_servable(run, found.values())
            if self._version_of(run_id) is None:
                self._create()
                tags = {SCORE_TAG: str(model.score), DATA_TAG: model.data}
                source = f"{run.info.artifact_uri}/{FOLDER}"
                self._client.create_model_version(self.name, source, run_id, tags=tags)
        self._update_champion()

    def holds(self, model: Registration, run_id: str, artifacts: Path | None) -> bool:
        """Whether a run's model is there with its files, and there is a champion."""
        try:
            crowned = CHAMPION in self._client.get_registered_model(self.name).aliases
            there = self._version_of(run_id) is not None
        except MlflowException:
            return False
        files = (*model.files, mlmodel.FILE)
        kept = artifacts is None or all((artifacts / FOLDER / p).exists() for p in files)
        return crowned and there and kept

    def _make_servable(self, run: Run, files: Iterable[Path]) -> None:
        """Lay down what MLflow itself needs to load the model, unless it is there."""
        there = self._client.list_artifacts(run.info.run_id, FOLDER)
        if f"{FOLDER}/{mlmodel.FILE}" in {each.path for each in there}:
            return
        made = datetime.fromtimestamp(run.info.end_time / 1000, UTC)
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place, FOLDER)
            mlmodel.write(folder, made, sum(each.stat().st_size for each in files))
            last = (folder / mlmodel.FILE).rename(Path(place, mlmodel.FILE))
            self._client.log_artifacts(run.info.run_id, str(folder), FOLDER)
            self._client.log_artifact(run.info.run_id, str(last), FOLDER)

    def _create(self) -> None:
        try:
            self._client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != EXISTS:
                raise

    def _version_of(self, run_id: str) -> ModelVersion | None:
        found = self._client.search_model_versions(f"run_id = '{run_id}'")
        return next((each for each in found if each.name == self.name), None)

    def _update_champion(self) -> None:
        """The champion is the best on validation among models of the data that was evaluated last.

        Of equally good ones the one that was evaluated last, so that a new decision counts.
        """
        found = self._client.search_model_versions(f"name = '{self.name}'")
        started = {each.version: self._started(each) for each in found}
        ours = [each for each in found if _score(each) is not None and started[each.version]]
        if not ours:
            return

        def age(each: ModelVersion) -> tuple[int, int]:
            return started[each.version], int(each.version)

        data = max(ours, key=age).tags.get(DATA_TAG)
        rivals = [each for each in ours if each.tags.get(DATA_TAG) == data]
        best = max(rivals, key=lambda each: (_score(each), *age(each)))
        self._client.set_registered_model_alias(self.name, CHAMPION, best.version)

    def _started(self, version: ModelVersion) -> int:
        """When the version's run started, in milliseconds; 0 of a run that is gone."""
        try:
            run = self._client.get_run(version.run_id or "")
        except MlflowException:
            return 0
        return 0 if run.info.lifecycle_stage == LifecycleStage.DELETED else run.info.start_time


def _score(version: ModelVersion) -> float | None:
    """None of a version that somebody else has registered."""
    try:
        return float(version.tags[SCORE_TAG])
    except (KeyError, ValueError):
        return None
