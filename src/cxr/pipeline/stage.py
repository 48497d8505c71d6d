"""The life of a stage: facts, run, work, facts again, publish, record. Every stage runs inside it.

A stage writes into its scratch and is published at the end by renaming, so that an output is there
whole or not at all, and a stage that was broken off goes on from what it had done.
"""

import json
import os
import re
import socket
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cxr
from cxr import hashing, progress, signals
from cxr.data import source, splits
from cxr.data.splits import Origin
from cxr.documents import write_whole
from cxr.errors import CxrError, is_out_of_memory, is_refused_by_disk, one_line, shown
from cxr.hashing import files_below, md5_of_file
from cxr.lineage import facts, records
from cxr.lineage.facts import Declaration, Facts, changed, declaration, declarations, take_facts
from cxr.lineage.records import Record
from cxr.lineage.run_log import Registration, RunLog, Slide
from cxr.params import Params, load
from cxr.paths import PARAMS_FILE, PROCESSED, RAW
from cxr.pipeline import scratch
from cxr.pipeline.resources import Meter
from cxr.pipeline.scratch import Scratch
from cxr.tracking.best_effort import BestEffort
from cxr.tracking.format import FAILED, KILLED
from cxr.tracking.processes import this_process

REFUSED_IN_TAGS = re.compile(r"[^\w./ :-]", re.ASCII)  # by MLflow, in a tag's name
# Brackets in strings are safe: there is no line break in a string of JSON.
LIST_OF_SCALARS = re.compile(r"\[\n[^][{}]*\n *\]")


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
    device: str  # as torch names it
    scratch: Scratch
    tracker: BestEffort

    @property
    def work(self) -> Path:
        """A folder that outlives the stage, for what a later try can go on from."""
        return self.scratch.work

    def say(self, line: str) -> None:
        """One line for the person who watches."""
        progress.say(f"{self.name}: {line}")

    def input(self, path: str) -> Path:
        """A declared dependency, or something inside one."""
        if not facts.inside(path, self.declared.dependencies):
            raise RuntimeError(f"{self.name} reads {path}, which dvc.yaml does not declare")
        return self.folder / path

    def output(self, path: str) -> Path:
        """Where to write a declared output, or something inside one."""
        if not facts.inside(path, self.declared.outputs):
            raise RuntimeError(f"{self.name} writes {path}, which dvc.yaml does not declare")
        target = self.scratch.outputs / path
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
        files = [f"{model}/{name}" for name in sorted(files_below(self.input(model)))]
        log.registration = Registration([*files, decision], score, self.facts.inputs[PROCESSED])

    def write_json(self, path: str, content: dict[str, Any]) -> None:
        """Write a JSON output; NaN is refused, since JSON has none."""
        self.output(path).write_text(_as_text(content))

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
        with signals.handled():
            _run_stage(name, work, models(Path.cwd()), prepare, foreign)
    except CxrError as error:
        _refuse(name, str(error))
    except OSError as error:
        if not is_refused_by_disk(error):
            raise
        place = error.filename or "while writing"
        _refuse(
            name,
            f"{place}: {error.strerror or error}; nothing was published; "
            "fix the problem and run again",
        )
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        place = (
            "the GPU (CUDA_VISIBLE_DEVICES= disables it)"
            if "CUDA" in str(error)
            else "this machine"
        )
        _refuse(
            name,
            f"out of memory on {place}; nothing was published; close other programs, or lower "
            "train.protocol.batch_size or download.size",
        )
    except KeyboardInterrupt:
        print(
            f"{name}: stopped; nothing was published; run `dvc repro` to resume",
            file=sys.stderr,
        )
        sys.exit(130)


def trained_models(folder: Path) -> tuple[str, ...]:
    """The models that dvc.yaml trains, in its order."""
    stages = declarations(folder)
    return tuple(name.removeprefix("train-") for name in stages if name.startswith("train-"))


