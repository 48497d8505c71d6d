"""What MLflow shows of a result, held against its record."""

import math

from cxr import records
from cxr.archive import Found
from cxr.audit.finding import Finding, Where, fails, holds, note
from cxr.audit.project import Project
from cxr.lineage import RunLog, md5_of_file
from cxr.tracking import FINISHED, Store, StoredRun, artifact_place, shown_metrics, shown_params

SYNC = "cxr sync"


def in_mlflow(found: Found, project: Project) -> list[Finding]:
    """Each run of the record; where the whole store is gone the audit says so once."""
    if project.store is None:
        return []
    return [
        finding for log in found.record.runs for finding in _run(log, found, project, project.store)
    ]


def _run(log: RunLog, found: Found, project: Project, store: Store) -> list[Finding]:
    title = f"run {log.run_id[: records.SHORT_ID]} ({log.name})"
    stored = store.find(log.run_id)
    if stored is None:
        return [note(Where.MLFLOW, f"{title} is not in MLflow", SYNC)]
    if stored.deleted:
        return [note(Where.MLFLOW, f"{title} was deleted in MLflow", SYNC)]
    if stored.status != FINISHED:
        return [note(Where.MLFLOW, f"{title} is {stored.status} in MLflow, yet has a result", SYNC)]
    wrong = [
        *_mapping("parameter", shown_params(log), stored.params),
        *_mapping("tag", {**log.tags, records.RECORD_TAG: found.digest.md5}, stored.tags),
        *_mapping("data set", {e["name"]: e["digest"] for e in log.datasets}, stored.datasets),
        *_metrics(log, stored, store),
    ]
    findings = [fails(Where.MLFLOW, f"{title}: {each}") for each in wrong]
    if not store.strays(project.root):
        findings += _pictures(title, log, stored, found, project)
    if findings:
        return findings
    rebuilt = f", rebuilt as {stored.run_id}" if stored.run_id != log.run_id else ""
    says = f"run {log.run_id} ({log.name}) shows what the record says{rebuilt}"
    return [holds(Where.MLFLOW, says)]


def _mapping(what: str, recorded: dict[str, str], shown: dict[str, str]) -> list[str]:
    return [
        f"{what} {key} is {shown.get(key)}, the record says {value}"
        for key, value in recorded.items()
        if shown.get(key) != value
    ]


def _metrics(log: RunLog, stored: StoredRun, store: Store) -> list[str]:
    """Every point of every curve, and the last value that the runs table shows."""
    wrong = []
    for key, points in shown_metrics(log).items():
        last, shown = points[-1][1], stored.metrics.get(key)
        history = store.history(stored.run_id, key)
        if shown is None or not math.isclose(shown, last):
            wrong.append(f"metric {key} is {shown}, the record says {last}")
        elif [step for step, _ in history] != [step for step, _ in points]:
            wrong.append(f"metric {key} has {len(history)} points, the record {len(points)}")
        else:
            wrong += [
                f"metric {key} is {value} at step {step}, the record says {recorded}"
                for (step, value), (_, recorded) in zip(history, points, strict=True)
                if not math.isclose(value, recorded)
            ]
    return wrong


def _pictures(
    title: str, log: RunLog, stored: StoredRun, found: Found, project: Project
) -> list[Finding]:
    if stored.artifacts is None:
        return []
    findings = []
    for path in log.artifacts:
        place = stored.artifacts / artifact_place(path)
        expected = project.md5_of(found, path)
        if not place.exists():
            findings.append(note(Where.MLFLOW, f"{title}: MLflow lacks {path}", SYNC))
        elif expected is not None and md5_of_file(place) != expected:
            findings.append(fails(Where.MLFLOW, f"{title}: MLflow's {path} is another ({place})"))
    return findings
