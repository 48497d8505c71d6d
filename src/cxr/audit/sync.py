"""Brings MLflow up to date with the records, which are authoritative."""

import shutil
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cxr import locks
from cxr.audit.project import Project
from cxr.lineage import records
from cxr.lineage.archive import Found
from cxr.lineage.run_log import RunLog
from cxr.pipeline import scratch
from cxr.progress import Advance
from cxr.tracking import database
from cxr.tracking.errors import TrackingError
from cxr.tracking.format import (
    FINISHED,
    artifact_place,
    experiments,
    shown_metrics,
    shown_params,
)
from cxr.tracking.store import Store, StoredRun
from cxr.tracking.tracker import Tracker


@dataclass(frozen=True)
class Synced:
    """One run that MLflow lacked in whole or in part."""

    run_id: str  # in the record
    name: str
    how: str  # rebuilt, restored or completed
    now: str  # its id in MLflow
    lost: tuple[str, ...]  # files in neither the working copy nor the cache


@dataclass(frozen=True)
class Sync:
    """What a sync did."""

    runs: list[Synced]
    refused: dict[str, str]  # why MLflow rejected a run, by run id
    n_there: int  # runs that were already up to date
    n_moved: int  # runs whose artifact paths were updated


def sync(root: Path, advance: Advance) -> Sync:
    """Add what MLflow lacks of every available record; a second sync changes nothing.

    Parameters
    ----------
    advance : called with the number of runs checked and their total.
    """
    project = Project(root)
    with locks.file_lock(scratch.folder_of(project.root) / "sync.lock"):
        Store.open(project.root)  # fails early if the database is locked or damaged
        moved = database.relocate_artifacts(project.root)
        known = [*project.archive.current.values(), *project.archive.past]
        known.sort(key=lambda found: found.record.finished)
        # A record may be found more than once, and a shared run has a record per experiment.
        logs: dict[tuple[str, str], tuple[RunLog, Found]] = {}
        for found in known:
            if found.trusted:
                for log in found.record.runs:
                    logs.setdefault((log.run_id, records.experiment(found.record)), (log, found))
        trackers = {
            name: Tracker(project.root, name)
            for name in sorted({found.record.data.name for _, found in logs.values()})
        }
        if not trackers:
            return Sync([], {}, 0, moved)
        store = Store(database.store_uri(project.root))
        synced: dict[str, Synced] = {}
        refused: dict[str, str] = {}
        for n, (log, found) in enumerate(logs.values(), 1):
            tracker = trackers[found.record.data.name]
            try:
                if one := _sync(log, found, store, tracker, project):
                    synced.setdefault(log.run_id, one)
            except TrackingError as error:
                refused[log.run_id] = str(error)
            advance(n, len(logs))
    n_there = len({run_id for run_id, _ in logs} - synced.keys() - refused.keys())
    return Sync(list(synced.values()), refused, n_there, moved)


def _sync(
    log: RunLog, found: Found, store: Store, tracker: Tracker, project: Project
) -> Synced | None:
    stored = store.find(log.run_id)
    if stored is None:
        how, run_id = "rebuilt", tracker.rebuild(log, _milliseconds(found.record.started))
    elif stored.deleted:
        how, run_id = "restored", stored.run_id
        tracker.restore(run_id)
    elif stored.status != FINISHED or _lacks(log, records.experiment(found.record), stored, store):
        how, run_id = "completed", stored.run_id
    else:
        return None
    tags = records.tags(found.record, log, found.digest.md5)
    with tempfile.TemporaryDirectory() as folder:
        model = log.registration.files if log.registration else []
        paths = [*log.artifacts, *(slide.path for slide in log.slides), *model]
        artifacts = {path: _copy(path, found, project, Path(folder)) for path in paths}
        end = _milliseconds(found.record.finished)
        tracker.finish(log, tags, artifacts.__getitem__, run_id, end)
    lost = tuple(path for path, copy in artifacts.items() if copy is None)
    return Synced(log.run_id, log.name, how, run_id, lost)


def _lacks(log: RunLog, experiment: str, stored: StoredRun, store: Store) -> bool:
    """Whether a figure, a model, a parameter, a tag or a point of a curve is missing."""
    folder, run_id = stored.artifacts, stored.run_id
    artifacts = folder is None or all((folder / artifact_place(p)).exists() for p in log.artifacts)
    slides = not log.slides or {(s.key, s.step) for s in log.slides} <= store.slides(stored.run_id)
    labelled = (
        log.tags.keys() <= stored.tags.keys()
        and shown_params(log).keys() <= stored.params.keys()
        and (not log.shared or experiment in experiments(stored.tags))
    )
    points = all(
        name in stored.metrics
        and (
            len(points) == 1
            or {step for step, _ in points} <= {step for step, _ in store.history(run_id, name)}
        )
        for name, points in shown_metrics(log).items()
    )
    registered = log.registration is None or store.registers(log.registration, stored)
    return not (artifacts and slides and registered and labelled and points)


def _copy(path: str, found: Found, project: Project, folder: Path) -> Path | None:
    """Copy an output under its own name, from the working copy or the cache."""
    md5 = project.md5_of(found, path)
    if md5 is None:
        return None
    source = project.find(path, md5)
    if source is None:
        return None
    copy = folder / path
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, copy)
    return copy


def _milliseconds(time: str) -> int:
    return int(datetime.fromisoformat(time).timestamp() * 1000)
