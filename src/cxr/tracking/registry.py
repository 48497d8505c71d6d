"""MLflow's model registry: each evaluated model is a version with weights and operating point."""

import re
import tempfile
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from cxr.documents import read_output
from cxr.lineage.records import READ_TAG
from cxr.lineage.run_log import Registration
from cxr.paths import PROCESSED
from cxr.tracking import mlmodel

FOLDER = "model"  # in a run's artifacts
MODEL_FILE = "model.json"  # among a model's files
CHAMPION = "champion"
SCORE_TAG, DATA_TAG = "val_macro_auroc", READ_TAG + PROCESSED
EVALUATED_TAG = "evaluated"  # the last time, in milliseconds since 1970
EXISTS = "RESOURCE_ALREADY_EXISTS"


def name_of(experiment: str) -> str:
    """The name of an experiment's registered model."""
    return "cxr-" + re.sub(r"[^\w.-]", "_", experiment, flags=re.ASCII)


class Registry:
    """The registered model of one experiment."""

    def __init__(self, client: MlflowClient, experiment: str) -> None:
        self._client = client
        self.name = name_of(experiment)

    def add(
        self,
        model: Registration,
        run_id: str,
        evaluated: int,
        locate: Callable[[str], Path | None],
    ) -> None:
        """Register a run's model, unless it is registered, and update the champion.

        Parameters
        ----------
        evaluated : milliseconds since 1970.
        locate : returns the file for a path in `model.files`, None if it is missing. A model with
            a missing file is not registered.
        """
        files = {path: file for path in model.files if (file := locate(path)) is not None}
        for path, file in files.items():
            folder = Path(FOLDER, path).parent.as_posix()
            self._client.log_artifact(run_id, str(file), folder)
        if len(files) == len(model.files):
            run = self._client.get_run(run_id)
            self._make_servable(run, files.values())
            version = self._version_of(run_id)
            if version is None:
                self._create()
                tags = {SCORE_TAG: str(model.score), DATA_TAG: model.data}
                source = f"{run.info.artifact_uri}/{FOLDER}"
                version = self._client.create_model_version(self.name, source, run_id, tags=tags)
            # Experiments that share a run evaluate its model again.
            last = max(evaluated, int(_evaluated(version)[0]))
            self._client.set_model_version_tag(self.name, version.version, EVALUATED_TAG, str(last))
        self._update_champion()

    def holds(self, model: Registration, run_id: str, artifacts: Path | None) -> bool:
        """Whether a run's model is registered with all its files, and a champion is set."""
        try:
            has_champion = CHAMPION in self._client.get_registered_model(self.name).aliases
            is_registered = self._version_of(run_id) is not None
        except MlflowException:
            return False
        files = (*model.files, mlmodel.FILE)
        has_files = artifacts is None or all((artifacts / FOLDER / p).exists() for p in files)
        return has_champion and is_registered and has_files

    def _make_servable(self, run: Run, files: Collection[Path]) -> None:
        """Add the files with which MLflow itself can load the model, unless they exist."""
        existing = self._client.list_artifacts(run.info.run_id, FOLDER)
        if f"{FOLDER}/{mlmodel.FILE}" in {each.path for each in existing}:
            return
        evaluated = datetime.fromtimestamp(run.info.end_time / 1000, UTC)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary, FOLDER)
            labels = read_output(next(f for f in files if f.name == MODEL_FILE), _labels)
            mlmodel.write(folder, labels, evaluated, sum(each.stat().st_size for each in files))
            last = (folder / mlmodel.FILE).rename(Path(temporary, mlmodel.FILE))
            self._client.log_artifacts(run.info.run_id, str(folder), FOLDER)
            self._client.log_artifact(run.info.run_id, str(last), FOLDER)

    def _create(self) -> None:
        try:
            self._client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != EXISTS:
                raise

    def _version_of(self, run_id: str) -> ModelVersion | None:
        versions = self._client.search_model_versions(f"run_id = '{run_id}'")
        return next((each for each in versions if each.name == self.name), None)

    def _update_champion(self) -> None:
        """Make the best model on validation the champion, among models of the last evaluated data.

        A tie goes to the model that was evaluated last, so that a new operating point counts.
        """
        versions = self._client.search_model_versions(f"name = '{self.name}'")
        ours = [each for each in versions if _score(each) is not None and self._has_run(each)]
        if not ours:
            return
        data = max(ours, key=_evaluated).tags.get(DATA_TAG)
        rivals = [each for each in ours if each.tags.get(DATA_TAG) == data]
        best = max(rivals, key=lambda each: (_score(each), *_evaluated(each)))
        self._client.set_registered_model_alias(self.name, CHAMPION, best.version)

    def _has_run(self, version: ModelVersion) -> bool:
        """Whether the version's run exists and is not deleted."""
        try:
            run = self._client.get_run(version.run_id or "")
        except MlflowException:
            return False
        return bool(run.info.lifecycle_stage != LifecycleStage.DELETED)


def _labels(content: dict[str, Any]) -> tuple[str, ...]:
    return tuple(map(str, content["labels"]))


def _score(version: ModelVersion) -> float | None:
    """The version's validation score; None for a version registered by other means."""
    return _number(version, SCORE_TAG)


def _evaluated(version: ModelVersion) -> tuple[float, int]:
    """When the version was last evaluated; its number decides between equal times."""
    return _number(version, EVALUATED_TAG) or 0, int(version.version)


def _number(version: ModelVersion, tag: str) -> float | None:
    """A tag's value, which a person may have edited."""
    try:
        return float(version.tags[tag])
    except (KeyError, ValueError):
        return None