def _run_stage(
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
    declared = declaration(name, folder)
    params = load(folder / PARAMS_FILE)
    device = prepare(params)
    files = {_name(path, project): path for path in foreign(params, project)}

    def look() -> Facts:
        return take_facts(declared, folder, files, device)

    before = look()
    home = Path(os.environ.get(scratch.ELSEWHERE, project))
    origin = _origin(declared, folder, params)
    with (
        scratch.claimed(
            home, folder, name, before.fingerprint, lambda line: progress.say(f"{name}: {line}")
        ) as kept,
        progress.kept(kept.log),
    ):
        tracker = BestEffort(project, origin.name, lambda line: progress.note(f"{name}: {line}"))
        record = kept.finished()
        if record is not None:
            progress.say(
                f"{name}: already finished but not yet in dvc.lock; republishing the result"
            )
            with _accounted_for(record.runs, tracker, kept):
                kept.publish(declared.outputs, folder)
        else:
            logs = {
                model: _new_log(name, model if models else None, before, origin, kept.attempt)
                for model in (models or (name,))
            }
            stage = Stage(
                name=name,
                folder=folder,
                project=project,
                params=params,
                origin=origin,
                declared=declared,
                facts=before,
                logs=logs,
                device=device.split()[0],
                scratch=kept,
                tracker=tracker,
            )
            with _accounted_for(logs.values(), tracker, kept):
                record = _make(stage, work, look, started)
                kept.publish(declared.outputs, folder)
        _tell_mlflow(record, kept, tracker, folder)
        kept.drop_work()


def _make(
    stage: Stage, work: Callable[[Stage], None], look: Callable[[], Facts], started: datetime
) -> Record:
    """The outputs and their record, in the scratch."""
    for log in stage.logs.values():
        stage.tracker.start(log)
    stage.scratch.clear_outputs()
    meter = Meter()
    work(stage)
    taken = meter.read()
    for log in stage.logs.values():
        log.metrics |= taken
    if moved := changed(stage.facts, look()):
        stage.scratch.drop_work()  # it may have been made from either
        raise CxrError(
            f"{', '.join(moved)} changed while the stage ran; nothing was published; "
            "run `dvc repro` again"
        )
    return _write_record(stage, started)


@contextmanager
def _accounted_for(runs: Iterable[RunLog], tracker: BestEffort, kept: Scratch) -> Iterator[None]:
    """Where it fails, the runs are closed and say why."""
    try:
        yield
    except BaseException as error:
        progress.log.info("stopped", exc_info=True)
        is_asked = isinstance(error, KeyboardInterrupt)
        reason = "stopped by a signal" if is_asked else one_line(error)
        for log in runs:
            tracker.abandon(log, KILLED if is_asked else FAILED, reason, kept.log)
        if not is_asked:
            kept.drop_if_idle()
        raise


def _tell_mlflow(record: Record, kept: Scratch, tracker: BestEffort, folder: Path) -> None:
    md5 = md5_of_file(kept.outputs / records.path_of(record.stage))
    ended = int(datetime.fromisoformat(record.finished).timestamp() * 1000)
    try:
        for log in record.runs:
            tracker.finish(log, records.tags(record, log, md5), folder.joinpath, ended)
    except KeyboardInterrupt:
        print(
            f"{record.stage}: stopped; the result is published; run `cxr sync` to log it to MLflow",
            file=sys.stderr,
        )
        sys.exit(130)


def _check_own_code(folder: Path) -> None:
    """Else the facts name code that did not run: the installed package may be another copy's."""
    running = Path(cxr.__file__).resolve().parents[1]
    if running != (folder / "src").resolve():
        raise CxrError(
            f"the code in {running} would run instead of {folder / 'src'}; set PYTHONPATH=src, as "
            "dvc.yaml does"
        )


def _name(path: Path, project: Path) -> str:
    """A user's own file in the record: what lies in the project may move with it."""
    inside = path.resolve().is_relative_to(project)
    return path.resolve().relative_to(project).as_posix() if inside else str(path.resolve())


def _new_log(name: str, model: str | None, facts: Facts, origin: Origin, attempt: str) -> RunLog:
    trains = name.removeprefix("train-") if name.startswith("train-") else None
    tags = {
        records.STAGE_TAG: name,
        "cxr.model": model or trains or "",
        "cxr.data": origin.name,
        "cxr.source": origin.source,
        "cxr.fingerprint": facts.fingerprint,
        "cxr.device": facts.environment["device"],
        records.ATTEMPT_TAG: attempt,
        records.PROCESS_TAG: this_process(),
        "cxr.experiment": os.environ.get("DVC_EXP_NAME", ""),
        "mlflow.source.name": facts.command,
        "mlflow.source.git.commit": facts.code["commit"] or "",
        **{records.READ_TAG + path: digest.md5 for path, digest in facts.dependencies.items()},
        **{
            records.READ_TAG + REFUSED_IN_TAGS.sub("_", Path(path).name): md5
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
    title = f"{name}-{model}" if model else name
    return RunLog(
        name=title,
        model=model or trains,
        # Until MLflow gives one, and for good where it can't be reached.
        run_id=uuid.uuid5(uuid.UUID(attempt), title).hex,
        params=dict(facts.params),
        tags={key: value for key, value in tags.items() if value},
        datasets=datasets,
    )


def _as_text(content: dict[str, Any]) -> str:
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    return LIST_OF_SCALARS.sub(_in_one_line, text)


def _in_one_line(found: re.Match[str]) -> str:
    return re.sub(r"\n *", " ", found[0]).replace("[ ", "[", 1)[:-2] + "]"


def _origin(declared: Declaration, folder: Path, params: Params) -> Origin:
    """Whose data this is: read off the data itself where there is some already."""
    if PROCESSED in declared.dependencies:
        return splits.open_dataset(folder / PROCESSED).origin
    if RAW in declared.dependencies:
        return splits.read_origin(folder / RAW)
    return source.origin(params.download)


def _write_record(stage: Stage, started: datetime) -> Record:
    """The record of what made the outputs: an output of its own, which no stage depends on.

    It comes last and whole: where it is, all outputs are.
    """
    facts, path = stage.facts, records.path_of(stage.name)
    outputs = {
        output: hashing.digest(stage.scratch.outputs / output)
        for output in stage.declared.outputs
        if output != path
    }
    for log in stage.logs.values():
        log.tags |= {records.MADE_TAG + name: digest.md5 for name, digest in outputs.items()}
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
    write_whole(stage.output(path), _as_text(record.as_json()).encode())
    return record


def _refuse(name: str, reason: str) -> None:
    print(f"{name}: {shown(reason)}", file=sys.stderr)
    sys.exit(2)
