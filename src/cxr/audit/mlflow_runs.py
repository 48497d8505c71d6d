"""Checks of a result's MLflow runs against its record."""

import math

from cxr.audit.finding import Finding, Where, fails, holds, note
from cxr.audit.project import Project
from cxr.formatting import count
from cxr.hashing import md5_of_file
from cxr.lineage import records
from cxr.lineage.archive import Found
from cxr.lineage.records import SHORT_ID
from cxr.lineage.run_log import RunLog
from cxr.tracking.format import (
    FINISHED,
    artifact_place,
    experiments,
    shown_metrics,
    shown_params,
)
from cxr.tracking.registry import FOLDER as MODEL_FOLDER
from cxr.tracking.store import Store, StoredRun

SYNC = "cxr sync"
LACKS = "MLflow lacks"
SYSTEM = "system/"  # MLflow's own metrics of the machine


def in_mlflow(found: Found, project: Project) -> list[Finding]:
    """Findings on each run of the record; a missing store is reported once, by the audit."""
    if project.store is None:
        return []
    return [
        finding for log in found.record.runs for finding in _run(log, found, project, project.store)
    ]


def _run(log: RunLog, found: Found, project: Project, store: Store) -> list[Finding]:
    title = f"run {log.run_id[:SHORT_ID]} ({log.name})"
    stored = store.find(log.run_id)
    if stored is None:
        return [note(Where.MLFLOW, f"{title} is not in MLflow", SYNC)]
    if stored.deleted:
        return [note(Where.MLFLOW, f"{title} was deleted in MLflow", SYNC)]
    if stored.status != FINISHED:
        return [note(Where.MLFLOW, f"{title} is {stored.status} in MLflow but has a result", SYNC)]
    wrong = [
        *_mapping("parameter", shown_params(log), stored.params),
        *_mapping("tag", _recorded_tags(log, found), _own_tags(stored.tags, log)),
        *_experiment(log, found, stored),
        *_mapping("data set", {e["name"]: e["digest"] for e in log.datasets}, stored.datasets),
        *_metrics(log, stored, store),
    ]
    # What MLflow lacks can be logged again; what it has wrong cannot be changed.
    findings = [
        fails(Where.MLFLOW, f"{title}: {each}", SYNC if LACKS in each else None) for each in wrong
    ]
    if stored.experiment != found.record.data.name:
        says = f"{title} is in experiment {stored.experiment} instead of {found.record.data.name}"
        findings.append(note(Where.MLFLOW, says))
    if not store.is_stale_location(project.root):
        findings += _artifacts(title, log, stored, found, project, store)
    if findings:
        return findings
    shown = f"; its id in MLflow is {stored.run_id}" if stored.run_id != log.run_id else ""
    says = f"run {log.run_id} ({log.name}) matches its record{shown}"
    return [holds(Where.MLFLOW, says)]


def _mapping(what: str, recorded: dict[str, str], shown: dict[str, str]) -> list[str]:
    wrong = []
    for key, value in recorded.items():
        if key not in shown:
            wrong.append(f"{LACKS} {what} {key} ({value} in the record)")
        elif shown[key] != value:
            wrong.append(f"{what} {key} is {shown[key]} in MLflow but {value} in the record")
    return wrong + [
        f"{what} {key} is {value} in MLflow but missing in the record"
        for key, value in shown.items()
        if key not in recorded
    ]


def _metrics(log: RunLog, stored: StoredRun, store: Store) -> list[str]:
    """Compare every point of every curve, and the last value that the runs table shows.

    A metric with one point is not asked for again: a server takes minutes for thousands of them.
    """
    wrong = []
    for key, points in shown_metrics(log).items():
        last, shown = points[-1][1], stored.metrics.get(key)
        history = store.history(stored.run_id, key) if len(points) > 1 else points
        if shown is None:
            wrong.append(f"{LACKS} metric {key} ({last} in the record)")
        elif not math.isclose(shown, last):
            wrong.append(f"metric {key} is {shown} in MLflow but {last} in the record")
        elif [step for step, _ in history] != [step for step, _ in points]:
            problem = f"{LACKS} points of" if len(history) < len(points) else "wrong points in"
            n = count(len(history), "point")
            wrong.append(f"{problem} metric {key}: {n} in MLflow, {len(points)} in the record")
        else:
            wrong += [
                f"metric {key} is {value} at step {step} in MLflow but {recorded} in the record"
                for (step, value), (_, recorded) in zip(history, points, strict=True)
                if not math.isclose(value, recorded)
            ]
    extra = stored.metrics.keys() - shown_metrics(log).keys()
    return wrong + [
        f"metric {key} is {stored.metrics[key]} in MLflow but missing in the record"
        for key in sorted(extra)
        if not key.startswith(SYSTEM)
    ]


def _recorded_tags(log: RunLog, found: Found) -> dict[str, str]:
    return log.tags if log.shared else {**log.tags, records.RECORD_TAG: found.digest.md5}


def _own_tags(tags: dict[str, str], log: RunLog) -> dict[str, str]:
    """The tags that the record determines; people may set others."""
    own = {key: value for key, value in tags.items() if key.startswith("cxr.") or key in log.tags}
    # A shared run has the tags of all its experiments, and the record of the first.
    others = (records.RECORD_TAG, records.EXPERIMENT_TAG) if log.shared else ()
    return {key: value for key, value in own.items() if key not in (records.ORIGINAL_TAG, *others)}


def _experiment(log: RunLog, found: Found, stored: StoredRun) -> list[str]:
    name = records.experiment(found.record)
    if not log.shared or name in experiments(stored.tags):
        return []
    return [f"{LACKS} experiment {name} in tag {records.EXPERIMENT_TAG}"]


def _artifacts(
    title: str, log: RunLog, stored: StoredRun, found: Found, project: Project, store: Store
) -> list[Finding]:
    if stored.artifacts is None:
        return []
    findings = []
    files = {path: stored.artifacts / artifact_place(path) for path in log.artifacts}
    if log.registration is not None and not store.registers(log.registration, stored):
        findings.append(note(Where.MLFLOW, f"{title}: {LACKS} the registered model", SYNC))
    elif log.registration is not None:
        files |= {path: stored.artifacts / MODEL_FOLDER / path for path in log.registration.files}
    for path, file in files.items():
        expected = project.md5_of(found, path)
        if not file.exists():
            findings.append(note(Where.MLFLOW, f"{title}: {LACKS} {path}", SYNC))
        elif expected is not None and md5_of_file(file) != expected:
            says = f"{title}: {path} in MLflow ({file}) differs from the stage's output"
            findings.append(fails(Where.MLFLOW, says))
    if log.slides:  # the files are checked as outputs; here only that MLflow has each
        logged = store.slides(stored.run_id)
        missing = [slide for slide in log.slides if (slide.key, slide.step) not in logged]
        findings += [
            note(Where.MLFLOW, f"{title}: {LACKS} {each.path}", SYNC) for each in missing[:1]
        ]
    return findings
