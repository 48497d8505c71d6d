"""The life of a stage: facts, run, work, facts again, publish, record. Every stage runs inside it.

A stage writes into a staging folder and is published at the end by renaming, so that an output is
there whole or not at all.
"""

import errno
import json
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from cxr import lineage, records
from cxr.data import source, splits
from cxr.data.splits import Origin
from cxr.errors import CxrError
from cxr.lineage import Declaration, Facts, Registration, RunLog, Slide
from cxr.params import PARAMS_FILE, Params, load
from cxr.records import Record
from cxr.tracking import FAILED, KILLED, Tracker
from cxr.tracking.failure import TrackingError

SCRATCH = ".scratch"
REFUSED_IN_TAGS = re.compile(r"[^\w./ :-]", re.ASCII)  # by MLflow, in a tag's name
# Brackets in strings are safe: there is no line break in a string of JSON.
LIST_OF_SCALARS = re.compile(r"\[\n[^][{}]*\n *\]")
REFUSALS_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)

RAW, PROCESSED, STATISTICS, FEATURES = (
    "data/raw",
    "data/processed",
    "data/statistics.json",
    "data/features",
)

Prepare = Callable[[Params], str]
Foreign = Callable[[Params, Path], tuple[Path, ...]]


@dataclass
class Stage:
    """What a stage's work may use: its parameters, inputs and outputs, and the logs of its runs."""

    name: str
    folder: Path  # the working copy in which it runs
    project: Path  # the project's root: elsewhere when an experiment runs in a temporary copy
    params: Params
    origin: Origin
    declared: Declaration
    facts: Facts
    logs: dict[str, RunLog]  # by model; a stage that is one run has one log, under its own name
    device: str
    staging: Path
    tracker: Tracker

    @property
    def scratch(self) -> Path:
        """A place that outlives the stage, for what a later try can go on from."""
        return self.project / SCRATCH

    def input(self, path: str) -> Path:
        """A declared dependency, or something inside one."""
        if not lineage.inside(path, self.declared.dependencies):
            raise RuntimeError(f"{self.name} reads {path}, which dvc.yaml does not declare")
        return self.folder / path

    def output(self, path: str) -> Path:
        """Where to write a declared output, or something inside one."""
        if not lineage.inside(path, self.declared.outputs):
            raise RuntimeError(f"{self.name} writes {path}, which dvc.yaml does not declare")
        target = self.staging / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def picture(self, path: str, log: RunLog | None = None) -> Path:
        """Where to write an output that MLflow shows with the run, too."""
        for each in [log] if log else self.logs.values():
            each.artifacts.append(path)
        return self.output(path)

    def slide(self, path: str, log: RunLog, key: str, step: int) -> Path:
        """Where to write an output that is one step of a slider in MLflow."""
        log.slides.append(Slide(path, key, step))
        return self.output(path)

    def register(self, log: RunLog, model: str, decision: str, score: float) -> None:
        """Let MLflow register a model with its decision, once both are published."""
        files = [f"{model}/{name}" for name in sorted(lineage.files_below(self.input(model)))]
        log.registration = Registration([*files, decision], score, self.facts.inputs[PROCESSED])

    def write_json(self, path: str, content: dict[str, Any]) -> None:
        """Write a JSON output; NaN is refused, since JSON has none."""
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        self.output(path).write_text(LIST_OF_SCALARS.sub(_in_one_line, text))

    @property
    def log(self) -> RunLog:
        """The log of a stage that is one run."""
        return self.logs[self.name]

    def log_epoch(self, values: dict[str, float]) -> None:
        """One point of each curve, shown in MLflow at once; `values` has the `epoch`."""
        self.log.history.append(values)
        self.tracker.log_epoch(self.log, values)


def run(
    name: str,
    work: Callable[[Stage], None],
    *,
    models: Callable[[Path], tuple[str, ...]] = lambda folder: (),
    prepare: Prepare = lambda params: "none",
    foreign: Foreign = lambda params, project: (),
) -> None:
    """Run one stage and end the process: 0 done, 2 with one line where input is wrong.

    Parameters
    ----------
    name : the stage in dvc.yaml.
    work : does the work and writes every declared output by way of `Stage.output`.
    models : the models that get a run each, by working copy; none for a stage that is one run.
    prepare : sets seeds and threads before any tensor work and names the device.
    foreign : the user's own files that the parameters name, by parameters and project root.
    """
    try:
        with _terminated_like_interrupted():
            _live(name, work, models(Path.cwd()), prepare, foreign)
    except CxrError as error:
        _refuse(name, str(error))
    except OSError as error:
        # numpy tells of a full disk without an errno.
        if error.errno is not None and error.errno not in REFUSALS_OF_THE_DISK:
            raise
        place = error.filename or "while writing"
        _refuse(
            name,
            f"{place}: {error.strerror or error}; nothing was published; mend it and run again",
        )
    except KeyboardInterrupt:
        print(f"{name}: stopped; nothing was published", file=sys.stderr)
        sys.exit(130)


def trained_models(folder: Path) -> tuple[str, ...]:
    """The models that dvc.yaml trains, in its order."""
    stages = lineage.declarations(folder)
    return tuple(name.removeprefix("train-") for name in stages if name.startswith("train-"))


def _live(
    name: str,
    work: Callable[[Stage], None],
    models: tuple[str, ...],
    prepare: Prepare,
    foreign: Foreign,
) -> None:
    folder = Path.cwd()
    project = Path(os.environ.get("DVC_ROOT", folder)).resolve()
    _check_own_code(folder)
    started = datetime.now(UTC)
    declared = lineage.declaration(name, folder)
    params = load(folder / PARAMS_FILE)
    device = prepare(params)
    files = {_name(path, project): path for path in foreign(params, project)}

    def look() -> Facts:
        return lineage.take_facts(declared, folder, files, device)

    before = look()
    origin = _origin(declared, folder, params)
    logs = {
        model: _new_log(name, model if models else None, before, origin)
        for model in (models or (name,))
    }
    tracker = Tracker(project, origin.name)
    staging = folder / SCRATCH / f"{name}-{os.getpid()}"
    stage = Stage(
        name=name,
        folder=folder,
        project=project,
        params=params,
        origin=origin,
        declared=declared,
        facts=before,
        logs=logs,
        device=device,
        staging=staging,
        tracker=tracker,
    )
    try:
        for log in logs.values():
            tracker.start(log)
        staging.mkdir(parents=True)
        work(stage)
        if moved := lineage.changed(before, look()):
            raise CxrError(
                f"{', '.join(moved)} changed while the stage ran; nothing was published; "
                "run `dvc repro` again"
            )
        record = _write_record(stage, before, started)
        digest = lineage.digest(staging / records.path_of(name))
        _publish(stage)
    except BaseException as error:
        status = KILLED if isinstance(error, KeyboardInterrupt) else FAILED
        reason = str(error) or type(error).__name__
        for log in logs.values():
            if log.run_id:
                with suppress(Exception):  # the stage's own error is the one to tell
                    tracker.abandon(log, status, reason)
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    try:
        for log in logs.values():
            tracker.finish(log, records.tags(record, log, digest.md5), folder.joinpath)
    except TrackingError as error:  # the result stands, and its record says all that MLflow lacks
        print(
            f"{name}: note: {error}; the result and its record are kept, `cxr sync` tells MLflow",
            file=sys.stderr,
        )
    except KeyboardInterrupt:
        print(f"{name}: stopped; the result is published, `cxr sync` tells MLflow", file=sys.stderr)
        sys.exit(130)


def _check_own_code(folder: Path) -> None:
    """Else the facts name code that did not run: the installed package may be another copy's."""
    running = Path(lineage.__file__).resolve().parents[1]
    if running != (folder / "src").resolve():
        raise CxrError(
            f"the code of {running} would run instead of {folder / 'src'}; set PYTHONPATH=src, as "
            "dvc.yaml does"
        )


def _name(path: Path, project: Path) -> str:
    """A user's own file in the record: what lies in the project may move with it."""
    inside = path.resolve().is_relative_to(project)
    return path.resolve().relative_to(project).as_posix() if inside else str(path.resolve())


def _new_log(name: str, model: str | None, facts: Facts, origin: Origin) -> RunLog:
    trains = name.removeprefix("train-") if name.startswith("train-") else None
    tags = {
        records.STAGE_TAG: name,
        "cxr.model": model or trains or "",
        "cxr.data": origin.name,
        "cxr.source": origin.source,
        "cxr.fingerprint": facts.fingerprint,
        "cxr.device": facts.environment["device"],
        "cxr.experiment": os.environ.get("DVC_EXP_NAME", ""),
        "mlflow.source.name": facts.command,
        "mlflow.source.git.commit": facts.code["commit"] or "",
        **{f"cxr.md5.{path}": digest.md5 for path, digest in facts.dependencies.items()},
        **{
            f"cxr.md5.{REFUSED_IN_TAGS.sub('_', Path(path).name)}": md5
            for path, md5 in facts.foreign.items()
        },
    }
    datasets = [
        {
            "name": f"{origin.name}/{path}",
            "digest": digest.md5,
            "source": path,
            "context": "training" if trains else name,
        }
        for path, digest in facts.dependencies.items()
        if path.startswith("data/")
    ]
    return RunLog(
        name=f"{name}-{model}" if model else name,
        model=model or trains,
        params=dict(facts.params),
        tags={key: value for key, value in tags.items() if value},
        datasets=datasets,
    )


def _in_one_line(found: re.Match[str]) -> str:
    return re.sub(r"\n *", " ", found[0]).replace("[ ", "[", 1)[:-2] + "]"


def _origin(declared: Declaration, folder: Path, params: Params) -> Origin:
    """Whose data this is: read off the data itself where there is some already."""
    if PROCESSED in declared.dependencies:
        return splits.open_dataset(folder / PROCESSED).origin
    if RAW in declared.dependencies:
        return splits.read_origin(folder / RAW)
    return source.origin(params.download)


def _write_record(stage: Stage, facts: Facts, started: datetime) -> Record:
    """The record of what made the outputs: an output of its own, which no stage depends on."""
    path = records.path_of(stage.name)
    outputs = {
        output: lineage.digest(stage.staging / output)
        for output in stage.declared.outputs
        if output != path
    }
    for log in stage.logs.values():
        log.tags.update({f"cxr.made.{name}": digest.md5 for name, digest in outputs.items()})
    record = Record(
        schema=records.SCHEMA,
        stage=stage.name,
        fingerprint=facts.fingerprint,
        data=stage.origin,
        facts=facts,
        outputs=outputs,
        runs=list(stage.logs.values()),
        started=started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        host=socket.gethostname(),
        dvc_experiment=os.environ.get("DVC_EXP_NAME"),
        dvc_baseline=os.environ.get("DVC_EXP_BASELINE_REV"),
    )
    stage.write_json(path, record.as_json())
    return record


def _publish(stage: Stage) -> None:
    for output in stage.declared.outputs:
        made, place = stage.staging / output, stage.folder / output
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_dir():
            shutil.rmtree(place)
        made.replace(place)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    earlier = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


def _refuse(name: str, reason: str) -> None:
    print(f"{name}: {reason}", file=sys.stderr)
    sys.exit(2)
